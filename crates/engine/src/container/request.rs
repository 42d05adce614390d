//! What is asked for: a new container, a further process, new limits.

use std::collections::BTreeMap;
use std::time::Duration;

use store::container::{Attach, Journal, Port, Resolution, Restart, RootfsMode, Tmpfs, Ulimit};

use super::{Networks, PublishedSocket, Pull, TerminalSize};
use crate::{BindRequest, MountRequest};

/// What to make a container of.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// The image's reference or id.
    pub image: String,
    /// Made up when absent.
    pub name: Option<String>,
    /// Takes the place of the image's command.
    pub args: Vec<String>,
    /// Takes the place of the image's entry point, and clears its command. Empty: no entry point.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=VALUE`, over the image's; `KEY` takes the image's away.
    pub env: Vec<String>,
    /// As Docker's `--user`; the image's when absent.
    pub user: Option<String>,
    /// Further groups, by name or number.
    pub groups: Vec<String>,
    /// The image's when absent.
    pub workdir: Option<String>,
    /// Give the process a terminal.
    pub tty: bool,
    /// Keep the process's stdin open.
    pub stdin: bool,
    /// What the caller attaches to, for `inspect` and `start -a`.
    pub attach: Attach,
    /// A small init is the first process, passes signals on and reaps.
    pub init: bool,
    /// The first 12 digits of the id when absent.
    pub hostname: Option<String>,
    /// Over the image's.
    pub labels: BTreeMap<String, String>,
    /// Bytes; 1 GiB when absent.
    pub memory: Option<u64>,
    /// Billionths of a processor; 2 processors, or what the host has, when absent. The VM gets whole ones.
    pub nano_cpus: Option<u64>,
    /// Processes and threads at most; no limit when absent or 0.
    pub pids_limit: Option<u32>,
    /// Limits of each process; of several with one name the last one counts.
    pub ulimits: Vec<Ulimit>,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Bytes of /dev/shm; 64 MiB when absent.
    pub shm_size: Option<u64>,
    /// As [`capability`](crate::capability) gives them.
    pub cap_add: Vec<String>,
    /// As [`capability`](crate::capability) gives them.
    pub cap_drop: Vec<String>,
    /// Every capability and every device of the VM, nothing masked.
    pub privileged: bool,
    /// Programs can't gain rights by setuid or file capabilities.
    pub no_new_privileges: bool,
    /// Nothing of /proc and /sys is hidden.
    pub unmasked: bool,
    /// The root file system can't be written.
    pub read_only: bool,
    /// Memory file systems; of several at one path the last one counts.
    pub tmpfs: Vec<Tmpfs>,
    /// Volumes, each at a path of its own. Those of the image come on top.
    pub mounts: Vec<MountRequest>,
    /// Folders, files and unix sockets of this host, each at a path of its own.
    pub binds: Vec<BindRequest>,
    /// Kernel parameters of the container's own namespaces: net.*, fs.mqueue.*, some of kernel.*.
    pub sysctls: BTreeMap<String, String>,
    /// Which networks it joins.
    pub networks: Networks,
    /// Ports of the host that lead to it.
    pub ports: Vec<Port>,
    /// All that are exposed, on any port of the host that is free.
    pub publish_all: bool,
    /// Ports that it serves, beside the image's: `80`, `53/udp`, `8000-8010`.
    pub expose: Vec<String>,
    /// How it finds names.
    pub resolution: Resolution,
    /// Unix sockets of the container that are published as ones of the host.
    pub sockets: Vec<PublishedSocket>,
    /// The SSH agent of whoever starts it is forwarded, and `SSH_AUTH_SOCK` says where it is.
    pub ssh: bool,
    /// `auto` when absent.
    pub driver: Option<String>,
    /// A kernel's name or path; the default one when absent.
    pub kernel: Option<String>,
    /// Added to the kernel's command line.
    pub kernel_args: Vec<String>,
    /// Where writes to the root go.
    pub rootfs: RootfsMode,
    /// Bytes that the container's disk may grow to.
    pub storage_size: Option<u64>,
    /// The journal of the container's disk.
    pub journal: Journal,
    /// The guest may run VMs of its own.
    pub virtualization: bool,
    /// Remove it when it ends.
    pub remove: bool,
    /// When it is started again.
    pub restart: Restart,
    /// Over the image's health check.
    pub health: HealthRequest,
    /// Bytes of a log file; [`LogLimits`](store::container::LogLimits)' when absent.
    pub log_size: Option<u64>,
    /// Log files; [`LogLimits`](store::container::LogLimits)' when absent.
    pub log_files: Option<u32>,
    /// When to ask the registry.
    pub pull: Pull,
    /// `linux/amd64`; the host's when absent.
    pub platform: Option<String>,
    /// A signal's name or number; the image's, or TERM, when absent.
    pub stop_signal: Option<String>,
    /// 10 s when absent.
    pub stop_timeout: Option<Duration>,
}

/// A health check. What is absent comes from the image, then from Docker's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthRequest {
    /// None, whatever the image says.
    pub disabled: bool,
    /// A shell's command line.
    pub command: Option<String>,
    /// Between two checks; 30 s.
    pub interval: Option<Duration>,
    /// A check that takes longer has failed; 30 s.
    pub timeout: Option<Duration>,
    /// Failures do not count before the container has run for so long; 0.
    pub start_period: Option<Duration>,
    /// Between two checks in the start period; 5 s.
    pub start_interval: Option<Duration>,
    /// So many failures in a row make it unhealthy; 3.
    pub retries: Option<u32>,
}

/// What to run in a container that runs.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// argv.
    pub args: Vec<String>,
    /// `KEY=VALUE`, over the container's; `KEY` takes the container's away.
    pub env: Vec<String>,
    /// The container's when absent.
    pub user: Option<String>,
    /// The container's when absent.
    pub workdir: Option<String>,
    /// Give it a terminal.
    pub tty: bool,
    /// The terminal's.
    pub size: Option<TerminalSize>,
    /// Open its stdin.
    pub stdin: bool,
    /// Every capability and every device of the VM.
    pub privileged: bool,
}

/// New limits for a container. What is absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpdateRequest {
    /// Bytes. One that runs can't get more than its VM has.
    pub memory: Option<u64>,
    /// Billionths of a processor. One that runs can't get more than its VM has.
    pub nano_cpus: Option<u64>,
    /// Processes and threads at most; 0: no limit.
    pub pids_limit: Option<u32>,
    /// When it is started again.
    pub restart: Option<Restart>,
}
