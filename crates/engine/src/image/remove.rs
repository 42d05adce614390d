//! `rmi`: forgetting references; images and blobs that nothing leads to any more go with the last one.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use oci::{Digest, Reference};
use store::container;
use store::images::Record;
use store::lock::{Holder, Lock, Mode};
use store::{Root, content, gc, refs};

use super::list::{familiar, references};
use super::{Removed, find};
use crate::{Engine, Error};

/// How long others may hold the images: a creation does for milliseconds, a pull for minutes.
const PATIENCE: Duration = Duration::from_secs(2);

impl Engine {
    /// Removes a reference; with the last one the image too. By id, all its references (`force` when several).
    /// `force` also forgets the references of an image that containers use; the image stays for as long as they do.
    ///
    /// # Errors
    /// No such image; a container uses it; somebody pulls or loads.
    pub fn image_remove(&self, name: &str, force: bool) -> Result<Vec<Removed>, Error> {
        let exclusive = exclusive(&self.root)?;
        let (record, by) = find::find(&self.root, name)?;
        let entries = references(&self.root, &record.id)?;
        let doomed: Vec<Reference> = match by {
            Some(reference) => entries
                .iter()
                .map(|entry| entry.reference.clone())
                .filter(|one| *one == reference || by_digest(&reference, one))
                .collect(),
            None if entries.len() > 1 && !force => {
                return Err(Error::SeveralReferences {
                    image: name.to_owned(),
                    references: familiar(&entries),
                });
            }
            None => entries
                .iter()
                .map(|entry| entry.reference.clone())
                .collect(),
        };
        if doomed.len() == entries.len() && !force {
            self.check_unused(name, &record.id)?;
        }
        let mut removed = Vec::new();
        for reference in doomed {
            refs::remove(&self.root, &reference)?;
            removed.push(Removed::Untagged(reference.familiar()));
        }
        let collected = gc::collect(&self.root, &exclusive)?;
        removed.extend(deleted(&record, &collected));
        Ok(removed)
    }

    fn check_unused(&self, name: &str, image: &Digest) -> Result<(), Error> {
        let image = image.to_string();
        for container in container::list(&self.root)?.into_iter().flatten() {
            if container.spec().image.id == image {
                let running = container.state().is_ok_and(|state| state.status.is_alive());
                return Err(Error::ImageInUse {
                    image: name.to_owned(),
                    container: container.spec().name.clone(),
                    running,
                });
            }
        }
        Ok(())
    }
}

/// The lease on all images; an error that names who keeps it from us for long.
fn exclusive(root: &Root) -> Result<Lock, Error> {
    if let Some(lease) = content::try_lease(root, Mode::Exclusive)? {
        return Ok(lease);
    }
    let (sender, receiver) = mpsc::channel();
    let waiting = root.clone();
    // It may wait for longer than we do; then it gives the lease back as soon as it has it.
    std::thread::Builder::new()
        .name("lease".to_owned())
        .spawn(move || drop(sender.send(content::lease(&waiting, Mode::Exclusive))))
        .map_err(|source| Error::Spawn {
            operation: "start",
            program: "a thread".to_owned(),
            source,
        })?;
    if let Ok(lease) = receiver.recv_timeout(PATIENCE) {
        return Ok(lease?);
    }
    let holders = content::holders(root);
    let name = |holder: &Holder| format!("process {} ({})", holder.pid, holder.command);
    Err(Error::ImagesInUse {
        holders: holders.iter().map(name).collect(),
    })
}

/// A digest that was pulled by tag stands for that tag.
fn by_digest(wanted: &Reference, one: &Reference) -> bool {
    wanted.digest().is_some() && wanted.name() == one.name()
}

/// Of all that was collected, what the user asked about comes first; remains of other images are named too.
fn deleted(record: &Record, collected: &gc::Collected) -> Vec<Removed> {
    let mut named: BTreeSet<Digest> = collected.images.iter().copied().collect();
    let mut removed = Vec::new();
    let mut name = |digest: Digest| removed.push(Removed::Deleted(digest.to_string()));
    if named.remove(&record.id) {
        name(record.id);
    }
    named.iter().copied().for_each(&mut name);
    let layers: BTreeSet<Digest> = record.layers.iter().map(|layer| layer.digest).collect();
    let gone = collected.blobs.iter().filter(|blob| layers.contains(blob));
    gone.copied().for_each(&mut name);
    removed
}
