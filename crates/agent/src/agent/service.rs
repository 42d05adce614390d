//! `proto::agent`, served: the state of the VM's one container, and what each call does to it.
//!
//! ```text
//!          Boot             Start "main"           main ends            Shutdown
//! empty ─────────► booted ───────────────► runs ──────────────► over ───────────► the VM ends
//!                                           └ Start of others, Signal, Resize, Stop; Wait, also afterwards
//! ```
//!
//! Owned by the agent's one thread; the lock is never held across an `await`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::agent::agent_server::Agent;
use proto::agent::{
    BootReply, BootRequest, Failure, HelloReply, HelloRequest, ResizeReply, ResizeRequest,
    ShutdownReply, ShutdownRequest, SignalReply, SignalRequest, StartReply, StartRequest,
    StopReply, StopRequest, WaitReply, WaitRequest,
};
use proto::agent::{
    PauseReply, PauseRequest, ReadRequest, StatPathReply, StatPathRequest, StatsReply,
    StatsRequest, TopReply, TopRequest, TransferReply, UpdateReply, UpdateRequest, WriteRequest,
};
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use super::Moments;
use super::boot::{self, Booted};
use super::mounts::Mounts;
use super::process::Process;
use super::spawn::{self, ChildEnds};
use super::stdio::{self, Dialling, Direction, Ends};
use super::stream::{Dial, Stream};
use super::terminal::{self, Terminal};
use crate::clock;
use crate::failure::Failed;
use crate::helper::Instructions;

/// The name of the container's first process.
const MAIN: &str = "main";

/// `SIGKILL`.
const KILL: u32 = libc::SIGKILL as u32;

/// The service.
pub(super) struct Service<D> {
    moments: Moments,
    init_failure: Option<String>,
    dial: Arc<D>,
    state: Arc<Mutex<State>>,
    shut_down: Notify,
}

#[derive(Default)]
struct State {
    /// Whether `Boot` was called: a second one would find half of its work done.
    boot_tried: bool,
    container: Option<Container>,
    mounts: Mounts,
}

struct Container {
    id: String,
    hostname: String,
    booted: Booted,
    /// `None` while it starts. Ended processes stay, for those who ask later.
    processes: HashMap<String, Option<Arc<Process>>>,
}

/// The agent's ends of a process's streams.
struct HostEnds {
    stdin: Option<(
        Dialling,
        Arc<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
    )>,
    out: Vec<(
        Option<Dialling>,
        Arc<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
    )>,
}

impl<D: Dial> Service<D> {
    pub(super) fn new(moments: Moments, init_failure: Option<String>, dial: D) -> Self {
        Self {
            moments,
            init_failure,
            dial: Arc::new(dial),
            state: Arc::default(),
            shut_down: Notify::new(),
        }
    }

    /// Waits for the moment when `Shutdown` is about to be answered.
    pub(super) async fn shut_down(&self) {
        self.shut_down.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Kills what still runs, waits until it is gone, and unmounts everything.
    pub(super) async fn end(&self) -> Result<(), Failed> {
        let mut result = Ok(());
        let processes: Vec<_> = match &self.state().container {
            Some(container) => {
                if container.processes.values().any(is_running) {
                    result = container.booted.cgroup.kill();
                }
                container.processes.values().flatten().cloned().collect()
            }
            None => Vec::new(),
        };
        for process in processes {
            if result.is_err() {
                // Gone is what it should be.
                let _ = process.signal(KILL);
            }
            process.exit().wait().await;
        }
        let unmounted = self.state().mounts.remove_all();
        rustix::fs::sync();
        result.and(unmounted)
    }

    fn boot_container(&self, request: &BootRequest) -> Result<(), Failed> {
        if let Some(failure) = &self.init_failure {
            return Err(Failed::invalid("start", "the VM", failure)
                .of_kind(proto::agent::failure::Kind::Other));
        }
        let mut state = self.state();
        if std::mem::replace(&mut state.boot_tried, true) {
            return Err(Failed::invalid(
                "boot",
                &request.container,
                "booted already",
            ));
        }
        let booted = boot::boot(request, &mut state.mounts)?;
        state.container = Some(Container {
            id: request.container.clone(),
            hostname: request.hostname.clone(),
            booted,
            processes: HashMap::new(),
        });
        Ok(())
    }

    fn process(&self, container: &str, name: &str) -> Result<Arc<Process>, Failed> {
        self.state()
            .container(container)?
            .processes
            .get(name)
            .and_then(Clone::clone)
            .ok_or_else(|| Failed::invalid("find process", name, "no such process"))
    }
}

fn is_running(process: &Option<Arc<Process>>) -> bool {
    process
        .as_ref()
        .is_none_or(|process| !process.exit().ended())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn container(&mut self, id: &str) -> Result<&mut Container, Failed> {
        self.container
            .as_mut()
            .filter(|container| container.id == id)
            .ok_or_else(|| Failed::invalid("find container", id, "no such container"))
    }
}

/// Starts a process to the end: its name is taken while this runs, and free again when it fails.
async fn start<D: Dial>(
    dial: Arc<D>,
    state: Arc<Mutex<State>>,
    request: StartRequest,
) -> Result<Arc<Process>, Failed> {
    lock(&state)
        .container(&request.container)?
        .reserve(&request.process)?;
    let started = launch(&*dial, &state, &request).await;
    if let Ok(container) = lock(&state).container(&request.container) {
        match &started {
            Ok(process) => {
                let process = Some(Arc::clone(process));
                container.processes.insert(request.process, process);
            }
            Err(_) => {
                container.processes.remove(&request.process);
            }
        }
    }
    started
}

impl Container {
    fn reserve(&mut self, name: &str) -> Result<(), Failed> {
        if self.processes.contains_key(name) {
            return Err(Failed::invalid("start process", name, "it exists already"));
        }
        if name != MAIN && !self.processes.get(MAIN).is_some_and(Option::is_some) {
            return Err(Failed::invalid(
                "start process",
                name,
                "the container is not running",
            ));
        }
        self.processes.insert(name.to_owned(), None);
        Ok(())
    }
}

async fn launch<D: Dial>(
    dial: &D,
    state: &Mutex<State>,
    request: &StartRequest,
) -> Result<Arc<Process>, Failed> {
    let spec = request.spec.clone().unwrap_or_default();
    let tty = spec.tty;
    let stdio = request.stdio.clone().unwrap_or_default();
    // The connections are on their way while the helper works.
    let dials = [&stdio.stdin, &stdio.stdout, &stdio.stderr].map(|id| Dialling::begin(dial, id));
    let (starting, ends) = {
        let mut state = lock(state);
        let container = state.container(&request.container)?;
        let [stdin, stdout, stderr] = dials;
        let dials = [stdin?, stdout?, stderr?];
        let (children, ends, terminal) = if tty {
            on_terminal(&container.booted, &spec, dials)?
        } else {
            on_pipes(dials)?
        };
        let instructions = Instructions {
            process: Some(spec),
            rootfs: container.booted.rootfs.display().to_string(),
            hostname: container.hostname.clone(),
            join: 0,
        };
        let first = match request.process.as_str() {
            MAIN => None,
            _ => container.processes.get(MAIN).and_then(Option::as_deref),
        };
        let cgroup = &container.booted.cgroup;
        let starting = spawn::spawn(instructions, first, children, terminal, cgroup)?;
        (starting, ends)
    };
    let streams = connect(ends, &starting.process).await;
    if streams.is_err() {
        // It may have ended by itself.
        let _ = starting.process.signal(KILL);
    }
    let started = starting.finish().await;
    streams.and(started)
}

type Streams = (ChildEnds, HostEnds, Option<Terminal>);

fn on_pipes([stdin, stdout, stderr]: [Option<Dialling>; 3]) -> Result<Streams, Failed> {
    let input = Ends::make(Direction::In, stdin.is_some())?;
    let output = Ends::make(Direction::Out, stdout.is_some())?;
    let errors = Ends::make(Direction::Out, stderr.is_some())?;
    let children = ChildEnds {
        stdin: input.child,
        stdout: output.child,
        stderr: errors.child,
    };
    let out = [(stdout, output.ours), (stderr, errors.ours)];
    let ends = HostEnds {
        stdin: stdin.zip(input.ours),
        out: out
            .into_iter()
            .filter_map(|(dialling, pipe)| Some((dialling, pipe?)))
            .collect(),
    };
    Ok((children, ends, None))
}

fn on_terminal(
    booted: &Booted,
    spec: &proto::agent::Process,
    [stdin, stdout, _]: [Option<Dialling>; 3],
) -> Result<Streams, Failed> {
    use crate::failure::Step;
    let (master, process) = terminal::open(&booted.rootfs, spec.size.as_ref())?;
    let again = || process.try_clone().step("duplicate", "the terminal");
    let children = ChildEnds {
        stdin: again()?,
        stdout: again()?,
        stderr: process,
    };
    let terminal = Terminal::of(&master);
    let ends = HostEnds {
        stdin: stdin.map(|dialling| (dialling, Arc::clone(&master))),
        out: vec![(stdout, master)],
    };
    Ok((children, ends, Some(terminal)))
}

/// Waits for the connections and lets the copying begin.
async fn connect(ends: HostEnds, process: &Process) -> Result<(), Failed> {
    for (dialling, from) in ends.out {
        let to: Option<Stream> = match dialling {
            Some(dialling) => Some(dialling.finish().await?),
            None => None,
        };
        tokio::spawn(stdio::copy_out(from, to, process.exit()));
    }
    if let Some((dialling, to)) = ends.stdin {
        let from = dialling.finish().await?;
        tokio::spawn(stdio::copy_in(from, to, process.exit()));
    }
    Ok(())
}

/// A failure as the reply carries it.
fn failure<T>(result: Result<T, Failed>) -> (Option<T>, Option<Failure>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(failed) => (None, Some(failed.into())),
    }
}

#[tonic::async_trait]
impl<D: Dial> Agent for Service<D> {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let release = rustix::system::uname();
        Ok(Response::new(HelloReply {
            protocol: proto::AGENT_PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: release.release().to_string_lossy().into_owned(),
            init_started_ns: self.moments.init_started_ns,
            agent_started_ns: self.moments.agent_started_ns,
            dialled_ns: self.moments.dialled_ns,
            answered_ns: clock::boottime_ns(),
        }))
    }

    async fn boot(&self, request: Request<BootRequest>) -> Result<Response<BootReply>, Status> {
        let (_, failure) = failure(self.boot_container(request.get_ref()));
        Ok(Response::new(BootReply { failure }))
    }

    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartReply>, Status> {
        let starting = start(
            Arc::clone(&self.dial),
            Arc::clone(&self.state),
            request.into_inner(),
        );
        // A task of its own, so that a call that is given up leaves nothing half-started.
        let started = tokio::spawn(starting)
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let (process, failure) = failure(started);
        Ok(Response::new(StartReply {
            pid: process.map_or(0, |process| process.pid),
            started_ns: clock::boottime_ns(),
            failure,
        }))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitReply>, Status> {
        let request = request.get_ref();
        let process = match self.process(&request.container, &request.process) {
            Ok(process) => process,
            Err(failed) => {
                return Ok(Response::new(WaitReply {
                    failure: Some(failed.into()),
                    ..WaitReply::default()
                }));
            }
        };
        let exit = process.exit().exit().await;
        let exit = exit.ok_or_else(|| Status::internal("the process's end was lost"))?;
        Ok(Response::new(WaitReply {
            exit_code: exit.code,
            signal: exit.signal,
            oom_killed: exit.oom_killed,
            exited_ns: exit.exited_ns,
            failure: None,
        }))
    }

    async fn signal(
        &self,
        request: Request<SignalRequest>,
    ) -> Result<Response<SignalReply>, Status> {
        let request = request.get_ref();
        let sent = self
            .process(&request.container, &request.process)
            .and_then(|process| {
                process.signal(request.signal).map_err(|error| {
                    let gone = error.raw_os_error() == Some(libc::ESRCH);
                    let failed = Failed::os("signal process", &request.process, error);
                    if gone {
                        failed.of_kind(proto::agent::failure::Kind::Invalid)
                    } else {
                        failed
                    }
                })
            });
        let (_, failure) = failure(sent);
        Ok(Response::new(SignalReply { failure }))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        let request = request.get_ref();
        let process = self
            .process(&request.container, MAIN)
            .map_err(|failed| Status::not_found(failed.to_string()))?;
        let mut exit = process.exit();
        // Whatever is wrong with the signal, KILL follows.
        let _ = process.signal(request.signal);
        let patience = Duration::from_millis(request.timeout_ms);
        let killed = tokio::time::timeout(patience, exit.wait()).await.is_err();
        if killed {
            process
                .signal(KILL)
                .or_else(|error| match error.raw_os_error() {
                    Some(libc::ESRCH) => Ok(()),
                    _ => Err(Status::internal(error.to_string())),
                })?;
            exit.wait().await;
        }
        Ok(Response::new(StopReply { killed }))
    }

    async fn pause(&self, _: Request<PauseRequest>) -> Result<Response<PauseReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn top(&self, _: Request<TopRequest>) -> Result<Response<TopReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn stat_path(
        &self,
        _: Request<StatPathRequest>,
    ) -> Result<Response<StatPathReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<TransferReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn write(&self, _: Request<WriteRequest>) -> Result<Response<TransferReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn resize(
        &self,
        request: Request<ResizeRequest>,
    ) -> Result<Response<ResizeReply>, Status> {
        let request = request.get_ref();
        let resized = self
            .process(&request.container, &request.process)
            .and_then(|process| match &process.terminal {
                Some(terminal) => terminal.resize(&request.size.unwrap_or_default()),
                None => Err(Failed::invalid(
                    "resize",
                    &request.process,
                    "it has no terminal",
                )),
            });
        let (_, failure) = failure(resized);
        Ok(Response::new(ResizeReply { failure }))
    }

    async fn shutdown(
        &self,
        _: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownReply>, Status> {
        let (_, failure) = failure(self.end().await);
        self.shut_down.notify_one();
        Ok(Response::new(ShutdownReply { failure }))
    }
}
