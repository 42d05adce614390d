//! What an engine's calls fail with. The text says what and where; [`Error::kind`] is for programs.

use std::io;

use store::{container, file, json, kernels, locate, lock, logs};

/// Why a container's process did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFailure {
    /// The program does not exist; shells say 127.
    NotFound,
    /// The program exists and cannot be executed; shells say 126.
    NotExecutable,
    /// No such user, group or working directory; a request that makes no sense.
    Invalid,
    /// Gourd's own failure; 125.
    Other,
}

/// What kind of failure, for exit codes and hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such container, image or kernel.
    NotFound,
    /// The name is taken, or the state of the thing forbids it.
    Conflict,
    /// Something else uses it.
    InUse,
    /// The request makes no sense.
    Invalid,
    /// The image is for another architecture or operating system.
    Platform,
    /// A registry cannot be reached, or failed.
    Unreachable,
    /// A registry wants credentials, or other ones.
    Unauthorized,
    /// Content that does not match its digest, or cannot be parsed.
    Corrupt,
    /// Written by a newer gourd.
    NewerSchema,
    /// The operating system says no.
    Denied,
    /// The disk is full.
    NoSpace,
    /// A program of gourd's own is missing: its name.
    MissingProgram(&'static str),
    /// No kernel is installed, or not that one.
    MissingKernel,
    /// The process did not start.
    StartFailed(StartFailure),
    /// The supervisor, the monitor or the guest died.
    VmLost,
    /// Two programs of gourd are of versions that do not understand each other.
    Version,
    /// A system call failed otherwise.
    Io,
}

/// What an engine's calls fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The state directory.
    #[error(transparent)]
    Root(#[from] store::RootError),
    /// Containers' files.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// Logs.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// Kernels.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
    /// A program of gourd's own is missing.
    #[error(transparent)]
    Program(#[from] locate::Missing),
    /// A lease or a lock.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A file of state.
    #[error(transparent)]
    Json(#[from] json::Error),
    /// A file.
    #[error(transparent)]
    File(#[from] file::Error),
    /// It runs, and must not for this.
    #[error("container {name} is running")]
    Running {
        /// Its name.
        name: String,
    },
    /// It does not run, and must for this.
    #[error("container {name} is not running")]
    NotRunning {
        /// Its name.
        name: String,
    },
    /// A part of the request makes no sense.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// Which part.
        what: &'static str,
        /// The value, and what would be right.
        reason: String,
    },
    /// The process did not start.
    #[error("{message}")]
    Start {
        /// For the exit code.
        failure: StartFailure,
        /// The step, the object, the errno.
        message: String,
    },
    /// The monitor, the guest or the supervisor died.
    #[error("container {name} was lost: {reason}")]
    Lost {
        /// Its name.
        name: String,
        /// What is known.
        reason: String,
    },
    /// The supervisor answers with an error, or not at all.
    #[error("the supervisor of container {name} failed at {call}")]
    Supervisor {
        /// The container's name.
        name: String,
        /// Which call.
        call: &'static str,
        /// What gRPC says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The supervisor speaks another version.
    #[error(
        "the supervisor of container {name} speaks protocol version {theirs}, this gourd speaks {ours}"
    )]
    Version {
        /// The container's name.
        name: String,
        /// The supervisor's.
        theirs: u32,
        /// This library's.
        ours: u32,
    },
    /// A process could not be started or waited for.
    #[error("cannot {operation} {program}")]
    Spawn {
        /// A verb.
        operation: &'static str,
        /// Which program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The runtime is being shut down.
    #[error("interrupted: the runtime is shutting down")]
    Interrupted,
}

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Root(error) => root_kind(error),
            Self::Container(error) => container_kind(error),
            Self::Logs(logs::Error::Corrupt { .. }) => ErrorKind::Corrupt,
            Self::Logs(logs::Error::File(error)) | Self::File(error) => file_kind(error),
            Self::Kernel(error) => kernel_kind(error),
            Self::Program(missing) => ErrorKind::MissingProgram(missing.name),
            Self::Lock(error) => lock_kind(error),
            Self::Json(error) => json_kind(error),
            Self::Running { .. } | Self::NotRunning { .. } => ErrorKind::Conflict,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Start { failure, .. } => ErrorKind::StartFailed(*failure),
            Self::Lost { .. } | Self::Supervisor { .. } => ErrorKind::VmLost,
            Self::Version { .. } => ErrorKind::Version,
            Self::Spawn { source, .. } => io_kind(source),
            Self::Interrupted => ErrorKind::Io,
        }
    }

    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            what,
            reason: reason.into(),
        }
    }
}

fn io_kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    }
}

fn file_kind(error: &file::Error) -> ErrorKind {
    io_kind(&error.source)
}

fn json_kind(error: &json::Error) -> ErrorKind {
    match error {
        json::Error::File(error) => file_kind(error),
        json::Error::Corrupt { .. } => ErrorKind::Corrupt,
        json::Error::Newer { .. } => ErrorKind::NewerSchema,
    }
}

fn lock_kind(error: &lock::Error) -> ErrorKind {
    match error {
        lock::Error::Gone(_) => ErrorKind::NotFound,
        lock::Error::File(error) => file_kind(error),
    }
}

fn root_kind(error: &store::RootError) -> ErrorKind {
    match error {
        store::RootError::Unusable { source, .. } => match file_kind(source) {
            // /proc and others say ENOENT for "nobody can make this here".
            ErrorKind::NotFound => ErrorKind::Denied,
            other => other,
        },
        store::RootError::NoHome | store::RootError::Relative(_) => ErrorKind::Invalid,
        store::RootError::Sockets { .. } => ErrorKind::Denied,
    }
}

fn container_kind(error: &container::Error) -> ErrorKind {
    match error {
        container::Error::NotFound(_) => ErrorKind::NotFound,
        container::Error::Ambiguous { .. } | container::Error::InvalidName(_) => ErrorKind::Invalid,
        container::Error::NameInUse { .. } => ErrorKind::Conflict,
        container::Error::Json(error) => json_kind(error),
        container::Error::Lock(error) => lock_kind(error),
        container::Error::File(error) => file_kind(error),
        container::Error::Upper { .. } => ErrorKind::Io,
    }
}

fn kernel_kind(error: &kernels::Error) -> ErrorKind {
    match error {
        kernels::Error::None(_)
        | kernels::Error::NoDefault(_)
        | kernels::Error::NotFound { .. } => ErrorKind::MissingKernel,
        kernels::Error::InvalidName(_) | kernels::Error::NotKernel(_) => ErrorKind::Invalid,
        kernels::Error::Exists(_) => ErrorKind::Conflict,
        kernels::Error::Module { .. } => ErrorKind::Corrupt,
        kernels::Error::Json(error) => json_kind(error),
        kernels::Error::File(error) => file_kind(error),
        kernels::Error::Disk(error) => io_kind(&error.source),
        kernels::Error::Lock(error) => lock_kind(error),
    }
}
