//! Namespaces, best effort: where the host lets its users make them.
//!
//! A user namespace has nothing of the host's to act on: no process outside can be traced or read from in it, whatever
//! the user's own rights. One of IPC has no shared memory, semaphores or queues of others. Why no further one:
//! `docs/design/0007`.

use std::io;
use std::path::Path;

/// Ubuntu's: users get namespaces, under a profile that takes rights away and logs each use of one. That is a host that
/// allows none.
const RESTRICTED: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

const BOTH: libc::c_int = libc::CLONE_NEWUSER | libc::CLONE_NEWIPC;

/// Whether the host's security module keeps namespaces from its users.
pub fn restricted() -> bool {
    is_on(Path::new(RESTRICTED))
}

fn is_on(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|value| value.starts_with(b"1"))
}

/// Moves the calling process, which has one thread, into namespaces of its own; says whether the host allowed it. Only
/// system calls; safe between fork and exec. The parent-death signal stays.
pub fn enter() -> bool {
    // A kernel without System V IPC has no namespace for it.
    [BOTH, libc::CLONE_NEWUSER].into_iter().any(|flags| {
        // SAFETY: takes numbers only.
        unsafe { libc::unshare(flags) == 0 }
    })
}

/// Whether a child of this process could be moved: tried with one that does nothing else.
pub fn available() -> io::Result<bool> {
    if restricted() {
        return Ok(false);
    }
    // SAFETY: the child makes two system calls and ends.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            let status = i32::from(!enter());
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(status) }
        }
        child => child,
    };
    let mut status = 0;
    loop {
        // SAFETY: waits for the child that was just made; the integer lives for the call.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            return Ok(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restricted_host_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        assert!(!is_on(&path));
        std::fs::write(&path, "0\n").unwrap();
        assert!(!is_on(&path));
        std::fs::write(&path, "1\n").unwrap();
        assert!(is_on(&path));
    }
}
