//! `images/<config digest>.json`: what an image is, and which blobs and rootfs image belong to it.
//!
//! A lock of its own ([`hold`]) makes one step of what goes together: an image and its references, or an image and the
//! container that is made of it. It is held for moments, where the lease on content ([`crate::content::lease`]) lasts for as
//! long as a pull. Who wants both takes the lease first.

use std::path::PathBuf;
use std::time::Duration;

use oci::{Descriptor, Digest, Platform};
use serde::{Deserialize, Serialize};

use crate::file::{self, Durability};
use crate::lock::{self, Lock, Mode};
use crate::{Root, json};

/// The version of the files that this build writes.
pub const SCHEMA: u32 = 1;

/// What stands in an image's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    /// Its configuration.
    pub config: Descriptor,
    /// Its manifest.
    pub manifest: Descriptor,
    /// The index that led to the manifest.
    pub index: Option<Descriptor>,
    /// What it runs on.
    pub platform: Platform,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// The key of its rootfs image.
    pub rootfs: String,
    /// When it came, in nanoseconds since 1970.
    pub added_ns: u64,
}

impl Record {
    /// Every blob that belongs to it.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
        [&self.config, &self.manifest]
            .into_iter()
            .chain(&self.index)
            .chain(&self.layers)
            .map(|descriptor| &descriptor.digest)
    }
}

/// The lock on images and references: shared for whoever adds some, or makes a container of one, exclusive for whoever
/// removes some.
///
/// # Errors
/// Locking failed.
pub fn hold(root: &Root, mode: Mode) -> Result<Lock, lock::Error> {
    Lock::acquire(&lock_dir(root), mode)
}

/// The same, if it is to be had at once.
///
/// # Errors
/// Locking failed.
pub fn try_hold(root: &Root, mode: Mode) -> Result<Option<Lock>, lock::Error> {
    Lock::try_acquire(&lock_dir(root), mode)
}

/// The same, if it is to be had within so long.
///
/// # Errors
/// Locking failed.
pub fn hold_within(
    root: &Root,
    mode: Mode,
    patience: Duration,
) -> Result<Option<Lock>, lock::Error> {
    Lock::acquire_within(&lock_dir(root), mode, patience)
}

/// Who holds it, this process left out.
#[must_use]
pub fn holders(root: &Root) -> Vec<lock::Holder> {
    lock::holders(&lock_dir(root))
}

/// A folder that is there, and in which nothing else is looked for.
fn lock_dir(root: &Root) -> PathBuf {
    root.content().join("blobs")
}

fn path(root: &Root, id: &Digest) -> PathBuf {
    root.images().join(format!("{}.json", id.hex()))
}

/// The image of an id.
///
/// # Errors
/// The file is corrupt or newer.
pub fn get(root: &Root, id: &Digest) -> Result<Option<Record>, json::Error> {
    match json::read(&path(root, id), SCHEMA) {
        Err(error) if error.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// Keeps an image.
///
/// # Errors
/// It cannot be written.
pub fn put(root: &Root, record: &Record) -> Result<(), json::Error> {
    json::write(&path(root, &record.id), record, Durability::Synced)
}

/// Forgets an image; false when there was none. Its blobs are garbage collection's.
///
/// # Errors
/// It cannot be removed.
pub fn remove(root: &Root, id: &Digest) -> Result<bool, file::Error> {
    file::remove(&path(root, id))
}

/// The ids of all images, sorted.
///
/// # Errors
/// The directory cannot be listed.
pub fn ids(root: &Root) -> Result<Vec<Digest>, file::Error> {
    Ok(file::names(&root.images())?
        .iter()
        .filter_map(|name| {
            format!("sha256:{}", name.strip_suffix(".json")?)
                .parse()
                .ok()
        })
        .collect())
}

/// All images, by id.
///
/// # Errors
/// One that is corrupt or newer.
pub fn list(root: &Root) -> Result<Vec<Record>, json::Error> {
    let mut records = Vec::new();
    for id in ids(root)? {
        records.extend(get(root, &id)?);
    }
    Ok(records)
}
