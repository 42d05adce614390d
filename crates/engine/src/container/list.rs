//! `ps`: every container, with what is true of it now.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt};
use store::container;

use super::{ContainerSummary, Status};
use crate::supervisor::{self, Found};
use crate::{Engine, Error};

/// Supervisors that are asked at once.
const AT_ONCE: usize = 16;

impl Engine {
    /// The containers, newest first; without `all` those that run. Dead ones that it meets are repaired.
    ///
    /// # Errors
    /// The directory cannot be read. A container that cannot be read is listed as [`Status::Dead`].
    pub async fn list(&self, all: bool) -> Result<Vec<ContainerSummary>, Error> {
        let containers = container::list(&self.root)?;
        let mut summaries: Vec<ContainerSummary> = stream::iter(containers)
            .map(async |container| match container {
                Ok(container) => match summarize(&container).await {
                    Ok(summary) => summary,
                    Err(error) => Some(unreadable(&container, &error)),
                },
                Err((id, error)) => Some(dead(&id, &error.into())),
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(async |summary| summary)
            .filter(|summary| std::future::ready(all || summary.status.is_alive()))
            .collect()
            .await;
        // Those of one moment in an order that stays.
        summaries.sort_by(|a, b| (b.created_ns, &a.id).cmp(&(a.created_ns, &b.id)));
        Ok(summaries)
    }

    /// The ids of an image and of all that were built on it: Docker's `--filter ancestor=`.
    ///
    /// # Errors
    /// No such image, or images cannot be read.
    pub fn descendants(&self, image: &str) -> Result<BTreeSet<String>, Error> {
        let inspected = self.image_inspect(image)?;
        let id = inspected["Id"].as_str().unwrap_or_default();
        let records = store::images::list(&self.root)?;
        let layers = |record: &store::images::Record| {
            let digests = record.layers.iter().map(|layer| layer.digest);
            digests.collect::<Vec<_>>()
        };
        let own = records.iter().find(|record| record.id.to_string() == id);
        let own = own.map(layers).unwrap_or_default();
        let built_on = |record: &&store::images::Record| {
            record.id.to_string() == id || !own.is_empty() && layers(record).starts_with(&own)
        };
        let ids = records.iter().filter(built_on);
        Ok(ids.map(|record| record.id.to_string()).collect())
    }
}

/// `None` for one that is gone, or was to go with its supervisor.
async fn summarize(container: &container::Container) -> Result<Option<ContainerSummary>, Error> {
    let Some(state) = current(container).await? else {
        return Ok(None);
    };
    let spec = container.spec();
    Ok(Some(ContainerSummary {
        id: spec.id.clone(),
        name: spec.name.clone(),
        image: spec.image.reference.clone(),
        image_id: spec.image.id.clone(),
        command: spec.process.args.clone(),
        created_ns: spec.created_ns,
        status: match state.status {
            container::Status::Created => Status::Created,
            container::Status::Running => Status::Running,
            container::Status::Paused => Status::Paused,
            container::Status::Restarting => Status::Restarting,
            container::Status::Exited => Status::Exited,
        },
        started_ns: state.started_ns,
        finished_ns: state.finished_ns,
        exit_code: state.exit_code,
        error: state.error,
        health: state.health.map(|health| health.status),
        labels: spec.labels.clone(),
        ports: match state.status.is_alive() {
            true => state
                .networks
                .into_iter()
                .flat_map(|there| there.ports)
                .collect(),
            false => Vec::new(),
        },
        exposed: match state.status.is_alive() {
            true => spec.exposed.clone(),
            false => Vec::new(),
        },
        networks: spec
            .networks
            .iter()
            .map(|there| there.network.clone())
            .collect(),
        volumes: volumes(spec),
        mounts: mounts(spec),
    }))
}

/// The state, after a repair if one was due.
pub(super) async fn current(
    container: &container::Container,
) -> Result<Option<container::State>, Error> {
    let state = match container.state() {
        Err(container::Error::NotFound(_)) => return Ok(None),
        other => other?,
    };
    if !state.status.is_alive() {
        let unfinished = state.status == container::Status::Exited && container.spec().remove
            || container.supervisor_socket().exists();
        return match unfinished.then(|| container.try_lock()).transpose() {
            // Its supervisor died on its last steps.
            Ok(Some(Some(lock))) => Ok(container.repair(&lock)?),
            Ok(_) => Ok(Some(state)),
            Err(container::Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        };
    }
    match supervisor::find(container).await? {
        // It answers when what it knows is written down: its VM may have died a moment ago.
        Found::Removed => return Ok(None),
        Found::Idle(_, state) => return Ok(Some(*state)),
        Found::Alive(_) | Found::Maintained(_) => {}
    }
    match container.state() {
        Err(container::Error::NotFound(_)) => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn volumes(spec: &container::Spec) -> Vec<String> {
    let names: BTreeSet<_> = spec
        .mounts
        .iter()
        .map(|mount| mount.volume.clone())
        .collect();
    names.into_iter().collect()
}

fn mounts(spec: &container::Spec) -> Vec<(String, String)> {
    let volumes = spec.mounts.iter();
    let volumes = volumes.map(|mount| (mount.volume.clone(), mount.target.clone()));
    let folders = spec.binds.iter();
    let folders = folders.map(|bind| (bind.source.display().to_string(), bind.target.clone()));
    volumes.chain(folders).collect()
}

/// One whose state cannot be read, but its spec.
fn unreadable(container: &container::Container, error: &Error) -> ContainerSummary {
    let spec = container.spec();
    ContainerSummary {
        name: spec.name.clone(),
        image: spec.image.reference.clone(),
        image_id: spec.image.id.clone(),
        command: spec.process.args.clone(),
        created_ns: spec.created_ns,
        labels: spec.labels.clone(),
        volumes: volumes(spec),
        mounts: mounts(spec),
        ..dead(container.id(), error)
    }
}

fn dead(id: &str, error: &Error) -> ContainerSummary {
    ContainerSummary {
        id: id.to_owned(),
        name: String::new(),
        image: String::new(),
        image_id: String::new(),
        command: Vec::new(),
        created_ns: 0,
        status: Status::Dead,
        started_ns: None,
        finished_ns: None,
        exit_code: None,
        error: Some(chain(error)),
        health: None,
        labels: std::collections::BTreeMap::new(),
        ports: Vec::new(),
        exposed: Vec::new(),
        networks: Vec::new(),
        volumes: Vec::new(),
        mounts: Vec::new(),
    }
}

/// An error with its causes, in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who embeds us may spawn them on any runtime.
    #[test]
    fn futures_can_be_spawned() {
        fn spawnable(_: impl Future + Send) {}
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(crate::OpenOptions {
            root: Some(dir.path().join("root")),
            ..crate::OpenOptions::default()
        })
        .unwrap();
        spawnable(engine.list(true));
        spawnable(engine.inspect("x"));
        spawnable(engine.start_on_boot());
        spawnable(engine.shut_down(crate::Whose::All));
        spawnable(engine.remove("x", true));
    }
}
