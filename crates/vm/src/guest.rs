//! The agent's client: one hand-shake per boot, then calls.
//!
//! The guest is hostile. The first dial to the agent's port is taken, from a privileged port only, before any workload runs;
//! the listener is then dropped, so that every later dial is refused. What the agent says is data: it can end this container and nothing else.

mod control;

use std::time::Duration;

use hypervisor::Listener;
use proto::agent::{
    AgentClient, BootRequest, HelloReply, HelloRequest, Process, ResizeRequest, ShutdownRequest,
    SignalRequest, StartRequest, Stdio, StopRequest, TerminalSize, WaitReply, WaitRequest,
};
use proto::supervisor::Failure;
use proto::ttrpc::{Client, Code, Status};
use tokio::time::Instant;

use crate::failure;

/// The longest that a guest may take to its first call and to say who it is. Not on anybody's way: a guest that dies earlier is noticed at
/// once.
const HANDSHAKE: Duration = Duration::from_secs(180);

/// Messages of the agent are small; a larger one is an attack or a mistake.
const MESSAGE_LIMIT: usize = 64 * 1024;

/// The agent of the container's VM. Cheap to clone: calls share the one connection.
#[derive(Debug, Clone)]
pub struct Guest {
    client: AgentClient,
    container: String,
}

impl Guest {
    /// Takes the agent's one connection and agrees on the version.
    ///
    /// # Errors
    /// No dial in time, a dial from an unprivileged port, another protocol.
    pub async fn handshake(
        mut listener: Listener,
        container: &str,
    ) -> Result<(Guest, HelloReply), Failure> {
        let deadline = Instant::now() + HANDSHAKE;
        let arrival = tokio::time::timeout_at(deadline, listener.accept()).await;
        let (connection, port) = arrival
            .map_err(|_| {
                failure::own(
                    "wait for the agent",
                    "the guest",
                    format!("it did not dial within {} s", HANDSHAKE.as_secs()),
                )
            })?
            .ok_or_else(|| failure::lost("the VM ended before its agent dialled"))?;
        // From here on every further dial to this port is refused.
        drop(listener);
        if port >= 1024 {
            return Err(failure::own(
                "greet the agent",
                format!("guest port {port}"),
                "the dial came from an unprivileged port",
            ));
        }
        let guest = Guest {
            client: AgentClient(Client::new(connection, MESSAGE_LIMIT)),
            container: container.to_owned(),
        };
        let reply = guest.greet(deadline).await?;
        if reply.protocol != proto::AGENT_PROTOCOL {
            return Err(failure::own(
                "greet the agent",
                format!("protocol {}", reply.protocol),
                format!("this gourd speaks {}", proto::AGENT_PROTOCOL),
            ));
        }
        Ok((guest, reply))
    }

    /// Asks the agent who it is.
    async fn greet(&self, deadline: Instant) -> Result<HelloReply, Failure> {
        let request = HelloRequest {
            protocol: proto::AGENT_PROTOCOL,
            vm: self.container.clone(),
        };
        let reply = tokio::time::timeout_at(deadline, self.client.hello(request)).await;
        let reply = reply.map_err(|_| {
            failure::own(
                "greet the agent",
                "the guest",
                "it dialled and did not say in time who it is",
            )
        })?;
        reply.map_err(|status| call_failed("greet the agent", &status))
    }

    /// Root file system, mounts, names, limits.
    pub async fn boot(&self, request: BootRequest) -> Result<(), Failure> {
        let reply = self.client.boot(request).await;
        let reply = reply.map_err(|status| call_failed("boot the guest", &status))?;
        refuse(reply.failure)
    }

    /// Starts a process; it runs when this returns.
    pub async fn start(&self, process: &str, spec: Process, stdio: Stdio) -> Result<(), Failure> {
        let request = StartRequest {
            container: self.container.clone(),
            process: process.to_owned(),
            spec: Some(spec),
            stdio: Some(stdio),
        };
        let reply = self.client.start(request).await;
        let reply = reply.map_err(|status| call_failed("start the process", &status))?;
        refuse(reply.failure)
    }

    /// Waits for a process's end.
    pub async fn wait(&self, process: &str) -> Result<WaitReply, Failure> {
        let request = WaitRequest {
            container: self.container.clone(),
            process: process.to_owned(),
        };
        let reply = self.client.wait(request).await;
        let mut reply = reply.map_err(|status| call_failed("wait for the process", &status))?;
        refuse(reply.failure.take())?;
        Ok(reply)
    }

    /// Sends a signal to a process.
    pub async fn signal(&self, process: &str, signal: u32) -> Result<(), Failure> {
        let request = SignalRequest {
            container: self.container.clone(),
            process: process.to_owned(),
            signal,
        };
        let reply = self.client.signal(request).await;
        let reply = reply.map_err(|status| call_failed("signal the process", &status))?;
        refuse(reply.failure)
    }

    /// Stop signal, then KILL after `timeout_ms`. True when that was needed.
    pub async fn stop(&self, signal: u32, timeout_ms: u64) -> Result<bool, Failure> {
        let request = StopRequest {
            container: self.container.clone(),
            signal,
            timeout_ms,
        };
        let reply = self.client.stop(request).await;
        let reply = reply.map_err(|status| call_failed("stop the container", &status))?;
        Ok(reply.killed)
    }

    /// The terminal of a process has another size now.
    pub async fn resize(&self, process: &str, rows: u32, columns: u32) -> Result<(), Failure> {
        let request = ResizeRequest {
            container: self.container.clone(),
            process: process.to_owned(),
            size: Some(TerminalSize { rows, columns }),
        };
        let reply = self.client.resize(request).await;
        let reply = reply.map_err(|status| call_failed("resize the terminal", &status))?;
        refuse(reply.failure)
    }

    /// Unmounts everything; the VM powers off after the answer.
    pub async fn shutdown(&self) -> Result<(), Failure> {
        let reply = self.client.shutdown(ShutdownRequest {}).await;
        let reply = reply.map_err(|status| call_failed("shut the guest down", &status))?;
        refuse(reply.failure)
    }
}

fn refuse(failure: Option<proto::agent::Failure>) -> Result<(), Failure> {
    match failure {
        Some(failure) => Err(failure::from_guest(failure)),
        None => Ok(()),
    }
}

/// A call that brought no answer means that the guest is lost; one that the agent refused does not.
fn call_failed(step: &str, status: &Status) -> Failure {
    match Code::try_from(status.code) {
        Ok(Code::Unavailable | Code::Internal) => {
            failure::lost(format!("the agent's connection ended ({step}: {status})"))
        }
        _ => failure::own(step, "the agent", status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    impl Guest {
        /// One whose agent takes every call and answers none, and the agent's end.
        pub fn silent() -> (Guest, UnixStream) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let guest = Guest {
                client: AgentClient(Client::new(ours, MESSAGE_LIMIT)),
                container: "it".into(),
            };
            (guest, theirs)
        }
    }

    /// As the guest of `testkit::attack` would, should it halt.
    #[tokio::test]
    async fn an_agent_that_dials_and_says_nothing_is_not_waited_for() {
        let (guest, _agent) = Guest::silent();
        let failure = guest.greet(Instant::now()).await.unwrap_err();
        assert!(failure.message.contains("dialled"), "{failure:?}");
    }
}
