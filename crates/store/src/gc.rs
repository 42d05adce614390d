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

/// Removes those of `candidates` that no image has. `_exclusive` is [`content::lease`] in exclusive mode.
///
/// # Errors
/// An image that cannot be read, or a blob that cannot be removed.
pub fn drop_unused(root: &Root, _exclusive: &Lock, candidates: &[Digest]) -> Result<(), Error> {
    let records = images::list(root)?;
    let used: BTreeSet<&Digest> = records.iter().flat_map(images::Record::blobs).collect();
    for digest in candidates {
        if !used.contains(digest) {
            file::remove(&content::path(root, digest))?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use oci::{Descriptor, MediaType, Platform, Reference};

    fn image(root: &Root, name: &str, shared: &Descriptor) -> images::Record {
        let blob = |what: &str| {
            let bytes = format!("{what} of {name}");
            content::put(root, bytes.as_bytes()).unwrap();
            Descriptor::of(MediaType::OciLayer, bytes.as_bytes())
        };
        let config = blob("config");
        let record = images::Record {
            schema: images::SCHEMA,
            id: config.digest,
            config,
            manifest: blob("manifest"),
            index: None,
            platform: Platform::host(),
            layers: vec![shared.clone(), blob("layer")],
            rootfs: format!("{name}-w1"),
            added_ns: 0,
        };
        images::put(root, &record).unwrap();
        file::make_dir(&root.rootfs().join(&record.rootfs)).unwrap();
        let reference: Reference = name.parse().unwrap();
        refs::set(root, &reference, record.id, None).unwrap();
        record
    }

    #[test]
    fn what_is_referred_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        content::put(&root, b"shared").unwrap();
        let shared = Descriptor::of(MediaType::OciLayer, b"shared");
        let kept = image(&root, "kept", &shared);
        let gone = image(&root, "gone", &shared);
        let leased = image(&root, "leased", &shared);
        let stray = content::put(&root, b"stray").unwrap();
        std::fs::write(root.content().join("ingest/.part"), "x").unwrap();
        let exclusive = content::lease(&root, Mode::Exclusive).unwrap();
        let first = collect(&root, &exclusive).unwrap();
        assert_eq!(first.blobs, [stray]);
        assert_eq!((first.images.len(), first.rootfs.len()), (0, 0));
        assert!(!root.content().join("ingest/.part").exists());

        for name in ["gone", "leased"] {
            refs::remove(&root, &name.parse().unwrap()).unwrap();
        }
        // As a dying container's monitor has it.
        let lease = Lock::acquire(&root.rootfs().join(&leased.rootfs), Mode::Shared).unwrap();
        let second = collect(&root, &exclusive).unwrap();
        let mut ids = vec![gone.id, leased.id];
        ids.sort();
        assert_eq!(second.images, ids);
        assert_eq!(second.blobs.len(), 6);
        assert_eq!(second.rootfs, [gone.rootfs]);
        assert!(content::has(&root, &shared));
        assert_eq!(images::list(&root).unwrap(), [kept]);
        drop(lease);
        assert_eq!(collect(&root, &exclusive).unwrap().rootfs, [leased.rootfs]);
    }

    #[test]
    fn a_container_that_cannot_be_read_stops_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let stray = content::put(&root, b"stray").unwrap();
        let container = root.containers().join("0".repeat(64));
        std::fs::create_dir(&container).unwrap();
        std::fs::write(container.join("spec.json"), "{").unwrap();
        let exclusive = content::lease(&root, Mode::Exclusive).unwrap();
        let error = collect(&root, &exclusive).unwrap_err();
        assert!(error.to_string().ends_with("what it uses is not known"));
        assert_eq!(content::list(&root).unwrap(), [stray]);
    }
}
