//! What needs `unsafe`: which descriptors a child inherits, and its session.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Starts `command` as the leader of a new session. It inherits `descriptors` under their own numbers, and nothing
/// else beyond stdio: not even what our own parent left open for us.
pub(crate) fn spawn_detached(
    command: &mut Command,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<Child> {
    let kept: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let prepare = move || {
        rustix::process::setsid()?;
        close_on_exec(3)?;
        for fd in &kept {
            keep(*fd)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls on plain numbers that it owns; it allocates
    // nothing and takes no locks.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Marks every descriptor from `first` on.
fn close_on_exec(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed; the call touches no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // A kernel before 5.11: all that this library opens is marked already.
        Some(libc::ENOSYS | libc::EINVAL) => Ok(()),
        _ => Err(error),
    }
}

fn keep(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes a number; a descriptor that is not open is an error, no more.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A descriptor whose readability the runtime tells of.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and the same number, for as long as it lives; the `AsyncFd` owns it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::process::Stdio;

    /// Oracle: what /proc/self/fd of the child holds.
    #[test]
    fn the_child_has_what_it_was_given_and_nothing_else() {
        let given = std::fs::File::open("/dev/null").unwrap();
        let other = std::fs::File::open("/dev/null").unwrap();
        keep(other.as_raw_fd()).unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", "ls -l /proc/$$/fd; ps -o sid= -p $$"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = spawn_detached(&mut command, &[given.as_fd()]).unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let has = |fd: RawFd| text.contains(&format!(" {fd} -> /dev/null"));
        assert!(has(given.as_raw_fd()), "{text}");
        assert!(!has(other.as_raw_fd()), "{text}");
        assert_eq!(text.lines().last().unwrap().trim(), pid.to_string());
    }
}
