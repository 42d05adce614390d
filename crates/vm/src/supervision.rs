//! Above the runs: a supervisor's whole time with one container.
//!
//! ```text
//!          ┌──────────── restarting: waits ◄────────────┐
//!          ▼                                            │ the policy wants it, nobody stopped it
//!  run (one VM, [`crate::life`]) ──► its end is written ┴──► leases released ──► told
//! ```
//!
//! It owns what outlives a run: the lock and the leases, the state, the log, whether a person ended it, and how often it
//! was started again. One task leads; the service's calls look at [`Supervision::now`] and ask for the end by
//! [`Supervision::dismiss`].

mod farewell;
mod lead;

pub use farewell::FAREWELL;
pub use lead::End;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use proto::supervisor::{Exited, Failure};
use store::container::{
    Container, Health, HealthStatus, HostSocket, RootfsMode, Spec, State, Status,
};
use store::events::{self, Event};
use store::fault;
use tokio::sync::watch;

use crate::args::Volume;
use crate::failure;
use crate::hub::Log;
use crate::life::{Outcome, Shared};
use crate::policy::Restarts;
use crate::presence::Presence;
use crate::record::Record;
use crate::timeline::Timeline;

/// Signals that ask nobody to end: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH.
const HARMLESS: [u32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];

/// A process that ends within this time of any other signal ended because of it.
const REACTION: Duration = Duration::from_secs(10);

/// What there is of the container at this moment.
#[derive(Clone)]
pub enum Now {
    /// A VM, from before its start to after its end.
    Run(Arc<Shared>),
    /// Nothing; it will be started again.
    Waiting,
    /// Nothing, for ever.
    Over,
}

/// Who ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dismissal {
    /// A person: by `stop`, or by `kill` with a signal that did it.
    Person,
    /// The host is going down, or the supervisor is told to end.
    Host,
}

/// A supervisor's time with a container.
pub struct Supervision {
    /// There is a VM without the container's process, for its files; the state is not ours to write.
    pub maintenance: bool,
    /// The volumes that each VM gets: their leases are among ours.
    pub volumes: Vec<Volume>,
    /// `state.json`.
    pub record: Record,
    /// How the first run started.
    pub started: watch::Receiver<Option<Result<(), Failure>>>,
    /// Set once, at the very end.
    pub ended: watch::Sender<Option<Exited>>,
    /// Somebody was told that it runs, or how it went: the supervisor need not wait for a first call.
    pub told: watch::Sender<bool>,
    /// Who is connected.
    pub presence: Presence,
    /// Where the SSH agent was at the first run that forwards it, without links: those that are there later may be a guest's.
    pub ssh_agent: OnceLock<PathBuf>,
    /// No client is let in any more (maintenance).
    pub closed: watch::Sender<bool>,
    /// The supervisor itself is told to end: the host goes down, perhaps.
    pub hastened: watch::Sender<bool>,
    /// As its files were when it was last started.
    container: Mutex<Container>,
    log: Arc<Log>,
    now: watch::Sender<Now>,
    dismissed: watch::Sender<Option<Dismissal>>,
    /// The last signal that a person sent, and when.
    signalled: Mutex<Option<(u32, Instant)>>,
    restarts: Mutex<Restarts>,
    execs: AtomicU64,
}

impl Supervision {
    /// Of a container whose lock we hold. Nothing has begun.
    ///
    /// # Errors
    /// The log can't be written.
    pub fn new(
        container: &Container,
        timeline: Timeline,
        maintenance: bool,
        volumes: Vec<Volume>,
    ) -> Result<Supervision, store::logs::Error> {
        let log = Arc::new(if maintenance {
            Log::none()
        } else {
            Log::open(container)?
        });
        let told = watch::Sender::default();
        let first = Shared::new(container.spec(), log.clone(), told.clone(), timeline);
        Ok(Supervision {
            maintenance,
            volumes,
            record: Record::new(container.clone(), before(container)),
            started: first.started.subscribe(),
            ended: watch::Sender::default(),
            told,
            presence: Presence::default(),
            ssh_agent: OnceLock::new(),
            closed: watch::Sender::default(),
            hastened: watch::Sender::default(),
            container: Mutex::new(container.clone()),
            log,
            now: watch::Sender::new(Now::Run(Arc::new(first))),
            dismissed: watch::Sender::default(),
            signalled: Mutex::default(),
            restarts: Mutex::new(Restarts::new(container.spec().restart)),
            execs: AtomicU64::new(0),
        })
    }

    /// What there is.
    pub fn now(&self) -> Now {
        self.now.borrow().clone()
    }

    /// The container, as its files were when it was last started.
    pub fn container(&self) -> Container {
        lock(&self.container).clone()
    }

    /// Whether volumes of the container are missing in its VM.
    pub fn lacks_volumes(&self) -> bool {
        let container = lock(&self.container);
        let missing = |volume: &String| self.volumes.iter().all(|here| here.name != *volume);
        let mut mounts = container.spec().mounts.iter();
        mounts.any(|mount| missing(&mount.volume))
    }

    /// The guest has filled the volumes that it may write to: from now on they are as their writers leave them. Who died before
    /// this has left them for the next one to fill, also when that one only reads.
    pub async fn volumes_are_filled(&self) {
        let container = self.container();
        let volumes = self.volumes.iter().filter(|volume| !volume.read_only);
        let names: Vec<String> = volumes.map(|volume| volume.name.clone()).collect();
        // Where a volume is the root there is no image to fill it from.
        if names.is_empty() || container.spec().vm.rootfs == RootfsMode::Volume {
            return;
        }
        let marking = tokio::task::spawn_blocking(move || {
            for name in names {
                let marked = store::volume::open(container.root(), &name);
                if let Err(error) = marked.and_then(|mut volume| volume.mark_used()) {
                    // It costs the next one that reads a VM, which finds files and leaves them alone.
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, name, "a volume's first use can't be written down");
                }
            }
        });
        let _ = marking.await;
    }

    /// Whether its state says so.
    pub fn is(&self, status: Status) -> bool {
        self.record.edit(|state| state.status == status)
    }

    /// A name for a further process, new in every run.
    pub fn process_name(&self, what: &str) -> String {
        let number = self.execs.fetch_add(1, Ordering::Relaxed);
        format!("{what}-{number}")
    }

    /// It is to end and not to be started again. What is known of it first stays.
    pub fn dismiss(&self, why: Dismissal) {
        self.dismissed.send_if_modified(|dismissed| {
            let first = dismissed.is_none();
            dismissed.get_or_insert(why);
            first
        });
    }

    /// Waits until somebody ends it.
    pub async fn is_dismissed(&self) {
        let mut dismissed = self.dismissed.subscribe();
        // The sender lives as long as this.
        let _ = dismissed.wait_for(Option::is_some).await;
    }

    /// Waits until no client is let in any more.
    pub async fn is_closed(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// A person is about to send a signal. Whether that ended it is seen at its end.
    pub fn note_signal(&self, signal: u32) {
        *lock(&self.signalled) = Some((signal, Instant::now()));
    }

    /// The policy is another one.
    ///
    /// # Errors
    /// The spec can't be read.
    pub fn read_policy(&self) -> Result<(), store::container::Error> {
        let spec = self.read()?;
        lock(&self.restarts).set(spec.spec().restart);
        Ok(())
    }

    /// The container as its files are now.
    fn read(&self) -> Result<Container, store::container::Error> {
        let container = self.container();
        Container::from_dir(container.root(), container.dir())
    }

    /// Notes an event.
    pub fn emit(&self, action: &str, attributes: &[(&str, &dyn ToString)]) {
        // It may have been renamed since it was started.
        let container = self.read().unwrap_or_else(|_| self.container());
        let mut event = Event::container(container.spec(), action);
        for (name, value) in attributes {
            event = event.with(name, value.to_string());
        }
        events::emit(container.root(), &event);
    }

    /// A run begins: readers see it at once, and it is on its way to the disk.
    ///
    /// # Errors
    /// The state can't be written.
    pub fn write_begin(&self, spec: &Spec, sockets: Vec<HostSocket>) -> Result<(), Failure> {
        let restarts = lock(&self.restarts).count();
        self.record.edit(|state| {
            let log = state.health.take().map(|health| health.log);
            let networks = std::mem::take(&mut state.networks);
            *state = State {
                status: Status::Running,
                pid: Some(std::process::id()),
                started_ns: Some(store::now_ns()),
                finished_ns: state.finished_ns,
                restarts,
                health: spec.health.as_ref().map(|_| Health {
                    log: log.unwrap_or_default(),
                    ..Health::default()
                }),
                networks,
                sockets,
                ..State::created()
            };
        });
        fault::point("vm.begin-write");
        self.record
            .show()
            .map_err(|error| failure::from_error("write the state", "", &error))?;
        fault::point("vm.begin-written");
        self.record.keep();
        Ok(())
    }

    /// The process of a run ended, or never ran: writes that down. How long to wait before the next run, if there is one.
    pub fn write_end(&self, shared: &Shared, outcome: &Outcome) -> Option<Duration> {
        let again = self.again(shared, outcome);
        let exit = &outcome.exit;
        let error = exit.failure.as_ref().map(failure::describe);
        if let Some(error) = &error {
            tracing::error!(%error, "the container failed");
        }
        self.record.edit(|state| {
            state.finished_ns = Some(store::now_ns());
            state.exit_code = Some(exit.exit_code);
            state.oom_killed = exit.oom_killed;
            state.error = error;
            state.sockets.clear();
            if let Some(health) = &mut state.health {
                // As Docker has it: nobody watches it any more.
                health.status = HealthStatus::Unhealthy;
            }
        });
        self.write_rest(again.is_some());
        if outcome.ran {
            if exit.oom_killed {
                self.emit("oom", &[]);
            }
            let lasted = shared.lasted().as_secs();
            let code = ("exitCode", &exit.exit_code as &dyn ToString);
            self.emit("die", &[code, ("execDuration", &lasted)]);
        }
        again
    }

    /// What the state is between two runs, or at the end.
    fn write_rest(&self, again: bool) {
        let dismissed = *self.dismissed.borrow();
        let restarts = lock(&self.restarts).count();
        self.record.edit(|state| {
            (state.status, state.pid) = if again {
                (Status::Restarting, Some(std::process::id()))
            } else {
                (Status::Exited, None)
            };
            state.stopped = dismissed == Some(Dismissal::Person);
            state.restarts = restarts;
        });
        fault::point("vm.end-write");
        self.record.write_or_log();
        fault::point("vm.end-written");
    }

    fn again(&self, shared: &Shared, outcome: &Outcome) -> Option<Duration> {
        if self.ended_by_signal(outcome) {
            self.dismiss(Dismissal::Person);
        }
        if self.dismissed.borrow().is_some() || shared.spec.remove {
            return None;
        }
        let mut restarts = lock(&self.restarts);
        // As Docker: one that could not be started is not tried again. A VM that was lost is no such.
        let started = outcome.ran || (restarts.count() > 0 && outcome.lost());
        if !started {
            return None;
        }
        restarts.next(outcome.exit.exit_code, shared.lasted())
    }

    fn ended_by_signal(&self, outcome: &Outcome) -> bool {
        let Some((signal, at)) = *lock(&self.signalled) else {
            return false;
        };
        let asked = !HARMLESS.contains(&signal) && at.elapsed() < REACTION;
        outcome.ran && !outcome.lost() && (asked || outcome.exit.exit_code == 128 + signal)
    }
}

/// What a new life keeps of the last one: where it was on its networks.
fn before(container: &Container) -> State {
    let networks = match container.spec().networks.is_empty() {
        true => Vec::new(),
        false => container
            .state()
            .map(|state| state.networks)
            .unwrap_or_default(),
    };
    State {
        networks,
        ..State::created()
    }
}

/// What tests begin with: the supervision of a container that is about to run, and that run. The root goes with the folder.
#[cfg(test)]
pub fn fresh() -> (tempfile::TempDir, Arc<Supervision>, Arc<Shared>) {
    fresh_with(vec![])
}

/// The same with volumes.
#[cfg(test)]
pub fn fresh_with(volumes: Vec<Volume>) -> (tempfile::TempDir, Arc<Supervision>, Arc<Shared>) {
    let dir = tempfile::tempdir().unwrap();
    let root = store::Root::open(dir.path()).unwrap();
    let spec = Spec {
        id: "c".repeat(64),
        name: "box".to_owned(),
        ..Spec::default()
    };
    let (container, _lock) = store::container::create(&root, &spec).unwrap();
    let timeline = Timeline::default();
    let supervision = Supervision::new(&container, timeline, false, volumes);
    let supervision = Arc::new(supervision.unwrap());
    let Now::Run(run) = supervision.now() else {
        panic!("it begins with a run");
    };
    (dir, supervision, run)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use store::file::Durability;
    use store::lock::Mode;
    use store::volume;

    use super::*;

    #[tokio::test]
    async fn what_its_guest_has_filled_is_used() {
        let names = ["written", "read"];
        let volumes = names.map(|name| Volume {
            name: name.to_owned(),
            read_only: name == "read",
        });
        let (_dir, supervision, _run) = fresh_with(volumes.into());
        let root = supervision.container().root().clone();
        let index = volume::hold(&root, Mode::Shared).unwrap();
        for name in names {
            let spec = volume::Spec {
                name: name.to_owned(),
                size: volume::LEAST_SIZE,
                ..volume::Spec::default()
            };
            volume::create(&root, &spec, &index, Durability::Unsynced).unwrap();
        }
        let used = || names.map(|name| volume::open(&root, name).unwrap().spec().used);
        assert_eq!(used(), [false, false]);
        supervision.volumes_are_filled().await;
        assert_eq!(used(), [true, false]);
    }
}
