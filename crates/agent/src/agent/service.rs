//! `proto::agent`, served: what each call does to the VM's one container.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proto::agent::{
    Agent, BootReply, BootRequest, ConnectReply, ConnectRequest, Failure, HelloReply, HelloRequest,
    ResizeReply, ResizeRequest, ShutdownReply, ShutdownRequest, SignalReply, SignalRequest,
    StartReply, StartRequest, StopReply, StopRequest, WaitReply, WaitRequest,
};
use proto::agent::{
    NetworksReply, NetworksRequest, PauseReply, PauseRequest, ReadRequest, SetClockReply,
    SetClockRequest, StatPathReply, StatPathRequest, StatsReply, StatsRequest, TopReply,
    TopRequest, TransferReply, UpdateReply, UpdateRequest, WriteRequest,
};
use proto::ttrpc::{Code, Status};
use tokio::sync::Notify;

use super::Moments;
use super::boot;
use super::container::{Container, KILL, MAIN, State, lock, start};
use super::networks::{self, Devices};
use super::process::Process;
use super::stream::Dial;
use super::transfer::{self, Work};
use super::{control, mounts, sockets, stats, top};
use crate::clock;
use crate::failure::{Failed, Step};
use crate::transfer::Outcome;

/// The service.
pub(super) struct Service<D> {
    moments: Moments,
    init_failure: Option<String>,
    dial: Arc<D>,
    state: Arc<Mutex<State>>,
    shut_down: Notify,
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
        let (killed, processes) = match &mut self.state().container {
            Some(container) => container.kill_all(),
            None => (Ok(()), Vec::new()),
        };
        for process in processes {
            process.exit().wait().await;
        }
        let unmounted = self.state().mounts.remove_all();
        rustix::fs::sync();
        killed.and(unmounted)
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
        let mut booted = boot::boot(request, &mut state.mounts)?;
        for door in booted.doors.drain(..) {
            tokio::spawn(door.serve(Arc::clone(&self.dial)));
        }
        state.devices = Devices::booted(request)?;
        state.container = Some(Container::new(request, booted));
        Ok(())
    }

    async fn connect_to(&self, request: &ConnectRequest) -> Result<(), Failed> {
        let main = self
            .state()
            .container(&request.container)?
            .running()
            .ok_or_else(|| Failed::invalid("connect to", &request.path, "nothing runs"))?;
        // What its processes see: mounts that they have made, too.
        let root = mounts::open_root(&PathBuf::from(format!("/proc/{}/root", main.pid)))?;
        sockets::connect(&*self.dial, root, request).await
    }

    /// In a task of its own, so that a call that is given up leaves nothing half-started.
    async fn transfer(&self, work: Work) -> Result<Result<Outcome, Failed>, Status> {
        let running = transfer::run(Arc::clone(&self.dial), Arc::clone(&self.state), work);
        let ended = tokio::spawn(running).await;
        ended.map_err(|error| Status::new(Code::Internal, error))
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

/// A failure as the reply carries it.
fn failure<T>(result: Result<T, Failed>) -> (Option<T>, Option<Failure>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(failed) => (None, Some(failed.into())),
    }
}

impl<D: Dial> Agent for Service<D> {
    async fn hello(&self, _: HelloRequest) -> Result<HelloReply, Status> {
        let release = rustix::system::uname();
        Ok(HelloReply {
            protocol: proto::AGENT_PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: release.release().to_string_lossy().into_owned(),
            init_started_ns: self.moments.init_started_ns,
            agent_started_ns: self.moments.agent_started_ns,
            dialled_ns: self.moments.dialled_ns,
            answered_ns: clock::boottime_ns(),
        })
    }

    async fn boot(&self, request: BootRequest) -> Result<BootReply, Status> {
        let (_, failure) = failure(self.boot_container(&request));
        Ok(BootReply { failure })
    }

    async fn start(&self, request: StartRequest) -> Result<StartReply, Status> {
        let starting = start(Arc::clone(&self.dial), Arc::clone(&self.state), request);
        // A task of its own, so that a call that is given up leaves nothing half-started.
        let started = tokio::spawn(starting)
            .await
            .map_err(|error| Status::new(Code::Internal, error))?;
        let (process, failure) = failure(started);
        Ok(StartReply {
            pid: process.map_or(0, |process| process.pid),
            started_ns: clock::boottime_ns(),
            failure,
        })
    }

    async fn wait(&self, request: WaitRequest) -> Result<WaitReply, Status> {
        let process = match self.process(&request.container, &request.process) {
            Ok(process) => process,
            Err(failed) => {
                return Ok(WaitReply {
                    failure: Some(failed.into()),
                    ..WaitReply::default()
                });
            }
        };
        let exit = process.exit().exit().await;
        let exit = exit.ok_or_else(|| Status::new(Code::Internal, "the process's end was lost"))?;
        Ok(WaitReply {
            exit_code: exit.code,
            signal: exit.signal,
            oom_killed: exit.oom_killed,
            exited_ns: exit.exited_ns,
            failure: None,
        })
    }

    async fn signal(&self, request: SignalRequest) -> Result<SignalReply, Status> {
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
        Ok(SignalReply { failure })
    }

    async fn stop(&self, request: StopRequest) -> Result<StopReply, Status> {
        let process = self
            .process(&request.container, MAIN)
            .map_err(|failed| Status::new(Code::NotFound, failed))?;
        let mut exit = process.exit();
        // Whatever is wrong with the signal, KILL follows.
        let _ = process.signal(request.signal);
        // What is frozen hears no signal but KILL.
        self.state()
            .container(&request.container)
            .and_then(Container::thaw)
            .map_err(|failed| Status::new(Code::Internal, failed))?;
        let killed = !ends_within(request.timeout_ms, exit.wait()).await;
        if killed {
            process
                .signal(KILL)
                .or_else(|error| match error.raw_os_error() {
                    Some(libc::ESRCH) => Ok(()),
                    _ => Err(Status::new(Code::Internal, error)),
                })?;
            exit.wait().await;
        }
        Ok(StopReply { killed })
    }

    async fn pause(&self, request: PauseRequest) -> Result<PauseReply, Status> {
        let (_, failure) = failure(control::pause(&self.state, &request).await);
        Ok(PauseReply { failure })
    }

    async fn set_clock(&self, request: SetClockRequest) -> Result<SetClockReply, Status> {
        let set = clock::follow(request.wall_clock_ns).step("set", "the wall clock");
        let (_, failure) = failure(set);
        Ok(SetClockReply { failure })
    }

    async fn stats(&self, request: StatsRequest) -> Result<StatsReply, Status> {
        let read = self
            .state()
            .container(&request.container)
            .map(|container| stats::read(container));
        let (reply, failure) = failure(read);
        Ok(StatsReply {
            failure,
            ..reply.unwrap_or_default()
        })
    }

    async fn top(&self, request: TopRequest) -> Result<TopReply, Status> {
        let read = self
            .state()
            .container(&request.container)
            .and_then(|container| top::read(container));
        let (reply, failure) = failure(read);
        Ok(TopReply {
            failure,
            ..reply.unwrap_or_default()
        })
    }

    async fn update(&self, request: UpdateRequest) -> Result<UpdateReply, Status> {
        let updated = self
            .state()
            .container(&request.container)
            .and_then(|container| control::update(container, &request));
        let (_, failure) = failure(updated);
        Ok(UpdateReply { failure })
    }

    async fn networks(&self, request: NetworksRequest) -> Result<NetworksReply, Status> {
        let (dial, state) = (Arc::clone(&self.dial), Arc::clone(&self.state));
        // A task of its own, so that a call that is given up leaves nothing half-done.
        let changing = tokio::spawn(async move { networks::change(&*dial, &state, request).await });
        let changed = changing
            .await
            .map_err(|error| Status::new(Code::Internal, error))?;
        let (_, failure) = failure(changed);
        Ok(NetworksReply { failure })
    }

    async fn stat_path(&self, request: StatPathRequest) -> Result<StatPathReply, Status> {
        let work = Work {
            container: request.container.clone(),
            stat: Some(request),
            ..Work::default()
        };
        let (outcome, failure) = failure(self.transfer(work).await?);
        Ok(StatPathReply {
            stat: outcome.and_then(|outcome| outcome.stat),
            failure,
        })
    }

    async fn read(&self, mut request: ReadRequest) -> Result<TransferReply, Status> {
        let work = Work {
            container: request.container.clone(),
            stream: Some(std::mem::take(&mut request.stream).into()),
            read: Some(request),
            ..Work::default()
        };
        let (outcome, failure) = failure(self.transfer(work).await?);
        let bytes = outcome.map_or(0, |outcome| outcome.bytes);
        Ok(TransferReply { bytes, failure })
    }

    async fn write(&self, mut request: WriteRequest) -> Result<TransferReply, Status> {
        let work = Work {
            container: request.container.clone(),
            stream: Some(std::mem::take(&mut request.stream).into()),
            write: Some(request),
            ..Work::default()
        };
        let (outcome, failure) = failure(self.transfer(work).await?);
        let bytes = outcome.map_or(0, |outcome| outcome.bytes);
        Ok(TransferReply { bytes, failure })
    }

    async fn connect(&self, request: ConnectRequest) -> Result<ConnectReply, Status> {
        let (_, failure) = failure(self.connect_to(&request).await);
        Ok(ConnectReply { failure })
    }

    async fn resize(&self, request: ResizeRequest) -> Result<ResizeReply, Status> {
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
        Ok(ResizeReply { failure })
    }

    async fn shutdown(&self, _: ShutdownRequest) -> Result<ShutdownReply, Status> {
        let (_, failure) = failure(self.end().await);
        self.shut_down.notify_one();
        Ok(ShutdownReply { failure })
    }
}

/// Whether it ends in that many milliseconds. [`u64::MAX`]: no timer runs.
pub(super) async fn ends_within(ms: u64, end: impl Future) -> bool {
    match ms {
        u64::MAX => {
            end.await;
            true
        }
        ms => tokio::time::timeout(Duration::from_millis(ms), end)
            .await
            .is_ok(),
    }
}
