//! Leading a container from its first run to the moment when nothing of it is left.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use proto::supervisor::Exited;
use store::fault;

use super::{Now, Supervision, lock};
use crate::failure;
use crate::life::{Life, Outcome, Shared, last_message};
use crate::timeline::Timeline;

/// How it ended, and the run that ended so.
pub struct End {
    /// Of the last run.
    pub exited: Exited,
    /// The last run, whose clients are to be told.
    pub shared: Arc<Shared>,
}

impl Supervision {
    /// Leads it to the end: everything is gone, the leases are free. What is left to do is to say so.
    pub async fn lead(self: Arc<Self>, leases: Vec<OwnedFd>, mut attached: bool) -> End {
        let Now::Run(mut shared) = self.now() else {
            unreachable!("it begins with a run");
        };
        let exited = loop {
            let life = Life {
                container: self.container(),
                leases: &leases,
                attached: std::mem::take(&mut attached),
                shared: shared.clone(),
                supervision: self.clone(),
            };
            if self.maintenance {
                break life.maintain().await;
            }
            let outcome = life.live().await;
            let Some(delay) = outcome.again else {
                break outcome.exit;
            };
            let exited = self.told_of_run(&shared, outcome);
            match self.rest(delay).await {
                Some(next) => shared = next,
                None => break exited,
            }
        };
        self.now.send_replace(Now::Over);
        self.record.kept_is_done().await;
        self.leave(leases, &shared);
        End { exited, shared }
    }

    /// A run is over and another one comes: its clients go.
    fn told_of_run(&self, shared: &Arc<Shared>, outcome: Outcome) -> Exited {
        self.now.send_replace(Now::Waiting);
        let exited = Exited {
            phases: shared.timeline.phases(),
            restarting: true,
            ..outcome.exit
        };
        let (shared, message) = (shared.clone(), last_message(exited.clone()));
        // A client that reads slowly holds nobody up, and loses nothing.
        tokio::spawn(async move { shared.hub.finish(message).await });
        Exited {
            restarting: false,
            ..exited
        }
    }

    /// Waits, then makes the next run; `None` when there is none.
    async fn rest(&self, delay: Duration) -> Option<Arc<Shared>> {
        tracing::info!(delay_ms = delay.as_millis(), "starting it again");
        fault::point("vm.restart-wait");
        let waited = tokio::select! {
            () = tokio::time::sleep(delay) => true,
            () = self.is_dismissed() => false,
        };
        fault::point("vm.restart-waited");
        let next = (waited && lock(&self.restarts).holds()).then(|| self.read());
        match next {
            Some(Ok(container)) => {
                let spec = container.spec();
                lock(&self.restarts).set(spec.restart);
                let log = self.log.clone();
                let told = self.told.clone();
                let next = Arc::new(Shared::new(spec, log, told, Timeline::default()));
                *lock(&self.container) = container;
                self.now.send_replace(Now::Run(next.clone()));
                return Some(next);
            }
            Some(Err(error)) => {
                let error = failure::chain(&error);
                tracing::error!(%error, "the container's spec can't be read any more");
                self.record.edit(|state| state.error = Some(error));
            }
            None => {}
        }
        self.write_rest(false);
        None
    }

    /// The socket goes while the lock is still held, so that the next start can make a new one; then the leases.
    fn leave(&self, leases: Vec<OwnedFd>, shared: &Shared) {
        let container = self.container();
        let socket = container.supervisor_socket();
        fault::point("vm.socket-remove");
        if let Err(error) = store::file::remove(&socket) {
            tracing::warn!(%error, socket = %socket.display(), "the socket can't be removed");
        }
        fault::point("vm.socket-removed");
        if container.spec().remove && !self.maintenance {
            self.remove();
        }
        fault::point("vm.leases-release");
        drop(leases);
        fault::point("vm.leases-released");
        shared.timeline.mark("leases released");
    }

    fn remove(&self) {
        let container = self.container();
        match container.remove_all() {
            Ok(()) => {
                let event = store::events::Event::container(container.spec(), "destroy");
                store::events::emit(container.root(), &event);
            }
            Err(error) => {
                let error = failure::chain(&error);
                tracing::error!(%error, "the container can't be removed");
            }
        }
    }
}
