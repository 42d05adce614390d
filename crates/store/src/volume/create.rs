//! Making a volume: whole, or not at all.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Error, SCHEMA, Spec, Volume, check_name, check_size, find};
use crate::file::{self, Durability};
use crate::lock::Lock;
use crate::{Root, fault, json};

/// Makes an empty volume. `_index` is [`super::hold`]'s, in any mode. What a container without a name for it has, and that
/// goes with it, need not be durable.
///
/// # Errors
/// [`Error::Exists`], [`Error::InvalidName`], [`Error::Size`], or what failed; nothing is left of it then.
pub fn create(
    root: &Root,
    spec: &Spec,
    _index: &Lock,
    durability: Durability,
) -> Result<Volume, Error> {
    make(root, spec, durability, |path| {
        format(path, spec, durability)
    })
}

/// Makes a volume with the contents of another one: its blocks are shared where the host's file system can, and
/// copied, without the holes, where not. `_lease` is the source's, in any mode: nobody writes to it meanwhile. What it is
/// called, and its labels, are `spec`'s; the rest is the source's.
///
/// # Errors
/// As [`create`].
pub fn clone(
    root: &Root,
    source: &Volume,
    spec: &Spec,
    _lease: &Lock,
    _index: &Lock,
) -> Result<Volume, Error> {
    let spec = Spec {
        size: source.spec.size,
        owner: source.spec.owner,
        used: source.spec.used,
        ..spec.clone()
    };
    make(root, &spec, Durability::Synced, |path| {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| Error::Disk {
            operation: "copy",
            path: path.to_owned(),
            source: error,
        };
        disk::copy(&source.disk(), path).map_err(|error| failed(error.into()))?;
        fault::point("volume.copied");
        let copy = std::fs::File::open(path).map_err(file::Error::at("open", path))?;
        Ok(copy.sync_all().map_err(file::Error::at("sync", path))?)
    })
}

fn make(
    root: &Root,
    spec: &Spec,
    durability: Durability,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<Volume, Error> {
    check_name(&spec.name)?;
    check_size(spec.size)?;
    if find::exists(root, &spec.name) {
        return Err(Error::Exists(spec.name.clone()));
    }
    let new = hidden(root, "new", &spec.name);
    file::make_dir(&new)?;
    fault::point("volume.begun");
    let made = (|| {
        fill(&new.join("volume.ext4"))?;
        fault::point("volume.filled");
        let spec = Spec {
            schema: SCHEMA,
            ..spec.clone()
        };
        json::write_new(&new.join("volume.json"), &spec, durability)?;
        fault::point("volume.spec-written");
        if durability == Durability::Synced {
            file::sync_dir(&new)?;
        }
        let dir = root.volumes().join(&spec.name);
        // Over a directory that has something in it nothing is renamed: who comes second finds the first one's.
        match file::rename(&new, &dir, durability) {
            Err(error)
                if matches!(
                    error.source.kind(),
                    std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists
                ) =>
            {
                Err(Error::Exists(spec.name.clone()))
            }
            other => Ok(other?),
        }?;
        fault::point("volume.made");
        Volume::from_dir(dir)
    })();
    if made.is_err() {
        // Best effort: the next sweep clears it away otherwise.
        let _ = file::remove_tree(&new);
    }
    made
}

/// A name that nobody else uses, and that a sweep knows.
pub(super) fn hidden(root: &Root, what: &str, name: &str) -> std::path::PathBuf {
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
