//! Garbage collection: what no reference and no container leads to is removed.
//!
//! Marks from references and containers to images, from images to blobs and rootfs images; then sweeps. It runs under
//! the exclusive lease on content, so nothing comes in meanwhile. What cannot be read stops it: a container that we
//! don't understand may use anything.

use std::collections::BTreeSet;

use oci::Digest;

use crate::file;
use crate::lock::{self, Lock, Mode};
use crate::{Root, container, content, images, json, refs};

/// Why nothing (more) was collected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A reference or an image that cannot be read.
    #[error(transparent)]
    Json(#[from] json::Error),
    /// A container that cannot be read.
    #[error("container {id} cannot be read, so what it uses is not known")]
    Container {
        /// Its id.
        id: String,
        /// Why.
        #[source]
        source: Box<container::Error>,
    },
    /// The containers cannot be listed.
    #[error(transparent)]
    Containers(#[from] container::Error),
    /// Blobs.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// Locking failed.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Ids.
    pub images: Vec<Digest>,
    /// Blobs that were layers, manifests and so on.
    pub blobs: Vec<Digest>,
    /// Keys.
    pub rootfs: Vec<String>,
}

/// Collects. `_exclusive` is [`content::lease`] in exclusive mode.
///
/// # Errors
/// As [`Error`] says.
pub fn collect(root: &Root, _exclusive: &Lock) -> Result<Collected, Error> {
    let mut live: BTreeSet<Digest> = refs::list(root)?.iter().map(|entry| entry.image).collect();
    let mut rootfs = BTreeSet::new();
    for container in container::list(root)? {
        let container = container.map_err(|(id, source)| Error::Container {
            id,
            source: Box::new(source),
        })?;
        let image = &container.spec().image;
        live.extend(image.id.parse::<Digest>());
        rootfs.insert(image.rootfs.clone());
    }
    let mut collected = Collected::default();
    let mut blobs = BTreeSet::new();
    for record in images::list(root)? {
        if live.contains(&record.id) {
            blobs.extend(record.blobs().copied());
            rootfs.insert(record.rootfs);
        } else {
            images::remove(root, &record.id)?;
            collected.images.push(record.id);
        }
    }
    for digest in content::list(root)? {
        if !blobs.contains(&digest) {
            file::remove(&content::path(root, &digest))?;
            collected.blobs.push(digest);
        }
    }
    sweep_ingest(root)?;
    for key in file::names(&root.rootfs())? {
        if !rootfs.contains(&key) && remove_rootfs(root, &key)? {
            collected.rootfs.push(key);
        }
    }
    Ok(collected)
}

/// Nobody brings anything in while we have the exclusive lease: all there is was left by a crash.
fn sweep_ingest(root: &Root) -> Result<(), file::Error> {
    let dir = root.content().join("ingest");
    for entry in std::fs::read_dir(&dir).map_err(file::Error::at("list", &dir))? {
        let entry = entry.map_err(file::Error::at("list", &dir))?;
        file::remove(&entry.path())?;
    }
    Ok(())
}

/// False when somebody holds a lease on it: a container that was removed by force and is still dying.
fn remove_rootfs(root: &Root, key: &str) -> Result<bool, Error> {
    let dir = root.rootfs().join(key);
    match Lock::try_acquire(&dir, Mode::Exclusive) {
        Ok(Some(_lock)) => {
            file::remove_tree(&dir)?;
            Ok(true)
        }
        Ok(None) | Err(lock::Error::Gone(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
