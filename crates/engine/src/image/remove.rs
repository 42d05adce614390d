//! `rmi`, `image prune`: forgetting references; images that nothing leads to any more go with the last one, and blobs and
//! rootfs images with the last image.
//!
//! References first, then the image's record, then files: a crash in between leaves an image without a name, or files
//! that the next collection takes. While others pull, load, push or save, files stay until those have ended.

use std::collections::BTreeSet;

use oci::{Digest, Reference};
use store::images::{self, Record};
use store::refs::Entry;
use store::{container, fault, gc, refs};

use super::filter::{self, Bounds, ImageFilter};
use super::lease::{alone, exclusive};
use super::list::{familiar, references, summary};
use super::{PrunedImages, Removed, find, note};
use crate::{Engine, Error};

impl Engine {
    /// Removes a reference; with the last one the image too. By id, all its references (`force` when several).
    /// `force` also forgets the references of an image that containers use; the image stays for as long as they do.
    ///
    /// # Errors
    /// No such image; a container uses it; a container cannot be read, and may use it. Then nothing is changed. A file that
    /// cannot be removed: then the image is gone all the same.
    pub fn image_remove(&self, name: &str, force: bool) -> Result<Vec<Removed>, Error> {
        let names = exclusive(&self.root)?;
        let (record, by) = find::find(&self.root, name)?;
        let entries = references(&self.root, &record.id)?;
        let doomed: Vec<Entry> = match by {
            Some(reference) => entries
                .iter()
                .filter(|one| one.reference == reference || by_digest(&reference, &one.reference))
                .cloned()
                .collect(),
            None if entries.len() > 1 && !force => {
                return Err(Error::SeveralReferences {
                    image: name.to_owned(),
                    references: familiar(&entries),
                });
            }
            None => entries.clone(),
        };
        let last = doomed.len() == entries.len();
        let user = if last { self.user(&record.id)? } else { None };
        if let Some(user) = &user
            && !force
        {
            let running = user.state().is_ok_and(|state| state.status.is_alive());
            return Err(Error::ImageInUse {
                image: name.to_owned(),
                container: user.spec().name.clone(),
                running,
            });
        }
        let delete = last && user.is_none();
        if delete {
            // Better known before than when its files are to go.
            gc::unused(&self.root)?;
        }
        let mut removed = self.forget(&record, &doomed, delete)?;
        drop(names);
        if !delete {
            return Ok(removed);
        }
        let collected = alone(&self.root, |exclusive| {
            Ok(gc::collect(&self.root, exclusive)?)
        })?;
        removed.extend(layers(&record, &collected.unwrap_or_default()));
        Ok(removed)
    }

    /// Removes all images that have no reference, with `all` all that no container uses, of those that `filter` lets
    /// through; and whatever pulls that broke off have left.
    ///
    /// # Errors
    /// A container or an image that cannot be read; a file that cannot be removed.
    pub fn prune_images(&self, all: bool, filter: &ImageFilter) -> Result<PrunedImages, Error> {
        let names = exclusive(&self.root)?;
        let bounds = Bounds::new(&self.root, filter)?;
        let used = self.used_images()?;
        let mut pruned = PrunedImages::default();
        let mut doomed = Vec::new();
        for record in images::list(&self.root)? {
            let entries = references(&self.root, &record.id)?;
            if used.contains(&record.id.to_string())
                || !(all || entries.is_empty())
                || !filter::matches(&summary(&self.root, &record)?, filter, bounds)
            {
                continue;
            }
            pruned.removed.extend(self.forget(&record, &entries, true)?);
            doomed.push(record);
        }
        drop(names);
        let done = alone(&self.root, |exclusive| {
            let collected = gc::collect(&self.root, exclusive)?;
            let downloads = gc::forget_downloads(&self.root, exclusive)?;
            Ok((collected, downloads))
        })?;
        pruned.later = done.is_none();
        let (collected, downloads) = done.unwrap_or_default();
        let mut named = BTreeSet::new();
        for record in &doomed {
            let gone = layers(record, &collected);
            pruned
                .removed
                .extend(gone.into_iter().filter(|one| named.insert(one.clone())));
        }
        pruned.bytes = collected.bytes + downloads;
        note::pruned(&self.root, pruned.bytes);
        Ok(pruned)
    }

    /// Takes references from an image, and with `delete` the image itself: all of it, or nothing.
    fn forget(
        &self,
        record: &Record,
        doomed: &[Entry],
        delete: bool,
    ) -> Result<Vec<Removed>, Error> {
        fault::point("rmi.found");
        if let Err(error) = self.take_away(record, doomed, delete) {
            self.give_back(doomed);
            return Err(error);
        }
        let mut removed = Vec::new();
        for entry in doomed {
            let name = entry.reference.familiar();
            note::image(&self.root, "untag", &record.id, &name);
            removed.push(Removed::Untagged(name));
        }
        if delete {
            let id = record.id.to_string();
            note::image(&self.root, "delete", &record.id, &id);
            removed.push(Removed::Deleted(id));
        }
        Ok(removed)
    }

    fn take_away(&self, record: &Record, doomed: &[Entry], delete: bool) -> Result<(), Error> {
        for entry in doomed {
            refs::remove(&self.root, &entry.reference)?;
            fault::point("rmi.untagged");
        }
        if delete {
            images::remove(&self.root, &record.id)?;
            fault::point("rmi.forgotten");
        }
        Ok(())
    }

    /// Best effort: the error that matters is the first one.
    fn give_back(&self, entries: &[Entry]) {
        for entry in entries {
            if let Err(error) = refs::set(&self.root, &entry.reference, entry.image, entry.target) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, reference = %entry.reference, "it has lost its image");
            }
        }
    }

    /// A container that was made of an image, one that runs first.
    fn user(&self, image: &Digest) -> Result<Option<container::Container>, Error> {
        let image = image.to_string();
        let mut users: Vec<_> = container::list(&self.root)?
            .into_iter()
            .flatten()
            .filter(|container| container.spec().image.id == image)
            .collect();
        let alive = |container: &container::Container| {
            container.state().is_ok_and(|state| state.status.is_alive())
        };
        users.sort_by_key(|container| !alive(container));
        Ok(users.into_iter().next())
    }

    /// The ids of the images that containers were made of.
    pub(crate) fn used_images(&self) -> Result<BTreeSet<String>, Error> {
        let mut used = BTreeSet::new();
        for container in container::list(&self.root)? {
            let container = container.map_err(|(id, source)| gc::Error::Container {
                id,
                source: Box::new(source),
            })?;
            used.insert(container.spec().image.id.clone());
        }
        Ok(used)
    }
}

/// A digest that was pulled by tag stands for that tag.
fn by_digest(wanted: &Reference, one: &Reference) -> bool {
    wanted.digest().is_some() && wanted.name() == one.name()
}

/// Of all that was collected, what belonged to the image.
fn layers(record: &Record, collected: &gc::Collected) -> Vec<Removed> {
    let mut named = BTreeSet::new();
    record
        .layers
        .iter()
        .map(|layer| layer.digest)
        .filter(|digest| collected.blobs.contains(digest) && named.insert(*digest))
        .map(|digest| Removed::Deleted(digest.to_string()))
        .collect()
}
