//! The life of a VM: one run of a container, from the monitor's start to its end.
//!
//! ```text
//!  booting ──► running ──► drained ──► written ──► unmounted ──► off
//!     │           │                       ▲                       ▲
//!     │           └── the VM is lost/cut ─┴───────────────────────┤
//!     └── the process can't start ────────┘                       │
//!     └── the VM can't start ─────────────────────────────────────┘
//! ```
//!
//! One task owns the life; the service's calls only read its milestones ([`Shared`]) and talk to the agent. The exit code has
//! one owner: whoever wants it waits for the milestone. What comes after it is [`crate::supervision`]'s: leases and the last
//! message, or the next run.

mod end;
mod shared;

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use hypervisor::{Driver, StartOptions, Started, Vm, VmConfig};
use proto::supervisor::{Exited, Failure, failure::Kind, output};
use store::container::Container;
use store::fault;
use store::locate::Programs;
use store::logs::Stream;
use tokio::net::UnixStream;

pub use end::{Outcome, last_message};
pub use shared::Shared;

use end::{Lasting, ended, never_ran};

use crate::bill::Seats;
use crate::guest::Guest;
use crate::networks::Networks;
use crate::sockets::Sockets;
use crate::supervision::Supervision;
use crate::{bill, clock, drivers, failure, health, process};

/// The agent's name for the container's first process.
pub const MAIN: &str = "main";

/// How long the primary client may take to attach: it connected before the supervisor was started, so that only one that died
/// in between takes this long.
const ATTACH: Duration = Duration::from_secs(20);

/// How long a guest may take beyond the time that its process has to end. Then its VM is cut off: a guest that hangs, or that
/// means ill, keeps no container from ending.
pub const GRACE: Duration = Duration::from_secs(10);

/// What one run of a container has.
pub struct Life<'a> {
    /// The container's folder.
    pub container: Container,
    /// The lock and the leases.
    pub leases: &'a [OwnedFd],
    /// Wait for the primary client.
    pub attached: bool,
    /// What the service sees.
    pub shared: Arc<Shared>,
    /// What outlives it.
    pub supervision: Arc<Supervision>,
}

impl Life<'_> {
    /// Lives it, to the point where the VM is gone.
    pub async fn live(self) -> Outcome {
        let outcome = match self.start().await {
            Ok((started, lasting, networks, sockets)) => {
                self.with_vm(started, lasting, &networks, sockets).await
            }
            Err(failure) => self.write_end(never_ran(failure)),
        };
        if !outcome.ran {
            let failure = outcome.exit.failure.clone().unwrap_or_default();
            self.shared.started.send_replace(Some(Err(failure)));
        }
        outcome
    }

    /// A VM without the container's process, until its clients are gone. The state is not written: the container is stopped.
    pub async fn maintain(self) -> Exited {
        let outcome = async {
            let volumes = &self.supervision.volumes;
            let programs = Programs::new(None);
            let config = bill::maintenance_config(&self.container, volumes, &programs)?;
            let driver = self.driver(&programs)?;
            let Started { vm, mut listeners } =
                self.start_vm(&*driver, &config, Vec::new()).await?;
            let Some(agent) = self.listen(&*vm, &mut listeners) else {
                return Err(no_listeners());
            };
            let open = async {
                let guest = self.greet(agent).await?;
                guest
                    .boot(bill::maintenance_request(&self.shared.spec, volumes))
                    .await?;
                self.supervision.volumes_are_filled().await;
                self.shared.guest.send_replace(Some(guest));
                self.shared.started.send_replace(Some(Ok(())));
                self.is_unneeded().await;
                Ok(())
            };
            // Before its files are there a guest may be silent for ever, with nobody left to wait for it.
            let overdue = async {
                self.is_unneeded().await;
                tokio::time::sleep(GRACE).await;
            };
            let result = tokio::select! {
                result = open => result,
                exit = vm.wait() => Err(failure::lost(self.epitaph(&exit))),
                () = overdue => Err(failure::lost("the guest did not boot in time")),
            };
            if result.is_err() {
                self.shared.guest.send_replace(None);
            }
            self.power_off(&*vm, Lasting::of(&config)).await;
            result
        };
        let failure = outcome.await.err();
        if let Some(failure) = &failure {
            let words = failure::describe(failure);
            tracing::error!(failure = %words, "the container's files can't be reached");
            self.shared
                .started
                .send_if_modified(|started| match started {
                    None => {
                        *started = Some(Err(failure.clone()));
                        true
                    }
                    Some(_) => false,
                });
        }
        Exited {
            failure,
            ..Exited::default()
        }
    }

    /// Waits until no client has any use for a VM that is there for its files.
    async fn is_unneeded(&self) {
        tokio::select! {
            () = self.supervision.is_closed() => {}
            () = self.supervision.is_dismissed() => {}
        }
    }

    /// The VM, what of it lasts, its networks, and its sockets.
    async fn start(&self) -> Result<(Started, Lasting, Arc<Networks>, Sockets), Failure> {
        let spec = &self.shared.spec;
        let sockets = Sockets::open(spec, &self.supervision.ssh_agent);
        let files = sockets.as_ref().map(Sockets::files);
        self.supervision
            .write_begin(spec, files.unwrap_or_default())?;
        let sockets = sockets?;
        let volumes = &self.supervision.volumes;
        let programs = Programs::new(None);
        let driver = self.driver(&programs)?;
        let processors = drivers::processors(&*driver);
        let config = bill::vm_config(&self.container, volumes, &programs, processors)?;
        self.shared.vcpus.store(config.vcpus, Ordering::Relaxed);
        let failed = |error| failure::from_error("make a link", "", &error);
        let framing = crate::network::framing(driver.kind());
        let (mut networks, links) =
            Networks::new(self.container.root(), spec, framing).map_err(failed)?;
        let started = self.start_vm(&*driver, &config, links).await?;
        // After the monitor: the guest's boot takes longer than anything here.
        let before = |network: &str| {
            self.supervision.record.edit(|state| {
                let mut before = state.networks.iter();
                let before = before.find(|before| before.network == network);
                before.map(|before| before.address)
            })
        };
        networks.begin(before).map_err(failed)?;
        let networks = Arc::new(networks);
        *self
            .shared
            .networks
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(networks.clone());
        Ok((started, Lasting::of(&config), networks, sockets))
    }

    fn driver(&self, programs: &Programs) -> Result<Box<dyn Driver>, Failure> {
        drivers::choose(self.container.root(), &self.shared.spec.vm.driver, programs)
    }

    async fn start_vm(
        &self,
        driver: &dyn Driver,
        config: &VmConfig,
        links: Vec<OwnedFd>,
    ) -> Result<Started, Failure> {
        let kind = driver.kind().to_string();
        self.supervision
            .record
            .edit(|state| state.driver = Some(kind));
        let held = self
            .leases
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failure::from_error("hand the leases over", "", &error))?;
        let options = StartOptions {
            held,
            links,
            listen: vec![proto::AGENT_PORT, proto::STDIO_PORT],
        };
        fault::point("vm.monitor-start");
        let started = driver
            .start(config, options)
            .await
            .map_err(|error| failure::from_error("start the VM", "", &error))?;
        fault::point("vm.monitor-started");
        self.shared.timeline.mark("monitor started");
        Ok(started)
    }

    /// Lets the guest's streams come in. The listener for its agent.
    fn listen(
        &self,
        vm: &dyn Vm,
        listeners: &mut Vec<hypervisor::Listener>,
    ) -> Option<hypervisor::Listener> {
        *self
            .shared
            .monitors
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            vm.processes().into_iter().map(|(_, pid)| pid).collect();
        let (stdio, agent) = (listeners.pop()?, listeners.pop()?);
        tokio::spawn(self.shared.streams.clone().serve(stdio));
        Some(agent)
    }

    async fn with_vm(
        &self,
        started: Started,
        lasting: Lasting,
        networks: &Networks,
        mut sockets: Sockets,
    ) -> Outcome {
        let Started { vm, mut listeners } = started;
        let Some(agent) = self.listen(&*vm, &mut listeners) else {
            vm.stop(Duration::ZERO).await;
            drop(sockets);
            return self.write_end(never_ran(no_listeners()));
        };
        let outcome = tokio::select! {
            outcome = self.converse(agent, networks, &mut sockets) => outcome,
            failure = networks.first_failure() => Ok(never_ran(failure)),
            exit = vm.wait() => Err(failure::lost(exit.to_string())),
            () = self.shared.is_cut() => Ok(self.cut_off(&*vm).await),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(failure) => self.lost(&*vm, failure).await,
        };
        // Before the state forgets them.
        drop(sockets);
        let outcome = self.write_end(outcome);
        self.shared.timeline.mark("status written");
        // The network is left while the monitor ends.
        tokio::join!(self.power_off(&*vm, lasting), networks.leave());
        self.shared.timeline.mark("monitor gone");
        outcome
    }

    fn write_end(&self, outcome: Outcome) -> Outcome {
        let again = self.supervision.write_end(&self.shared, &outcome);
        self.shared.settled.send_replace(true);
        Outcome { again, ..outcome }
    }

    /// Takes the agent's call.
    async fn greet(&self, listener: hypervisor::Listener) -> Result<Guest, Failure> {
        let shared = &self.shared;
        let (guest, reply) = Guest::handshake(listener, &shared.spec.id).await?;
        shared.timeline.mark_guest(&reply);
        shared.timeline.mark("agent greeted");
        fault::point("vm.agent-greeted");
        Ok(guest)
    }

    /// Everything up to the drained streams of a process that ended. An error means that the VM is of no use any more.
    async fn converse(
        &self,
        listener: hypervisor::Listener,
        networks: &Networks,
        sockets: &mut Sockets,
    ) -> Result<Outcome, Failure> {
        let shared = &self.shared;
        let guest = self.greet(listener).await?;
        let seats = match self.joined(networks).await {
            Ok(seats) => seats,
            Err(failure) => return Ok(never_ran(failure)),
        };
        let mut request = bill::boot_request(&shared.spec, &self.supervision.volumes, &seats);
        request.sockets = sockets.doors(&shared.streams, &shared.spec.process.user)?;
        if let Err(failure) = guest.boot(request).await {
            return give_up(failure);
        }
        shared.timeline.mark("guest mounted");
        fault::point("vm.guest-booted");
        self.supervision.volumes_are_filled().await;
        shared.guest.send_replace(Some(guest.clone()));
        if self.attached {
            // The sender lives in `shared`: this ends with a client, or with the time-out.
            let mut primary = shared.primary.subscribe();
            let there = async {
                tokio::select! {
                    biased;
                    _ = primary.wait_for(|there| *there) => true,
                    // The client gave up, and ends what it began.
                    () = self.supervision.is_dismissed() => false,
                }
            };
            if !matches!(tokio::time::timeout(ATTACH, there).await, Ok(true)) {
                return Ok(never_ran(failure::own(
                    "wait for the client",
                    "",
                    "it went away before it attached",
                )));
            }
        }
        let mut spec = match bill::main_process(&shared.spec) {
            Ok(spec) => spec,
            Err(failure) => return Ok(never_ran(failure)),
        };
        spec.size = self.size();
        let with_stdin = shared.spec.process.stdin;
        let running = match process::start(&guest, &shared.streams, MAIN, spec, with_stdin).await {
            Ok(running) => running,
            Err(failure) => return give_up(failure),
        };
        shared.timeline.mark("process started");
        fault::point("vm.process-started");
        *shared.stdin.lock().await = running.stdin;
        self.tell_started().await;
        let _relays = sockets.begin(&guest, &shared.streams)?;
        let _clock = clock::begin(&guest);
        let _health = health::begin(&self.supervision, shared, &guest);
        let (reply, (), ()) = tokio::join!(
            guest.wait(MAIN),
            self.pump(Some(running.stdout), Stream::Stdout),
            self.pump(running.stderr, Stream::Stderr),
        );
        let reply = reply?;
        shared.timeline.mark("process exited");
        fault::point("vm.process-exited");
        Ok(ended(&reply))
    }

    /// Where the container is on its networks; the state says it, too.
    async fn joined(&self, networks: &Networks) -> Result<Seats, Failure> {
        let seats = networks.joined().await?;
        if let Some(attached) = networks.attached().await {
            let record = &self.supervision.record;
            record.edit(|state| state.networks = attached);
        }
        self.shared.timeline.mark("network joined");
        Ok(seats)
    }

    /// The process runs: readers of the state see it, then clients are told, then it goes to the disk.
    async fn tell_started(&self) {
        let (shared, supervision) = (&self.shared, &self.supervision);
        shared.begin();
        let record = &supervision.record;
        record.edit(|state| state.started_ns = Some(store::now_ns()));
        record.show_or_log();
        // That it runs at all was on its way to the disk while the VM booted.
        record.kept_is_done().await;
        fault::point("vm.started-tell");
        shared.started.send_replace(Some(Ok(())));
        if shared.hub.tell(output::Output::Started(true)).await {
            shared.told.send_replace(true);
        }
        fault::point("vm.started-told");
        record.keep();
        let supervision = supervision.clone();
        // After the clients' connections have had their turn.
        tokio::spawn(async move { supervision.emit("start", &[]) });
    }

    async fn pump(&self, stream: Option<UnixStream>, name: Stream) {
        let Some(mut stream) = stream else { return };
        let mut buffer = BytesMut::new();
        while let Some(bytes) = process::next(&mut stream, &mut buffer).await {
            self.shared.timeline.mark("first byte");
            self.shared.hub.write(name, bytes).await;
        }
    }

    fn size(&self) -> Option<proto::agent::TerminalSize> {
        let size = self.shared.size.lock();
        let size = size.unwrap_or_else(PoisonError::into_inner);
        size.map(bill::terminal_size)
    }
}

/// The guest is well, but the container's process can't run in it.
fn give_up(failure: Failure) -> Result<Outcome, Failure> {
    if failure.kind() == Kind::VmLost {
        return Err(failure);
    }
    Ok(never_ran(failure))
}

fn no_listeners() -> Failure {
    failure::own("start the VM", "", "it came without listeners")
}
