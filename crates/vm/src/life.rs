//! The life of a container: one run of it, from the supervisor's start to the last message.
//!
//! ```text
//!  booting ──► running ──► drained ──► written ──► unmounted ──► off ──► released ──► told
//!     │           │                       ▲                       ▲
//!     │           └── the VM is lost ─────┴───────────────────────┤
//!     └── the process can't start ────────┘                       │
//!     └── the VM can't start ─────────────────────────────────────┘
//! ```
//!
//! One task owns the life; the service's calls only read its milestones ([`Shared`]) and talk to the agent. The exit code has
//! one owner: whoever wants it waits for the milestone.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use hypervisor::config::VmConfig;
use hypervisor::{StartOptions, Started, Vm};
use proto::agent::WaitReply;
use proto::supervisor::{Exited, Failure, output};
use store::container::{Container, Spec, State, Status};
use store::locate::Programs;
use store::logs::Stream;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, watch};

use crate::guest::Guest;
use crate::hub::Hub;
use crate::streams::Streams;
use crate::timeline::Timeline;
use crate::{bill, drivers, failure, process};

/// The agent's name for the container's first process.
pub const MAIN: &str = "main";

/// How long the primary client may take to attach: it connected before the supervisor was started, so that only one that died
/// in between takes this long.
const ATTACH: Duration = Duration::from_secs(20);

/// How long a guest may take to unmount and power off before the plug is pulled. The file systems survive that; it is not clean.
const POWER_OFF: Duration = Duration::from_secs(30);

/// How long a VM whose agent is lost may take to die by itself (a panic's reset is on its way) before it is killed.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What the service's calls see of the life.
pub struct Shared {
    /// The container's spec.
    pub spec: Spec,
    /// Set once: the process runs, or could not start.
    pub started: watch::Sender<Option<Result<(), Failure>>>,
    /// Set once, at the very end.
    pub ended: watch::Sender<Option<Exited>>,
    /// Held for reading by each exec while its output is on its way; the plug is pulled by whoever holds it for writing.
    pub execs: Arc<tokio::sync::RwLock<()>>,
    /// The monitors' process ids, from the VM's start on.
    pub monitors: std::sync::Mutex<Vec<u32>>,
    /// The end is written to `state.json`.
    pub settled: watch::Sender<bool>,
    /// Somebody was told that it runs, or how it went: the supervisor need not wait for a first call.
    pub told: watch::Sender<bool>,
    /// The primary client is there.
    pub primary: watch::Sender<bool>,
    /// The agent, from the hand-shake on.
    pub guest: watch::Sender<Option<Guest>>,
    /// The first process's stdin, while it is open.
    pub stdin: Mutex<Option<OwnedWriteHalf>>,
    /// A terminal's size that came before the process did.
    pub size: std::sync::Mutex<Option<proto::supervisor::TerminalSize>>,
    /// Output of the first process.
    pub hub: Hub,
    /// Streams to come.
    pub streams: Arc<Streams>,
    /// Moments.
    pub timeline: Arc<Timeline>,
}

impl Shared {
    /// Returns at once while the monitors live; when one is dead, when its death is written down. So whoever asks a
    /// supervisor before reading the state never reads that a dead VM runs.
    pub async fn settle(&self) {
        let dead = {
            let monitors = self.monitors.lock();
            let monitors = monitors.unwrap_or_else(PoisonError::into_inner);
            monitors.iter().any(|pid| !alive(*pid))
        };
        if dead {
            let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
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

/// What one run of a container owns.
pub struct Life {
    /// The container's folder.
    pub container: Container,
    /// The lock and the leases.
    pub leases: Vec<OwnedFd>,
    /// Wait for the primary client.
    pub attached: bool,
    /// What the service sees.
    pub shared: Arc<Shared>,
}

/// How the guest's part went.
struct Outcome {
    exit: Exited,
    /// The process ran.
    ran: bool,
}

/// Whether anything that a guest may still write is there after its VM.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Nothing,
    Something,
}

impl Lasting {
    fn of(config: &VmConfig) -> Lasting {
        let disks = config.disks.iter();
        let mut disks = disks.filter(|disk| !disk.read_only && !disk.volatile);
        let mut shares = config.shares.iter().filter(|share| !share.read_only);
        if disks.next().is_none() && shares.next().is_none() {
            Lasting::Nothing
        } else {
            Lasting::Something
        }
    }
}

impl Life {
    /// Lives it, to the point where everything is gone and the leases are free. What is left to do is to say so.
    pub async fn live(mut self) -> Exited {
        let shared = self.shared.clone();
        let mut state = State {
            status: Status::Running,
            pid: Some(std::process::id()),
            started_ns: Some(store::now_ns()),
            ..State::created()
        };
        let outcome = match self.start_vm(&mut state).await {
            Ok((started, lasting)) => self.with_vm(started, lasting, &mut state).await,
            Err(failure) => {
                let outcome = never_ran(failure);
                self.write_end(&mut state, &outcome);
                outcome
            }
        };
        if !outcome.ran {
            let failure = outcome.exit.failure.clone().unwrap_or_default();
            shared.started.send_replace(Some(Err(failure)));
        }
        self.leave();
        outcome.exit
    }

    /// The VM, and what of it lasts.
    async fn start_vm(&mut self, state: &mut State) -> Result<(Started, Lasting), Failure> {
        let spec = &self.shared.spec;
        self.container
            .write_state(state)
            .map_err(|error| failure::from_error("write the state", "", &error))?;
        let programs = Programs::new(None);
        let config = bill::vm_config(&self.container, &programs)?;
        let driver = drivers::choose(self.container.root(), &spec.vm.driver, &programs)?;
        state.driver = Some(driver.kind().to_string());
        let held = self
            .leases
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failure::from_error("hand the leases over", "", &error))?;
        let options = StartOptions {
            held,
            listen: vec![proto::AGENT_PORT, proto::STDIO_PORT],
        };
        let started = driver
            .start(&config, options)
            .await
            .map_err(|error| failure::from_error("start the VM", "", &error))?;
        self.shared.timeline.mark("monitor started");
        Ok((started, Lasting::of(&config)))
    }

    async fn with_vm(&mut self, started: Started, lasting: Lasting, state: &mut State) -> Outcome {
        let Started { vm, mut listeners } = started;
        *self
            .shared
            .monitors
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            vm.processes().into_iter().map(|(_, pid)| pid).collect();
        let (Some(stdio), Some(agent)) = (listeners.pop(), listeners.pop()) else {
            vm.stop(Duration::ZERO).await;
            return never_ran(failure::own(
                "start the VM",
                "",
                "it came without listeners",
            ));
        };
        tokio::spawn(self.shared.streams.clone().serve(stdio));
        let outcome = tokio::select! {
            outcome = self.converse(agent, state) => outcome,
            exit = vm.wait() => Err(failure::lost(exit.to_string())),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(failure) => self.lost(&*vm, failure).await,
        };
        self.write_end(state, &outcome);
        self.shared.timeline.mark("status written");
        self.power_off(&*vm, lasting).await;
        self.shared.timeline.mark("monitor gone");
        outcome
    }

    /// Everything up to the drained streams of a process that ended. An error means that the VM is of no use any more.
    async fn converse(
        &self,
        listener: hypervisor::Listener,
        state: &mut State,
    ) -> Result<Outcome, Failure> {
        let shared = &self.shared;
        let (guest, reply) = Guest::handshake(listener, &shared.spec.id).await?;
        shared.timeline.mark_guest(&reply);
        shared.timeline.mark("agent greeted");
        if let Err(failure) = guest.boot(bill::boot_request(&shared.spec)).await {
            return give_up(failure);
        }
        shared.timeline.mark("guest mounted");
        shared.guest.send_replace(Some(guest.clone()));
        if self.attached {
            // The sender lives in `shared`: this ends with a client, or with the time-out.
            let mut primary = shared.primary.subscribe();
            let there = primary.wait_for(|there| *there);
            if tokio::time::timeout(ATTACH, there).await.is_err() {
                return Ok(never_ran(failure::own(
                    "wait for the client",
                    "",
                    "it went away before it attached",
                )));
            }
        }
        let mut spec = bill::main_process(&shared.spec);
        spec.size = self.size();
        let with_stdin = shared.spec.process.stdin;
        let running = match process::start(&guest, &shared.streams, MAIN, spec, with_stdin).await {
            Ok(running) => running,
            Err(failure) => return give_up(failure),
        };
        shared.timeline.mark("process started");
        *shared.stdin.lock().await = running.stdin;
        state.started_ns = Some(store::now_ns());
        if let Err(error) = self.container.write_state(state) {
            tracing::error!(%error, "the state can't be written");
        }
        shared.started.send_replace(Some(Ok(())));
        if shared.hub.tell(output::Output::Started(true)).await {
            shared.told.send_replace(true);
        }
        let (reply, (), ()) = tokio::join!(
            guest.wait(MAIN),
            self.pump(Some(running.stdout), Stream::Stdout),
            self.pump(running.stderr, Stream::Stderr),
        );
        let reply = reply?;
        shared.timeline.mark("process exited");
        Ok(ended(&reply))
    }

    async fn pump(&self, stream: Option<UnixStream>, name: Stream) {
        let Some(mut stream) = stream else { return };
        let mut buffer = BytesMut::new();
        while let Some(bytes) = process::next(&mut stream, &mut buffer).await {
            self.shared.hub.write(name, bytes).await;
        }
    }

    fn size(&self) -> Option<proto::agent::TerminalSize> {
        let size = self.shared.size.lock();
        let size = size.unwrap_or_else(PoisonError::into_inner);
        size.map(bill::terminal_size)
    }

    /// The conversation broke off: the VM is dead, dying, or no longer answers. Its own words say more than a broken connection.
    async fn lost(&self, vm: &dyn Vm, failure: Failure) -> Outcome {
        // Nobody is to call it any more.
        self.shared.guest.send_replace(None);
        let exit = match tokio::time::timeout(LAST_WORDS, vm.wait()).await {
            Ok(exit) => {
                let mut failure = failure.clone();
                if failure.kind() == proto::supervisor::failure::Kind::VmLost {
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
        }
    }

    /// How the VM ended, and what its kernel said last.
    fn epitaph(&self, exit: &hypervisor::VmExit) -> String {
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
    async fn power_off(&self, vm: &dyn Vm, lasting: Lasting) {
        if lasting == Lasting::Nothing
            && let Ok(_no_execs) = self.shared.execs.try_write()
        {
            vm.stop(Duration::ZERO).await;
            return;
        }
        let guest = self.shared.guest.borrow().clone();
        if let Some(guest) = guest {
            let farewell = async {
                match guest.shutdown().await {
                    Ok(()) => {
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
    }

    fn write_end(&self, state: &mut State, outcome: &Outcome) {
        state.status = Status::Exited;
        state.pid = None;
        state.finished_ns = Some(store::now_ns());
        state.exit_code = Some(outcome.exit.exit_code);
        state.oom_killed = outcome.exit.oom_killed;
        state.error = outcome.exit.failure.as_ref().map(failure::describe);
        if let Some(error) = &state.error {
            tracing::error!(%error, "the container failed");
        }
        if let Err(error) = self.container.write_state(state) {
            tracing::error!(%error, "the state can't be written");
        }
        self.shared.settled.send_replace(true);
    }

    /// The socket goes while the lock is still held, so that the next start can make a new one; then the leases.
    fn leave(&mut self) {
        let socket = self.container.supervisor_socket();
        if let Err(error) = store::file::remove(&socket) {
            tracing::warn!(%error, socket = %socket.display(), "the socket can't be removed");
        }
        if self.shared.spec.remove
            && let Err(error) = self.container.remove_all()
        {
            tracing::error!(%error, "the container can't be removed");
        }
        self.leases.clear();
        self.shared.timeline.mark("leases released");
    }
}

/// How clients are told: a process that never ran has failed, one that was lost with its VM has exited.
pub fn last_message(exited: Exited) -> output::Output {
    match &exited.failure {
        Some(failure) if failure.kind() != proto::supervisor::failure::Kind::VmLost => {
            output::Output::Failed(failure.clone())
        }
        _ => output::Output::Exited(exited),
    }
}

/// The guest is well, but the container's process can't run in it.
fn give_up(failure: Failure) -> Result<Outcome, Failure> {
    if failure.kind() == proto::supervisor::failure::Kind::VmLost {
        return Err(failure);
    }
    Ok(never_ran(failure))
}

fn never_ran(failure: Failure) -> Outcome {
    Outcome {
        exit: Exited {
            exit_code: failure::exit_code(&failure),
            failure: Some(failure),
            ..Exited::default()
        },
        ran: false,
    }
}

fn ended(reply: &WaitReply) -> Outcome {
    Outcome {
        exit: Exited {
            // One byte, whatever the guest says.
            exit_code: reply.exit_code & 0xff,
            oom_killed: reply.oom_killed,
            ..Exited::default()
        },
        ran: true,
    }
}
