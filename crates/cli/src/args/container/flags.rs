//! Flags of `run` and `create` by what they are about: limits, rights, files, health, the VM.

use clap::{ArgAction, Args, ValueEnum};

use super::{mount, value as run_value};
use crate::args::value;

/// How much a container may use.
#[derive(Debug, Args)]
pub struct Limits {
    /// Memory for the container's processes: bytes, or with k, m, g [default: 1g]
    #[arg(short, long, value_name = "SIZE", value_parser = value::size, help_heading = "Limits")]
    pub memory: Option<u64>,
    /// Processors, for example 2 or 1.5
    #[arg(long = "cpus", value_name = "N", value_parser = run_value::cpus, help_heading = "Limits")]
    pub nano_cpus: Option<u64>,
    /// Processes and threads at most; -1: no limit
    #[arg(long, value_name = "N", value_parser = run_value::pids_limit, allow_hyphen_values = true, help_heading = "Limits")]
    pub pids_limit: Option<u32>,
    /// Limit of each process: NAME=SOFT[:HARD], -1: none, for example nofile=1024:2048
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = run_value::ulimit, help_heading = "Limits")]
    pub ulimits: Vec<engine::Ulimit>,
    /// How soon it is killed when memory is short: -1000 (last) to 1000
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        value_parser = clap::value_parser!(i32).range(-1000..=1000),
        help_heading = "Limits"
    )]
    pub oom_score_adj: Option<i32>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = value::size, help_heading = "Limits")]
    pub shm_size: Option<u64>,
    /// The container's disk: size=SIZE, journal=ordered|writeback|journal|none
    #[arg(long, value_name = "KEY=VALUE", value_parser = run_value::storage_option, help_heading = "Limits")]
    pub storage_opt: Vec<run_value::StorageOption>,
}

/// What a container may do.
#[derive(Debug, Args)]
pub struct Rights {
    /// Add a capability, for example NET_ADMIN, or ALL
    #[arg(long, value_name = "CAP", value_parser = run_value::capability, help_heading = "Rights")]
    pub cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP", value_parser = run_value::capability, help_heading = "Rights")]
    pub cap_drop: Vec<String>,
    /// Give it every capability and device of its VM
    #[arg(long, help_heading = "Rights")]
    pub privileged: bool,
    /// no-new-privileges[:true|false], systempaths=unconfined
    #[arg(long, value_name = "OPTION", value_parser = run_value::security_option, help_heading = "Rights")]
    pub security_opt: Vec<run_value::SecurityOption>,
    /// Make the root file system read-only
    #[arg(long, help_heading = "Rights")]
    pub read_only: bool,
    /// Mount a memory file system: PATH[:OPTIONS], for example /run:size=64m,mode=1777
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = run_value::tmpfs, help_heading = "Rights")]
    pub tmpfs: Vec<engine::Tmpfs>,
    /// Set a kernel parameter, for example net.core.somaxconn=1024
    #[arg(long = "sysctl", value_name = "NAME=VALUE", value_parser = run_value::sysctl, help_heading = "Rights")]
    pub sysctls: Vec<(String, String)>,
}

/// What a container has mounted.
#[derive(Debug, Args)]
pub struct Volumes {
    /// Mount a volume, which is made when it does not exist: NAME:PATH[:ro]; a folder, file or unix socket of this host:
    /// DIR:PATH[:ro], with DIR beginning with / or .; PATH alone: a volume that goes with the container
    #[arg(short = 'v', long = "volume", value_name = "[SOURCE:]PATH[:OPTIONS]", value_parser = mount::volume, help_heading = "Files")]
    pub volumes: Vec<mount::Mounted>,
    /// Mount a volume, a folder of this host or a memory file system: type=volume|bind|tmpfs,source=NAME,target=PATH,readonly,
    /// volume-nocopy
    #[arg(long = "mount", value_name = "KEY=VALUE,...", value_parser = mount::mount, help_heading = "Files")]
    pub mounts: Vec<mount::Mounted>,
}

/// How a container is asked whether it is well.
#[derive(Debug, Args)]
pub struct Health {
    /// Command line that succeeds when the container is well
    #[arg(long, value_name = "COMMAND", help_heading = "Health")]
    pub health_cmd: Option<String>,
    /// Time between two checks, for example 1m30s [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = run_value::health_time, help_heading = "Health")]
    pub health_interval: Option<std::time::Duration>,
    /// Time that a check may take [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = run_value::health_time, help_heading = "Health")]
    pub health_timeout: Option<std::time::Duration>,
    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(long, value_name = "N", help_heading = "Health")]
    pub health_retries: Option<u32>,
    /// Time in which failures do not count [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = run_value::health_time, help_heading = "Health")]
    pub health_start_period: Option<std::time::Duration>,
    /// Time between two checks in the start period [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = run_value::health_time, help_heading = "Health")]
    pub health_start_interval: Option<std::time::Duration>,
    /// Check nothing, whatever the image says
    #[arg(
        long,
        help_heading = "Health",
        conflicts_with_all = [
            "health_cmd", "health_interval", "health_timeout", "health_retries", "health_start_period",
            "health_start_interval",
        ]
    )]
    pub no_healthcheck: bool,
}

/// Where writes to the root file system go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rootfs {
    /// Over the image, which containers share.
    Overlay,
    /// Into a private copy of the image.
    Clone,
}

/// The VM around a container.
#[derive(Debug, Args)]
pub struct Machine {
    /// What makes the VM run: auto, kvm, qemu
    #[arg(long, value_name = "DRIVER", help_heading = "VM")]
    pub driver: Option<String>,
    /// Kernel: a name of `gourd system kernel ls`, or the path of a vmlinux or bzImage
    #[arg(long, value_name = "NAME|PATH", help_heading = "VM")]
    pub kernel: Option<String>,
    /// Add to the kernel's command line
    #[arg(long = "kernel-arg", value_name = "ARG", value_parser = run_value::kernel_arg, allow_hyphen_values = true, help_heading = "VM")]
    pub kernel_args: Vec<String>,
    /// How the root file system is made: over the shared image, or a private copy
    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        default_value = "overlay",
        help_heading = "VM"
    )]
    pub rootfs: Rootfs,
    /// Let it run VMs of its own
    #[arg(long, action = ArgAction::SetTrue, help_heading = "VM")]
    pub virtualization: bool,
}
