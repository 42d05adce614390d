//! The verbs that move a container on: start, stop, restart, kill, wait, rm, prune; and those that change it: rename, update.

use std::time::Duration;

use clap::Args;

use super::value as run_value;
use crate::args::{signal, value};
use crate::session::keys::{self, Keys};

/// `gourd start`.
#[derive(Debug, Args)]
pub struct Start {
    /// Show the output, pass signals on, and end with the program's exit code
    #[arg(short, long)]
    pub attach: bool,
    /// The same, and pass stdin on
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that leave it running [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = keys::parse)]
    pub detach_keys: Option<Keys>,
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
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// Seconds until it is killed (also: 500ms, 2m; -1: never) [default: the container's, 10]
    #[arg(
        short,
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        value_parser = value::patience,
        allow_negative_numbers = true
    )]
    pub timeout: Option<Duration>,
    /// Signal to send first [default: the container's, TERM]
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal::parse)]
    pub signal: Option<u32>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd restart`.
#[derive(Debug, Args)]
pub struct Restart {
    /// Seconds until it is killed (also: 500ms, 2m; -1: never) [default: the container's, 10]
    #[arg(
        short,
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        value_parser = value::patience,
        allow_negative_numbers = true
    )]
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
    /// Remove the volumes that were made for it, too
    #[arg(short, long)]
    pub volumes: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd rename`.
#[derive(Debug, Args)]
pub struct Rename {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Its new name
    #[arg(value_name = "NEW_NAME")]
    pub name: String,
}

/// `gourd update`.
#[derive(Debug, Args)]
pub struct Update {
    /// Memory for the container's processes: bytes, or with k, m, g. One that runs can get no more than it was started with
    #[arg(short, long, value_name = "SIZE", value_parser = value::size)]
    pub memory: Option<u64>,
    /// Processors, for example 2 or 1.5. One that runs can get no more than it was started with
    #[arg(long = "cpus", value_name = "N", value_parser = run_value::cpus)]
    pub nano_cpus: Option<u64>,
    /// Processes and threads at most; -1: no limit
    #[arg(long, value_name = "N", value_parser = run_value::pids_limit, allow_hyphen_values = true)]
    pub pids_limit: Option<u32>,
    /// When it is started again: no, on-failure[:MAX], always, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = run_value::restart)]
    pub restart: Option<engine::Restart>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd container prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Don't ask
    #[arg(short, long)]
    pub force: bool,
    /// Only those: until=, label=, label!=
    #[arg(long, value_name = "KEY=VALUE", value_parser = value::prune_filter)]
    pub filter: Vec<(String, String)>,
}
