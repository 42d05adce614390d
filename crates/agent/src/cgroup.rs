//! The container's control group (version 2), and what the VM's root group has to grant for it.
//!
//! ```text
//! /sys/fs/cgroup             the VM's root: PID 1, the agent
//! └─ container               limits; root of the container's cgroup namespace
//! ```

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::failure::{Failed, Step};

/// Where the hierarchy is mounted in the VM.
const HIERARCHY: &str = "/sys/fs/cgroup";

/// Options of every mount of the hierarchy. `nsdelegate`: inside its namespace the container can't raise its own
/// limits, only divide them. `memory_recursiveprot`: as systemd mounts it.
const OPTIONS: &std::ffi::CStr = c"nsdelegate,memory_recursiveprot";

/// The container's group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Mounts the hierarchy, hands all controllers down, and makes the container's group. Zero is no limit.
    pub(crate) fn set_up(memory: u64, pids: u32) -> Result<Self, Failed> {
        mount(Path::new(HIERARCHY), MountFlags::empty())?;
        let root = Path::new(HIERARCHY);
        let controllers = read(&root.join("cgroup.controllers"))?;
        let grant: Vec<_> = controllers
            .split_whitespace()
            .map(|name| format!("+{name}"))
            .collect();
        write(&root.join("cgroup.subtree_control"), &grant.join(" "))?;
        let path = root.join("container");
        std::fs::create_dir(&path).step("make control group", path.display())?;
        let group = Self { path };
        if memory != 0 {
            group.set("memory.max", &memory.to_string())?;
        }
        if pids != 0 {
            group.set("pids.max", &pids.to_string())?;
        }
        Ok(group)
    }

    /// Opens the group, for a child to be born in it.
    pub(crate) fn open(&self) -> Result<OwnedFd, Failed> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty())
            .step("open control group", self.path.display())
    }

    /// Kills every process in the group.
    pub(crate) fn kill(&self) -> Result<(), Failed> {
        self.set("cgroup.kill", "1")
    }

    /// How many processes of the group the OOM killer has killed so far.
    pub(crate) fn oom_kills(&self) -> u64 {
        read(&self.path.join("memory.events")).map_or(0, |events| parse_oom_kills(&events))
    }

    /// Begins to freeze every process in the group, or lets them go on. `events` tells when all are frozen.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), Failed> {
        self.set("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Opens `cgroup.events`; the kernel signals each change as an exceptional condition (`POLLPRI`).
    pub(crate) fn events(&self) -> Result<OwnedFd, Failed> {
        let path = self.path.join("cgroup.events");
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).step("open", path.display())
    }

    /// What a file of the group says; nothing when this kernel has no such file.
    pub(crate) fn get(&self, file: &str) -> String {
        read(&self.path.join(file)).unwrap_or_default()
    }

    /// Limits the group's memory, in bytes. Zero is no limit.
    pub(crate) fn limit_memory(&self, bytes: u64) -> Result<(), Failed> {
        self.set("memory.max", &limit(bytes))
    }

    /// Limits how many processes and threads the group has. Zero is no limit.
    pub(crate) fn limit_pids(&self, count: u32) -> Result<(), Failed> {
        self.set("pids.max", &limit(count.into()))
    }

    /// Limits the group's processor time, in billionths of a processor. Zero is no limit.
    pub(crate) fn limit_cpus(&self, nano_cpus: u64) -> Result<(), Failed> {
        self.set("cpu.max", &cpu_quota(nano_cpus))
    }

    fn set(&self, file: &str, value: &str) -> Result<(), Failed> {
        write(&self.path.join(file), value)
    }
}

/// Mounts the hierarchy as this process's cgroup namespace sees it.
pub(crate) fn mount(target: &Path, flags: MountFlags) -> Result<(), Failed> {
    let flags = flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("cgroup", target, "cgroup2", flags, OPTIONS)
        .step("mount cgroup2", target.display())
}

fn limit(value: u64) -> String {
    match value {
        0 => "max".to_owned(),
        value => value.to_string(),
    }
}

/// Microseconds of each tenth of a second, as `cpu.max` takes them.
fn cpu_quota(nano_cpus: u64) -> String {
    /// Docker's period, in microseconds.
    const PERIOD: u64 = 100_000;
    /// The smallest quota that the kernel takes, in microseconds.
    const SMALLEST: u64 = 1000;
    let quota = match nano_cpus {
        0 => 0,
        nano => (u128::from(nano) * u128::from(PERIOD) / 1_000_000_000).max(SMALLEST.into()),
    };
    format!("{} {PERIOD}", limit(u64::try_from(quota).unwrap_or(0)))
}

fn parse_oom_kills(events: &str) -> u64 {
    events
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == "oom_kill")
        .and_then(|(_, count)| count.parse().ok())
        .unwrap_or(0)
}

fn read(path: &Path) -> Result<String, Failed> {
    std::fs::read_to_string(path).step("read", path.display())
}

fn write(path: &Path, value: &str) -> Result<(), Failed> {
    std::fs::write(path, value).step(&format!("write {value:?} to"), path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_microseconds_of_a_tenth_of_a_second() {
        assert_eq!(cpu_quota(0), "max 100000");
        assert_eq!(cpu_quota(1_500_000_000), "150000 100000");
        assert_eq!(cpu_quota(1), "1000 100000");
        assert_eq!(cpu_quota(u64::MAX), "1844674407370955 100000");
    }

    #[test]
    fn oom_kills_are_counted() {
        let events = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(parse_oom_kills(events), 1);
        assert_eq!(parse_oom_kills(""), 0);
        assert_eq!(parse_oom_kills("oom_kill x"), 0);
    }
}
