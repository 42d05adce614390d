//! Removing volumes: one, or all that nobody uses.

use store::lock::Mode;
use store::{fault, volume};

use super::attach::lease;
use super::{VolumeFilter, emit};
use crate::{Engine, Error, blocking};

/// What [`Engine::prune_volumes`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedVolumes {
    /// Their names.
    pub names: Vec<String>,
    /// How much they took on the disk.
    pub bytes: u64,
}

impl Engine {
    /// Removes a volume that no container uses, running or not.
    ///
    /// # Errors
    /// There is no such volume, or somebody uses it.
    pub async fn volume_remove(&self, name: &str) -> Result<(), Error> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || engine.remove_volume(&name)).await
    }

    fn remove_volume(&self, name: &str) -> Result<(), Error> {
        let index = volume::hold(&self.root, Mode::Exclusive)?;
        let volume = volume::open(&self.root, name)?;
        let users = volume::users(&self.root)?.remove(name).unwrap_or_default();
        if !users.is_empty() {
            return Err(Error::VolumeUsed {
                volume: name.to_owned(),
                containers: users.into_iter().map(|user| user.name).collect(),
            });
        }
        let held = lease(self, &volume, Mode::Exclusive)?;
        fault::point("volume.rm-locked");
        volume::remove(&self.root, &volume, &index, &held)?;
        emit(&self.root, "destroy", name, &[]);
        Ok(())
    }

    /// Removes the volumes that no container uses and that a filter lets through: with `all` every one, otherwise those
    /// without a name; and what crashes left.
    ///
    /// # Errors
    /// The first one that could not be removed. One that somebody has, or removes, is no failure.
    pub async fn prune_volumes(
        &self,
        all: bool,
        filter: &VolumeFilter,
    ) -> Result<PrunedVolumes, Error> {
        let (engine, filter) = (self.clone(), filter.clone());
        blocking(move || engine.prune_unused(all, &filter)).await
    }

    fn prune_unused(&self, all: bool, filter: &VolumeFilter) -> Result<PrunedVolumes, Error> {
        let mut pruned = PrunedVolumes {
            bytes: volume::sweep(&self.root)?,
            ..PrunedVolumes::default()
        };
        let filter = VolumeFilter {
            dangling: Some(true),
            ..filter.clone()
        };
        for summary in self.volumes(&filter)? {
            if summary.error.is_some() || !(all || summary.anonymous) {
                continue;
            }
            match self.remove_volume(&summary.name) {
                Ok(()) => {
                    pruned.bytes += summary.occupied;
                    pruned.names.push(summary.name);
                }
                Err(
                    Error::VolumeInUse { .. }
                    | Error::VolumeUsed { .. }
                    | Error::Volume(volume::Error::NotFound(_)),
                ) => {}
                Err(error) => return Err(error),
            }
        }
        let reclaimed: (&str, &dyn ToString) = ("reclaimed", &pruned.bytes);
        emit(&self.root, "prune", "", &[reclaimed]);
        Ok(pruned)
    }
}
