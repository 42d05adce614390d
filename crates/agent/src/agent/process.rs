//! A process that the agent started, and the one place that collects its status.
//!
//! ```text
//! spawned ── reap: pidfd readable, waitid ──► Exit in a watch ──► Wait, Stop, the streams' ends, Shutdown
//!                                          └► waitid again, which takes the process out of the kernel's table
//! ```
//!
//! [`reap`] is the only caller of `waitid`; everybody else looks at the watch, as often and as late as they like. What the host
//! waits for goes first: whatever is only tidied up comes after a turn of everybody who was waiting ([`everybody_else_first`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::process::{WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::terminal::Terminal;
use crate::cgroup::Cgroup;
use crate::clock;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exit {
    /// 0 to 255; 128 + signal.
    pub(super) code: u32,
    /// 0 when it exited by itself.
    pub(super) signal: u32,
    /// The OOM killer chose something in the container while it ran.
    pub(super) oom_killed: bool,
    /// CLOCK_BOOTTIME.
    pub(super) exited_ns: u64,
}

/// Tells a process's end to whoever asks.
#[derive(Debug, Clone)]
pub(super) struct ExitWatch(watch::Receiver<Option<Exit>>);

impl ExitWatch {
    /// Whether the process was reaped.
    pub(super) fn ended(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// How it ended, if it has.
    pub(super) fn now(&self) -> Option<Exit> {
        *self.0.borrow()
    }

    /// Waits until it was reaped.
    pub(super) async fn wait(&mut self) {
        // The error says that the reaper is gone, which it never is before it has said how the process ended.
        let _ = self.0.wait_for(Option::is_some).await;
    }

    /// Waits until it was reaped, and says how it ended.
    pub(super) async fn exit(&mut self) -> Option<Exit> {
        self.0
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| *exit)
    }
}

/// A process of the container.
#[derive(Debug)]
pub(super) struct Process {
    /// In the VM's PID namespace.
    pub(super) pid: u32,
    /// The reaper's: gone when the process was reaped, so that ended processes hold no descriptors.
    pidfd: Weak<AsyncFd<OwnedFd>>,
    exit: ExitWatch,
    /// Its terminal, if it has one.
    pub(super) terminal: Option<Terminal>,
}

impl Process {
    /// Takes over a child, whose status nobody else may collect.
    pub(super) fn adopt(
        pid: u32,
        pidfd: OwnedFd,
        terminal: Option<Terminal>,
        cgroup: &Cgroup,
    ) -> io::Result<Self> {
        let pidfd = Arc::new(crate::sys::watch(pidfd, Interest::READABLE)?);
        let (sender, receiver) = watch::channel(None);
        let oom_kills = (cgroup.clone(), cgroup.oom_kills());
        let weak = Arc::downgrade(&pidfd);
        tokio::spawn(reap(pidfd, oom_kills, sender));
        Ok(Self {
            pid,
            pidfd: weak,
            exit: ExitWatch(receiver),
            terminal,
        })
    }

    /// Sends a signal; `ESRCH` when the process has ended.
    pub(super) fn signal(&self, signal: u32) -> io::Result<()> {
        let signal = i32::try_from(signal).unwrap_or(i32::MAX);
        let pidfd = self.pidfd().filter(|_| !self.exit.ended());
        let pidfd = pidfd.ok_or(rustix::io::Errno::SRCH)?;
        crate::sys::send_signal(pidfd.get_ref().as_fd(), signal)
    }

    /// Refers to the process, whatever its id is used for later; `None` when it was reaped.
    pub(super) fn pidfd(&self) -> Option<Arc<AsyncFd<OwnedFd>>> {
        self.pidfd.upgrade()
    }

    /// Its namespaces of mounts and of System V IPC, the two that take long to take down. None where the kernel does not give
    /// them out (before Linux 6.11), or it has ended.
    pub(super) fn namespaces(&self) -> Vec<OwnedFd> {
        let Some(pidfd) = self.pidfd() else {
            return Vec::new();
        };
        let calls = [
            crate::sys::PIDFD_GET_MNT_NAMESPACE,
            crate::sys::PIDFD_GET_IPC_NAMESPACE,
        ];
        let get = |call| crate::sys::namespace(pidfd.get_ref().as_fd(), call).ok();
        calls.into_iter().filter_map(get).collect()
    }

    /// Where its end will be told.
    pub(super) fn exit(&self) -> ExitWatch {
        self.exit.clone()
    }
}

/// Drops the pidfd when it is done.
async fn reap(
    pidfd: Arc<AsyncFd<OwnedFd>>,
    (group, oom_kills): (Cgroup, u64),
    sender: watch::Sender<Option<Exit>>,
) {
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let wait = |how| rustix::process::waitid(WaitId::PidFd(pidfd.get_ref().as_fd()), how);
    let status = loop {
        // It fails when the runtime ends, and this task with it.
        let Ok(mut ready) = pidfd.readable().await else {
            return;
        };
        match wait(ended | WaitIdOptions::NOWAIT) {
            Ok(Some(status)) => break Some(status),
            Ok(None) => ready.clear_ready(),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                eprintln!("gourd-agent: wait for a process: {errno}");
                break None;
            }
        }
    };
    let signal = status
        .as_ref()
        .and_then(|status| status.terminating_signal())
        .map_or(0, i32::unsigned_abs);
    let code = status
        .as_ref()
        .and_then(|status| status.exit_status())
        .map_or(128 + signal, i32::unsigned_abs);
    let exit = Exit {
        code,
        signal,
        oom_killed: group.oom_kills() > oom_kills,
        exited_ns: clock::boottime_ns(),
    };
    sender.send_replace(Some(exit));
    everybody_else_first().await;
    // Its status is known.
    let _ = wait(ended);
}

/// Lets every task run that can: those that hear of a process's end tell the host before anything is tidied up.
pub(super) async fn everybody_else_first() {
    tokio::task::yield_now().await;
}
