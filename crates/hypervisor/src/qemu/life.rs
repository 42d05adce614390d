//! A VM's life under QEMU: two processes and who outlives whom.
//!
//! ```text
//!            start
//!              |            QEMU ends ----------------------------+
//!           running ------- gourd-vmm fails: kill QEMU, blame it --+--> gather QMP's last event, last words, console
//!              |            QMP or gourd-vmm closes: QEMU is about |         |
//!              +----------- to end; killed if it doesn't ----------+    gourd-vmm ends by itself, or is killed
//!                                                                            |
//!                                                                        VmExit, to all who wait
//! ```
//!
//! One task owns both processes and the answer. Killing is done by whoever wants to, through pidfds; the task notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use vmm::control::ControlError;

use super::qmp::{Ending, QmpError};
use crate::driver::{ExitReason, VmExit};
use crate::process::{Killer, Process};

/// How long a process may take to end after it closed its sockets, before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills a VM's processes.
#[derive(Clone)]
pub(super) struct Axe {
    killers: Arc<[Killer]>,
    fallen: Arc<AtomicBool>,
}

impl Axe {
    pub(super) fn new(killers: impl IntoIterator<Item = Killer>) -> Axe {
        Axe {
            killers: killers.into_iter().collect(),
            fallen: Arc::default(),
        }
    }

    /// Kills them all; how the VM ends is then [`ExitReason::Killed`].
    pub(super) fn fall(&self) {
        self.fallen.store(true, Ordering::Relaxed);
        for killer in self.killers.iter() {
            killer.kill();
        }
    }
}

/// What a life is made of.
pub(super) struct Life {
    pub qemu: Process,
    pub vmm: Option<Process>,
    /// Ends when QEMU closes its monitor; `None` when it has ended.
    pub qmp: Option<JoinHandle<Result<Option<Ending>, QmpError>>>,
    /// Ends when `gourd-vmm` closes its control socket.
    pub control: Option<JoinHandle<ControlError>>,
    /// End when QEMU closes the consoles.
    pub consoles: Vec<JoinHandle<std::io::Result<()>>>,
    pub axe: Axe,
}

/// What happened first.
enum First {
    Qemu(String, bool),
    Vmm(String),
    Nonsense(String),
    Closing,
}

impl Life {
    /// Lives it. The answer goes to `exit` when every process is gone.
    pub(super) async fn lead(mut self, exit: watch::Sender<Option<VmExit>>) {
        let mut ending = None;
        let first = self.first(&mut ending).await;
        let (mut blame, died) = match first {
            First::Qemu(obituary, success) => (None, Some((obituary, success))),
            First::Vmm(obituary) => (Some(obituary), None),
            First::Nonsense(blame) => (Some(blame), None),
            First::Closing => (None, None),
        };
        if blame.is_some() {
            self.qemu.killer().kill();
        }
        let (obituary, success) = match died {
            Some(died) => died,
            None => self.qemu_ends(&mut blame).await,
        };
        // QEMU is gone: these end by themselves.
        if let Some(qmp) = self.qmp.take()
            && let Ok(Ok(Ok(last))) = tokio::time::timeout(PATIENCE, qmp).await
        {
            ending = last;
        }
        for console in std::mem::take(&mut self.consoles) {
            if let Ok(Ok(Err(error))) = tokio::time::timeout(PATIENCE, console).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "console log");
            }
        }
        self.vmm_ends().await;
        let killed = self.axe.fallen.load(Ordering::Relaxed);
        let reason = reason(ending, killed, blame, success, obituary);
        tracing::debug!(%reason, "the VM ended");
        exit.send_replace(Some(VmExit { reason }));
    }

    /// Waits for the first sign of an end.
    async fn first(&mut self, ending: &mut Option<Ending>) -> First {
        let Life {
            qemu,
            vmm,
            qmp,
            control,
            ..
        } = self;
        let vmm_ended = async {
            match vmm {
                Some(vmm) => {
                    let status = vmm.ended().await;
                    let success = matches!(&status, Ok(status) if status.success());
                    (obituary(vmm, status).await, success)
                }
                None => std::future::pending().await,
            }
        };
        let qmp_ended = async {
            match qmp {
                Some(task) => task.await,
                None => std::future::pending().await,
            }
        };
        let control_ended = async {
            match control {
                Some(task) => task.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            status = qemu.ended() => {
                let success = matches!(&status, Ok(status) if status.success());
                First::Qemu(obituary(qemu, status).await, success)
            }
            (obituary, success) = vmm_ended => {
                // It ends well when QEMU closed the vhost-user socket, that is, when QEMU is dying already.
                if success { First::Closing } else { First::Vmm(obituary) }
            }
            last = qmp_ended => {
                self.qmp = None;
                match last {
                    Ok(Ok(last)) => {
                        *ending = last;
                        First::Closing
                    }
                    Ok(Err(error)) => First::Nonsense(format!("QEMU: {}", chain(&error))),
                    Err(_) => First::Closing,
                }
            }
            error = control_ended => match error {
                Ok(ControlError::Closed) | Err(_) => First::Closing,
                Ok(error) => First::Nonsense(format!("gourd-vmm: {}", chain(&error))),
            },
        }
    }

    /// QEMU is about to end, or is made to.
    async fn qemu_ends(&mut self, blame: &mut Option<String>) -> (String, bool) {
        let blamed = blame.is_some();
        let Life { qemu, vmm, .. } = self;
        // A gourd-vmm that was killed closes its sockets a moment before it can be waited for.
        let vmm_failed = async {
            let Some(vmm) = vmm.as_mut().filter(|_| !blamed) else {
                return std::future::pending().await;
            };
            let status = vmm.ended().await;
            if matches!(&status, Ok(status) if status.success()) {
                return std::future::pending().await;
            }
            obituary(vmm, status).await
        };
        let ended = tokio::select! {
            biased;
            status = qemu.ended() => Some(status),
            obituary = vmm_failed => {
                blame.get_or_insert(obituary);
                None
            }
            () = tokio::time::sleep(PATIENCE) => {
                blame.get_or_insert_with(|| "QEMU closed its monitor and did not end".into());
                None
            }
        };
        let status = match ended {
            Some(status) => status,
            None => {
                self.qemu.killer().kill();
                self.qemu.ended().await
            }
        };
        let success = matches!(&status, Ok(status) if status.success());
        (obituary(&mut self.qemu, status).await, success)
    }

    /// QEMU is gone, so `gourd-vmm` has nothing left to serve. It may finish passing on what the guest sent.
    async fn vmm_ends(&mut self) {
        if let Some(vmm) = &mut self.vmm
            && tokio::time::timeout(PATIENCE, vmm.ended()).await.is_err()
        {
            tracing::warn!("killing gourd-vmm, which did not end with QEMU");
            vmm.killer().kill();
            let _ = vmm.ended().await;
        }
    }
}

async fn obituary(
    process: &mut Process,
    status: std::io::Result<std::process::ExitStatus>,
) -> String {
    match status {
        Ok(status) => process.obituary(status).await,
        Err(error) => format!("a monitor could not be watched: {error}"),
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Who or what ended the VM. What the guest asked for counts most: it happened before the rest.
fn reason(
    ending: Option<Ending>,
    killed: bool,
    blame: Option<String>,
    success: bool,
    obituary: String,
) -> ExitReason {
    let crashed = |what: String| ExitReason::Crashed { what };
    match (ending, blame) {
        (Some(Ending::GuestPanic), _) => crashed("the guest's kernel panicked".into()),
        (Some(Ending::GuestShutdown), None) => ExitReason::PoweredOff,
        (Some(Ending::GuestReset), None) => ExitReason::Reset,
        _ if killed => ExitReason::Killed,
        (_, Some(blame)) => crashed(blame),
        (Some(Ending::HostSignal), None) if success => {
            crashed("QEMU was asked to end by a signal from the host".into())
        }
        _ if success => crashed(format!("{obituary} without saying why")),
        _ => crashed(obituary),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ending: Option<Ending>, killed: bool, blame: Option<&str>, success: bool, want: &str) {
        let blame = blame.map(str::to_owned);
        let reason = reason(ending, killed, blame, success, "obituary".into());
        assert_eq!(reason.to_string(), want);
    }

    #[test]
    fn reasons() {
        use Ending::*;
        let off = "the guest powered off";
        check(Some(GuestShutdown), false, None, true, off);
        check(Some(GuestShutdown), true, None, false, off);
        let reset = "the guest asked for a reset";
        check(Some(GuestReset), false, None, true, reset);
        let panicked = "the guest's kernel panicked";
        check(Some(GuestPanic), false, None, true, panicked);
        check(None, true, None, false, "killed");
        check(None, true, Some("gourd-vmm died"), false, "killed");
        check(None, false, Some("gourd-vmm died"), false, "gourd-vmm died");
        check(None, false, None, false, "obituary");
        check(None, false, None, true, "obituary without saying why");
        let signal = "QEMU was asked to end by a signal from the host";
        check(Some(HostSignal), false, None, true, signal);
    }
}
