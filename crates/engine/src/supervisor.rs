//! The supervisor of a container: finding it, talking to it, noticing that it is dead.
//!
//! Alive means that its lock is held. A supervisor that listens answers; one that does not and whose lock is held is
//! dead, and its monitor is about to be: we wait for the lock, which the kernel frees, and write down what happened.
//!
//! ```text
//!   connect ──ok──▶ alive
//!      │ refused
//!      ▼
//!   lock free? ──yes──▶ repair ──▶ idle | removed
//!      │ held
//!      ▼
//!   wait for the lock (bounded) ──got it──▶ repair
//! ```

mod maintenance;
mod spawn;

use std::future::Future;
use std::io;
use std::time::Duration;

use proto::supervisor::failure::Kind;
use proto::supervisor::supervisor_client::SupervisorClient;
use proto::supervisor::{Exited, Failure, HelloRequest, WaitRequest};
use store::container::{Container, State};
use store::lock::Lock;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

pub(crate) use maintenance::{Volumes, reach};
pub(crate) use spawn::{How, Spawned, spawn};

use crate::Error;
use crate::error::StartFailure;

/// How long a lock may be held after its supervisor died: the monitor dies with it.
const LINGER: Duration = Duration::from_secs(5);

/// How long a supervisor may take to write down what it knows.
const SETTLE: Duration = Duration::from_secs(1);

/// What there is of a container.
#[derive(Debug)]
pub(crate) enum Found {
    /// Its supervisor listens.
    Alive(Client),
    /// It does not run; somebody has its files in hand, in a VM without its process.
    Maintained(Client),
    /// Nothing of it lives, and nobody starts it while we hold this. How it is; on a full disk that may not stand in its file.
    Idle(Lock, Box<State>),
    /// Its supervisor had died, and it was to be removed at its end: it is.
    Removed,
}

/// Looks for a container's supervisor, and repairs the state of a dead one.
pub(crate) async fn find(container: &Container) -> Result<Found, Error> {
    for _ in 0..2 {
        if let Some(found) = listening(container).await? {
            return Ok(found);
        }
        if let Some(lock) = try_lock(container)? {
            return lock.idle(container);
        }
        // Held by one that began to listen just now?
        if let Some(found) = listening(container).await? {
            return Ok(found);
        }
        if let Some(lock) = wait_for_lock(container, LINGER).await? {
            return lock.idle(container);
        }
    }
    Err(Error::Stuck {
        name: container.spec().name.clone(),
    })
}

/// `None` when nobody listens, or not any more.
async fn listening(container: &Container) -> Result<Option<Found>, Error> {
    let Some(mut client) = Client::connect(container).await? else {
        return Ok(None);
    };
    Ok(match client.greet().await {
        Some(greeting) if greeting.maintenance => {
            client.lacks_volumes = greeting.lacks_volumes;
            Some(Found::Maintained(client))
        }
        Some(_) => Some(Found::Alive(client)),
        None => None,
    })
}

/// Returns when a VM that was there for a container's files only is gone: its last user has left.
pub(crate) async fn maintenance_ended(client: &Client) {
    let mut rpc = client.rpc.clone();
    if let Err(error) = client.call("wait", rpc.wait(WaitRequest {})).await {
        tracing::debug!(%error, "the supervisor is gone");
    }
}

/// A lock that was taken, or the news that its container is gone.
enum Taken {
    Lock(Lock),
    Gone,
}

impl Taken {
    fn idle(self, container: &Container) -> Result<Found, Error> {
        let Self::Lock(lock) = self else {
            return Ok(Found::Removed);
        };
        Ok(match container.repair(&lock)? {
            Some(state) => Found::Idle(lock, Box::new(state)),
            None => Found::Removed,
        })
    }
}

fn gone_is_fine(
    result: Result<Option<Lock>, store::container::Error>,
) -> Result<Option<Taken>, Error> {
    match result {
        Ok(lock) => Ok(lock.map(Taken::Lock)),
        Err(store::container::Error::NotFound(_)) => Ok(Some(Taken::Gone)),
        Err(error) => Err(error.into()),
    }
}

fn try_lock(container: &Container) -> Result<Option<Taken>, Error> {
    gone_is_fine(container.try_lock())
}

/// `None` when the lock is still held after `limit`.
async fn wait_for_lock(container: &Container, limit: Duration) -> Result<Option<Taken>, Error> {
    let (sender, receiver) = oneshot::channel();
    let waiting = container.clone();
    // A thread of its own, not the runtime's: it may wait for longer than we do, and must not hold up the end of the
    // runtime. It gives the lock back at once when nobody wants it any more.
    std::thread::Builder::new()
        .name("lock".to_owned())
        .spawn(move || drop(sender.send(waiting.lock())))
        .map_err(|source| Error::Spawn {
            operation: "start",
            program: "a thread".to_owned(),
            source,
        })?;
    match tokio::time::timeout(limit, receiver).await {
        Ok(Ok(locked)) => gone_is_fine(locked.map(Some)),
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// What a supervisor says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Greeting {
    /// It is there for the files of a container that does not run.
    pub(crate) maintenance: bool,
    /// Its VM lacks some of the container's volumes.
    pub(crate) lacks_volumes: bool,
}

/// A connection to a supervisor.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) rpc: SupervisorClient<Channel>,
    name: String,
    /// Of [`Found::Maintained`]: its VM lacks some of the container's volumes.
    pub(crate) lacks_volumes: bool,
}

impl Client {
    /// `None` when nobody listens.
    pub(crate) async fn connect(container: &Container) -> Result<Option<Self>, Error> {
        let path = container.supervisor_socket();
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            // Reset: it died with us in its queue.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(store::file::Error::new("connect to", &path, error).into()),
        };
        Ok(Self::over(stream, container).await)
    }

    /// Over the connection that was made before the supervisor lived. `None`: it died without a word.
    pub(crate) async fn first(
        container: &Container,
        spawned: &mut Spawned,
    ) -> Result<Option<Self>, Error> {
        let Some(stream) = spawned.connection.take() else {
            return Self::connect(container).await;
        };
        let path = container.supervisor_socket();
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream))
            .map_err(|error| store::file::Error::new("watch", &path, error))?;
        Ok(Self::over(stream, container).await)
    }

    async fn over(stream: UnixStream, container: &Container) -> Option<Self> {
        let name = container.spec().name.clone();
        match proto::connect::once(stream).await {
            Ok(channel) => Some(Self {
                rpc: SupervisorClient::new(channel),
                name,
                lacks_volumes: false,
            }),
            // It died between the two.
            Err(error) => {
                tracing::debug!(%error, name, "the supervisor hung up");
                None
            }
        }
    }

    /// Returns when the supervisor has written down what it knows: what it is there for; `None` when it hung up, or is about to. One that does not answer in time is there all the same, so that one that hangs
    /// does not keep the others from being listed.
    pub(crate) async fn greet(&self) -> Option<Greeting> {
        let protocol = proto::SUPERVISOR_PROTOCOL;
        let mut rpc = self.rpc.clone();
        match tokio::time::timeout(SETTLE, rpc.hello(HelloRequest { protocol })).await {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                // Its container has ended, and says so: whoever comes now waits for the lock.
                (!reply.leaving).then_some(Greeting {
                    maintenance: reply.maintenance,
                    lacks_volumes: reply.without_volumes,
                })
            }
            // It has something to say: the next call will tell.
            Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                Some(Greeting::default())
            }
            Ok(Err(status)) => {
                tracing::debug!(%status, name = self.name, "no answer to hello");
                None
            }
            Err(_) => {
                tracing::warn!(name = self.name, "the supervisor does not answer");
                Some(Greeting::default())
            }
        }
    }

    /// Makes a call and, at the same time, sees whether we understand each other.
    pub(crate) async fn call<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let mut rpc = self.rpc.clone();
        let hello = rpc.hello(HelloRequest {
            protocol: proto::SUPERVISOR_PROTOCOL,
        });
        let (hello, result) = tokio::join!(hello, work);
        match hello {
            Ok(reply) => {
                let theirs = reply.into_inner().protocol;
                let ours = proto::SUPERVISOR_PROTOCOL;
                if theirs > ours || theirs + 1 < ours {
                    return Err(Error::Version {
                        name: self.name.clone(),
                        theirs,
                        ours,
                    });
                }
            }
            Err(status) if status.code() == Code::FailedPrecondition => {
                return Err(self.failed("hello", status));
            }
            // The call says it better.
            Err(_) => {}
        }
        Ok(result
            .map_err(|status| self.failed(call, status))?
            .into_inner())
    }

    pub(crate) fn failed(&self, call: &'static str, status: Status) -> Error {
        Error::Supervisor {
            name: self.name.clone(),
            call,
            source: Box::new(status),
        }
    }
}

/// A failure that came over the wire.
pub(crate) fn failure(name: &str, failure: Failure) -> Error {
    let remedy = Some(failure.remedy.clone()).filter(|remedy| !remedy.is_empty());
    let kind = match failure.kind() {
        Kind::VmLost => {
            return Error::Lost {
                name: name.to_owned(),
                reason: failure.message,
                remedy,
            };
        }
        Kind::NotFound => StartFailure::NotFound,
        Kind::NotExecutable => StartFailure::NotExecutable,
        Kind::Invalid => StartFailure::Invalid,
        Kind::Other => StartFailure::Other,
    };
    Error::Start {
        failure: kind,
        message: describe(&failure),
        step: failure.step,
        remedy,
    }
}

/// What a guest could not do, apart from starting a process.
pub(crate) fn refusal(failure: Failure) -> Error {
    Error::Guest {
        not_found: failure.kind() == Kind::NotFound,
        errno: Some(failure.errno).filter(|errno| *errno != 0),
        message: describe(&failure),
    }
}

/// Step, object, and what went wrong, in one line.
fn describe(failure: &Failure) -> String {
    let words: Vec<&str> = [failure.step.as_str(), failure.object.as_str()]
        .into_iter()
        .filter(|word| !word.is_empty())
        .collect();
    let what = if failure.message.is_empty() && failure.errno != 0 {
        io::Error::from_raw_os_error(failure.errno).to_string()
    } else {
        failure.message.clone()
    };
    match (words.is_empty(), what.is_empty()) {
        (true, _) => what,
        (false, true) => words.join(" "),
        (false, false) => format!("{}: {what}", words.join(" ")),
    }
}

/// How a process ended, as it came over the wire.
pub(crate) fn exit(exited: Exited) -> crate::Exit {
    crate::Exit {
        code: exited.exit_code,
        oom_killed: exited.oom_killed,
        error: exited.failure.as_ref().map(|failure| {
            if failure.kind() == Kind::VmLost {
                failure.message.clone()
            } else {
                describe(failure)
            }
        }),
        phases: exited
            .phases
            .into_iter()
            .map(|phase| crate::Phase {
                name: phase.name,
                at_ns: phase.at_ns,
            })
            .collect(),
    }
}

/// What came of a container whose supervisor stopped talking without a last word.
#[derive(Debug)]
pub(crate) enum Aftermath {
    /// Its end is written down.
    Exited(crate::Exit),
    /// It is not known how it ended.
    Lost(Error),
}

/// Of a container whose supervisor died before it had written down anything.
pub(crate) fn never_ran(container: &Container) -> Error {
    let reason = "the supervisor died before the container ran";
    Error::Lost {
        name: container.spec().name.clone(),
        reason: match spawn::last_words(container) {
            Some(words) => format!("{reason}; its last words: {words}"),
            None => reason.to_owned(),
        },
        remedy: None,
    }
}

/// Looks after a container whose supervisor stopped talking.
pub(crate) async fn aftermath(container: &Container) -> Aftermath {
    let name = container.spec().name.clone();
    // Before a `--rm` container's directory goes.
    let last_words = spawn::last_words(container);
    let written = container.state().ok().and_then(ended);
    let lost = |reason: String| {
        let reason = match &last_words {
            Some(words) => format!("{reason}; its last words: {words}"),
            None => reason,
        };
        Aftermath::Lost(Error::Lost {
            name: name.clone(),
            reason,
            remedy: None,
        })
    };
    match find(container).await {
        Err(error) => Aftermath::Lost(error),
        Ok(Found::Removed) => match written {
            Some(exit) => Aftermath::Exited(exit),
            None => lost("the supervisor died".to_owned()),
        },
        Ok(Found::Alive(_) | Found::Maintained(_)) => lost("the supervisor hung up".to_owned()),
        Ok(Found::Idle(lock, state)) => match (state.error.clone(), ended(*state)) {
            (Some(error), _) => lost(error),
            (None, Some(exit)) => Aftermath::Exited(exit),
            (None, None) => {
                // It never got as far as to say that it runs.
                if container.spec().remove
                    && let Err(error) = container.remove_all()
                {
                    tracing::warn!(%error, "cannot remove the container");
                }
                drop(lock);
                lost("the supervisor died before the container ran".to_owned())
            }
        },
    }
}

/// How the process ended, when that was written down before the supervisor died.
fn ended(state: State) -> Option<crate::Exit> {
    if state.error.is_some() || state.status != store::container::Status::Exited {
        return None;
    }
    Some(crate::Exit {
        code: state.exit_code?,
        oom_killed: state.oom_killed,
        error: None,
        phases: Vec::new(),
    })
}
