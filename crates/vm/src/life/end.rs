//! How a run ends, and what is said about it.

use std::time::Duration;

use hypervisor::{Vm, VmConfig};
use proto::agent::WaitReply;
use proto::supervisor::{Exited, Failure, failure::Kind, output};
use store::fault;

use super::Life;
use crate::failure;

/// How long a guest may take to unmount and power off before the plug is pulled. The file systems survive that; it is not clean.
const POWER_OFF: Duration = Duration::from_secs(30);

/// How long a VM whose agent is lost may take to die by itself (a panic's reset is on its way) before it is killed.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The exit code of what SIGKILL ended: 128 + 9.
const KILLED: u32 = 137;

/// How a run went.
pub struct Outcome {
    /// For clients.
    pub exit: Exited,
    /// The process ran.
    pub ran: bool,
    /// How long to wait before the next run, if there is one.
    pub again: Option<Duration>,
}

impl Outcome {
    /// The VM ended and took the process with it.
    pub fn lost(&self) -> bool {
        let failure = self.exit.failure.as_ref();
        failure.is_some_and(|failure| failure.kind() == Kind::VmLost)
    }
}

/// Whether anything that a guest may still write is there after its VM.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    Nothing,
    Something,
}

impl Lasting {
    pub(super) fn of(config: &VmConfig) -> Lasting {
        let disks = config.disks.iter();
        let mut disks = disks.filter(|disk| !disk.read_only && !disk.volatile);
        let folders = config.shares.iter().flat_map(|share| &share.folders);
        let mut folders = folders.filter(|folder| !folder.read_only);
        if disks.next().is_none() && folders.next().is_none() {
            Lasting::Nothing
        } else {
            Lasting::Something
        }
    }
}

impl Life<'_> {
    /// The conversation broke off: the VM is dead, dying, or no longer answers. Its own words say more than a broken connection.
    pub(super) async fn lost(&self, vm: &dyn Vm, failure: Failure) -> Outcome {
        // Nobody is to call it any more.
        self.shared.guest.send_replace(None);
        let exit = match tokio::time::timeout(LAST_WORDS, vm.wait()).await {
            Ok(exit) => {
                let mut failure = failure.clone();
                if failure.kind() == Kind::VmLost {
                    failure.message = self.epitaph(&exit);
                }
                failure
            }
            Err(_) => {
                vm.stop(Duration::ZERO).await;
                failure
            }
        };
        let ran = matches!(*self.shared.started.borrow(), Some(Ok(())));
        Outcome {
            exit: Exited {
                exit_code: failure::exit_code(&exit),
                failure: Some(exit),
                ..Exited::default()
            },
            ran,
            again: None,
        }
    }

    /// Whoever ends the container waited for the guest for long enough.
    pub(super) async fn cut_off(&self, vm: &dyn Vm) -> Outcome {
        // Nobody is to call it any more.
        self.shared.guest.send_replace(None);
        vm.stop(Duration::ZERO).await;
        Outcome {
            exit: Exited {
                exit_code: KILLED,
                failure: Some(failure::lost(
                    "the guest did not end the container in time, and its VM was cut off",
                )),
                ..Exited::default()
            },
            ran: matches!(*self.shared.started.borrow(), Some(Ok(()))),
            again: None,
        }
    }

    /// How the VM ended, and what its kernel said last.
    pub(super) fn epitaph(&self, exit: &hypervisor::VmExit) -> String {
        // A kernel that panics resets the machine, an init that gives up powers it off, and both say why; a monitor's death
        // has nothing to do with what the guest said.
        use hypervisor::ExitReason::{PoweredOff, Reset};
        if !matches!(exit.reason, PoweredOff | Reset) {
            return exit.to_string();
        }
        match crate::console::last_words(&self.container.console_log()) {
            Some(words) => format!("{exit}; the guest's console ends with: {words}"),
            None => exit.to_string(),
        }
    }

    /// Has everything unmounted, then pulls the plug: the guest's flushes were answered by then, so that its own way to power
    /// off would be waited for and bring nothing. A guest that can't unmount cleanly gets the time to power off by itself.
    ///
    /// A VM whose writes all go with it has nothing to unmount for: unless an exec's last words are on their way, the plug is
    /// pulled at once.
    pub(super) async fn power_off(&self, vm: &dyn Vm, lasting: Lasting) {
        if lasting == Lasting::Nothing
            && let Ok(_no_execs) = self.shared.execs.try_write()
        {
            vm.stop(Duration::ZERO).await;
            fault::point("vm.monitor-gone");
            return;
        }
        let guest = self.shared.guest.borrow().clone();
        if let Some(guest) = guest {
            fault::point("vm.guest-unmount");
            let farewell = async {
                match guest.shutdown().await {
                    Ok(()) => {
                        fault::point("vm.guest-unmounted");
                        self.shared.timeline.mark("guest unmounted");
                        // Their processes are dead, but what these wrote last may still be between the guest and a client.
                        let drained = self.shared.execs.write();
                        let _ = tokio::time::timeout(LAST_WORDS, drained).await;
                    }
                    Err(failure) => {
                        let words = failure::describe(&failure);
                        tracing::warn!(failure = %words, "the guest did not shut down cleanly");
                        vm.wait().await;
                    }
                }
            };
            if tokio::time::timeout(POWER_OFF, farewell).await.is_err() {
                tracing::warn!("the guest did not power off in time");
            }
        }
        vm.stop(Duration::ZERO).await;
        fault::point("vm.monitor-gone");
    }
}

/// How clients are told: a process that never ran has failed, one that was lost with its VM has exited.
pub fn last_message(exited: Exited) -> output::Output {
    match &exited.failure {
        Some(failure) if failure.kind() != Kind::VmLost => output::Output::Failed(failure.clone()),
        _ => output::Output::Exited(exited),
    }
}

pub(super) fn never_ran(failure: Failure) -> Outcome {
    Outcome {
        exit: Exited {
            exit_code: failure::exit_code(&failure),
            failure: Some(failure),
            ..Exited::default()
        },
        ran: false,
        again: None,
    }
}

pub(super) fn ended(reply: &WaitReply) -> Outcome {
    Outcome {
        exit: Exited {
            // One byte, whatever the guest says.
            exit_code: reply.exit_code & 0xff,
            oom_killed: reply.oom_killed,
            ..Exited::default()
        },
        ran: true,
        again: None,
    }
}
