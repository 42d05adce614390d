//! Descriptors that the engine handed over by number; memory that is given back; a confined child that outlives us.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use hypervisor::confine::Prepared;

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

/// Gives what is free of the heap back to the host. For the end of something large: a supervisor lives long and is small.
pub fn give_memory_back() {
    // SAFETY: it takes a number and may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Starts `command` confined. Unlike a monitor it does not die with us.
///
/// # Errors
/// The system's.
pub fn spawn_confined(mut command: Command, confinement: Prepared) -> io::Result<Child> {
    // SAFETY: `apply` makes system calls only, and does not allocate.
    unsafe { command.pre_exec(move || confinement.apply()) };
    command.spawn()
}
