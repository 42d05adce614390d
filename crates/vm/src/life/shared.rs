//! What the service's calls see of a run.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use proto::supervisor::Failure;
use store::container::Spec;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, RwLock, watch};

use crate::failure;
use crate::freezer::Freezer;
use crate::guest::Guest;
use crate::hub::{Hub, Log};
use crate::networks::Networks;
use crate::streams::Streams;
use crate::timeline::Timeline;

/// One run's milestones, and what its calls need.
pub struct Shared {
    /// The container's spec, as it was when the run began.
    pub spec: Spec,
    /// Set once: the process runs, or could not start.
    pub started: watch::Sender<Option<Result<(), Failure>>>,
    /// Held for reading by each exec while its output is on its way; the plug is pulled by whoever holds it for writing.
    pub execs: Arc<RwLock<()>>,
    /// The VM's processors, once it was started.
    pub vcpus: AtomicU32,
    /// The monitors' process ids, from the VM's start on.
    pub monitors: std::sync::Mutex<Vec<u32>>,
    /// The container's networks, from the VM's start on.
    pub networks: std::sync::Mutex<Option<Arc<Networks>>>,
    /// The end is written to `state.json`.
    pub settled: watch::Sender<bool>,
    /// The supervision's.
    pub told: watch::Sender<bool>,
    /// The primary client is there.
    pub primary: watch::Sender<bool>,
    /// The agent, from the hand-shake on.
    pub guest: watch::Sender<Option<Guest>>,
    /// The first process's stdin, while it is open.
    pub stdin: Mutex<Option<OwnedWriteHalf>>,
    /// A terminal's size that came before the process did.
    pub size: std::sync::Mutex<Option<proto::supervisor::TerminalSize>>,
    /// Whether the processes are frozen.
    pub freezer: Freezer,
    /// Output of the first process.
    pub hub: Hub,
    /// Streams to come.
    pub streams: Arc<Streams>,
    /// Moments.
    pub timeline: Timeline,
    begun: OnceLock<Instant>,
    cut: watch::Sender<bool>,
}

impl Shared {
    /// Of a run that has not begun.
    pub fn new(
        spec: &Spec,
        log: Arc<Log>,
        told: watch::Sender<bool>,
        timeline: Timeline,
    ) -> Shared {
        Shared {
            spec: spec.clone(),
            started: watch::Sender::default(),
            execs: Arc::default(),
            vcpus: AtomicU32::default(),
            monitors: std::sync::Mutex::default(),
            networks: std::sync::Mutex::default(),
            settled: watch::Sender::default(),
            told,
            primary: watch::Sender::default(),
            guest: watch::Sender::default(),
            stdin: Mutex::default(),
            size: std::sync::Mutex::default(),
            freezer: Freezer::default(),
            hub: Hub::new(log),
            streams: Arc::default(),
            timeline,
            begun: OnceLock::new(),
            cut: watch::Sender::default(),
        }
    }

    /// The guest had its time to end and did not: its VM is to be ended without it.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Waits for [`Shared::cut`].
    pub async fn is_cut(&self) {
        // The sender lives as long as this.
        let _ = self.cut.subscribe().wait_for(|cut| *cut).await;
    }

    /// Waits until its end is written.
    pub async fn is_settled(&self) {
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// The process runs.
    pub fn begin(&self) {
        let _ = self.begun.set(Instant::now());
    }

    /// For how long the process has run; nothing when it has not.
    pub fn lasted(&self) -> Duration {
        self.begun.get().map(Instant::elapsed).unwrap_or_default()
    }

    /// Waits until the process runs (in maintenance: until the files are there).
    ///
    /// # Errors
    /// Why it does not.
    pub async fn is_started(&self) -> Result<(), Failure> {
        let mut started = self.started.subscribe();
        match started.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err(failure::lost("the VM is gone")),
        }
    }

    /// The agent, once the container's process runs.
    ///
    /// # Errors
    /// Why it does not run; that the VM is gone.
    pub async fn guest(&self) -> Result<Guest, Failure> {
        self.is_started().await?;
        let guest = self.guest.borrow().clone();
        guest.ok_or_else(|| failure::lost("the VM is gone"))
    }

    /// The container's networks, once it runs.
    ///
    /// # Errors
    /// It does not.
    pub fn networks(&self) -> Result<Arc<Networks>, Failure> {
        let networks = self.networks.lock();
        let networks = networks.unwrap_or_else(PoisonError::into_inner).clone();
        networks.ok_or_else(|| failure::lost("the VM is gone"))
    }

    /// Returns at once while the monitors live; when one is dead, when its death is written down. So whoever asks a
    /// supervisor before reading the state never reads that a dead VM runs.
    pub async fn settle(&self) {
        let dead = {
            let monitors = self.monitors.lock();
            let monitors = monitors.unwrap_or_else(PoisonError::into_inner);
            monitors.iter().any(|pid| !alive(*pid))
        };
        if dead {
            self.is_settled().await;
        }
    }
}

/// Whether a child runs. One whose first thread has ended does not, though its others may still be on their way out; `waitid`
/// would not tell before they are.
fn alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // proc(5): the state follows the name, which is in brackets and may hold anything.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}
