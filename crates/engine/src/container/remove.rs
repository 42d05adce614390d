//! Removing containers: one, or all that don't run.

use std::collections::BTreeMap;

use serde::Deserialize;
use store::{container, fault};

use super::change::emit;
use super::life::{kill_all, settled};
use super::size::allocated;
use crate::supervisor::Found;
use crate::{Engine, Error, blocking};

/// Which of the containers that don't run, or of the networks that nobody is on, are meant. What says nothing leaves nothing out; what says several things wants
/// all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ContainerFilter {
    /// With these labels; a value of `None` is any.
    pub labels: Vec<(String, Option<String>)>,
    /// Without these labels.
    pub without_labels: Vec<(String, Option<String>)>,
    /// Made before this time, in nanoseconds since 1970.
    pub until_ns: Option<u64>,
}

/// What [`Engine::prune_containers`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The containers' ids.
    pub ids: Vec<String>,
    /// How much their files took on the disk.
    pub bytes: u64,
}

impl ContainerFilter {
    pub(crate) fn lets_through(&self, created_ns: u64, labels: &BTreeMap<String, String>) -> bool {
        let has = |(name, value): &(String, Option<String>)| {
            let found = labels.get(name);
            found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        self.until_ns.is_none_or(|limit| created_ns < limit)
            && self.labels.iter().all(has)
            && !self.without_labels.iter().any(has)
    }
}

impl Engine {
    /// Removes a container; `force` kills one that runs, and removes one whose files cannot be read.
    ///
    /// # Errors
    /// [`Error::Running`] without `force`.
    pub async fn remove(&self, id: &str, force: bool) -> Result<(), Error> {
        self.remove_container(id, force, false).await
    }

    /// As [`Engine::remove`], and with it the volumes without a name that were made for it.
    ///
    /// # Errors
    /// As [`Engine::remove`].
    pub async fn remove_with_volumes(&self, id: &str, force: bool) -> Result<(), Error> {
        self.remove_container(id, force, true).await
    }

    async fn remove_container(&self, id: &str, force: bool, volumes: bool) -> Result<(), Error> {
        let container = match self.container(id) {
            Err(Error::Container(container::Error::Json(error))) if force => {
                return self.discard(id, &error).await;
            }
            other => other?,
        };
        let found = match settled(&container).await {
            Err(Error::Container(container::Error::Json(error))) if force => {
                return self.discard(container.id(), &error).await;
            }
            other => other?,
        };
        let lock = match found {
            Found::Removed => return Ok(()),
            Found::Idle(lock, _) => lock,
            Found::Maintained(_) => {
                let name = container.spec().name.clone();
                return Err(Error::Stuck { name });
            }
            Found::Alive(_) if !force => {
                let name = container.spec().name.clone();
                return Err(Error::Running { name });
            }
            Found::Alive(client) => match kill_all(&container, &client).await? {
                Some(lock) => lock,
                None => return Ok(()),
            },
        };
        fault::point("rm.locked");
        blocking(move || {
            if volumes {
                store::volume::remove_anonymous(&container)?;
            }
            let removed = container.remove_all();
            drop(lock);
            if removed.is_ok() {
                emit(&container, "destroy", &[]);
            }
            Ok::<_, Error>(removed?)
        })
        .await
    }

    /// Removes the containers that don't run and that a filter lets through.
    ///
    /// # Errors
    /// The containers cannot be listed, or the first one that could not be removed. One that was started, or removed,
    /// meanwhile is no failure, and one that cannot be read is left alone.
    pub async fn prune_containers(&self, filter: &ContainerFilter) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        for summary in self.list(true).await? {
            let idle = matches!(
                summary.status,
                super::Status::Created | super::Status::Exited
            );
            if !idle || !filter.lets_through(summary.created_ns, &summary.labels) {
                continue;
            }
            let bytes = allocated(&self.root.containers().join(&summary.id));
            match self.remove(&summary.id, false).await {
                Ok(()) => {
                    pruned.bytes += bytes;
                    pruned.ids.push(summary.id);
                }
                Err(Error::Running { .. } | Error::Container(container::Error::NotFound(_))) => {}
                Err(error) => return Err(error),
            }
        }
        let event = store::events::Event::now(store::events::Kind::Container, "prune", "");
        store::events::emit(&self.root, &event.with("reclaimed", pruned.bytes));
        Ok(pruned)
    }

    /// Removes a container of which `error` says why it cannot be read.
    async fn discard(&self, id: &str, error: &store::json::Error) -> Result<(), Error> {
        tracing::warn!(%error, "removing a container that cannot be read");
        let (root, id) = (self.root.clone(), id.to_owned());
        blocking(move || container::discard(&root, &id)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let labels = BTreeMap::from([("tier".to_owned(), "web".to_owned())]);
        let label = |value: Option<&str>| vec![("tier".to_owned(), value.map(str::to_owned))];
        let check = |filter: ContainerFilter, expect: bool| {
            assert_eq!(filter.lets_through(10, &labels), expect, "{filter:?}");
        };
        let all = ContainerFilter::default();
        check(all.clone(), true);
        for (until_ns, expect) in [(11, true), (10, false)] {
            let until_ns = Some(until_ns);
            check(
                ContainerFilter {
                    until_ns,
                    ..all.clone()
                },
                expect,
            );
        }
        for (value, expect) in [(None, true), (Some("web"), true), (Some("db"), false)] {
            let labels = label(value);
            check(
                ContainerFilter {
                    labels,
                    ..all.clone()
                },
                expect,
            );
            let without_labels = label(value);
            check(
                ContainerFilter {
                    without_labels,
                    ..all.clone()
                },
                !expect,
            );
        }
    }
}
