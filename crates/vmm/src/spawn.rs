//! Starting a monitor process: which descriptors it inherits, and with whom it dies.
//!
//! Used by the supervisor's drivers. The child trusts its parent's choice of descriptors; nothing else of the parent's
//! table survives the exec, whatever other threads opened without close-on-exec.
//!
//! A host that goes down tells all processes of a session at once to end (systemd.kill(5): `KillMode=control-group`). A monitor that
//! did would take the guest's processes with it before its supervisor could stop them. So monitors don't hear of it: the supervisor
//! does, and ends them, or dies, and they with it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::confine;

/// Makes the child of `command` inherit `keep`, under the numbers that they have here, and die with this thread.
///
/// Beside `keep` the child gets its three standard streams and nothing else. It is killed (`SIGKILL`) when the *thread*
/// that calls `spawn` ends: spawn from one that lives as long as the child should.
/// With a `confinement` the child is confined before the program runs: the last step, so that it binds the program
/// and not these preparations.
/// The caller keeps the descriptors open until it has spawned.
pub fn inherit(
    command: &mut Command,
    keep: &[BorrowedFd<'_>],
    confinement: Option<confine::Prepared>,
) {
    let keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: getpid has no preconditions.
    let parent = unsafe { libc::getpid() };
    let step = move || {
        prepare(&keep, parent)?;
        confinement
            .as_ref()
            .map_or(Ok(()), confine::Prepared::apply)
    };
    // SAFETY: the step runs between fork and exec, in a child that may have been forked off a thread while others
    // held locks; `prepare` and `apply` make system calls only and do not allocate.
    unsafe { command.pre_exec(step) };
}

/// Runs in the child, between fork and exec: system calls only, no allocation, no locks.
fn prepare(keep: &[RawFd], parent: libc::pid_t) -> io::Result<()> {
    // SAFETY: takes numbers only. Kernels before 5.11 refuse it; there the flag that every descriptor was opened with
    // has to do.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    for &fd in keep {
        // SAFETY: takes numbers only; the caller of `inherit` keeps the descriptor open.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have died before the line above: then no signal will come.
    // SAFETY: getppid has no preconditions.
    if unsafe { libc::getppid() } != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    hold_endings()
}

/// Blocks the signals that ask to end: TERM, INT, HUP. The mask survives an exec, and threads inherit it.
///
/// For a child between fork and exec: a system call only, no allocation, no locks.
///
/// # Errors
/// The system's.
pub fn hold_endings() -> io::Result<()> {
    // SAFETY: a set of signals is plain numbers; these calls fill it in and take signals' numbers that exist.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    };
    // SAFETY: reads a set that lives for the call, and writes nothing.
    match unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// The child's own view, from the kernel: /proc/self/fd.
    #[test]
    fn only_what_is_kept_survives() {
        let (kept, other) = std::os::unix::net::UnixStream::pair().unwrap();
        // High numbers: `ls` opens a descriptor of its own, at the lowest one that is free.
        let high = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 100).unwrap();
        let (kept, other) = (high(kept), high(other));
        rustix::io::fcntl_setfd(&other, rustix::io::FdFlags::empty()).unwrap();
        let mut command = Command::new("/bin/ls");
        command.arg("/proc/self/fd");
        inherit(&mut command, &[kept.as_fd()], None);
        let output = command.output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        let fds: Vec<RawFd> = listed.lines().map(|line| line.parse().unwrap()).collect();
        assert!(fds.contains(&kept.as_raw_fd()), "{fds:?}");
        assert!(!fds.contains(&other.as_raw_fd()), "{fds:?}");
    }

    #[test]
    fn a_child_is_not_told_to_end() {
        use std::io::{Read, Write};
        let mut command = Command::new("/bin/cat");
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped());
        inherit(&mut command, &[], None);
        let mut child = command.spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        use rustix::process::Signal;
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            rustix::process::kill_process(pid, signal).unwrap();
        }
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"still here").unwrap();
        drop(input);
        let mut echoed = String::new();
        let mut output = child.stdout.take().unwrap();
        output.read_to_string(&mut echoed).unwrap();
        assert_eq!(echoed, "still here");
        assert!(child.wait().unwrap().success());
    }

    /// The signal that the kernel will send, as the child's status says.
    fn dies_with_its_thread(confinement: Option<confine::Prepared>) {
        use std::io::Read;
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut command = Command::new("/bin/cat");
            command.stdin(std::process::Stdio::piped());
            command.stdout(std::process::Stdio::piped());
            inherit(&mut command, &[], confinement);
            sender.send(command.spawn().unwrap()).unwrap();
        });
        let mut child = receiver.recv().unwrap();
        let _input = child.stdin.take();
        let mut rest = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_child_dies_with_the_thread_that_spawned_it() {
        dies_with_its_thread(None);
        // New credentials can take the signal away (prctl(2)): those of a namespace that it made itself do not.
        dies_with_its_thread(Some(confine::for_ourselves().in_namespaces()));
    }
}
