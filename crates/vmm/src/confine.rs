//! Confinement: what a process that touches guest-controlled bytes may still ask of the kernel.
//!
//! Three layers, each of which holds if another is missing: no new privileges; Landlock, which takes away the file
//! system (and, where the kernel can, the network, others' sockets and signals to others); seccomp, which takes away system
//! calls. Landlock depends on the host's kernel: its ABI is reported, and its absence is no error. Around them, where a
//! program is started: namespaces if the host allows them, and limits of memory and core files.
//!
//! - [`this_process`] confines `gourd-vmm` itself: nothing is opened, and no socket made but a pair of connected streams
//!   (the two ends of a guest's connection). It receives descriptors from its supervisor and from QEMU, and sends one end
//!   of each pair to the supervisor. A call that is not on the list ends the process.
//! - [`for_spawn`] prepares a confinement for a child (QEMU), which [`Prepared::apply`] puts in force between fork and
//!   exec. QEMU's needs are broad, so its list says what is denied (with `EPERM`), and Landlock names what may be
//!   opened.
//! - [`for_ourselves`] is the same for `gourd-vmm`: what has to happen before it runs.
//!
//! What no filter can see is whom a `sendmsg` names, for the name lies in memory: on a socket of datagrams (a guest's
//! network link) a process that has been taken over can write to any such socket that the user may write to, where
//! Landlock's ABI is below 9.

mod denied;
mod filters;
mod landlock;
mod limits;
mod namespaces;
mod spawn;

use std::io;
use std::os::fd::OwnedFd;

use thiserror::Error;

pub use spawn::{Prepared, Rules, for_ourselves, for_spawn};

/// What is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Landlock's ABI, 0 if the kernel has none. 2 is Debian 12's; 3 adds truncation, 4 TCP, 5 requests to devices,
    /// 6 signals and abstract sockets, 9 sockets by path, 10 UDP.
    pub landlock_abi: u32,
    /// Whether system calls are filtered.
    pub seccomp: bool,
}

/// What a thread of `gourd-vmm` is for: how much it may ask of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The vsock device beside QEMU.
    Service,
    /// All devices of a machine but the disks.
    Devices,
    /// One disk of a machine.
    Block,
    /// Shared folders: see [`this_sharing_thread`].
    Share,
    /// One virtual processor.
    Processor,
}

/// Why a process could not be confined.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// The kernel refused a step.
    #[error("{step}")]
    System {
        /// Which step.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The Landlock ruleset could not be made.
    #[error("landlock ruleset")]
    Landlock(#[source] ::landlock::RulesetError),
    /// The system call filter could not be compiled.
    #[error("system call filter")]
    Filter(#[source] seccompiler::BackendError),
}

/// The level that this host can reach.
pub fn available() -> Level {
    // SAFETY: asks whether an action is known; the pointer is to a live u32.
    let seccomp = unsafe {
        let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        ) == 0
    };
    Level {
        landlock_abi: landlock::kernel_abi(),
        seccomp,
    }
}

/// Whether this host lets its users make the namespaces that monitors are started in. Makes a child to find out.
pub fn user_namespaces() -> bool {
    namespaces::available().unwrap_or(false)
}

/// Whether this kernel knows how to keep a process from gaining privileges (Linux 3.5).
pub fn knows_no_new_privs() -> bool {
    // SAFETY: takes integers only.
    unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0 }
}

/// Confines the calling thread and all that it starts, for good. To be called while the process has one thread.
///
/// After it: no file can be opened, no socket but a pair of streams made, no memory made executable, no program run. A kernel
/// without seccomp filters lowers the level; it is for the caller to judge.
pub fn this_process() -> Result<Level, ConfineError> {
    this_thread(Role::Service)
}

/// As [`this_process`], for one thread of several: what others do is theirs to give up.
pub fn this_thread(role: Role) -> Result<Level, ConfineError> {
    enter(role, landlock::deny_all()?)
}

/// As [`this_thread`], for the one that serves shared folders: what is beneath these descriptors stays reachable, and can
/// be changed where it is said so.
pub fn this_sharing_thread(reach: &[(OwnedFd, bool)]) -> Result<Level, ConfineError> {
    enter(Role::Share, landlock::allow_beneath(reach)?)
}

fn enter(role: Role, ruleset: Option<OwnedFd>) -> Result<Level, ConfineError> {
    let level = available();
    let filter = filters::monitor(role)?;
    let system = |step| move |source| ConfineError::System { step, source };
    no_new_privs().map_err(system("no_new_privs"))?;
    if let Some(ruleset) = &ruleset {
        landlock::restrict_self(ruleset).map_err(system("landlock_restrict_self"))?;
    }
    drop(ruleset);
    if level.seccomp {
        filters::install(&filter).map_err(system("seccomp"))?;
    }
    Ok(level)
}

/// Only this system call; safe between fork and exec.
fn no_new_privs() -> io::Result<()> {
    // SAFETY: takes integers only.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
