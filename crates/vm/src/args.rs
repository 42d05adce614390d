//! The command line, which only the engine and developers type.

use std::os::fd::RawFd;
use std::path::PathBuf;

/// What `gourd-vm` is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Live a container's life.
    Run(Run),
    /// Which drivers work here; JSON on stdout.
    Probe,
    /// Checks a VM's bill of materials from stdin for a driver; JSON on stdout.
    Validate,
    /// A container's bill of materials; JSON on stdout.
    Config(PathBuf),
}

/// A volume whose lease is among those that came along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// The lease is shared: others read it too.
    pub read_only: bool,
}

/// `gourd-vm run DIR --socket-fd N --lease-fd N… [--volume NAME:ro|rw]… [--attached | --maintenance] [--started-ns N]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// The container's folder.
    pub dir: PathBuf,
    /// The listening socket.
    pub socket: RawFd,
    /// The container's lock first.
    pub leases: Vec<RawFd>,
    /// Wait for the primary client before the process starts.
    pub attached: bool,
    /// A VM without the process, for the files of a container that is stopped.
    pub maintenance: bool,
    /// The volumes that the VM gets. Of the spec's, those that are not named are left out.
    pub volumes: Vec<Volume>,
    /// When the CLI started, `CLOCK_MONOTONIC` in nanoseconds.
    pub started_ns: Option<u64>,
}

/// How it is typed.
pub const USAGE: &str =
    "usage: gourd-vm run DIR --socket-fd N --lease-fd N… [--volume NAME:ro|rw]… [--attached | --maintenance]
                    [--started-ns N]
       gourd-vm probe
       gourd-vm validate < CONFIG
       gourd-vm config DIR";

/// Reads the words after the program's name.
///
/// # Errors
/// What is wrong, in words.
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut words = words.into_iter();
    let command = words.next().ok_or("a command is missing")?;
    let parsed = match command.as_str() {
        "run" => return parse_run(words).map(Command::Run),
        "probe" => Command::Probe,
        "validate" => Command::Validate,
        "config" => Command::Config(words.next().ok_or("config needs a folder")?.into()),
        other => return Err(format!("unknown command {other:?}")),
    };
    match words.next() {
        Some(word) => Err(format!("unexpected {word:?}")),
        None => Ok(parsed),
    }
}

fn parse_run(mut words: impl Iterator<Item = String>) -> Result<Run, String> {
    let dir = words.next().ok_or("run needs a folder")?;
    let mut socket = None;
    let mut run = Run {
        dir: dir.into(),
        socket: -1,
        leases: Vec::new(),
        attached: false,
        maintenance: false,
        volumes: Vec::new(),
        started_ns: None,
    };
    while let Some(word) = words.next() {
        if word == "--volume" {
            let text = words.next().ok_or("--volume needs NAME:ro or NAME:rw")?;
            run.volumes.push(volume(&text)?);
            continue;
        }
        let mut number = || -> Result<u64, String> {
            let text = words.next().ok_or(format!("{word} needs a number"))?;
            text.parse()
                .map_err(|_| format!("{word} needs a number, not {text:?}"))
        };
        let descriptor =
            |number: u64| RawFd::try_from(number).map_err(|_| format!("{number} is no descriptor"));
        match word.as_str() {
            "--socket-fd" => socket = Some(descriptor(number()?)?),
            "--lease-fd" => run.leases.push(descriptor(number()?)?),
            "--started-ns" => run.started_ns = Some(number()?),
            "--attached" => run.attached = true,
            "--maintenance" => run.maintenance = true,
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    run.socket = socket.ok_or("--socket-fd is missing")?;
    if run.leases.is_empty() {
        return Err("--lease-fd is missing".to_owned());
    }
    Ok(run)
}

fn volume(text: &str) -> Result<Volume, String> {
    let (name, read_only) = match text.rsplit_once(':') {
        Some((name, "ro")) => (name, true),
        Some((name, "rw")) => (name, false),
        _ => return Err(format!("--volume needs NAME:ro or NAME:rw, not {text:?}")),
    };
    Ok(Volume {
        name: name.to_owned(),
        read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: Result<Command, &str>) {
        let words = line.split_whitespace().map(str::to_owned);
        assert_eq!(parse(words), expect.map_err(str::to_owned), "{line}");
    }

    #[test]
    fn run_takes_descriptors() {
        check(
            "run /c --socket-fd 3 --lease-fd 4 --lease-fd 5 --attached --started-ns 77",
            Ok(Command::Run(Run {
                dir: "/c".into(),
                socket: 3,
                leases: vec![4, 5],
                attached: true,
                maintenance: false,
                volumes: Vec::new(),
                started_ns: Some(77),
            })),
        );
        check(
            "run /c --socket-fd 3 --lease-fd 4 --volume data:rw --volume lib:ro --maintenance",
            Ok(Command::Run(Run {
                dir: "/c".into(),
                socket: 3,
                leases: vec![4],
                attached: false,
                maintenance: true,
                volumes: vec![
                    Volume {
                        name: "data".to_owned(),
                        read_only: false,
                    },
                    Volume {
                        name: "lib".to_owned(),
                        read_only: true,
                    },
                ],
                started_ns: None,
            })),
        );
        check("run /c --lease-fd 4", Err("--socket-fd is missing"));
        check("run /c --socket-fd 4", Err("--lease-fd is missing"));
        check(
            "run /c --socket-fd x",
            Err("--socket-fd needs a number, not \"x\""),
        );
        check("run", Err("run needs a folder"));
        check(
            "run /c --volume data",
            Err("--volume needs NAME:ro or NAME:rw, not \"data\""),
        );
    }

    #[test]
    fn the_others_take_nothing_more() {
        check("probe", Ok(Command::Probe));
        check("validate now", Err("unexpected \"now\""));
        check("config /c", Ok(Command::Config("/c".into())));
        check("", Err("a command is missing"));
        check("fly", Err("unknown command \"fly\""));
    }
}
