//! Changing containers that exist: restart, rename, update.

use std::time::Duration;

use proto::supervisor as wire;
use store::container::{self, Container, RestartPolicy, Spec};
use store::{events, fault};

use super::create::{check_memory, check_restart, processors};
use super::{StartMode, UpdateRequest};
use crate::supervisor::{self, Found};
use crate::{Engine, Error};

impl Engine {
    /// Stops a container as [`Engine::stop`] does, when it runs, and starts it.
    ///
    /// # Errors
    /// [`Error::RemovedAtEnd`] for one that would be gone; what [`Engine::stop`] and [`Engine::start`] fail with.
    pub async fn restart(
        &self,
        id: &str,
        timeout: Option<Duration>,
        signal: Option<u32>,
    ) -> Result<(), Error> {
        let container = self.container(id)?;
        if container.spec().remove && matches!(supervisor::find(&container).await?, Found::Alive(_))
        {
            return Err(Error::RemovedAtEnd {
                name: container.spec().name.clone(),
            });
        }
        self.stop(container.id(), timeout, signal).await?;
        fault::point("restart.stopped");
        self.start(container.id(), StartMode::Detached).await?;
        emit(&container, "restart", &[]);
        Ok(())
    }

    /// Gives a container another name, whether it runs or not.
    ///
    /// # Errors
    /// The name is in use, or is no name.
    pub fn rename(&self, id: &str, name: &str) -> Result<(), Error> {
        // As Docker: inspect shows names with a slash.
        let name = name.strip_prefix('/').unwrap_or(name);
        let mut container = self.container(id)?;
        let old = container.spec().name.clone();
        if old == name {
            return Err(Error::invalid(
                "name",
                format!("{name:?} is its name already"),
            ));
        }
        container.rewrite_spec(|spec| name.clone_into(&mut spec.name))?;
        emit(&container, "rename", &[("oldName", &old)]);
        Ok(())
    }

    /// Gives a container other limits, or another restart policy. One that runs has them when this returns, and keeps them
    /// when it is started again.
    ///
    /// # Errors
    /// What the host or the running VM does not have; then nothing is changed.
    pub async fn update(&self, id: &str, request: UpdateRequest) -> Result<(), Error> {
        let mut container = self.container(id)?;
        if let Some(memory) = request.memory {
            check_memory(memory)?;
        }
        let processors = request.nano_cpus.map(processors).transpose()?;
        if let Some(restart) = request.restart {
            check_restart(restart, container.spec().remove)?;
        }
        let change = |spec: &mut Spec| {
            if let Some(memory) = request.memory {
                spec.vm.memory = memory;
            }
            if let Some((cpus, nano_cpus)) = processors {
                (spec.vm.cpus, spec.vm.nano_cpus) = (cpus, nano_cpus);
            }
            if let Some(limit) = request.pids_limit {
                spec.vm.pids_limit = limit;
            }
            if let Some(restart) = request.restart {
                spec.restart = restart;
            }
        };
        let before = container.spec().clone();
        container.rewrite_spec(change)?;
        fault::point("update.spec-written");
        if let Err(error) = tell(&container, request).await {
            // What it runs with is what it says.
            container.rewrite_spec(|spec| {
                let (memory, pids) = (spec.vm.memory, spec.vm.pids_limit);
                spec.vm.memory = request.memory.map_or(memory, |_| before.vm.memory);
                spec.vm.pids_limit = request.pids_limit.map_or(pids, |_| before.vm.pids_limit);
                if request.nano_cpus.is_some() {
                    (spec.vm.cpus, spec.vm.nano_cpus) = (before.vm.cpus, before.vm.nano_cpus);
                }
                if request.restart.is_some() {
                    spec.restart = before.restart;
                }
            })?;
            return Err(error);
        }
        fault::point("update.told");
        emit(&container, "update", &[]);
        Ok(())
    }

    /// Starts the containers that are to run whenever the host does, and don't: those that were started once, whose policy is
    /// `always`, or `unless-stopped` and nobody stopped them. Tells of each what came of it.
    ///
    /// # Errors
    /// The containers cannot be listed.
    pub async fn start_on_boot(&self) -> Result<Vec<StartedOnBoot>, Error> {
        let mut started = Vec::new();
        for container in container::list(&self.root)? {
            let container = match container {
                Ok(container) => container,
                Err((id, error)) => {
                    started.push(StartedOnBoot {
                        name: id.clone(),
                        id,
                        result: Err(error.into()),
                    });
                    continue;
                }
            };
            let result = match due(&container).await {
                Ok(false) => continue,
                Ok(true) => self
                    .start(container.id(), StartMode::Detached)
                    .await
                    .map(drop),
                Err(error) => Err(error),
            };
            let result = match result {
                // Somebody was quicker.
                Err(Error::Running { .. }) => continue,
                other => other,
            };
            started.push(StartedOnBoot {
                id: container.id().to_owned(),
                name: container.spec().name.clone(),
                result,
            });
        }
        Ok(started)
    }
}

/// A container that [`Engine::start_on_boot`] started, or could not.
#[derive(Debug)]
pub struct StartedOnBoot {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name; the id when it cannot be read.
    pub name: String,
    /// Why it does not run.
    pub result: Result<(), Error>,
}

/// Whether a container is to run and does not.
async fn due(container: &Container) -> Result<bool, Error> {
    let policy = container.spec().restart.policy;
    if !matches!(policy, RestartPolicy::Always | RestartPolicy::UnlessStopped) {
        return Ok(false);
    }
    match supervisor::find(container).await? {
        Found::Alive(_) | Found::Removed => return Ok(false),
        // Its files are in use, for which a start waits.
        Found::Maintained(_) | Found::Idle(..) => {}
    }
    let state = container.state()?;
    let stopped = state.stopped && policy == RestartPolicy::UnlessStopped;
    Ok(state.started_ns.is_some() && !stopped)
}

/// Tells the supervisor of new limits, if there is one.
async fn tell(container: &Container, request: UpdateRequest) -> Result<(), Error> {
    let Found::Alive(client) = supervisor::find(container).await? else {
        return Ok(());
    };
    let update = wire::UpdateRequest {
        memory_limit: request.memory,
        nano_cpus: request.nano_cpus,
        pids_limit: request.pids_limit,
        restart: request.restart.is_some(),
    };
    let mut rpc = client.rpc.clone();
    match client.call("update", rpc.update(update)).await?.failure {
        None => Ok(()),
        Some(failure) => Err(supervisor::failure(&container.spec().name, failure)),
    }
}

/// Notes what happened to a container.
pub(super) fn emit(container: &Container, action: &str, attributes: &[(&str, &str)]) {
    let mut event = events::Event::container(container.spec(), action);
    for (key, value) in attributes {
        event = event.with(key, value);
    }
    events::emit(container.root(), &event);
}
