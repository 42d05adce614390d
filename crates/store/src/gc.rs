//! Garbage collection: blobs and rootfs images that belong to no image and no container are removed.
//!
//! Marks from images and containers; then sweeps. It runs under the exclusive lease on content, so nothing comes in
//! meanwhile. While somebody brings something in, or reads some, nobody waits: `content/due` says that a collection is wanted
//! ([`ask`]), and whoever gives back a lease looks whether it is ([`collect_due`]). Images themselves go when somebody says so: one without a name may be what a person loaded or committed.
//! What cannot be read stops it: a container that we don't understand may use anything.

use std::collections::BTreeSet;
use std::time::Duration;

use oci::Digest;

use crate::lock::{self, Lock, Mode};
use crate::{Root, container, content, fault, file, images, json};

/// How long a download that broke off may be gone on with before it is collected.
const DOWNLOADS_STAY: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// Blobs that were layers, manifests and so on.
    pub blobs: Vec<Digest>,
    /// Keys.
    pub rootfs: Vec<String>,
    /// What all of it occupied on the disk, in bytes.
    pub bytes: u64,
}

/// What [`collect`] would remove: what it leaves alone stays out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unused {
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// Keys.
    pub rootfs: Vec<String>,
    /// Files of downloads that broke off, and such.
    pub unfinished: Vec<std::path::PathBuf>,
}

/// What belongs to no image and no container. Without the lease it may be what somebody is just bringing in.
///
/// # Errors
/// As [`Error`] says.
pub fn unused(root: &Root) -> Result<Unused, Error> {
    let mut rootfs = BTreeSet::new();
    for container in container::list(root)? {
        let container = container.map_err(|(id, source)| Error::Container {
            id,
            source: Box::new(source),
        })?;
        rootfs.insert(container.spec().image.rootfs.clone());
    }
    let mut blobs = BTreeSet::new();
    for record in images::list(root)? {
        blobs.extend(record.blobs().copied());
        rootfs.insert(record.rootfs);
    }
    let mut unused = Unused {
        blobs: content::list(root)?,
        rootfs: file::names(&root.rootfs())?,
        unfinished: unfinished(root)?,
    };
    unused.blobs.retain(|digest| !blobs.contains(digest));
    unused.rootfs.retain(|key| !rootfs.contains(key));
    Ok(unused)
}

/// The mark that a collection is wanted.
fn due(root: &Root) -> std::path::PathBuf {
    root.content().join("due")
}

/// Has whoever gives back the last lease on content collect. Then try once more to get it: it may just have been given back.
///
/// # Errors
/// The system call that failed.
pub fn ask(root: &Root) -> Result<(), file::Error> {
    let path = due(root);
    match file::write_new(&path, &[], file::Durability::Unsynced) {
        Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Collects if that is wanted, and nobody holds a lease on content. For whoever has just given one back.
///
/// # Errors
/// As [`Error`] says.
pub fn collect_due(root: &Root) -> Result<(), Error> {
    // Again: somebody may have asked while we were at it.
    while due(root).exists() {
        let Some(exclusive) = content::try_lease(root, Mode::Exclusive)? else {
            return Ok(());
        };
        collect(root, &exclusive)?;
    }
    Ok(())
}

/// Collects. `_exclusive` is [`content::lease`] in exclusive mode.
///
/// # Errors
/// As [`Error`] says.
pub fn collect(root: &Root, _exclusive: &Lock) -> Result<Collected, Error> {
    // First: who asks from now on wants another one.
    file::remove(&due(root))?;
    let unused = unused(root)?;
    fault::point("gc.marked");
    let mut collected = Collected::default();
    for digest in unused.blobs {
        collected.bytes += remove_file(&content::path(root, &digest))?;
        collected.blobs.push(digest);
    }
    fault::point("gc.blobs-removed");
    // Nobody brings anything in while we have the exclusive lease: all there is was left by a crash. What a download can go
    // on with is left alone for a while.
    for path in unused.unfinished {
        let may_go_on = content::is_partial(&path) || content::is_note(&path);
        if !(may_go_on && is_fresh(&path)) {
            collected.bytes += remove_file(&path)?;
        }
    }
    collected.bytes += file::sweep_condemned(&root.rootfs())?;
    for key in unused.rootfs {
        if let Some(bytes) = remove_rootfs(root, &key)? {
            collected.bytes += bytes;
            collected.rootfs.push(key);
        }
    }
    fault::point("gc.swept");
    Ok(collected)
}

/// Removes what came of downloads that broke off, however fresh it is; the bytes that it occupied. `_exclusive` is
/// [`content::lease`] in exclusive mode.
///
/// # Errors
/// As [`Error`] says.
pub fn forget_downloads(root: &Root, _exclusive: &Lock) -> Result<u64, Error> {
    let mut bytes = 0;
    for path in unfinished(root)? {
        if content::is_partial(&path) || content::is_note(&path) {
            bytes += remove_file(&path)?;
        }
    }
    Ok(bytes)
}

/// Somebody wrote to it not long ago.
fn is_fresh(path: &std::path::Path) -> bool {
    let written = std::fs::metadata(path).and_then(|found| found.modified());
    written.is_ok_and(|written| written.elapsed().unwrap_or_default() < DOWNLOADS_STAY)
}

/// Removes a file; the bytes that it occupied on the disk.
fn remove_file(path: &std::path::Path) -> Result<u64, file::Error> {
    let bytes = file::occupied(path)?;
    file::remove(path)?;
    Ok(bytes)
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

/// Files without a name yet: downloads and the locks of those who brought them, and what was being written when a crash
/// came.
fn unfinished(root: &Root) -> Result<Vec<std::path::PathBuf>, file::Error> {
    let content = root.content();
    let ingest = content.join("ingest");
    let mut paths = Vec::new();
    for dir in [
        ingest.clone(),
        content.join("blobs/sha256"),
        root.images(),
        root.refs(),
    ] {
        for entry in std::fs::read_dir(&dir).map_err(file::Error::at("list", &dir))? {
            let entry = entry.map_err(file::Error::at("list", &dir))?;
            if dir == ingest || entry.file_name().as_encoded_bytes().starts_with(b".") {
                paths.push(entry.path());
            }
        }
    }
    Ok(paths)
}

/// The bytes that it occupied; `None` when somebody holds a lease on it: a container that was removed by force and is
/// still dying.
fn remove_rootfs(root: &Root, key: &str) -> Result<Option<u64>, Error> {
    let dir = root.rootfs().join(key);
    match Lock::try_acquire(&dir, Mode::Exclusive) {
        Ok(Some(_lock)) => {
            let bytes = file::occupied_tree(&dir)?;
            file::remove_locked(&dir)?;
            Ok(Some(bytes))
        }
        Ok(None) | Err(lock::Error::Gone(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::{Descriptor, MediaType, Platform};

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
        record
    }

    #[test]
    fn what_belongs_to_an_image_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        content::put(&root, b"shared").unwrap();
        let shared = Descriptor::of(MediaType::OciLayer, b"shared");
        let kept = image(&root, "kept", &shared);
        let gone = image(&root, "gone", &shared);
        let leased = image(&root, "leased", &shared);
        let stray = content::put(&root, &[7; 5000]).unwrap();
        let unfinished = [
            root.content().join("ingest/.part"),
            root.content().join("blobs/sha256/.part"),
            root.images().join(".part.json.1.0.tmp"),
            root.refs().join(".part.1.0.tmp"),
        ];
        for path in &unfinished {
            std::fs::write(path, "x").unwrap();
        }
        assert_eq!(unused(&root).unwrap().blobs, [stray]);
        let exclusive = content::lease(&root, Mode::Exclusive).unwrap();
        let first = collect(&root, &exclusive).unwrap();
        assert_eq!(first.blobs, [stray]);
        assert_eq!(first.rootfs.len(), 0);
        // 8 KiB of blob and 4 KiB of each part, on a file system with blocks of 4 KiB or less.
        assert!((5000..=24 << 10).contains(&first.bytes), "{}", first.bytes);
        for path in &unfinished {
            assert!(!path.exists(), "{}", path.display());
        }

        for record in [&gone, &leased] {
            images::remove(&root, &record.id).unwrap();
        }
        // As a dying container's monitor has it.
        let lease = Lock::acquire(&root.rootfs().join(&leased.rootfs), Mode::Shared).unwrap();
        let second = collect(&root, &exclusive).unwrap();
        assert_eq!(second.blobs.len(), 6);
        assert_eq!(second.rootfs, [gone.rootfs]);
        assert!(content::has(&root, &shared));
        assert_eq!(images::list(&root).unwrap(), [kept]);
        drop(lease);
        assert_eq!(collect(&root, &exclusive).unwrap().rootfs, [leased.rootfs]);
    }

    #[test]
    fn downloads_that_broke_off_stay_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let ingest = root.content().join("ingest");
        let [fresh, old] =
            ["a", "b"].map(|digit| ingest.join(format!("{}.part", digit.repeat(64))));
        let claim = ingest.join(".a.lock");
        for path in [&fresh, &old, &claim] {
            std::fs::write(path, [1; 5000]).unwrap();
        }
        let long_ago = std::time::SystemTime::now() - 2 * DOWNLOADS_STAY;
        let file = std::fs::File::options().write(true).open(&old).unwrap();
        file.set_modified(long_ago).unwrap();
        let mut found = unused(&root).unwrap().unfinished;
        found.sort();
        assert_eq!(found, [claim.clone(), fresh.clone(), old.clone()]);
        let exclusive = content::lease(&root, Mode::Exclusive).unwrap();
        assert!(collect(&root, &exclusive).unwrap().bytes >= 5000);
        assert!(fresh.exists() && !old.exists() && !claim.exists());
        assert!(forget_downloads(&root, &exclusive).unwrap() >= 5000);
        assert!(!fresh.exists());
    }

    #[test]
    fn who_gives_back_the_last_lease_collects_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        content::put(&root, b"stray").unwrap();
        let [one, two] = [(); 2].map(|()| content::lease(&root, Mode::Shared).unwrap());
        collect_due(&root).unwrap();
        for _ in 0..2 {
            ask(&root).unwrap();
        }
        drop(one);
        collect_due(&root).unwrap();
        assert_eq!(content::list(&root).unwrap().len(), 1);
        drop(two);
        collect_due(&root).unwrap();
        assert!(content::list(&root).unwrap().is_empty());
        content::put(&root, b"next").unwrap();
        collect_due(&root).unwrap();
        assert_eq!(content::list(&root).unwrap().len(), 1, "nobody asked");
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
