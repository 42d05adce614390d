//! `ps`: every container, with what is true of it now.

use store::container;

use super::{ContainerSummary, Status};
use crate::supervisor::{self, Found};
use crate::{Engine, Error};

impl Engine {
    /// The containers, newest first; without `all` those that run. Dead ones that it meets are repaired.
    ///
    /// # Errors
    /// The directory cannot be read. A container that cannot be read is listed as [`Status::Dead`].
    pub async fn list(&self, all: bool) -> Result<Vec<ContainerSummary>, Error> {
        let mut summaries = Vec::new();
        for container in container::list(&self.root)? {
            let summary = match container {
                Ok(container) => match summarize(&container).await {
                    Ok(summary) => summary,
                    Err(error) => Some(unreadable(&container, &error)),
                },
                Err((id, error)) => Some(dead(&id, &error.into())),
            };
            summaries.extend(summary.filter(|summary| all || summary.status.is_alive()));
        }
        summaries.sort_by_key(|summary| std::cmp::Reverse(summary.created_ns));
        Ok(summaries)
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
        labels: spec.labels.clone(),
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
        return Ok(Some(state));
    }
    match supervisor::find(container).await? {
        // It answers when what it knows is written down: its VM may have died a moment ago.
        Found::Removed => return Ok(None),
        Found::Alive(_) | Found::Maintained(_) | Found::Idle(_) => {}
    }
    match container.state() {
        Err(container::Error::NotFound(_)) => Ok(None),
        other => Ok(Some(other?)),
    }
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
        labels: std::collections::BTreeMap::new(),
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
