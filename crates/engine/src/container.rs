//! Containers: the requests, what comes back, and the verbs.

mod attach;
mod change;
mod config;
mod connections;
mod create;
mod files;
mod follow;
mod health;
mod inspect;
mod life;
mod list;
mod logs;
mod names;
mod observe;
mod remove;
mod request;
mod rights;
mod shutdown;
mod size;
mod sockets;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use store::container::{HealthStatus, Port};

pub use attach::{AttachInput, AttachOutput, Attachment};
pub use change::StartedOnBoot;
pub use connections::{Networks, port_numbers, port_words};
pub(crate) use connections::{check_endpoint, check_networks, mac};
pub(crate) use create::{new_id, platform};
pub use files::{Change, ChangeKind, Files, PathStat, TarStream, UnpackOptions, Unpacking};
pub use follow::Follow;
pub use logs::{Logs, LogsOptions};
pub use observe::{ProcessInfo, Stats};
pub use remove::{ContainerFilter, Pruned};
pub use request::{CreateRequest, ExecRequest, HealthRequest, UpdateRequest};
pub use rights::capability;
pub(crate) use rights::clean as clean_path;
pub use shutdown::{ShutDown, Whose};
pub use size::ContainerSize;
pub use sockets::PublishedSocket;

use crate::Error;

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// When the image is not here.
    #[default]
    Missing,
    /// Always; what is here is used only for the layers.
    Always,
    /// Never.
    Never,
}

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique.
    pub name: String,
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// What to attach to a container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachOptions {
    /// Input is sent.
    pub stdin: bool,
    /// Output is wanted.
    pub stdout: bool,
    /// Errors are wanted.
    pub stderr: bool,
    /// The terminal's, when it has one.
    pub size: Option<TerminalSize>,
}

/// How to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartMode {
    /// Answer when the process runs; nobody is attached.
    Detached,
    /// Answer at once with an attachment from the first byte on. [`Event::Started`] comes over it.
    Foreground(AttachOptions),
}

/// A container that was started.
#[derive(Debug)]
pub struct Running {
    /// 64 hexadecimal digits.
    pub id: String,
    /// For [`StartMode::Foreground`].
    pub attachment: Option<Attachment>,
}

/// What comes out of an attachment.
#[derive(Debug)]
pub enum Event {
    /// The process runs.
    Started,
    /// It wrote to descriptor 1, or to its terminal.
    Stdout(Bytes),
    /// It wrote to descriptor 2.
    Stderr(Bytes),
    /// It ended, and everything of it came. The last event.
    Exited(Exit),
    /// It never ran, or its VM was lost. The last event.
    Failed(Error),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + n when signal n killed it.
    pub code: u32,
    /// The kernel's OOM killer ended it.
    pub oom_killed: bool,
    /// What went wrong beside it, for example that a file system could not be unmounted.
    pub error: Option<String>,
    /// The moments of the container's life, in order.
    pub phases: Vec<Phase>,
}

/// One moment of a container's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// For example `kernel`.
    pub name: String,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub at_ns: u64,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    Created,
    /// It has a supervisor.
    Running,
    /// As running, with its processes frozen.
    Paused,
    /// It ended, and its supervisor is about to start it again.
    Restarting,
    /// It ended.
    Exited,
    /// Its files cannot be read; [`ContainerSummary::error`] says why.
    Dead,
}

impl Status {
    /// It has a supervisor.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// A row of `ps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerSummary {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Empty when the spec cannot be read.
    pub name: String,
    /// As the user named it.
    pub image: String,
    /// `sha256:…`
    pub image_id: String,
    /// argv.
    pub command: Vec<String>,
    /// Nanoseconds since 1970.
    pub created_ns: u64,
    /// Where it is in its life.
    pub status: Status,
    /// When it last started.
    pub started_ns: Option<u64>,
    /// When it last ended.
    pub finished_ns: Option<u64>,
    /// Of the last end.
    pub exit_code: Option<u32>,
    /// Why it could not start, how it was lost, or why it cannot be read.
    pub error: Option<String>,
    /// Of one with a health check that was started.
    pub health: Option<HealthStatus>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Ports of the host that lead to it now.
    pub ports: Vec<Port>,
    /// Ports that it says it serves: `80/tcp`.
    pub exposed: Vec<String>,
    /// The networks that it is on.
    pub networks: Vec<String>,
    /// Its volumes, each once.
    pub volumes: Vec<String>,
    /// What is mounted in it: a volume's name or a path of the host, and where.
    pub mounts: Vec<(String, String)>,
}
