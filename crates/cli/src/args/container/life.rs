//! The verbs that move a container on: start, stop, kill, wait, rm.

use std::time::Duration;

use clap::Args;

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

/// `gourd wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}
