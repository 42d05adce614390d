//! A VM's life under our own monitor: one process, and what it says before it goes.
//!
//! ```text
//!            start
//!              |           the process ends ------------------------+
//!           running ------ it says how the guest ended, or closes --+--> VmExit, to all who wait
//!              |           its socket: killed if it does not end ---+
//!              +---------- it talks nonsense: killed, blamed -------+
//! ```
//!
//! One task owns the process and the answer. Killing is done by whoever wants to, through a pidfd; the task notices.

use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use vmm::control::{ControlError, HowEnded};

use crate::driver::{ExitReason, VmExit};
use crate::process::{Killer, Process};
use crate::vsock::Vsock;

/// How long the process may take to end after the guest has, before it is killed: it passes on what the guest sent.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills a VM's process.
#[derive(Clone)]
pub(super) struct Axe {
    killer: Killer,
    fallen: Arc<AtomicBool>,
}

impl Axe {
    pub(super) fn new(killer: Killer) -> Axe {
        Axe {
            killer,
            fallen: Arc::default(),
        }
    }

    /// Kills it; how the VM ends is then [`ExitReason::Killed`].
    pub(super) fn fall(&self) {
        self.fallen.store(true, Ordering::Relaxed);
        self.killer.kill();
    }
}

/// What a life is made of.
pub(super) struct Life {
    pub process: Process,
    /// Ends when the process closes its control socket.
    pub control: JoinHandle<ControlError>,
    pub vsock: Vsock,
    pub axe: Axe,
}

impl Life {
    /// Lives it. The answer goes to `exit` when the process is gone.
    pub(super) async fn lead(mut self, exit: watch::Sender<Option<VmExit>>) {
        let mut blame = None;
        let status = tokio::select! {
            biased;
            status = self.process.ended() => Some(status),
            () = self.vsock.ending() => None,
            error = &mut self.control => {
                match error {
                    Ok(ControlError::Closed) | Err(_) => {}
                    Ok(error) => {
                        blame = Some(format!("gourd-vmm: {error}"));
                        self.process.killer().kill();
                    }
                }
                None
            }
        };
        let status = match status {
            Some(status) => status,
            None => self.ends(&mut blame).await,
        };
        let success = matches!(&status, Ok(status) if status.success());
        let obituary = obituary(&mut self.process, status).await;
        // The last word may still lie in the socket, whose other end is closed now.
        if !self.control.is_finished() {
            let _ = tokio::time::timeout(PATIENCE, &mut self.control).await;
        }
        let killed = self.axe.fallen.load(Ordering::Relaxed);
        let reason = reason(self.vsock.ended(), killed, blame, success, obituary);
        tracing::debug!(%reason, "the VM ended");
        exit.send_replace(Some(VmExit { reason }));
    }

    /// The process is about to end, or is made to.
    async fn ends(&mut self, blame: &mut Option<String>) -> std::io::Result<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(PATIENCE, self.process.ended()).await {
            return status;
        }
        blame.get_or_insert_with(|| "gourd-vmm did not end with its guest".into());
        self.process.killer().kill();
        self.process.ended().await
    }
}

async fn obituary(process: &mut Process, status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => process.obituary(status).await,
        Err(error) => format!("gourd-vmm could not be watched: {error}"),
    }
}

/// Who or what ended the VM. What the guest asked for counts most: it happened before the rest.
fn reason(
    ended: Option<HowEnded>,
    killed: bool,
    blame: Option<String>,
    success: bool,
    obituary: String,
) -> ExitReason {
    match (ended, blame) {
        (Some(HowEnded::PoweredOff), _) => ExitReason::PoweredOff,
        (Some(HowEnded::Reset), _) => ExitReason::Reset,
        _ if killed => ExitReason::Killed,
        (None, Some(what)) => ExitReason::Crashed { what },
        (None, None) if success => ExitReason::Crashed {
            what: format!("{obituary} without saying why"),
        },
        (None, None) => ExitReason::Crashed { what: obituary },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        ended: Option<HowEnded>,
        killed: bool,
        blame: Option<&str>,
        success: bool,
        want: &str,
    ) {
        let blame = blame.map(str::to_owned);
        let reason = reason(ended, killed, blame, success, "obituary".into());
        assert_eq!(reason.to_string(), want);
    }

    #[test]
    fn reasons() {
        use HowEnded::*;
        check(Some(PoweredOff), false, None, true, "the guest powered off");
        check(Some(PoweredOff), true, None, false, "the guest powered off");
        check(
            Some(Reset),
            false,
            Some("late"),
            true,
            "the guest asked for a reset",
        );
        check(None, true, None, false, "killed");
        check(None, true, Some("nonsense"), false, "killed");
        check(None, false, Some("nonsense"), false, "nonsense");
        check(None, false, None, false, "obituary");
        check(None, false, None, true, "obituary without saying why");
    }
}
