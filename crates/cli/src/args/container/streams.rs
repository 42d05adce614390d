//! What goes in and out of a container: exec, attach, logs.

use clap::Args;

use crate::args::{moment, value};
use crate::session::keys::{self, Keys};

/// `gourd exec`.
#[derive(Debug, Args)]
#[command(override_usage = "gourd exec [OPTIONS] CONTAINER PROGRAM [ARG]...")]
pub struct Exec {
    /// Leave when the program runs; what it writes is dropped
    #[arg(short, long)]
    pub detach: bool,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable; without `=VALUE`, pass on this one's, or unset it
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = value::environment)]
    pub env: Vec<String>,
    /// Set the variables of a file: a line each, as with -e
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<std::path::PathBuf>,
    /// User, by name or number, and group: `user[:group]`
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Give it every capability and device of the VM
    #[arg(long)]
    pub privileged: bool,
    /// Keys that leave it running [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = keys::parse)]
    pub detach_keys: Option<Keys>,
    /// The container, then the program and its arguments
    #[arg(
        required = true,
        num_args = 2..,
        trailing_var_arg = true,
        value_name = "CONTAINER PROGRAM [ARG]..."
    )]
    pub words: Vec<String>,
}

/// `gourd logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines
    #[arg(
        short = 'n',
        long,
        value_name = "N|all",
        value_parser = value::tail,
        allow_negative_numbers = true,
        default_value = "all"
    )]
    pub tail: value::Tail,
    /// Only lines from then on: 2026-11-23T04:05:06Z, 1700000000, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = moment::moment)]
    pub since: Option<u64>,
    /// Only lines up to then
    #[arg(long, value_name = "TIME", value_parser = moment::moment)]
    pub until: Option<u64>,
    /// Put the time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `gourd attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// Don't pass stdin on
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass signals on to the program
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = value::Truth,
        action = clap::ArgAction::Set
    )]
    pub sig_proxy: bool,
    /// Keys that leave it running [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = keys::parse)]
    pub detach_keys: Option<Keys>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}
