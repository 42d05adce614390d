//! Descriptors: those that the engine handed over by number, and those that the runtime watches. Memory that is given back; a confined
//! child that outlives us.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use hypervisor::confine::Prepared;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes a descriptor that this process inherited, and keeps it from further children.
///
/// # Errors
/// When no such descriptor is open.
pub fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "descriptors 0, 1 and 2 are the standard streams",
        ));
    }
    // SAFETY: borrowed for two fcntl calls only, which fail with EBADF when it isn't open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(borrowed)?;
    rustix::io::fcntl_setfd(borrowed, flags | rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: it is open (above), and nobody else in this process knows of it: numbers are taken once, from the
    // command line, before anything else is opened by them.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Has the runtime tell when `fd`, which must not block, is ready.
///
/// # Errors
/// The system's.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open, under the same number, for as long as the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Gives what is free of the heap back to the host. For the end of something large: a supervisor lives long and is small.
pub fn give_memory_back() {
    // SAFETY: it takes a number and may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Starts `command` confined. Unlike a monitor it does not die with us; like one it does not hear a host that goes down.
///
/// # Errors
/// The system's.
pub fn spawn_confined(mut command: Command, confinement: Prepared) -> io::Result<Child> {
    let step = move || {
        hypervisor::spawn::hold_endings()?;
        confinement.apply()
    };
    // SAFETY: both make system calls only, and do not allocate.
    unsafe { command.pre_exec(step) };
    command.spawn()
}

/// A step of CLOCK_REALTIME by less than a second (adjtimex(2), `ADJ_SETOFFSET`).
#[cfg(test)]
pub fn step_the_clock(nanoseconds: i64) -> io::Result<()> {
    // SAFETY: a structure of numbers.
    let mut step: libc::timex = unsafe { std::mem::zeroed() };
    step.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
    step.time.tv_sec = nanoseconds.div_euclid(1_000_000_000);
    step.time.tv_usec = nanoseconds.rem_euclid(1_000_000_000);
    // SAFETY: it reads and writes one `timex`, which lives for the call.
    match unsafe { libc::adjtimex(&raw mut step) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
