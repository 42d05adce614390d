//! The verbs on containers that exist: start, attach, exec, stop, kill, wait.

use std::os::fd::OwnedFd;
use std::time::Duration;

use proto::supervisor::{SignalRequest, StartedRequest, StopRequest, WaitRequest};
use rustix::process::{Pid, PidfdFlags};
use store::container::{self, Container, State};
use store::lock::Lock;
use store::{fault, kernels, locate, rootfs};
use tokio::io::unix::AsyncFd;

use super::{AttachOptions, Attachment, ExecRequest, Running, StartMode};
use crate::supervisor::{self, Aftermath, Client, Found, How};
use crate::{Engine, Error, blocking, sys, volume};

/// How long a supervisor may take to kill its container before it is killed itself.
const FORCE: Duration = Duration::from_secs(20);

/// How long a supervisor that has stopped its container may take to be gone; only one with slow clients takes any time.
pub(super) const LAST_STEPS: Duration = Duration::from_secs(2);

/// SIGKILL, as every Linux has it.
const KILL: u32 = 9;

impl Engine {
    /// Starts a container that does not run.
    ///
    /// # Errors
    /// [`Error::Running`]; detached also what kept the process from running.
    pub async fn start(&self, id: &str, mode: StartMode) -> Result<Running, Error> {
        let container = self.container(id)?;
        let name = &container.spec().name;
        let lock = match self.idle(&container).await? {
            Some(lock) => lock,
            None => return Err(Error::Running { name: name.clone() }),
        };
        fault::point("start.locked");
        // Better said here than by the supervisor.
        kernels::resolve(&self.root, &container.spec().vm.kernel)?;
        for program in [locate::VMM, locate::INIT] {
            self.programs.find(program)?;
        }
        let lease = rootfs::lease(&self.root, &container.spec().image.rootfs)?;
        let before = container.state()?;
        let volumes = volume::attach(self, &container, &lock).await?;
        let attached = matches!(mode, StartMode::Foreground(_));
        let mut spawned = supervisor::spawn(
            &container,
            &self.programs,
            &lock,
            Some(&lease),
            &volumes,
            How {
                attached,
                maintenance: false,
                started: self.started,
            },
        )?;
        fault::point("start.spawned");
        // The supervisor's copies are what holds them now.
        drop((lock, lease, volumes));
        let Some(client) = Client::first(&container, &mut spawned).await? else {
            return match supervisor::aftermath(&container).await {
                Aftermath::Lost(error) => Err(error),
                Aftermath::Exited(_) => Err(Error::NotRunning { name: name.clone() }),
            };
        };
        let id = container.id().to_owned();
        let attachment = match mode {
            StartMode::Foreground(options) => Some(Attachment::main(
                container,
                client,
                to_wire(options, true),
                options.size,
                Some(spawned.gone),
            )),
            StartMode::Detached => {
                started(&container, &client, &before).await?;
                fault::point("start.told");
                None
            }
        };
        Ok(Running { id, attachment })
    }

    /// Attaches to the first process of a container that runs.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn attach(&self, id: &str, options: AttachOptions) -> Result<Attachment, Error> {
        let container = self.container(id)?;
        let client = alive(&container).await?;
        let (wire, size) = (to_wire(options, false), options.size);
        Ok(Attachment::main(container, client, wire, size, None))
    }

    /// Runs a further process in a container that runs.
    ///
    /// # Errors
    /// [`Error::NotRunning`]. What keeps the process from running comes as [`super::Event::Failed`].
    pub async fn exec(&self, id: &str, request: ExecRequest) -> Result<Attachment, Error> {
        if request.args.is_empty() {
            return Err(Error::invalid("command", "it is empty"));
        }
        let container = self.container(id)?;
        let client = alive(&container).await?;
        let process = proto::supervisor::Process {
            args: request.args,
            env: request.env,
            user: request.user.unwrap_or_default(),
            cwd: request.workdir.unwrap_or_default(),
            tty: request.tty,
            size: request.size.map(Into::into),
            stdin: request.stdin,
            privileged: request.privileged,
        };
        Ok(Attachment::exec(container, client, process))
    }

    /// Stops a container: its stop signal, or `signal`; KILL after its time-out, or `timeout`, and never when that is
    /// [`Duration::MAX`]. One that does not run is stopped already.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub async fn stop(
        &self,
        id: &str,
        timeout: Option<Duration>,
        signal: Option<u32>,
    ) -> Result<(), Error> {
        let container = self.container(id)?;
        let Found::Alive(client) = supervisor::find(&container).await? else {
            return Ok(());
        };
        let timeout_ms = timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        fault::point("stop.found");
        // Before it is told to end: afterwards the number may be somebody else's.
        let process = supervisor_process(&container);
        stop(&container, &client, signal.unwrap_or(0), timeout_ms).await?;
        if let Some(process) = process {
            // Its answer is nearly its last step. One that others keep for longer is not waited for.
            let _ = tokio::time::timeout(LAST_STEPS, process.readable()).await;
        }
        fault::point("stop.stopped");
        Ok(())
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn kill(&self, id: &str, signal: u32) -> Result<(), Error> {
        let container = self.container(id)?;
        let client = alive(&container).await?;
        let mut rpc = client.rpc.clone();
        let reply = client
            .call("signal", rpc.signal(SignalRequest { signal }))
            .await?;
        match reply.failure {
            None => Ok(()),
            Some(failure) => Err(supervisor::failure(&container.spec().name, failure)),
        }
    }

    /// Waits until a container does not run; its exit code. Of one that was never started 0, at once, as with Docker.
    ///
    /// # Errors
    /// No such container.
    pub async fn wait(&self, id: &str) -> Result<u32, Error> {
        let container = self.container(id)?;
        let client = match supervisor::find(&container).await? {
            Found::Alive(client) => client,
            Found::Maintained(_) => return Ok(container.state()?.exit_code.unwrap_or(0)),
            Found::Idle(_, state) => return Ok(state.exit_code.unwrap_or(0)),
            Found::Removed => return Ok(container::LOST_EXIT_CODE),
        };
        let mut rpc = client.rpc.clone();
        match client.call("wait", rpc.wait(WaitRequest {})).await {
            Ok(reply) => Ok(reply.exited.map_or(0, |exited| exited.exit_code)),
            Err(error @ Error::Version { .. }) => Err(error),
            Err(_) => match supervisor::aftermath(&container).await {
                Aftermath::Exited(exit) => Ok(exit.code),
                Aftermath::Lost(Error::Lost { .. }) => Ok(container::LOST_EXIT_CODE),
                Aftermath::Lost(error) => Err(error),
            },
        }
    }

    /// Finds a container by id, name, or the beginning of its id.
    pub(crate) fn container(&self, id: &str) -> Result<Container, Error> {
        Ok(container::resolve(&self.root, id)?)
    }

    /// The lock of a container that does not run; `None` when it does.
    async fn idle(&self, container: &Container) -> Result<Option<Lock>, Error> {
        // Most are idle: their lock is free, and says so more quickly than a refused connection.
        if let Some(lock) = container.try_lock()? {
            return match container.repair(&lock)? {
                Some(_) => Ok(Some(lock)),
                // It was to go with its supervisor, which had died.
                None => Err(container::Error::NotFound(container.id().to_owned()).into()),
            };
        }
        match settled(container).await? {
            Found::Alive(_) => Ok(None),
            Found::Maintained(_) => Err(Error::Stuck {
                name: container.spec().name.clone(),
            }),
            Found::Idle(lock, _) => Ok(Some(lock)),
            Found::Removed => Err(container::Error::NotFound(container.id().to_owned()).into()),
        }
    }
}

fn to_wire(options: AttachOptions, primary: bool) -> proto::supervisor::AttachOptions {
    proto::supervisor::AttachOptions {
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: options.stderr,
        primary,
    }
}

/// As [`supervisor::find`], when nobody has its files in hand any more.
pub(super) async fn settled(container: &Container) -> Result<Found, Error> {
    // Others may come again and again.
    for _ in 0..10 {
        match supervisor::find(container).await? {
            Found::Maintained(client) => supervisor::maintenance_ended(&client).await,
            other => return Ok(other),
        }
    }
    supervisor::find(container).await
}

/// The supervisor of a container that runs.
pub(super) async fn alive(container: &Container) -> Result<Client, Error> {
    match supervisor::find(container).await? {
        Found::Alive(client) => Ok(client),
        Found::Maintained(_) | Found::Idle(..) | Found::Removed => Err(Error::NotRunning {
            name: container.spec().name.clone(),
        }),
    }
}

/// Waits until the process runs. `before` is the state before its supervisor was.
async fn started(container: &Container, client: &Client, before: &State) -> Result<(), Error> {
    let name = &container.spec().name;
    let mut rpc = client.rpc.clone();
    match client.call("started", rpc.started(StartedRequest {})).await {
        Ok(reply) => match reply.failure {
            None => Ok(()),
            Some(failure) => Err(supervisor::failure(name, failure)),
        },
        Err(error @ Error::Version { .. }) => Err(error),
        Err(error) => match supervisor::aftermath(container).await {
            // What is written down is an earlier end.
            Aftermath::Exited(_) if container.state()? == *before => {
                Err(supervisor::never_ran(container))
            }
            // It ran, and was over before the answer came.
            Aftermath::Exited(_) => Ok(()),
            Aftermath::Lost(lost @ Error::Lost { .. }) => Err(lost),
            Aftermath::Lost(_) => Err(error),
        },
    }
}

/// The process that a running container's state names; readable when it is gone.
pub(super) fn supervisor_process(container: &Container) -> Option<AsyncFd<OwnedFd>> {
    let pid = container.state().ok()?.pid?;
    let pid = Pid::from_raw(pid.cast_signed())?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    sys::readable(process).ok()
}

/// Stops, and takes a supervisor that is gone for one that stopped.
async fn stop(
    container: &Container,
    client: &Client,
    signal: u32,
    timeout_ms: Option<u64>,
) -> Result<(), Error> {
    let mut rpc = client.rpc.clone();
    let request = StopRequest { signal, timeout_ms };
    match client.call("stop", rpc.stop(request)).await {
        Ok(_) => Ok(()),
        Err(error @ Error::Version { .. }) => Err(error),
        Err(error) => match supervisor::find(container).await? {
            Found::Maintained(_) | Found::Idle(..) | Found::Removed => Ok(()),
            Found::Alive(_) => Err(error),
        },
    }
}

/// Ends a container without grace, its supervisor too when that does not do it. The lock, unless it is gone with it.
pub(super) async fn kill_all(
    container: &Container,
    client: &Client,
) -> Result<Option<Lock>, Error> {
    // A state that cannot be read does not keep it alive.
    let pid = container.state().ok().and_then(|state| state.pid);
    match tokio::time::timeout(FORCE, stop(container, client, KILL, Some(0))).await {
        Ok(stopped) => stopped?,
        Err(_) => {
            // It holds its lock and does not answer: the process that its state names is the one.
            let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
            if let Some(pid) = pid {
                tracing::warn!(vm_id = container.id(), "the supervisor hangs: killing it");
                // Gone already is as good.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    match supervisor::find(container).await? {
        Found::Idle(lock, _) => Ok(Some(lock)),
        Found::Removed => Ok(None),
        // Its last answer is out and it is about to leave.
        Found::Alive(_) | Found::Maintained(_) => match blocking({
            let container = container.clone();
            move || container.lock()
        })
        .await
        {
            Ok(lock) => Ok(Some(lock)),
            Err(Error::Container(container::Error::NotFound(_))) => Ok(None),
            Err(error) => Err(error),
        },
    }
}
