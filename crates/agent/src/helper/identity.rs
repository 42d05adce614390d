//! User, terminal and standard streams of the process. The root is the container's, its user still the VM's root.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::thread::{
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::failure::{Failed, Step};
use crate::users::{self, Identity};

/// No passwd is as long as this; a file that is, is cut.
const LONGEST: u64 = 16 << 20;

/// Group `tty` of the devpts mount.
const TTY: u32 = 5;

/// First of the major numbers of UNIX98 terminals (`Documentation/admin-guide/devices.txt`).
const UNIX98_TERMINAL: u32 = 136;

pub(super) fn look_up(user: &str, groups: &[String]) -> Result<Identity, Failed> {
    let passwd = load("/etc/passwd")?;
    let group = load("/etc/group")?;
    let mut identity = users::look_up(user, &passwd, &group)
        .map_err(|error| Failed::invalid("look up user", user, error))?;
    for name in groups {
        let id = users::find_group(name, &group)
            .map_err(|error| Failed::invalid("look up group", name, error))?;
        if !identity.groups.contains(&id) {
            identity.groups.push(id);
        }
    }
    Ok(identity)
}

/// Reads a file of the image. A missing one is empty; a FIFO does not block, a device is not read.
fn load(path: &str) -> Result<Vec<u8>, Failed> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(Vec::new()),
        Err(errno) => return Err(Failed::os("open", path, errno)),
    };
    let mode = rustix::fs::fstat(&fd).step("stat", path)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(LONGEST)
        .read_to_end(&mut bytes)
        .step("read", path)?;
    Ok(bytes)
}

/// Makes the terminal on stdin the session's. Opened anew by its name in the container: the descriptor that was handed
/// over belongs to a mount outside, and `ttyname` would not find it.
pub(super) fn take_terminal() -> Result<(), Failed> {
    let given = rustix::fs::fstat(rustix::stdio::stdin()).step("stat", "the terminal")?;
    let (major, minor) = (
        rustix::fs::major(given.st_rdev),
        rustix::fs::minor(given.st_rdev),
    );
    let number = (major - UNIX98_TERMINAL.min(major)) << 20 | minor;
    let path = format!("/dev/pts/{number}");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(&path, flags, Mode::empty()).step("open terminal", &path)?;
    let opened = rustix::fs::fstat(&terminal).step("stat", &path)?;
    if (opened.st_rdev, opened.st_dev) != (given.st_rdev, given.st_dev) {
        return Err(Failed::invalid(
            "open terminal",
            path,
            "not the terminal that was made",
        ));
    }
    rustix::process::ioctl_tiocsctty(&terminal).step("take terminal", &path)?;
    rustix::stdio::dup2_stdin(&terminal).step("use terminal", &path)?;
    rustix::stdio::dup2_stdout(&terminal).step("use terminal", &path)?;
    rustix::stdio::dup2_stderr(&terminal).step("use terminal", &path)
}

/// Gives the user the standard streams, so that `/dev/stdout` can be opened by name.
pub(super) fn own_stdio(identity: &Identity) -> Result<(), Failed> {
    own(rustix::stdio::stdin(), identity, "stdin")?;
    own(rustix::stdio::stdout(), identity, "stdout")?;
    own(rustix::stdio::stderr(), identity, "stderr")
}

fn own(fd: BorrowedFd<'_>, identity: &Identity, name: &str) -> Result<(), Failed> {
    let status = rustix::fs::fstat(fd).step("stat", name)?;
    let terminal = rustix::termios::isatty(fd);
    let pipe = FileType::from_raw_mode(status.st_mode) == FileType::Fifo;
    // /dev/null is everybody's.
    if !(pipe || terminal) || status.st_uid == identity.uid {
        return Ok(());
    }
    let group = if terminal { TTY } else { identity.gid };
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(group));
    rustix::fs::fchown(fd.as_fd(), Some(uid), Some(gid)).step("change owner of", name)
}

/// Changes groups and user; the permitted capabilities stay for `caps::reduce`.
pub(super) fn become_user(identity: &Identity) -> Result<(), Failed> {
    set_keep_capabilities(true).step("keep", "capabilities")?;
    let groups: Vec<_> = identity
        .groups
        .iter()
        .map(|id| Gid::from_raw(*id))
        .collect();
    set_thread_groups(&groups).step("set", "groups")?;
    let gid = Gid::from_raw(identity.gid);
    set_thread_res_gid(gid, gid, gid).step("set group", identity.gid)?;
    let uid = Uid::from_raw(identity.uid);
    set_thread_res_uid(uid, uid, uid).step("set user", identity.uid)?;
    set_keep_capabilities(false).step("keep no", "capabilities")
}
