//! What an engine's calls fail with. The text says what and where; [`Error::kind`] is for programs.

use std::io;

use store::{container, content, file, gc, json, kernels, locate, lock, logs, rootfs, volume};

pub use self::kind::{ErrorKind, StartFailure};
use crate::ArchiveError;

mod kind;

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
    /// Volumes' files.
    #[error(transparent)]
    Volume(#[from] volume::Error),
    /// One writer, or many readers.
    #[error(
        "volume {volume} is in use by {}",
        if holders.is_empty() { "another process".to_owned() } else { holders.join("; ") }
    )]
    VolumeInUse {
        /// Its name.
        volume: String,
        /// `container web, which writes to it`
        holders: Vec<String>,
    },
    /// Containers have it in their specs, whether they run or not.
    #[error("volume {volume} is used by {} {}", if containers.len() == 1 { "container" } else { "containers" }, containers.join(", "))]
    VolumeUsed {
        /// Its name.
        volume: String,
        /// Their names.
        containers: Vec<String>,
    },
    /// It is there, and is not as asked for.
    #[error("volume {name} exists already, {there}")]
    VolumeDiffers {
        /// Its name.
        name: String,
        /// What was asked for: `size`, `label` or `owner`.
        option: &'static str,
        /// How it is: `with 1073741824 bytes`
        there: String,
    },
    /// Events.
    #[error(transparent)]
    Events(#[from] store::events::Error),
    /// Copying files.
    #[error(transparent)]
    Copy(#[from] crate::copy::Error),
    /// Logs.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// Networks.
    #[error(transparent)]
    Network(#[from] store::network::Error),
    /// Containers that run are on it.
    #[error("network {network} is in use by {} {}", if containers.len() == 1 { "container" } else { "containers" }, containers.join(", "))]
    NetworkInUse {
        /// Its name.
        network: String,
        /// Their names.
        containers: Vec<String>,
    },
    /// It is there already.
    #[error("container {container} is on the network {network} already")]
    Connected {
        /// Its name.
        container: String,
        /// Its name.
        network: String,
    },
    /// It is not there.
    #[error("container {container} is not on the network {network}")]
    NotConnected {
        /// Its name.
        container: String,
        /// Its name.
        network: String,
    },
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
    /// A reference that is none.
    #[error("{text:?} is no image reference")]
    Reference {
        /// As it was given.
        text: String,
        /// Which part is wrong.
        #[source]
        source: oci::ReferenceError,
    },
    /// A registry.
    #[error(transparent)]
    Registry(Box<registry::Error>),
    /// Blobs.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// Making a rootfs image.
    #[error(transparent)]
    Rootfs(#[from] rootfs::Error),
    /// A disk image.
    #[error(transparent)]
    Disk(#[from] store::disk::ImageError),
    /// A file system that cannot be checked.
    #[error(transparent)]
    Check(#[from] crate::CheckError),
    /// Garbage collection.
    #[error(transparent)]
    Collect(#[from] gc::Error),
    /// An archive of images.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A manifest or index that makes no sense.
    #[error("manifest {digest} is not usable")]
    Document {
        /// Its digest.
        digest: oci::Digest,
        /// Why.
        #[source]
        source: oci::DocumentError,
    },
    /// An image configuration that makes no sense, or does not go with its manifest.
    #[error("image {image} is not usable")]
    Config {
        /// Its reference or digest.
        image: String,
        /// Why.
        #[source]
        source: oci::ConfigError,
    },
    /// An index has nothing for the platform.
    #[error("image {image} is not usable")]
    NoPlatform {
        /// Its reference or digest.
        image: String,
        /// What it has.
        #[source]
        source: Box<oci::NoMatchingPlatform>,
    },
    /// The image is for another processor or operating system.
    #[error("image {image} is for {found}, this host runs {wanted}")]
    Platform {
        /// As it was named.
        image: String,
        /// Its platform.
        found: String,
        /// Ours.
        wanted: String,
    },
    /// No image is called so.
    #[error("no such image: {0}")]
    NoSuchImage(String),
    /// Several images' ids begin so.
    #[error("the id {prefix} is ambiguous: {count} images begin with it")]
    AmbiguousImage {
        /// What was asked for.
        prefix: String,
        /// How many match.
        count: usize,
    },
    /// A container was made of it.
    #[error("image {image} is used by container {container}{}", if *running { ", which is running" } else { "" })]
    ImageInUse {
        /// As it was named.
        image: String,
        /// The container's name.
        container: String,
        /// It runs.
        running: bool,
    },
    /// Images are being pulled, loaded or removed.
    #[error(
        "images are in use by {}",
        if holders.is_empty() { "another process".to_owned() } else { holders.join(", ") }
    )]
    ImagesInUse {
        /// `process 4711 (gourd pull debian)`
        holders: Vec<String>,
    },
    /// Removing by id would remove several references.
    #[error("image {image} has several references: {}", references.join(", "))]
    SeveralReferences {
        /// As it was named.
        image: String,
        /// All of them.
        references: Vec<String>,
    },
    /// Its lock is held, and nobody answers.
    #[error("the lock of container {name} is held, but no supervisor answers for it")]
    Stuck {
        /// The container's name.
        name: String,
    },
    /// `gourd-vm` says something that is not understood.
    #[error("{program} {command} failed: {reason}")]
    Probe {
        /// Which program.
        program: String,
        /// Its argument.
        command: &'static str,
        /// What it said.
        reason: String,
    },
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
    /// It goes when it stops, and cannot be started again.
    #[error("container {name} is removed at its end, and can't be started again")]
    RemovedAtEnd {
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
        /// What was being done, for example `look up user`.
        step: String,
        /// The step, the object, the errno.
        message: String,
        /// What a person can do about it, where the supervisor knows.
        remedy: Option<String>,
    },
    /// The monitor, the guest or the supervisor died.
    #[error("container {name} was lost: {reason}")]
    Lost {
        /// Its name.
        name: String,
        /// What is known.
        reason: String,
        /// What a person can do about it, where the supervisor knows.
        remedy: Option<String>,
    },
    /// The guest could not do what it was asked for.
    #[error("{message}")]
    Guest {
        /// There is no such file, user, process, …
        not_found: bool,
        /// As in errno.h.
        errno: Option<i32>,
        /// The step, the object, the errno.
        message: String,
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

impl From<registry::Error> for Error {
    fn from(error: registry::Error) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl Error {
    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            what,
            reason: reason.into(),
        }
    }
}
