//! The container's namespaces: made for its first process, joined by the others.
//!
//! The PID namespace and the control group are the agent's doing (`agent::spawn`): the process is born in them, and the
//! new cgroup namespace has that group as its root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use proto::agent::Process;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind};
use rustix::thread::{CapabilitySet, ThreadNameSpaceType, UnshareFlags};

use super::{Instructions, devices, masks, sysctls};
use crate::failure::{Failed, Step};
use crate::{cgroup, inroot, sys};

const RESTRICTED: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Makes the namespaces and everything in them that differs from the VM's: /proc, /dev/mqueue, the control groups, the
/// root, the masks, the host name.
pub(super) fn create(
    instructions: &Instructions,
    process: &Process,
    capabilities: CapabilitySet,
) -> Result<(), Failed> {
    let new =
        UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC | UnshareFlags::NEWCGROUP;
    sys::unshare(new).step("make", "namespaces")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).step("make private", "/")?;

    let rootfs = Path::new(&instructions.rootfs);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(rootfs, flags, Mode::empty()).step("open", rootfs.display())?;
    for sysctl in &instructions.sysctls {
        sysctls::set(sysctl)?;
    }
    kernel_mounts(&root, capabilities)?;
    if process.privileged {
        devices::all(&root)?;
        writable_sys(&root)?;
    }
    console(&root)?;
    pivot(&root)?;
    if !(process.privileged || process.unmasked) {
        masks::apply()?;
    }
    let hostname = instructions.hostname.as_bytes();
    if !hostname.is_empty() {
        rustix::system::sethostname(hostname).step("set host name", &instructions.hostname)?;
    }
    Ok(())
}

fn kernel_mounts(root: &OwnedFd, capabilities: CapabilitySet) -> Result<(), Failed> {
    mount_at(root, "/proc", "proc", RESTRICTED)?;
    match mount_at(root, "/dev/mqueue", "mqueue", RESTRICTED) {
        // A kernel without POSIX message queues.
        Err(failed) if failed.is(Errno::NODEV) => {}
        result => result?,
    }
    // As Docker: read-only for who could not mount it anyway.
    let flags = if capabilities.contains(CapabilitySet::SYS_ADMIN) {
        MountFlags::empty()
    } else {
        MountFlags::RDONLY
    };
    let target = target(root, "/sys/fs/cgroup")?;
    cgroup::mount(&target, flags)
}

/// /sys is mounted read-only for everybody else.
fn writable_sys(root: &OwnedFd) -> Result<(), Failed> {
    let target = target(root, "/sys")?;
    rustix::mount::mount_remount(&target, MountFlags::BIND | RESTRICTED, "")
        .step("make writable", "/sys")
}

fn mount_at(root: &OwnedFd, at: &str, kind: &str, flags: MountFlags) -> Result<(), Failed> {
    let target = target(root, at)?;
    mount(kind, &target, kind, flags, None).step(&format!("mount {kind}"), at)
}

fn target(root: &OwnedFd, at: &str) -> Result<std::path::PathBuf, Failed> {
    let fd = inroot::directory(root.as_fd(), Path::new(at)).step("make directory", at)?;
    inroot::real_path(fd.as_fd()).step("find", at)
}

/// With a terminal, /dev/console is that terminal.
fn console(root: &OwnedFd) -> Result<(), Failed> {
    let stdin = rustix::stdio::stdin();
    if !rustix::termios::isatty(stdin) {
        return Ok(());
    }
    let terminal = inroot::real_path(stdin).step("find", "the terminal")?;
    let at = inroot::file(root.as_fd(), Path::new("/dev/console")).step("make", "/dev/console")?;
    let at = inroot::real_path(at.as_fd()).step("find", "/dev/console")?;
    mount_bind(&terminal, &at).step("bind", "/dev/console")
}

/// `pivot_root(".", ".")` puts the old root on top of the new one, where the unmount then takes it away
/// (`pivot_root(2)`, notes).
fn pivot(root: &OwnedFd) -> Result<(), Failed> {
    rustix::process::fchdir(root).step("change directory", "the container's root")?;
    rustix::process::pivot_root(".", ".").step("pivot", "the container's root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("unmount", "the VM's root")?;
    rustix::process::chdir("/").step("change directory", "/")
}

/// Joins the namespaces of the process that `pidfd` refers to; root and working directory become that namespace's.
pub(super) fn join(pidfd: i32) -> Result<(), Failed> {
    let pidfd = sys::inherited(pidfd).step("open", "the container's first process")?;
    let pidfd: BorrowedFd<'_> = pidfd.as_fd();
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::CONTROL_GROUP;
    rustix::thread::move_into_thread_name_spaces(pidfd, all).map_err(|errno| match errno {
        Errno::SRCH => Failed::invalid("join", "the container", "it is not running"),
        errno => Failed::os("join", "the container's namespaces", errno),
    })
}
