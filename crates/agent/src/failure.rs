//! What failed: the step, the object, the errno. It crosses two borders (helper → agent → host) without losing any of it.

use std::io;

use proto::agent::Failure;
use proto::agent::failure::Kind;
use thiserror::Error;

/// A step that failed.
#[derive(Debug, Error)]
#[error("{step} {object}: {message}")]
pub(crate) struct Failed {
    kind: Kind,
    step: String,
    object: String,
    errno: i32,
    message: String,
}

impl Failed {
    /// A step that an error of the system stopped.
    pub(crate) fn os(
        step: &str,
        object: impl std::fmt::Display,
        error: impl Into<io::Error>,
    ) -> Self {
        let error = error.into();
        Self {
            kind: Kind::Other,
            step: step.to_owned(),
            object: object.to_string(),
            errno: error.raw_os_error().unwrap_or(0),
            message: text(&error),
        }
    }

    /// A step that was asked for something that is not there.
    pub(crate) fn invalid(
        step: &str,
        object: impl std::fmt::Display,
        message: impl std::fmt::Display,
    ) -> Self {
        Self {
            kind: Kind::Invalid,
            step: step.to_owned(),
            object: object.to_string(),
            errno: 0,
            message: message.to_string(),
        }
    }

    /// The same failure, as `kind`.
    #[must_use]
    pub(crate) fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Whether this error of the system is the cause.
    pub(crate) fn is(&self, errno: rustix::io::Errno) -> bool {
        self.errno == errno.raw_os_error()
    }

    /// The same failure, in other words.
    #[must_use]
    pub(crate) fn saying(mut self, message: &str) -> Self {
        message.clone_into(&mut self.message);
        self
    }
}

/// The system's text without the number, which has a field of its own.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(errno) => text
            .strip_suffix(&format!(" (os error {errno})"))
            .unwrap_or(&text)
            .to_owned(),
        None => text,
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        Self {
            kind: failed.kind.into(),
            step: failed.step,
            object: failed.object,
            errno: failed.errno,
            message: failed.message,
        }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind(),
            step: failure.step,
            object: failure.object,
            errno: failure.errno,
            message: failure.message,
        }
    }
}

/// Names the step and the object of a system's error.
pub(crate) trait Step<T> {
    /// `self`, or the failure of `step` on `object`.
    fn step(self, step: &str, object: impl std::fmt::Display) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str, object: impl std::fmt::Display) -> Result<T, Failed> {
        self.map_err(|error| Failed::os(step, object, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_parts_across_the_wire() {
        let failed: Failed = Failed::os("mount", "/dev/vdb", rustix::io::Errno::INVAL);
        assert_eq!(failed.to_string(), "mount /dev/vdb: Invalid argument");
        let wire = Failure::from(failed);
        assert_eq!((wire.errno, wire.kind()), (22, Kind::Other));
        let back = Failed::from(wire.clone()).of_kind(Kind::Invalid);
        assert_eq!(Failure::from(back).kind(), Kind::Invalid);
    }
}
