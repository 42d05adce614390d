//! What a container is: the shape of `spec.json`, and who writes it and `state.json` ([`super::state`]).
//!
//! The spec is written by the engine: when the container is created, and replaced when it is renamed or updated, under the
//! lock of `containers/`. The state is written by whoever holds the container's lock: the engine at creation and repair, the
//! supervisor while it runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version of `spec.json` and `state.json` that this build writes. A newer one is refused.
pub const SCHEMA: u32 = 1;

/// `spec.json`: all that is needed to start the container again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    pub labels: BTreeMap<String, String>,
    /// Removed when it ends.
    pub remove: bool,
    /// Sent first by `stop`; a signal's number.
    pub stop_signal: u32,
    /// Milliseconds until KILL.
    pub stop_timeout_ms: u64,
    /// Memory file systems of the container.
    #[serde(default)]
    pub tmpfs: Vec<Tmpfs>,
    /// Bytes of /dev/shm; 0 = 64 MiB.
    #[serde(default)]
    pub shm_size: u64,
    /// The root file system can't be written.
    #[serde(default)]
    pub read_only: bool,
    /// Kernel settings, with dots: `net.ipv4.ip_forward`.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// How its health is checked; absent: not at all.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// How much of its output is kept.
    #[serde(default)]
    pub logs: LogLimits,
    /// The networks that it is on; none: it has nothing but lo.
    #[serde(default)]
    pub networks: Vec<Endpoint>,
    /// Ports of the host that lead to it.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Ports that its image or its maker says that it serves: `80/tcp`.
    #[serde(default)]
    pub exposed: Vec<String>,
    /// How it finds names.
    #[serde(default)]
    pub resolution: Resolution,
    /// Unix sockets of the host and of the container that lead to each other.
    #[serde(default)]
    pub sockets: Vec<Socket>,
    /// The SSH agent of whoever starts it is at [`SSH_AUTH_SOCK`].
    #[serde(default)]
    pub ssh: bool,
    /// Volumes, in the order in which they were asked for.
    #[serde(default)]
    pub mounts: Vec<VolumeMount>,
    /// Folders and files of the host, in the order in which they were asked for.
    #[serde(default)]
    pub binds: Vec<BindMount>,
}

/// Where a container finds the SSH agent of the host: Docker Desktop's place for it.
pub const SSH_AUTH_SOCK: &str = "/run/host-services/ssh-auth.sock";

/// Which side of a pair of unix sockets is listened to by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The container serves: the host's socket is ours, and who connects there reaches the container's.
    Publish,
    /// The host serves: the container's socket is ours, and who connects there reaches the host's.
    Mount,
}

/// A unix socket of the host and one of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Who serves.
    pub way: Way,
    /// Absolute path on the host; as [`BindMount::source`], as far as there was something.
    pub host: PathBuf,
    /// Absolute path in the container.
    pub container: String,
}

/// A container's place on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// What others on it call the container, beside its name and the first digits of its id.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its address, where it must have that one.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// Its address of IPv6, where it must have that one: `address` is its twin then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// The gateway's address reaches the host's loopback.
    #[serde(default)]
    pub host: bool,
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The one of this name, in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Tcp, Self::Udp];
        all.into_iter()
            .find(|one| one.to_string().eq_ignore_ascii_case(name))
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host's address; absent: all of them.
    pub address: Option<IpAddr>,
    /// The host's port; 0: any that is free.
    pub host: u16,
    /// Any up to this one will do, and the first that is free is taken; absent: only that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_last: Option<u16>,
    /// The container's port.
    pub container: u16,
    /// Each connection begins with a header of this version that names its client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyProtocol>,
}

/// A version of the PROXY protocol, by which a server learns who its client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// How a container finds names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// Who is asked for names that are no container's; empty: the host's resolvers.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// Domains in which short names are looked for.
    #[serde(default)]
    pub search: Vec<String>,
    /// Further lines of /etc/hosts: a name, and its address or `host-gateway`.
    #[serde(default)]
    pub hosts: Vec<(String, String)>,
}

/// A volume in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Its name.
    pub volume: String,
    /// Absolute path in the container, clean.
    pub target: String,
    /// It can't be written there.
    pub read_only: bool,
    /// It is not filled from the image.
    pub no_copy: bool,
    /// Its root directory has an owner of its own, which the image's does not replace.
    #[serde(default)]
    pub keep_root: bool,
    /// It was made for this container, without a name.
    pub anonymous: bool,
    /// As `-v` had it, for `inspect`; absent: `--mount`, or the image.
    #[serde(default)]
    pub bind: Option<String>,
}

/// A folder or file of the host in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Absolute path on the host, without links: they were followed when the container was made.
    pub source: PathBuf,
    /// Absolute path in the container, clean.
    pub target: String,
    /// It can't be written there.
    pub read_only: bool,
    /// As `-v` had it, for `inspect`; absent: `--mount`.
    #[serde(default)]
    pub bind: Option<String>,
}

/// A memory file system in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute path in the container.
    pub target: String,
    /// In mount(8)'s syntax.
    pub options: String,
}

/// When a container that ended is started again. Docker's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When its exit code is not 0.
    OnFailure,
    /// Always; after a boot of the host also when it was stopped.
    Always,
    /// Always, unless it was stopped.
    UnlessStopped,
}

/// A restart policy with its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// When.
    pub policy: RestartPolicy,
    /// How often in a row at most, for [`RestartPolicy::OnFailure`]; 0: no limit.
    pub maximum: u32,
}

/// A health check, from the image or the command line. Times in nanoseconds, as Docker's image configuration has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// argv; a shell's command line is `["/bin/sh", "-c", …]` here.
    pub args: Vec<String>,
    /// `CMD` or `CMD-SHELL` and what followed it, for `inspect`.
    pub test: Vec<String>,
    /// Between the end of one check and the start of the next. Never 0.
    pub interval_ns: u64,
    /// A check that takes longer has failed. Never 0.
    pub timeout_ns: u64,
    /// Failures do not count before the container has run for so long.
    pub start_period_ns: u64,
    /// Takes the interval's place during the start period. Never 0.
    pub start_interval_ns: u64,
    /// So many failures in a row make it unhealthy. Never 0.
    pub retries: u32,
}

/// How much of a container's output is kept: `files` files of at most `size` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes.
    pub size: u64,
    /// At least 1.
    pub files: u32,
}

impl Default for LogLimits {
    /// Those of Docker's `local` driver.
    fn default() -> Self {
        Self {
            size: 20 << 20,
            files: 5,
        }
    }
}

/// The image of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As the user named it, in its familiar form.
    pub reference: String,
    /// The image's id: `sha256:…` of its configuration.
    pub id: String,
    /// The key of the rootfs image: the name of its folder under `rootfs/`.
    pub rootfs: String,
}

/// The first process of a container, with image and command line merged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// argv, entry point first.
    pub args: Vec<String>,
    /// The words of `args` that are the entry point, for `inspect`.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The others, for `inspect` and `commit`.
    #[serde(default)]
    pub cmd: Vec<String>,
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
    /// What whoever made it attaches to, for `inspect` and `start -a`.
    #[serde(default)]
    pub attach: Attach,
    /// `CAP_NET_ADMIN` and so on, or `ALL`. On top of the default set.
    #[serde(default)]
    pub cap_add: Vec<String>,
    /// Taken away from it, first of all.
    #[serde(default)]
    pub cap_drop: Vec<String>,
    /// Every capability, every device, nothing masked.
    #[serde(default)]
    pub privileged: bool,
    /// Programs can't gain rights by setuid or file capabilities.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Nothing of /proc and /sys is hidden (`--security-opt systempaths=unconfined`).
    #[serde(default)]
    pub unmasked: bool,
    /// Limits of the process.
    #[serde(default)]
    pub ulimits: Vec<Ulimit>,
    /// Further groups, by name or number.
    #[serde(default)]
    pub groups: Vec<String>,
    /// A small init is PID 1 and reaps.
    #[serde(default)]
    pub init: bool,
    /// -1000 to 1000.
    #[serde(default)]
    pub oom_score_adj: i32,
}

/// Which streams of a process somebody attaches to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Errors.
    pub stderr: bool,
}

/// A limit of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// In lower case, as Docker's `--ulimit`: `nofile`.
    pub name: String,
    /// `u64::MAX`: none.
    pub soft: u64,
    /// `u64::MAX`: none.
    pub hard: u64,
}

/// The virtual machine of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Bytes for the container's processes; the VM gets a reserve on top.
    pub memory: u64,
    /// Virtual processors; 0: as many as the driver runs at once, two at most.
    pub cpus: u32,
    /// `auto`, `qemu`, …
    pub driver: String,
    /// The name of an installed kernel, or a path to a vmlinux or bzImage. Empty: the default.
    pub kernel: String,
    /// Added to the kernel's command line.
    #[serde(default)]
    pub kernel_args: Vec<String>,
    /// Billionths of a processor per second; 0: as much as `cpus` can give.
    #[serde(default)]
    pub nano_cpus: u64,
    /// Processes and threads at most; 0: no limit.
    #[serde(default)]
    pub pids_limit: u32,
    /// The guest may run VMs of its own.
    #[serde(default)]
    pub virtualization: bool,
    /// Where writes to the root go.
    #[serde(default)]
    pub rootfs: RootfsMode,
    /// Bytes that the container's disk may grow to; 0: [`super::UPPER_SIZE`].
    #[serde(default)]
    pub storage_size: u64,
    /// The journal of the container's disk.
    #[serde(default)]
    pub journal: Journal,
}

/// How a container gets a root file system that it can write to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootfsMode {
    /// An overlay of the shared rootfs image and an upper disk.
    #[default]
    Overlay,
    /// A private copy of the rootfs image.
    Clone,
    /// None: it is no container but the VM in which a volume's files are read and written, and that volume is its root.
    Volume,
}

/// ext4's journal, as mount(8)'s `data=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Journal {
    /// Metadata, after the data they name.
    #[default]
    Ordered,
    /// Metadata only.
    Writeback,
    /// Data as well.
    Journal,
    /// No journal at all.
    None,
}
