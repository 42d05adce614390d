//! What a container is: `spec.json` and `state.json`, the shapes of their contents.
//!
//! The spec is written once, when the container is created, by the engine. The state is written by whoever holds the
//! container's lock: the engine at creation and repair, the supervisor while it runs.

use serde::{Deserialize, Serialize};

/// The version of `spec.json` and `state.json` that this build writes. A newer one is refused.
pub const SCHEMA: u32 = 1;

/// `spec.json`: all that is needed to start the container again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// [`SCHEMA`].
    pub schema: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique among containers.
    pub name: String,
    /// Nanoseconds since 1970.
    pub created_ns: u64,
    /// What it was made from.
    pub image: Image,
    /// The container's first process.
    pub process: Process,
    /// The VM around it.
    pub vm: Vm,
    /// The name that the guest gives itself.
    pub hostname: String,
    /// Labels of the image, then the user's.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Removed when it ends.
    pub remove: bool,
    /// Sent first by `stop`; a signal's number.
    pub stop_signal: u32,
    /// Milliseconds until KILL.
    pub stop_timeout_ms: u64,
}

/// The image of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As the user named it, in its familiar form.
    pub reference: String,
    /// The image's id: `sha256:…` of its configuration.
    pub id: String,
    /// The key of the rootfs image: the name of its folder under `rootfs/`.
    pub rootfs: String,
}

/// The first process of a container, with image and command line merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// argv, entry point first.
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// As Docker's `--user`; empty = root.
    pub user: String,
    /// Working directory; empty = `/`.
    pub cwd: String,
    /// Give it a terminal.
    pub tty: bool,
    /// Keep stdin open.
    pub stdin: bool,
}

/// The virtual machine of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Bytes for the container's processes; the VM gets a reserve on top.
    pub memory: u64,
    /// Virtual processors.
    pub cpus: u32,
    /// `auto`, `qemu`, …
    pub driver: String,
    /// The name of an installed kernel, or a path to a vmlinux or bzImage. Empty: the default.
    pub kernel: String,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    Created,
    /// A supervisor has it, its process runs or is about to.
    Running,
    /// Its process ended, or it was lost.
    Exited,
}

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where it is; with [`Status::Running`] and a free lock it is dead and wants repair.
    pub status: Status,
    /// The supervisor's process id while running.
    pub pid: Option<u32>,
    /// Nanoseconds since 1970; when its process last started.
    pub started_ns: Option<u64>,
    /// Nanoseconds since 1970; when it last ended.
    pub finished_ns: Option<u64>,
    /// Of the last end.
    pub exit_code: Option<u32>,
    /// The kernel's OOM killer ended it.
    pub oom_killed: bool,
    /// Why it could not start, or how it was lost.
    pub error: Option<String>,
    /// Which driver and acceleration ran it, for example `qemu/tcg`.
    pub driver: Option<String>,
}
