//! The one error type of the command, its text and its exit code.
//!
//! What the engine says stays the engine's; here are the failures of the command itself. [`Failure::render`] makes the
//! text: what and where, the causes, the remedy (from [`crate::hints`]).

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use crate::hints;
use crate::render::out;
use crate::render::table::plain;
use crate::render::template::TemplateError;

/// gourd itself failed.
pub const FAILED: u8 = 125;
/// The program cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The program does not exist.
pub const NOT_FOUND: u8 = 127;
/// The reader of stdout left: 128 + SIGPIPE.
pub const PIPE: u8 = 141;

/// Why a verb did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The engine's. Boxed: it is large, and most calls go well.
    #[error(transparent)]
    Engine(Box<engine::Error>),
    /// `-it` without a terminal, in Docker's words.
    #[error("the input device is not a TTY")]
    NotATty,
    /// A template of `--format`.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Neither a container nor an image nor a volume.
    #[error("there is no container, no image and no volume {name:?}")]
    NoSuchObject {
        /// As asked for.
        name: String,
    },
    /// The archive to load.
    #[error("cannot open {}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file to write.
    #[error("cannot write {}", path.display())]
    Create {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file to write that is none.
    #[error("cannot write {}: that is a folder", path.display())]
    IsFolder {
        /// Its path.
        path: PathBuf,
    },
    /// `login` with nobody to ask.
    #[error("no user name or no password: stdin is no terminal")]
    NoPassword,
    /// `save` without a place to write to.
    #[error("cowardly refusing to save to a terminal")]
    ArchiveToTerminal,
    /// A file of `KEY=VALUE` lines.
    #[error("cannot read {}", path.display())]
    Lines {
        /// Its path.
        path: PathBuf,
        /// Which line, and what is wrong with it.
        #[source]
        source: crate::args::lines::Wrong,
    },
    /// The file of `--cidfile`.
    #[error("cannot write the container's id to {}", path.display())]
    IdFile {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A filter names a container that is not there.
    #[error("no such container: {name}")]
    NoSuchContainer {
        /// As asked for.
        name: String,
    },
    /// Flags that contradict each other.
    #[error("{0}")]
    Flags(String),
    /// `port` of one that nothing leads to.
    #[error("no public port for {port} of {container}")]
    NotPublished {
        /// As `80/tcp`.
        port: String,
        /// As asked for.
        container: String,
    },
    /// `update` without a flag.
    #[error("nothing to update: no flag says what is to change")]
    NothingToUpdate,
    /// systemd's unit cannot be written.
    #[error("cannot {what} {}", path.display())]
    Unit {
        /// Which operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Where systemd's user units are is not known.
    #[error("no place for a systemd user unit: neither XDG_CONFIG_HOME nor HOME is set")]
    NoUnitPlace,
    /// A kernel that does not say its release.
    #[error("{} does not say which release of Linux it is", path.display())]
    NoRelease {
        /// Its path.
        path: PathBuf,
    },
    /// `load` with nothing to read.
    #[error("no archive: stdin is a terminal")]
    NoArchive,
    /// `cp` from a container to a container.
    #[error("copying between containers is not supported")]
    BetweenContainers,
    /// `cp` without one.
    #[error("must specify at least one container source")]
    NoContainer,
    /// Options of `top`.
    #[error("{reason}")]
    PsOptions {
        /// Which, and what there is.
        reason: String,
    },
    /// Several containers cannot be attached at once.
    #[error("cannot attach to {count} containers at once")]
    AttachToMany {
        /// How many were named.
        count: usize,
    },
    /// stdin.
    #[error("cannot read stdin")]
    Stdin(#[source] io::Error),
    /// stdout or stderr, other than a reader who left.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The reader of stdout left.
    #[error("the reader of the output is gone")]
    ReaderGone,
    /// The terminal's settings.
    #[error("cannot set up the terminal")]
    Terminal(#[source] io::Error),
    /// Signals, threads, the runtime.
    #[error("cannot set up {what}")]
    SetUp {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Where `--timings=FILE.json` should go.
    #[error("cannot write {}", path.display())]
    Timings {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `--timings=` something else.
    #[error(
        "cannot write timings to {target:?}: write --timings, --timings=json or --timings=FILE.json"
    )]
    TimingsTarget {
        /// As asked for.
        target: String,
    },
    /// Started in the foreground, and nothing to join.
    #[error("{container} was started without its streams")]
    NoStreams {
        /// Its id or name.
        container: String,
    },
    /// A signal ended the command.
    #[error("ended by signal {number}")]
    Signal {
        /// Its number.
        number: u32,
    },
    /// Three interrupts.
    #[error("gave up after three interrupts; {container} may still be running")]
    GaveUp {
        /// Its id or name.
        container: String,
    },
    /// Some of the things asked for failed, and each was reported.
    #[error("not everything was done")]
    Reported {
        /// The exit code of the first.
        code: u8,
    },
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        Failure::Engine(Box::new(error))
    }
}

impl Failure {
    /// A failed write of results.
    pub fn stdout(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::ReaderGone
        } else {
            Failure::Output(error)
        }
    }

    /// What the command ends with.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Engine(error) => hints::code(error),
            Failure::ReaderGone => PIPE,
            Failure::Signal { number } => u8::try_from(128 + number).unwrap_or(FAILED),
            Failure::GaveUp { .. } => 130,
            Failure::Reported { code } => *code,
            _ => FAILED,
        }
    }

    /// Whether there is something to say that was not said.
    pub fn is_silent(&self) -> bool {
        matches!(
            self,
            Failure::ReaderGone | Failure::Reported { .. } | Failure::Signal { .. }
        )
    }

    /// What and where, the causes, the remedy; ends with a newline.
    pub fn render(&self) -> String {
        let hint = match self {
            Failure::Engine(error) => hints::engine(error),
            other => hints::command(other),
        };
        render(self, hint.as_deref())
    }
}

/// `gourd: WHAT`, a line for each cause, and the hint. A cause that only repeats what was said is left out. Images, guests and
/// registries have their say in it, so that nothing of it may command the terminal.
pub fn render(error: &dyn Error, hint: Option<&str>) -> String {
    let mut said = error.to_string();
    let mut text = format!("gourd: {}\n", plain(&said));
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !said.ends_with(&words) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  caused by {}", plain(&words));
        }
        said = words;
        cause = error.source();
    }
    if let Some(hint) = hint {
        let _ = writeln!(text, "  hint: {}", plain(hint));
    }
    text
}

/// Prints a failure on stderr, when there is something to say.
pub fn report(failure: &Failure) {
    if !failure.is_silent() {
        // stderr may be closed; the exit code still tells.
        let _ = out::stderr(&failure.render());
    }
}

/// Results of a verb that takes several names: each failure is reported as it comes, the others go on.
#[derive(Debug, Default)]
pub struct Tally {
    first: Option<u8>,
}

impl Tally {
    /// Reports a failure.
    pub fn failed(&mut self, failure: impl Into<Failure>) {
        let failure = failure.into();
        report(&failure);
        self.first.get_or_insert(failure.code());
    }

    /// The verb's result.
    pub fn end(self) -> Result<u8, Failure> {
        match self.first {
            None => Ok(0),
            Some(code) => Err(Failure::Reported { code }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let check = |failure: Failure, code: u8, expect: &str| {
            assert_eq!(failure.code(), code, "{failure:?}");
            assert_eq!(failure.render(), expect);
        };
        check(
            Failure::NotATty,
            125,
            "gourd: the input device is not a TTY\n  hint: leave out -t when input comes from a pipe or a file\n",
        );
        check(
            Failure::Open {
                path: "/no/such.tar".into(),
                source: io::Error::from_raw_os_error(2),
            },
            125,
            "gourd: cannot open /no/such.tar\n  caused by No such file or directory (os error 2)\n  \
             hint: check the path, and that you may read it\n",
        );
        assert!(Failure::ReaderGone.is_silent());
        assert_eq!(Failure::ReaderGone.code(), 141);
        assert_eq!(Failure::Signal { number: 15 }.code(), 143);
    }

    #[test]
    fn causes_are_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("inner"));
        assert_eq!(render(&error, None), "gourd: outer: inner\n");
    }

    #[test]
    fn the_terminal_obeys_nothing() {
        let error = io::Error::other("no user x\u{1b}]52;c;aGk=\u{7}\n\u{9b}2J\u{202e}\u{2066}é");
        assert_eq!(
            render(&error, Some("\u{1b}c")),
            "gourd: no user x?]52;c;aGk=???2J??é\n  hint: ?c\n"
        );
    }
}
