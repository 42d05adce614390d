//! Making a volume: whole, or not at all.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Error, SCHEMA, Spec, Volume, check_name, check_size, find};
use crate::file::{self, Durability};
use crate::lock::{self, LOCK, Lock, Mode};
use crate::{Root, fault, json};

/// Makes an empty volume. `_index` is [`super::hold`]'s, in any mode. What a container without a name for it has, and that
/// goes with it, need not be durable.
///
/// # Errors
/// [`Error::Exists`], [`Error::BeingMade`], [`Error::InvalidName`], [`Error::Size`], or what failed; nothing is left of it
/// then.
pub fn create(
    root: &Root,
    spec: &Spec,
    _index: &Lock,
    durability: Durability,
) -> Result<Volume, Error> {
    let new = New::begin(root, spec, durability)?;
    format(&new.disk(), spec, durability)?;
    new.write_spec()?;
    new.publish()
}

/// Makes a volume with the contents of another one: its blocks are shared where the host's file system can, and
/// copied, without the holes, where not. `_lease` is the source's, in any mode: nobody writes to it meanwhile. What it is
/// called, and its labels, are `spec`'s; the rest is the source's.
///
/// A copy takes minutes, so the index is held at its beginning and its end only: in between the lock of the hidden directory
/// says that it is no remains, and that the name is taken.
///
/// # Errors
/// As [`create`].
pub fn clone(root: &Root, source: &Volume, spec: &Spec, _lease: &Lock) -> Result<Volume, Error> {
    let spec = Spec {
        size: source.spec.size,
        owner: source.spec.owner,
        used: source.spec.used,
        ..spec.clone()
    };
    let (new, lock) = {
        let _index = super::hold(root, Mode::Shared)?;
        let new = New::begin(root, &spec, Durability::Synced)?;
        let lock = Lock::acquire(&new.dir, Mode::Exclusive)?;
        (new, lock)
    };
    fault::point("volume.reserved");
    let path = new.disk();
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| Error::Disk {
        operation: "copy",
        path: path.clone(),
        source: error,
    };
    disk::copy(&source.disk(), &path).map_err(|error| failed(error.into()))?;
    fault::point("volume.copied");
    let copy = std::fs::File::open(&path).map_err(file::Error::at("open", &path))?;
    copy.sync_all().map_err(file::Error::at("sync", &path))?;
    new.write_spec()?;
    let _index = super::hold(root, Mode::Shared)?;
    // It becomes the volume's lease, for which somebody may come as soon as the volume is seen.
    drop(lock);
    new.publish()
}

/// A volume that is being made, under a hidden name. What is dropped before it is published goes.
struct New<'a> {
    root: &'a Root,
    spec: &'a Spec,
    durability: Durability,
    dir: PathBuf,
    published: bool,
}

impl<'a> New<'a> {
    /// For who holds the index, in any mode.
    fn begin(root: &'a Root, spec: &'a Spec, durability: Durability) -> Result<Self, Error> {
        check_name(&spec.name)?;
        check_size(spec.size)?;
        if find::exists(root, &spec.name) {
            return Err(Error::Exists(spec.name.clone()));
        }
        for dir in super::remains(root)? {
            if name_of(&dir) == Some(&spec.name) && is_locked(&dir)? {
                return Err(Error::BeingMade(spec.name.clone()));
            }
        }
        let dir = hidden(root, "new", &spec.name);
        file::make_dir(&dir)?;
        fault::point("volume.begun");
        Ok(Self {
            root,
            spec,
            durability,
            dir,
            published: false,
        })
    }

    fn disk(&self) -> PathBuf {
        self.dir.join("volume.ext4")
    }

    /// When its disk is whole.
    fn write_spec(&self) -> Result<(), Error> {
        fault::point("volume.filled");
        let spec = Spec {
            schema: SCHEMA,
            ..self.spec.clone()
        };
        json::write_new(&self.dir.join("volume.json"), &spec, self.durability)?;
        fault::point("volume.spec-written");
        if self.durability == Durability::Synced {
            file::sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// For who holds the index, in any mode: nobody sweeps meanwhile.
    fn publish(mut self) -> Result<Volume, Error> {
        let dir = self.root.volumes().join(&self.spec.name);
        // Over a directory that has something in it nothing is renamed: who comes second finds the first one's.
        match file::rename(&self.dir, &dir, self.durability) {
            Err(error)
                if matches!(
                    error.source.kind(),
                    std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists
                ) =>
            {
                Err(Error::Exists(self.spec.name.clone()))
            }
            other => Ok(other?),
        }?;
        self.published = true;
        fault::point("volume.made");
        Volume::from_dir(dir)
    }
}

impl Drop for New<'_> {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the next sweep clears it away otherwise.
            let _ = file::remove_tree(&self.dir);
        }
    }
}

/// The name of the volume that is, or was, being made in a hidden directory.
fn name_of(dir: &Path) -> Option<&str> {
    let name = dir.file_name()?.to_str()?.strip_prefix(".new-")?;
    name.rsplitn(3, '.').nth(2)
}

/// Whether somebody is at it. Several may ask at once, so they share.
pub(super) fn is_locked(dir: &Path) -> Result<bool, Error> {
    if !dir.join(LOCK).exists() {
        return Ok(false);
    }
    match Lock::try_acquire(dir, Mode::Shared) {
        Ok(lock) => Ok(lock.is_none()),
        // It got its name, or was removed.
        Err(lock::Error::Gone(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A name that nobody else uses, and that a sweep knows.
pub(super) fn hidden(root: &Root, what: &str, name: &str) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    root.volumes()
        .join(format!(".{what}-{name}.{pid}.{number}"))
}

fn format(path: &Path, spec: &Spec, durability: Durability) -> Result<(), Error> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| Error::Disk {
        operation: "make",
        path: path.to_owned(),
        source: error,
    };
    let mut disk = disk::create_sparse(path, 0).map_err(|error| failed(error.into()))?;
    let mut uuid = [0; 16];
    let seed = format!("{} {} {}", spec.name, spec.created_ns, std::process::id());
    uuid.copy_from_slice(&oci::Digest::of(seed.as_bytes()).as_bytes()[..16]);
    let owner = spec.owner.unwrap_or(super::Owner { uid: 0, gid: 0 });
    let options = ext4::FormatOptions {
        size: spec.size,
        label: spec.name.chars().take(16).collect(),
        uuid,
        created: std::time::SystemTime::now().into(),
        root_uid: owner.uid,
        root_gid: owner.gid,
        // Whatever an image's file has must find room when the volume is filled.
        large_xattrs: true,
        ..ext4::FormatOptions::default()
    };
    ext4::format(&mut disk, &options).map_err(|error| failed(error.into()))?;
    if durability == Durability::Synced {
        disk.sync_all().map_err(file::Error::at("sync", path))?;
    }
    Ok(())
}
