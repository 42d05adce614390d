//! Kill and stop: the ways in which a container is ended from outside.
//!
//! Both ask the guest, and neither depends on it: one that does not answer gets [`GRACE`], then its VM is cut off
//! ([`Shared::cut`]), wherever it is between its boot and its end.

use std::sync::Arc;
use std::time::Duration;

use proto::supervisor::{Failure, StopRequest, failure::Kind};
use store::container::Status;
use store::fault;

use super::{Service, control::mark};
use crate::failure;
use crate::guest::Guest;
use crate::life::{GRACE, MAIN, Shared};
use crate::supervision::{Dismissal, Now, Supervision};

/// SIGKILL, as every Linux has it.
const KILL: u32 = 9;

impl Service {
    /// Sends a signal to the first process. KILL comes true, whatever the guest does.
    pub(super) async fn kill(&self, signal: u32) -> Result<(), Failure> {
        if self.is_restarting() {
            // As Docker: there is no process to send it to, and there shall be none.
            self.supervision.dismiss(Dismissal::Person);
            return Ok(());
        }
        if self.supervision.maintenance {
            return Err(self.is_not_running());
        }
        let run = self.run()?;
        let sent = self.send(&run, signal);
        let guest = if signal == KILL {
            tokio::spawn(insist(self.supervision.clone(), run.clone(), GRACE));
            or_ended(&run, sent).await
        } else {
            sent.await.map(Some)
        };
        let guest = guest.map_err(|failure| self.explain(&run, failure))?;
        self.supervision.emit("kill", &[("signal", &signal)]);
        if let Some(guest) = guest
            && (signal == KILL || signal == run.spec.stop_signal)
        {
            // One that is frozen could not follow it.
            thaw(&self.supervision, &run, &guest).await;
        }
        Ok(())
    }

    /// Once it runs.
    async fn send(&self, run: &Shared, signal: u32) -> Result<Guest, Failure> {
        let guest = run.guest().await?;
        self.supervision.note_signal(signal);
        if signal == KILL {
            run.hub.hurry();
        }
        fault::point("vm.signal");
        guest.signal(MAIN, signal).await?;
        Ok(guest)
    }

    /// Ends the container; returns when its end is on its way.
    pub(super) async fn end(&self, asked: &StopRequest) {
        stop(&self.supervision, Dismissal::Person, asked).await;
    }
}

/// What a call that kills brings, unless the run ends without an answer to it: then that is what was asked for.
async fn or_ended<T>(
    run: &Shared,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, Failure> {
    let answer = tokio::select! {
        biased;
        answer = call => answer,
        () = run.is_settled() => return Ok(None),
    };
    match answer {
        Err(failure) if failure.kind() == Kind::VmLost => {
            // The connection ends before the end is written.
            run.is_settled().await;
            Ok(None)
        }
        answer => answer.map(Some),
    }
}

/// Sees to it that a run that was killed ends within `grace`.
async fn insist(supervision: Arc<Supervision>, run: Arc<Shared>, grace: Duration) {
    let settled = tokio::time::timeout(grace, run.is_settled());
    if settled.await.is_err() {
        // As Docker: what a person killed is not started again.
        supervision.dismiss(Dismissal::Person);
        tracing::warn!("the guest did not kill the container in time: cutting its VM off");
        run.cut();
    }
}

/// Ends the container for good; returns when its end is on its way.
pub async fn stop(supervision: &Arc<Supervision>, why: Dismissal, asked: &StopRequest) {
    supervision.dismiss(why);
    fault::point("vm.stop");
    let Now::Run(run) = supervision.now() else {
        return;
    };
    if supervision.maintenance {
        return;
    }
    run.hub.hurry();
    let signal = if asked.signal == 0 {
        run.spec.stop_signal
    } else {
        asked.signal
    };
    let timeout_ms = asked.timeout_ms.unwrap_or(run.spec.stop_timeout_ms);
    let ends = ask_guest(supervision, &run, signal, timeout_ms);
    if within(limit(signal, timeout_ms), &run, ends).await {
        supervision.emit("stop", &[]);
    }
}

/// How long a stop may take; `None` is for ever. A boot that it comes upon counts.
fn limit(signal: u32, timeout_ms: u64) -> Option<Duration> {
    match timeout_ms {
        _ if signal == KILL => Some(GRACE),
        u64::MAX => None,
        _ => Some(Duration::from_millis(timeout_ms).saturating_add(GRACE)),
    }
}

/// Does what ends the run. When that takes longer than it may, the VM is cut off, and the end waited for. Whether there was a process
/// that ended.
async fn within(limit: Option<Duration>, run: &Shared, ends: impl Future<Output = bool>) -> bool {
    let Some(limit) = limit else {
        return ends.await;
    };
    if let Ok(ended) = tokio::time::timeout(limit, ends).await {
        return ended;
    }
    tracing::warn!("the guest did not end the container in time: cutting its VM off");
    run.cut();
    run.is_settled().await;
    matches!(*run.started.borrow(), Some(Ok(())))
}

/// Has the guest end the container, and waits until its end is written. False when there was nothing to end.
async fn ask_guest(supervision: &Supervision, run: &Shared, signal: u32, timeout_ms: u64) -> bool {
    let Ok(guest) = run.guest().await else {
        return false;
    };
    if *run.settled.borrow() {
        return false;
    }
    supervision.emit("kill", &[("signal", &signal)]);
    thaw(supervision, run, &guest).await;
    match guest.stop(signal, timeout_ms).await {
        Ok(true) if signal != KILL => supervision.emit("kill", &[("signal", &KILL)]),
        Ok(_) => {}
        // The container may have ended in this very moment; if not, its end is what counts, and it is on its way.
        Err(failure) => {
            let failure = failure::describe(&failure);
            tracing::warn!(%failure, "the agent did not stop the container");
        }
    }
    // Docker tells of the stop after the death.
    run.is_settled().await;
    true
}

/// Lets a container that is about to end run.
async fn thaw(supervision: &Supervision, run: &Shared, guest: &Guest) {
    match run.freezer.thaw(guest).await {
        Ok(true) => mark(supervision, Status::Paused, Status::Running),
        Ok(false) => {}
        Err(failure) => {
            let failure = failure::describe(&failure);
            tracing::warn!(%failure, "the container can't be thawed");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;
    use crate::supervision::fresh;

    /// A run as its calls see it, with an agent that takes every call and answers none.
    struct Setup {
        _dir: tempfile::TempDir,
        _agent: UnixStream,
        supervision: Arc<Supervision>,
        run: Arc<Shared>,
    }

    impl Setup {
        /// Its process does not run yet: the guest boots.
        fn booting() -> Setup {
            let (dir, supervision, run) = fresh();
            let (guest, agent) = Guest::silent();
            run.guest.send_replace(Some(guest));
            Setup {
                _dir: dir,
                _agent: agent,
                supervision,
                run,
            }
        }

        fn running() -> Setup {
            let setup = Setup::booting();
            setup.run.started.send_replace(Some(Ok(())));
            setup
        }

        /// In the place of the life: a run that is cut ends.
        async fn live(&self) {
            self.run.is_cut().await;
            self.run.settled.send_replace(true);
        }

        fn is_cut(&self) -> bool {
            let cut = futures_util::FutureExt::now_or_never(self.run.is_cut());
            cut.is_some()
        }

        async fn stop_within(&self, limit: Duration) -> bool {
            let ends = ask_guest(&self.supervision, &self.run, 15, 0);
            let (ended, ()) = tokio::join!(within(Some(limit), &self.run, ends), self.live());
            ended
        }
    }

    #[test]
    fn a_stop_may_take_the_processs_time_and_a_little_for_the_guest() {
        assert_eq!(limit(15, 3_000), Some(Duration::from_secs(3) + GRACE));
        assert_eq!(limit(15, 0), Some(GRACE));
        // Docker's `-t -1`.
        assert_eq!(limit(15, u64::MAX), None);
        assert_eq!(limit(KILL, u64::MAX), Some(GRACE));
    }

    #[tokio::test]
    async fn a_silent_guest_is_cut_off_while_it_runs_and_while_it_boots() {
        assert!(Setup::running().stop_within(Duration::ZERO).await);
        // Of a process that never ran nobody is told that it was stopped.
        assert!(!Setup::booting().stop_within(Duration::ZERO).await);
    }

    #[tokio::test]
    async fn a_run_that_ends_by_itself_is_not_cut_off() {
        for limit in [Some(GRACE), None] {
            let setup = Setup::running();
            let ends = ask_guest(&setup.supervision, &setup.run, 15, 0);
            setup.run.settled.send_replace(true);
            assert!(!within(limit, &setup.run, ends).await);
            assert!(within(limit, &setup.run, std::future::ready(true)).await);
            assert!(!setup.is_cut());
        }
        let setup = Setup::running();
        setup.run.settled.send_replace(true);
        insist(setup.supervision.clone(), setup.run.clone(), GRACE).await;
        assert!(!setup.is_cut());
    }

    #[tokio::test]
    async fn a_run_that_was_killed_and_goes_on_is_cut_off_for_good() {
        for setup in [Setup::running(), Setup::booting()] {
            insist(setup.supervision.clone(), setup.run.clone(), Duration::ZERO).await;
            assert!(setup.is_cut());
            setup.supervision.is_dismissed().await;
        }
    }

    #[tokio::test]
    async fn a_kill_needs_no_answer_once_the_run_has_ended() {
        for setup in [Setup::running(), Setup::booting()] {
            let service = Service::new(&setup.supervision);
            let end = async { setup.run.settled.send_replace(true) };
            let (killed, _) = tokio::join!(biased; service.kill(KILL), end);
            assert_eq!(killed, Ok(()));
            assert!(service.kill(KILL).await.is_err(), "it is not running");
        }
        // As when the VM's end breaks the connection, and is written afterwards.
        let setup = Setup::running();
        let broken = std::future::ready(Err::<(), _>(failure::lost("it broke")));
        let end = async { setup.run.settled.send_replace(true) };
        let (killed, _) = tokio::join!(biased; or_ended(&setup.run, broken), end);
        assert_eq!(killed, Ok(None));
        let refused = std::future::ready(Err::<(), _>(failure::own("signal", "", "no")));
        assert!(or_ended(&setup.run, refused).await.is_err());
    }
}
