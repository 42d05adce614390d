//! The verbs of containers and their flags, in files by topic.

mod flags;
mod life;
mod list;
mod run;
mod streams;
pub mod value;

use clap::Subcommand;

pub use flags::{Health, Rootfs};
pub use life::{Kill, Remove, Start, Stop, Wait};
pub use list::{Inspect, List};
pub use run::{Create, Process, Pull, Run};
pub use streams::{Exec, Logs};

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
