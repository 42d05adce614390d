//! What is installed beside the command: completion for shells, man pages.

use std::path::PathBuf;

use clap::Args;

/// `gourd completion`.
#[derive(Debug, Args)]
pub struct Completion {
    /// Which shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// `source <(gourd completion bash)` in ~/.bashrc
    Bash,
    /// `source <(gourd completion zsh)` in ~/.zshrc, after compinit
    Zsh,
    /// `gourd completion fish | source` in ~/.config/fish/config.fish
    Fish,
}

/// `gourd man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Where to: `man1` of a folder of $MANPATH, for example ~/.local/share/man/man1
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
