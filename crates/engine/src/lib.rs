//! Gourd's embeddable API: containers and images.
//!
//! An [`Engine`] is a state directory and the programs that go with it. It keeps nothing in memory that is not in
//! files or held by a lock, so any number of engines, in any number of processes, work on one directory. Nothing here
//! touches the terminal; there is no daemon: a container that runs has a supervisor process (`gourd-vm`) of its own,
//! which the engine starts and talks to over a unix socket.
//!
//! Async functions need a tokio runtime with I/O enabled; a current-thread one is enough. Work on files happens on
//! tokio's blocking threads where it can take long.
//!
//! `gourd run --rm`, in a program of its own (`examples/` has more: exec, copying files, events):
//!
//! ```no_run
#![doc = include_str!("../examples/run.rs")]
//! ```

mod bind;
mod container;
mod copy;
mod error;
mod events;
mod image;
mod login;
mod network;
mod supervisor;
#[allow(unsafe_code)]
mod sys;
mod system;
mod time;
mod volume;

pub use bind::BindRequest;
pub use container::{
    AttachInput, AttachOptions, AttachOutput, Attachment, Container, ContainerFilter,
    ContainerSize, ContainerSummary, CreateRequest, Event, ExecRequest, Exit, Follow,
    HealthRequest, Logs, LogsOptions, Networks, Phase, Pruned, PublishedSocket, Pull, Running,
    ShutDown, StartMode, StartedOnBoot, Status, TerminalSize, UpdateRequest, Whose, capability,
    port_numbers, port_words,
};
pub use container::{
    Change, ChangeKind, Files, PathStat, ProcessInfo, Stats, TarStream, UnpackOptions, Unpacking,
};
pub use copy::{Copied, CopyOptions, Error as CopyError, Refusal as CopyRefusal};
pub use error::{Error, ErrorKind, StartFailure};
pub use events::{EventFilter, EventStream, EventsOptions, InvalidFilter};
pub use image::{
    ArchiveError, CommitRequest, HistoryStep, ImageFilter, ImageSummary, ImportRequest,
    LoadedImage, PrunedImages, PullEvent, PushEvent, PushRequest, PushedImage, Removed,
};
pub use login::{LoggedIn, LoggedOut};
pub use network::{NetworkRequest, NetworkSummary, NetworkWatch};
pub use store::TimeRange;
pub use store::container::{
    Attach, Endpoint, HealthStatus, Journal, Port, Protocol, ProxyProtocol, Resolution, Restart,
    RestartPolicy, RootfsMode, Tmpfs, Ulimit,
};
pub use store::disk::{
    Backing, Compression, Converted as ConvertedDisk, Description as DiskDescription,
    Format as DiskFormat, ImageError as DiskError, OpenOptions as DiskOptions,
    Progress as DiskProgress, Qcow2Description, Wrapper,
};
pub use store::events::{Event as SystemEvent, Kind as EventKind};
pub use store::ext4::check::{Finding, Place, Report as CheckReport};
pub use store::logs::{Record as LogRecord, Stream};
pub use store::network::Error as NetworkError;
pub use system::{
    Check, CheckError, CheckFailure, ContainerName, ContainerUsage, Counts, DiskUsage, ImageUsage,
    Info, KernelInfo, KernelUsage, Outcome, PrunedAll, Remains, check_file_system, convert_disk,
    describe_disk,
};

pub use volume::{
    MountRequest, PrunedVolumes, VolumeArchive, VolumeFilter, VolumeRequest, VolumeSummary,
};

use std::path::PathBuf;

use store::Root;
use store::locate::Programs;

/// The version of the protocol between engines and supervisors that this build speaks. It also speaks the one before.
pub const SUPERVISOR_PROTOCOL: u32 = proto::SUPERVISOR_PROTOCOL;

/// How to open an engine.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The state directory; by default `$GOURD_ROOT`, `$XDG_DATA_HOME/gourd` or `~/.local/share/gourd`.
    pub root: Option<PathBuf>,
    /// Where `gourd-vm`, `gourd-vmm` and `gourd-init` are; by default `$GOURD_LIBEXEC`, beside the running program, or
    /// in `../libexec/gourd` from there.
    pub bin_dir: Option<PathBuf>,
    /// The caller's start, in nanoseconds of CLOCK_MONOTONIC: the zero of what `--timings` prints.
    pub started: Option<u64>,
    /// As many bytes as an image may unpack to; by default 100 times what it came in, at least 1 GiB, at most 256 GiB.
    pub max_unpacked: Option<u64>,
}

/// The API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    root: Root,
    programs: Programs,
    started: Option<u64>,
}

impl Engine {
    /// Opens a state directory, making it when it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] or [`ErrorKind::Io`] when it cannot be used; the message names the path.
    pub fn open(options: OpenOptions) -> Result<Self, Error> {
        let path = match options.root {
            Some(path) => path,
            None => Root::default_path()?,
        };
        Ok(Self {
            root: Root::open(&path)?.allow_unpacked(options.max_unpacked),
            programs: Programs::new(options.bin_dir.as_deref()),
            started: options.started,
        })
    }

    /// The state directory.
    #[must_use]
    pub fn root(&self) -> &std::path::Path {
        self.root.path()
    }
}

/// Runs work on files where it does not hold up the runtime.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Error>
where
    T: Send + 'static,
    E: Send + 'static,
    Error: From<E>,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Interrupted),
        },
    }
}
