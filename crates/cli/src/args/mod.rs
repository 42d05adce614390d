//! The command line: what `gourd` accepts, in Docker's names and habits.
//!
//! Owned by the main thread; runs before anything else and does no I/O. Everything after IMAGE (or after CONTAINER of
//! `exec`) belongs to the program, dashes included.

pub mod completion;
pub mod container;
pub mod disk;
pub mod events;
pub mod image;
pub mod lines;
pub mod login;
pub mod moment;
pub mod network;
#[cfg(test)]
mod readme;
pub mod signal;
pub mod system;
pub mod value;
pub mod volume;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Linux in micro-VMs: containers with a kernel of their own, without root and without a daemon.
///
/// Exit codes: the program's own; 125 when gourd itself failed, whatever the verb; 126 when the program cannot be
/// executed; 127 when it does not exist; 128 + n when signal n ended it.
#[derive(Debug, Parser)]
#[command(
    name = "gourd",
    version,
    disable_version_flag = true,
    args_override_self = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub struct Gourd {
    /// Folder that holds all state [default: $GOURD_ROOT, $XDG_DATA_HOME/gourd, ~/.local/share/gourd]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// What an image may unpack to [default: $GOURD_MAX_UNPACKED, or 100 times what it came in: at least 1g, at most 256g]
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    pub max_unpacked: Option<u64>,

    /// Print the version
    #[arg(short = 'v', long = "version", action = clap::ArgAction::Version)]
    pub print_version: Option<bool>,

    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs at the top: those of containers, shortcuts for those of images, and the groups.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The verbs of containers, without their group's name.
    #[command(flatten)]
    Containers(container::Verb),

    /// Show all that is known about containers, images or volumes, as JSON
    Inspect(Inspect),
    /// Download an image from a registry
    Pull(image::Pull),
    /// Upload an image to a registry
    Push(image::Push),
    /// Load images from an archive that `gourd save`, `docker save` or `skopeo` wrote
    Load(image::Load),
    /// Write images into an archive
    Save(image::Save),
    /// Make an image of an archive of files
    Import(image::Import),
    /// Log in to a registry
    Login(login::Login),
    /// Forget the login to a registry
    Logout(login::Logout),
    /// Give an image one more name
    Tag(image::Tag),
    /// Show how an image's layers came about
    History(image::History),
    /// List images
    Images(image::List),
    /// Remove images
    Rmi(image::Remove),

    /// Manage containers
    #[command(
        subcommand,
        mut_subcommand("ps", |ps| ps.visible_alias("list")),
        mut_subcommand("rm", |rm| rm.visible_alias("remove"))
    )]
    Container(container::Group),
    /// Manage images
    #[command(subcommand)]
    Image(image::Group),
    /// Manage networks
    #[command(subcommand)]
    Network(network::Group),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volume::Group),
    /// Look at this installation and what it runs on
    #[command(subcommand)]
    System(system::Group),
    /// Show what happens to containers and images, as it happens
    Events(events::Events),
    /// Print what a shell needs to complete gourd's command lines
    Completion(completion::Completion),
    /// Write man pages
    Man(completion::Man),
    /// Show the versions of the parts
    Version(system::Version),
}

/// `gourd inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Print this instead: `json`, or a template such as '{{.State.ExitCode}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Look only among these
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    pub kind: Option<ObjectKind>,
    /// How much a container takes on the disk, as SizeRw and SizeRootFs
    #[arg(short, long)]
    pub size: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// What `inspect --type` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ObjectKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A network.
    Network,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &[&str]) -> Result<Gourd, clap::Error> {
        Gourd::try_parse_from(std::iter::once("gourd").chain(line.iter().copied()))
    }

    fn run(line: &[&str]) -> container::Run {
        match parse(line).unwrap_or_else(|e| panic!("{line:?}: {e}")).verb {
            Verb::Containers(container::Verb::Run(run)) => *run,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn clap_finds_no_contradiction() {
        Gourd::command().debug_assert();
    }

    /// Oracle: `docker run` stops looking for flags at the image (pflag's SetInterspersed(false)).
    #[test]
    fn everything_after_the_image_is_the_programs() {
        let check = |line: &[&str], words: &[&str]| {
            let run = run(line);
            assert_eq!(run.process.words, words, "{line:?}");
        };
        check(&["run", "img"], &["img"]);
        check(&["run", "img", "-it"], &["img", "-it"]);
        check(
            &["run", "-it", "img", "sh", "-c", "exit 7"],
            &["img", "sh", "-c", "exit 7"],
        );
        check(
            &["run", "img", "--rm", "--help"],
            &["img", "--rm", "--help"],
        );
        check(&["run", "--", "img", "--rm"], &["img", "--rm"]);
        check(&["run", "img", "--", "sh"], &["img", "--", "sh"]);
        check(&["run", "img", "-h"], &["img", "-h"]);
        check(&["run", "img", "", "-"], &["img", "", "-"]);
        check(&["run", "--timings", "img", "true"], &["img", "true"]);
    }

    #[test]
    fn short_flags_combine() {
        let run = run(&["run", "-itm64m", "-eA=1", "-e", "B=2 3", "-h", "box", "img"]);
        assert!(run.process.interactive && run.process.tty && !run.detach);
        assert_eq!(run.process.limits.memory, Some(64 << 20));
        assert_eq!(run.process.hostname.as_deref(), Some("box"));
        assert_eq!(run.process.env, ["A=1", "B=2 3"]);
    }

    #[test]
    fn timings_goes_nowhere_or_somewhere() {
        assert_eq!(run(&["run", "img"]).timings, None);
        assert_eq!(
            run(&["run", "--timings", "img"]).timings.as_deref(),
            Some("picture")
        );
        assert_eq!(
            run(&["run", "--timings=json", "img"]).timings.as_deref(),
            Some("json")
        );
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for line in [
            &["run"][..],
            &["run", "--nope", "img"],
            &["run", "-m", "lots", "img"],
            &["run", "--pull", "perhaps", "img"],
            &["run", "-d", "--timings", "img"],
            &["run", "-l", "=x", "img"],
            &["exec", "box"],
            &["stop"],
            &["stop", "-t", "soon", "box"],
            &["kill", "-s", "WAT", "box"],
            &["rm"],
            &["nope"],
            // In the group only, as with Docker.
            &["list"],
            &["remove", "box"],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn groups_and_shortcuts_are_the_same() {
        for line in [
            &["ps", "-aq"][..],
            &["ls", "-aq"],
            &["container", "ls", "-aq"],
            &["container", "ps", "--no-trunc", "--filter", "status=exited"],
            &["container", "list", "-aq"],
            &["container", "remove", "-f", "box"],
            &["stop", "-t", "-1", "box"],
            &["restart", "--time=-1", "box"],
            &["run", "--stop-timeout", "-1", "img"],
            &["logs", "--tail", "-1", "box"],
            &["logs", "-n-1", "box"],
            &["exec", "-it", "box", "sh", "-c", "ls -l"],
            &["container", "exec", "box", "ls", "-l"],
            &["logs", "-f", "-n", "5", "-t", "box"],
            &["logs", "--tail=all", "box"],
            &["image", "ls", "-q"],
            &["image", "rm", "-f", "a", "b"],
            &["rmi", "a"],
            &["image", "pull", "-q", "--platform", "linux/amd64", "a"],
            &["push", "-q", "localhost:5000/a:1"],
            &["image", "push", "--all-tags", "localhost:5000/a"],
            &["load", "-q", "-i", "file.tar"],
            &[
                "system",
                "kernel",
                "add",
                "mine",
                "/boot/vmlinuz",
                "--modules",
                "/lib/modules/6.1",
                "--release",
                "6.1",
            ],
            &["system", "kernel", "ls"],
            &["system", "doctor"],
            &["version", "--format", "json"],
            &["start", "-ai", "box"],
            &["container", "inspect", "-f", "{{.Id}}", "box"],
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        }
    }
}
