//! `run` and `create`.

use clap::{ArgAction, Args, ValueEnum};

use crate::args::value;

/// When to ask the registry for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// Always.
    Always,
    /// When it is not here.
    Missing,
    /// Never.
    Never,
}

/// What `run` and `create` share.
#[derive(Debug, Args)]
pub struct Process {
    /// Name of the container [default: made up]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// Set an environment variable; without `=VALUE`, pass on this one's
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = value::environment)]
    pub env: Vec<String>,
    /// User, by name or number, and group: `user[:group]`
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Working directory; made when it does not exist
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Program to run instead of the image's entry point; empty: none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Host name [default: the first twelve digits of the id]
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Attach a label
    #[arg(short, long = "label", value_name = "KEY[=VALUE]", value_parser = value::label)]
    pub labels: Vec<(String, String)>,
    /// Memory for the container's processes: bytes, or with k, m, g
    #[arg(short, long, value_name = "SIZE", value_parser = value::size)]
    pub memory: Option<u64>,
    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = value::cpus)]
    pub cpus: Option<u32>,
    /// What makes the VM run: auto, qemu
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// Kernel: a name of `gourd system kernel ls`, or the path of a vmlinux or bzImage
    #[arg(long, value_name = "NAME|PATH")]
    pub kernel: Option<String>,
    /// When to ask the registry for the image
    #[arg(long, value_name = "WHEN", value_enum, default_value = "missing")]
    pub pull: Pull,
    /// Platform of the image, for example linux/amd64
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// The image, then the program and its arguments (flags of gourd's end at the image)
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "IMAGE [PROGRAM [ARG]...]"
    )]
    pub words: Vec<String>,
}

/// `gourd run`.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "gourd run [OPTIONS] IMAGE [PROGRAM [ARG]...]"
)]
pub struct Run {
    /// Run in the background and print the id
    #[arg(short, long, conflicts_with = "timings")]
    pub detach: bool,
    /// Show how long each phase took, on stderr: as a picture, as `json`, or as JSON into FILE.json
    #[arg(
        long,
        value_name = "json|FILE.json",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "picture"
    )]
    pub timings: Option<String>,
    /// The rest.
    #[command(flatten)]
    pub process: Process,
}

/// `gourd create`.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "gourd create [OPTIONS] IMAGE [PROGRAM [ARG]...]"
)]
pub struct Create {
    /// All of it.
    #[command(flatten)]
    pub process: Process,
}
