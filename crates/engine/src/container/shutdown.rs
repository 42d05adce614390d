//! The end of all containers, as when the host goes down.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::Signal;
use store::container::{self, Container};
use tokio::io::unix::AsyncFd;

use super::life::supervisor_process;
use crate::supervisor::{self, Found};
use crate::{Engine, Error};

/// Which containers [`Engine::shut_down`] ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// All.
    All,
    /// Those whose supervisors are in our own control group: under systemd, those that our unit or session started.
    OurControlGroup,
}

/// A container that [`Engine::shut_down`] ended, or could not.
#[derive(Debug)]
pub struct ShutDown {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name; the id when it cannot be read.
    pub name: String,
    /// Why it may still run.
    pub result: Result<(), Error>,
}

impl Engine {
    /// Ends containers that run, side by side, as a host that goes down does: each is stopped in its own way and time, and one
    /// with the policy `always` or `unless-stopped` is started by the next [`Engine::start_on_boot`]. Returns when their
    /// supervisors are gone.
    ///
    /// # Errors
    /// The containers can't be listed.
    pub async fn shut_down(&self, whose: Whose) -> Result<Vec<ShutDown>, Error> {
        let mut ended = Vec::new();
        let mut told = Vec::new();
        for container in container::list(&self.root)? {
            let (id, name, result) = match container {
                Ok(container) => {
                    let name = container.spec().name.clone();
                    (
                        container.id().to_owned(),
                        name,
                        tell(&container, whose).await,
                    )
                }
                Err((id, error)) => (id.clone(), id, Err(error.into())),
            };
            match result {
                Ok(None) => {}
                Ok(Some(process)) => told.push((id, name, process)),
                Err(error) => ended.push(ShutDown {
                    id,
                    name,
                    result: Err(error),
                }),
            }
        }
        for (id, name, process) in told {
            let gone = process.readable().await;
            let result = gone.map(drop).map_err(|_| Error::Interrupted);
            ended.push(ShutDown { id, name, result });
        }
        Ok(ended)
    }
}

/// Tells a container's supervisor to end; its process. `None`: there is none, or it is not among them.
async fn tell(container: &Container, whose: Whose) -> Result<Option<AsyncFd<OwnedFd>>, Error> {
    let Found::Alive(_client) = supervisor::find(container).await? else {
        return Ok(None);
    };
    let Some(process) = supervisor_process(container) else {
        return Ok(None);
    };
    if whose == Whose::OurControlGroup {
        let pid = container.state()?.pid.unwrap_or_default();
        let theirs = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        // One that has just ended has none.
        let ours = fs::read_to_string("/proc/self/cgroup");
        if theirs.ok() != ours.ok() {
            return Ok(None);
        }
    }
    match rustix::process::pidfd_send_signal(process.get_ref(), Signal::TERM) {
        Ok(()) => Ok(Some(process)),
        // It ended by itself.
        Err(_) => Ok(None),
    }
}
