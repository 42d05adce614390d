//! The verbs of containers and their flags, in files by topic.

mod commit;
mod connections;
mod files;
mod flags;
mod life;
mod list;
pub mod mount;
mod observe;
mod ports;
mod run;
mod streams;
pub mod value;

use clap::Subcommand;

pub use commit::Commit;
pub use connections::PortList;
pub use files::{Copy, Diff, Export};
pub use flags::{Health, Rootfs};
pub use life::{Kill, Prune, Remove, Rename, Restart, Start, Stop, Update, Wait};
pub use list::{Inspect, List};
pub use observe::{Pause, Stats, Top};
pub use run::{Create, Process, Pull, Run};
pub use streams::{Attach, Exec, Logs};

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
    /// Stop containers that run, and start them
    Restart(Restart),
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
    /// Wait until containers end and print their exit codes; 0 at once for one that was never started
    Wait(Wait),
    /// Give a container another name
    Rename(Rename),
    /// Give containers other limits, or another restart policy
    Update(Update),
    /// Join a running container's first process: its output, its input, its signals
    Attach(Attach),
    /// Hold all programs of containers still
    Pause(Pause),
    /// Let the programs of paused containers go on
    Unpause(Pause),
    /// Show where a container's ports can be reached
    Port(PortList),
    /// Show what containers use, live
    Stats(Stats),
    /// Show the programs of a container
    Top(Top),
    /// Copy files and folders between a container and this host
    #[command(
        override_usage = "gourd cp [OPTIONS] CONTAINER:PATH PATH|-\n       gourd cp [OPTIONS] PATH|- CONTAINER:PATH"
    )]
    Cp(Copy),
    /// Write all files of a container into a tar archive
    Export(Export),
    /// Show which files of a container are not as in its image
    Diff(Diff),
    /// Make an image of a container and its changes
    Commit(Commit),
}

/// `gourd container …`.
#[derive(Debug, Subcommand)]
pub enum Group {
    /// Those that are at the top as well.
    #[command(flatten)]
    Verb(Verb),
    /// Show all that is known about containers, as JSON
    Inspect(Inspect),
    /// Remove all containers that don't run
    Prune(Prune),
}
