//! The verbs of containers and their flags.

use clap::{ArgAction, Args, Subcommand, ValueEnum};

use super::{signal, value};
use std::time::Duration;

/// The verbs of containers, at the top and in the group `container`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a container from an image and run a program in it
    Run(Box<Run>),
    /// Create a container without starting it
    Create(Box<Create>),
    /// Start containers that don't run
    Start(Start),
    /// Ask containers to end; kill them when they don't
    Stop(Stop),
    /// Send a signal to containers' first processes
    Kill(Kill),
    /// Remove containers
    Rm(Remove),
    /// List containers
    #[command(visible_alias = "ls")]
    Ps(List),
    /// Run a further program in a running container
    Exec(Exec),
    /// Show what a container's first process wrote
    Logs(Logs),
    /// Wait until containers end and print their exit codes
    Wait(Wait),
}

/// `gourd container …`.
#[derive(Debug, Subcommand)]
pub enum Group {
    /// Those that are at the top as well.
    #[command(flatten)]
    Verb(Verb),
    /// Show all that is known about containers, as JSON
    Inspect(Inspect),
}

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

/// `gourd start`.
#[derive(Debug, Args)]
pub struct Start {
    /// Show the output, pass signals on, and end with the program's exit code
    #[arg(short, long)]
    pub attach: bool,
    /// The same, and pass stdin on
    #[arg(short, long)]
    pub interactive: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// Seconds until it is killed (also: 500ms, 2m) [default: the container's, 10]
    #[arg(short, long = "timeout", visible_alias = "time", value_name = "SECONDS", value_parser = value::duration)]
    pub timeout: Option<Duration>,
    /// Signal to send first [default: the container's, TERM]
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal::parse)]
    pub signal: Option<u32>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// Signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal::parse)]
    pub signal: u32,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd rm`.
#[derive(Debug, Args)]
pub struct Remove {
    /// Kill it first when it runs; no error when there is none
    #[arg(short, long)]
    pub force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd ps`.
#[derive(Debug, Args)]
pub struct List {
    /// Those that don't run as well
    #[arg(short, long)]
    pub all: bool,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Only those: status=, name=, id=, label=, exited=
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = value::filter)]
    pub filter: Vec<(String, String)>,
    /// Print this: `json`, `table`, `table TEMPLATE` or a template such as '{{.ID}} {{.Names}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

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
    /// Set an environment variable; without `=VALUE`, pass on this one's
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = value::environment)]
    pub env: Vec<String>,
    /// User, by name or number, and group: `user[:group]`
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
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
    #[arg(short = 'n', long, value_name = "N|all", value_parser = value::tail, default_value = "all")]
    pub tail: value::Tail,
    /// Put the time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `gourd wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd container inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Print this instead: `json`, or a template such as '{{.State.ExitCode}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}
