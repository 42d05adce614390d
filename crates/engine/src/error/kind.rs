//! What kind of failure an error is, for exit codes and hints, and what a person can do about it.

use std::io;

use store::{container, content, file, gc, json, kernels, lock, logs, rootfs, volume};

use super::Error;
use crate::ArchiveError;

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
    /// A document or an archive that is larger than anybody wants.
    TooLarge,
    /// An image that unpacks to more than it may: [`OpenOptions::max_unpacked`](crate::OpenOptions::max_unpacked).
    UnpacksTooLarge,
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

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Root(error) => root_kind(error),
            Self::Container(error) => container_kind(error),
            Self::Volume(error) => volume_kind(error),
            Self::VolumeInUse { .. } | Self::VolumeUsed { .. } => ErrorKind::InUse,
            Self::VolumeDiffers { .. } => ErrorKind::Conflict,
            Self::Events(store::events::Error::Lock(error)) => lock_kind(error),
            Self::Events(store::events::Error::File(error)) => file_kind(error),
            Self::Copy(error) => copy_kind(error),
            Self::Logs(logs::Error::Corrupt { .. }) => ErrorKind::Corrupt,
            Self::Logs(logs::Error::File(error)) | Self::File(error) => file_kind(error),
            Self::Network(error) => network_kind(error),
            Self::NetworkInUse { .. } => ErrorKind::InUse,
            Self::Connected { .. } | Self::NotConnected { .. } => ErrorKind::Conflict,
            Self::Kernel(error) => kernel_kind(error),
            Self::Program(missing) => ErrorKind::MissingProgram(missing.name),
            Self::Lock(error) => lock_kind(error),
            Self::Json(error) => json_kind(error),
            Self::Registry(error) => registry_kind(error),
            Self::Content(error) => content_kind(error),
            Self::Rootfs(error) => rootfs_kind(error),
            Self::Disk(error) => disk_kind(error),
            Self::Check(error) => check_kind(error),
            Self::Collect(error) => collect_kind(error),
            Self::Archive(error) => match error {
                ArchiveError::Read(source) if source.kind() == io::ErrorKind::FileTooLarge => {
                    ErrorKind::UnpacksTooLarge
                }
                ArchiveError::Read(source) if source.raw_os_error().is_some() => io_kind(source),
                ArchiveError::Write(source) => io_kind(source),
                _ => ErrorKind::Corrupt,
            },
            Self::Document { .. } => ErrorKind::Corrupt,
            Self::Config { source, .. } => match source {
                oci::ConfigError::WrongPlatform { .. } => ErrorKind::Platform,
                _ => ErrorKind::Corrupt,
            },
            Self::NoPlatform { .. } | Self::Platform { .. } => ErrorKind::Platform,
            Self::NoSuchImage(_) => ErrorKind::NotFound,
            Self::ImageInUse { .. } | Self::ImagesInUse { .. } => ErrorKind::InUse,
            Self::Running { .. }
            | Self::NotRunning { .. }
            | Self::RemovedAtEnd { .. }
            | Self::SeveralReferences { .. } => ErrorKind::Conflict,
            Self::Invalid { .. } | Self::Reference { .. } | Self::AmbiguousImage { .. } => {
                ErrorKind::Invalid
            }
            Self::Guest {
                not_found: true, ..
            } => ErrorKind::NotFound,
            Self::Guest { errno, .. } => errno.map_or(ErrorKind::Conflict, |errno| {
                io_kind(&io::Error::from_raw_os_error(errno))
            }),
            Self::Stuck { .. } => ErrorKind::InUse,
            Self::Probe { .. } => ErrorKind::Io,
            Self::Start { failure, .. } => ErrorKind::StartFailed(*failure),
            Self::Lost { .. } | Self::Supervisor { .. } => ErrorKind::VmLost,
            Self::Version { .. } => ErrorKind::Version,
            Self::Spawn { source, .. } => io_kind(source),
            Self::Interrupted => ErrorKind::Io,
        }
    }

    /// What a person can do about it, where whoever found the failure knows better than its kind tells.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::Start { remedy, .. } | Self::Lost { remedy, .. } => remedy.as_deref(),
            Self::Registry(error) => error.remedy(),
            Self::Disk(error) => error.remedy(),
            Self::Check(error) => check_remedy(error),
            _ => None,
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

fn disk_kind(error: &store::disk::ImageError) -> ErrorKind {
    use store::disk::ImageError;
    match error {
        ImageError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
            ErrorKind::Conflict
        }
        ImageError::Io { source, .. } => io_kind(source),
        ImageError::Damaged { .. } | ImageError::Unwrap { .. } => ErrorKind::Corrupt,
        ImageError::TooLarge { .. } => ErrorKind::TooLarge,
        _ => ErrorKind::Invalid,
    }
}

fn check_kind(error: &crate::CheckError) -> ErrorKind {
    match &error.source {
        crate::CheckFailure::Open(error) => io_kind(error),
        crate::CheckFailure::Read(error) => match error {
            store::ext4::read::Error::Read { source, .. } => io_kind(source),
            _ => ErrorKind::Invalid,
        },
    }
}

fn check_remedy(error: &crate::CheckError) -> Option<&'static str> {
    use store::ext4::read::Error;
    match &error.source {
        crate::CheckFailure::Open(_) => Some("check the path, and that you may read it"),
        crate::CheckFailure::Read(Error::Superblock { .. }) => Some(
            "if it was an ext4 file system, `e2fsck -b 32768 FILE` tries a copy of the superblock; a disk with partitions \
             holds its file systems in those",
        ),
        crate::CheckFailure::Read(Error::Features { .. } | Error::ReadOnlyFeatures { .. }) => {
            Some("`e2fsck -fn FILE` checks file systems with other features")
        }
        crate::CheckFailure::Read(_) => {
            Some("the file is shorter than a file system, or cannot be read")
        }
    }
}

fn copy_kind(error: &crate::copy::Error) -> ErrorKind {
    use crate::copy::Error;
    match error {
        Error::Host { source, .. } => io_kind(source),
        Error::NotFound { .. } | Error::NoParent(_) => ErrorKind::NotFound,
        Error::Archive(_) | Error::Escape { .. } => ErrorKind::Corrupt,
        Error::Stream(_) => ErrorKind::Io,
        _ => ErrorKind::Invalid,
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
        container::Error::NameInUse { .. } | container::Error::Running(_) => ErrorKind::Conflict,
        container::Error::Json(error) => json_kind(error),
        container::Error::Lock(error) => lock_kind(error),
        container::Error::File(error) => file_kind(error),
        container::Error::Disk { source, .. } => io_within(source.as_ref()),
        container::Error::Volumes(error) => volume_kind(error),
    }
}

fn volume_kind(error: &volume::Error) -> ErrorKind {
    match error {
        volume::Error::NotFound(_) => ErrorKind::NotFound,
        volume::Error::InvalidName(_)
        | volume::Error::Size { .. }
        | volume::Error::Shrink { .. } => ErrorKind::Invalid,
        volume::Error::Exists(_) => ErrorKind::Conflict,
        volume::Error::BeingMade(_) => ErrorKind::InUse,
        volume::Error::Disk {
            operation: "read", ..
        } => ErrorKind::Corrupt,
        volume::Error::Disk { source, .. } => io_within(source.as_ref()),
        volume::Error::Container { source, .. } | volume::Error::Containers(source) => {
            container_kind(source)
        }
        volume::Error::Json(error) => json_kind(error),
        volume::Error::Lock(error) => lock_kind(error),
        volume::Error::File(error) => file_kind(error),
    }
}

/// What the system call that is at the bottom of an error met.
fn io_within(error: &(dyn std::error::Error + 'static)) -> ErrorKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return io_kind(error);
        }
        cause = error.source();
    }
    ErrorKind::Io
}

fn network_kind(error: &store::network::Error) -> ErrorKind {
    use store::network::Error;
    match error {
        Error::NotFound(_) => ErrorKind::NotFound,
        Error::Exists(_) | Error::Overlaps { .. } | Error::NoSubnet => ErrorKind::Conflict,
        Error::InUse(_) => ErrorKind::InUse,
        Error::InvalidName(_)
        | Error::InvalidSubnet { .. }
        | Error::InvalidAllow { .. }
        | Error::InternalAllows => ErrorKind::Invalid,
        Error::Json(error) => json_kind(error),
        Error::Lock(error) => lock_kind(error),
        Error::File(error) => file_kind(error),
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

fn content_kind(error: &content::Error) -> ErrorKind {
    match error {
        content::Error::TooLarge { .. } => ErrorKind::TooLarge,
        content::Error::Missing(_)
        | content::Error::Digest { .. }
        | content::Error::Size { .. } => ErrorKind::Corrupt,
        content::Error::File(error) => file_kind(error),
    }
}

fn rootfs_kind(error: &rootfs::Error) -> ErrorKind {
    match error {
        rootfs::Error::Content(error) => content_kind(error),
        rootfs::Error::Merge { source, .. } => cause_kind(source),
        rootfs::Error::Write { source, .. } => cause_kind(source),
        rootfs::Error::Store { source, .. } => cause_kind(source),
        rootfs::Error::Decompress { .. } | rootfs::Error::DiffId { .. } => ErrorKind::Corrupt,
        rootfs::Error::TooLarge { .. } => ErrorKind::UnpacksTooLarge,
        // Why it doesn't come is told by whoever was to bring it.
        rootfs::Error::NotComing(_) => ErrorKind::Unreachable,
        rootfs::Error::Disk(error) => io_kind(&error.source),
        rootfs::Error::Lock(error) => lock_kind(error),
        rootfs::Error::File(error) => file_kind(error),
    }
}

/// A full disk deep below a layer that cannot be stored is a full disk; what has no such cause is a bad layer.
fn cause_kind(error: &(dyn std::error::Error + 'static)) -> ErrorKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if io.raw_os_error().is_some() {
                return io_kind(io);
            }
            // What an io::Error wraps is not its source.
            cause = io
                .get_ref()
                .map(|inner| inner as &(dyn std::error::Error + 'static));
            if cause.is_some() {
                continue;
            }
        }
        cause = error.source();
    }
    ErrorKind::Corrupt
}

fn collect_kind(error: &gc::Error) -> ErrorKind {
    match error {
        gc::Error::Json(error) => json_kind(error),
        gc::Error::Container { source, .. } => container_kind(source),
        gc::Error::Containers(error) => container_kind(error),
        gc::Error::Content(error) => content_kind(error),
        gc::Error::Lock(error) => lock_kind(error),
        gc::Error::File(error) => file_kind(error),
    }
}

fn registry_kind(error: &registry::Error) -> ErrorKind {
    use registry::Error;
    match error {
        Error::NotFound { .. } => ErrorKind::NotFound,
        Error::Unauthorized { .. } | Error::Login { .. } | Error::Credentials { .. } => {
            ErrorKind::Unauthorized
        }
        Error::Verify { .. } | Error::BadManifest { .. } => ErrorKind::Corrupt,
        Error::NoMatchingPlatform(_) => ErrorKind::Platform,
        Error::Settings(_) | Error::Roots(_) => ErrorKind::Invalid,
        Error::Source { source, .. } => io_kind(source),
        _ => ErrorKind::Unreachable,
    }
}
