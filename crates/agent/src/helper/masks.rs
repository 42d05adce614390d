//! What of /proc and /sys a container does not see or can't write: Docker's list, in runc's way (`maskPaths`,
//! `readonlyPath`): a file goes under /dev/null, a directory under an empty tmpfs.

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_remount,
};

use crate::failure::{Failed, Step};

/// `MaskedPaths` of Docker's default specification.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// `ReadonlyPaths` of Docker's default specification.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Puts the masks on; the root is the container's already.
pub(super) fn apply() -> Result<(), Failed> {
    for path in READ_ONLY {
        read_only(path)?;
    }
    for path in MASKED {
        mask(path)?;
    }
    Ok(())
}

fn read_only(path: &str) -> Result<(), Failed> {
    match mount_bind_recursive(path, path) {
        Ok(()) => {}
        // This kernel has no such thing.
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(Failed::os("bind", path, errno)),
    }
    // The flags of the mount below, which a remount would otherwise clear.
    let flags = MountFlags::BIND
        | MountFlags::RDONLY
        | MountFlags::NOSUID
        | MountFlags::NODEV
        | MountFlags::NOEXEC;
    mount_remount(path, flags, "").step("make read-only", path)
}

fn mask(path: &str) -> Result<(), Failed> {
    match mount_bind("/dev/null", path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTDIR) => {
            let flags = MountFlags::RDONLY;
            mount("tmpfs", path, "tmpfs", flags, c"size=0k,nr_inodes=2").step("mask", path)?;
            rustix::mount::mount_change(path, MountPropagationFlags::PRIVATE).step("mask", path)
        }
        Err(errno) => Err(Failed::os("mask", path, errno)),
    }
}
