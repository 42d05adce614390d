//! `run` and `create`.

use std::path::PathBuf;

use crate::session::keys::{self, Keys};
use clap::{ArgAction, Args, ValueEnum};

use super::connections::Connections;
use super::flags::{Health, Limits, Machine, Rights, Volumes};
use super::value as run_value;
use crate::args::{signal, value};

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
    /// Write the container's id to FILE, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Attach to these only: STDIN, STDOUT, STDERR
    #[arg(short, long, value_name = "STREAM", value_parser = run_value::stream)]
    pub attach: Vec<run_value::Stream>,
    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// Set an environment variable; without `=VALUE`, pass on this one's, or unset it
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = value::environment)]
    pub env: Vec<String>,
    /// Set the variables of a file: a line each, as with -e
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// User, by name or number, and group: `user[:group]`
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Further group, by name or number
    #[arg(long, value_name = "GROUP", value_parser = run_value::group)]
    pub group_add: Vec<String>,
    /// Working directory; made when it does not exist
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Program to run instead of the image's entry point; empty: none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Run a small init as the first process, which passes signals on and reaps
    #[arg(long)]
    pub init: bool,
    /// Host name [default: the first twelve digits of the id]
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Attach a label
    #[arg(short, long = "label", value_name = "KEY[=VALUE]", value_parser = value::label)]
    pub labels: Vec<(String, String)>,
    /// Attach the labels of a file: a line each, KEY=VALUE
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
    /// Signal that `stop` sends first [default: the image's, TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signal::parse)]
    pub stop_signal: Option<u32>,
    /// Seconds until `stop` kills it; -1: never [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = value::patience, allow_negative_numbers = true)]
    pub stop_timeout: Option<std::time::Duration>,
    /// When it is started again: no, on-failure[:MAX], always, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = run_value::restart)]
    pub restart: Option<engine::Restart>,
    /// How much output is kept: max-size=SIZE of a file [default: 20m], max-file=N files [default: 5]
    #[arg(long, value_name = "KEY=VALUE", value_parser = run_value::log_option)]
    pub log_opt: Vec<run_value::LogOption>,
    /// How much it may use.
    #[command(flatten)]
    pub limits: Limits,
    /// What it may do.
    #[command(flatten)]
    pub rights: Rights,
    /// How it is reached, and what it reaches.
    #[command(flatten)]
    pub connections: Connections,
    /// What it has mounted.
    #[command(flatten)]
    pub volumes: Volumes,
    /// How it is asked whether it is well.
    #[command(flatten)]
    pub health: Health,
    /// The VM around it.
    #[command(flatten)]
    pub machine: Machine,
    /// When to ask the registry for the image
    #[arg(long, value_name = "WHEN", value_enum, default_value = "missing")]
    pub pull: Pull,
    /// Don't show how a pull gets on
    #[arg(short, long)]
    pub quiet: bool,
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

impl Process {
    /// What is attached to: what was asked for, or output and errors; input with `-i` as well.
    pub fn attached(&self) -> engine::Attach {
        let asked = |stream| self.attach.contains(&stream);
        let all = self.attach.is_empty();
        engine::Attach {
            stdin: self.interactive || asked(run_value::Stream::Stdin),
            stdout: all || asked(run_value::Stream::Stdout),
            stderr: all || asked(run_value::Stream::Stderr),
        }
    }
}

/// `gourd run`.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "gourd run [OPTIONS] IMAGE [PROGRAM [ARG]...]"
)]
pub struct Run {
    /// Run in the background and print the id
    #[arg(short, long, conflicts_with_all = ["timings", "attach"])]
    pub detach: bool,
    /// Keys that leave it running [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = keys::parse)]
    pub detach_keys: Option<Keys>,
    /// Pass signals on to the program
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        value_parser = value::Truth,
        action = ArgAction::Set
    )]
    pub sig_proxy: bool,
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
