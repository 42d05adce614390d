//! `volumes/<name>/`: `lock`, `volume.json`, `volume.ext4`.
//!
//! A volume is visible when it is whole: it is made under a hidden name and renamed, and removed the other way round, so
//! that a crash leaves hidden remains which the next creation clears away.
//!
//! ```text
//!   .new-<name>.<pid>.<n> ──rename──▶ <name> ──rename──▶ .del-<name>.<pid>.<n> ──▶ removed
//! ```
//!
//! Two locks. The volume's own is its lease: exclusive for one writer, shared for readers, passed on to whatever opens the
//! file, so that it is free only when everything that could still write is dead. The one of `volumes/.index/` ([`hold`])
//! keeps a volume that a container is about to name from being removed: shared for whoever makes volumes and containers
//! that use them, exclusive for whoever removes volumes. A copy, which takes its time, holds the lock of its hidden directory
//! instead while it is made.

mod create;
mod find;
mod remove;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use create::{clone, create};
pub use find::{User, check_name, list, open, users};
pub use remove::{discard, remains, remove, remove_anonymous, sweep};

use crate::file::{self, Durability};
use crate::lock::{self, Lock, Mode};
use crate::{Root, fault, json};

/// The version of `volume.json` that this build writes. A newer one is refused.
pub const SCHEMA: u32 = 1;

/// Bytes that a volume may grow to when nobody says. Eight times as many cost each start that mounts it some 40 ms
/// under translation: the kernel reads the descriptors of all groups.
pub const SIZE: u64 = 64 << 30;

/// What an ext4 file system with a journal and some room needs.
pub const LEAST_SIZE: u64 = 32 << 20;

/// The largest file on most file systems of hosts.
pub const MOST_SIZE: u64 = 15 << 40;

/// How long a process may take to die.
const DYING: Duration = Duration::from_secs(10);

/// What can go wrong with volumes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No volume is called so.
    #[error("no such volume: {0}")]
    NotFound(String),
    /// Not a name.
    #[error(
        "{0:?} is not a volume's name: it begins with a letter or digit, goes on with these or any of _ . -, \
         and has 2 to 128 of them"
    )]
    InvalidName(String),
    /// Names are unique.
    #[error("volume {0} exists already")]
    Exists(String),
    /// Somebody is copying another one to this name.
    #[error("volume {0} is just being made by another command")]
    BeingMade(String),
    /// Too small, or too large.
    #[error(
        "a volume of {size} bytes cannot be had: it is between {LEAST_SIZE} (32 MiB) and {MOST_SIZE} (15 TiB)"
    )]
    Size {
        /// What was asked for.
        size: u64,
    },
    /// Volumes grow only.
    #[error("volume {name} has {current} bytes and cannot become smaller ({size})")]
    Shrink {
        /// Its name.
        name: String,
        /// What it has.
        current: u64,
        /// What was asked for.
        size: u64,
    },
    /// Its file system cannot be made, read or copied.
    #[error("cannot {operation} the volume's disk {}", path.display())]
    Disk {
        /// A verb.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A container that cannot be read may use any volume.
    #[error("container {id} cannot be read, so which volumes it uses is not known")]
    Container {
        /// Its id.
        id: String,
        /// Why.
        #[source]
        source: Box<crate::container::Error>,
    },
    /// The containers cannot be listed.
    #[error(transparent)]
    Containers(Box<crate::container::Error>),
    /// A file that is corrupt, newer, or cannot be read or written.
    #[error(transparent)]
    Json(#[from] json::Error),
    /// Locking failed.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
}

/// `volume.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Unique among volumes.
    pub name: String,
    /// Nanoseconds since 1970.
    pub created_ns: u64,
    /// The user's.
    pub labels: BTreeMap<String, String>,
    /// Bytes that it may grow to: the length of its file.
    pub size: u64,
    /// Whose the root directory is. Without one it belongs to root, until it is filled from an image.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// It was made for a container, without a name.
    #[serde(default)]
    pub anonymous: bool,
    /// Somebody has had it for writing, and it was filled for that one: it may not be empty any more.
    #[serde(default)]
    pub used: bool,
}

/// Numbers of the guest's users and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A volume's directory, and what its spec says.
#[derive(Debug, Clone)]
pub struct Volume {
    dir: PathBuf,
    spec: Spec,
}

/// The lock of `volumes/.index/`: see the module.
///
/// # Errors
/// The system call that failed.
pub fn hold(root: &Root, mode: Mode) -> Result<Lock, Error> {
    let dir = root.volumes().join(".index");
    match Lock::acquire(&dir, mode) {
        Err(lock::Error::Gone(_)) => {
            file::make_dir(&dir)?;
            Ok(Lock::acquire(&dir, mode)?)
        }
        other => Ok(other?),
    }
}

/// The disk of the volume of this name, which may not exist.
#[must_use]
pub fn disk_path(root: &Root, name: &str) -> PathBuf {
    root.volumes().join(name).join("volume.ext4")
}

impl Volume {
    fn from_dir(dir: PathBuf) -> Result<Self, Error> {
        match json::read(&dir.join("volume.json"), SCHEMA) {
            Ok(spec) => Ok(Self { dir, spec }),
            Err(error) if error.is_not_found() => {
                let name = dir.file_name().unwrap_or_default().to_string_lossy();
                Err(Error::NotFound(name.into_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `volume.json`, as it was when this was opened.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// `volumes/<name>`
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its disk: a sparse ext4 file.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.dir.join("volume.ext4")
    }

    /// The lease, if it is to be had at once: exclusive to write, shared to read.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the volume was removed.
    pub fn try_lease(&self, mode: Mode) -> Result<Option<Lock>, Error> {
        self.leased(Lock::try_acquire(&self.dir, mode))
    }

    /// The lease, once those have gone who are dying: a killed monitor gives back its memory first, then its files.
    ///
    /// # Errors
    /// As [`Volume::try_lease`].
    pub fn lease_of_the_dying(&self, mode: Mode) -> Result<Option<Lock>, Error> {
        self.leased(Lock::acquire_within(&self.dir, mode, DYING))
    }

    fn leased(&self, lock: Result<Option<Lock>, lock::Error>) -> Result<Option<Lock>, Error> {
        match lock {
            Err(lock::Error::Gone(_)) => Err(Error::NotFound(self.spec.name.clone())),
            other => Ok(other?),
        }
    }

    /// Whether its last writer left without unmounting it: its journal waits to be replayed, which only a writer can do. For
    /// a lease's holder.
    ///
    /// # Errors
    /// What stands in the file is no file system.
    pub fn needs_recovery(&self) -> Result<bool, Error> {
        let path = self.disk();
        let disk = std::fs::File::open(&path).map_err(file::Error::at("open", &path))?;
        let reader = ext4::read::Reader::open(disk).map_err(|source| Error::Disk {
            operation: "read",
            path,
            source: source.into(),
        })?;
        Ok(reader.superblock().needs_recovery())
    }

    /// Writes down that somebody has it for writing. For a lease's holder.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn mark_used(&mut self) -> Result<(), Error> {
        if self.spec.used {
            return Ok(());
        }
        self.read_again()?;
        if self.spec.used {
            return Ok(());
        }
        self.spec.used = true;
        // Once in its life. Unsynced, there are file systems on which the spec would be empty after a power cut.
        self.write_spec(Durability::Synced)
    }

    /// What the spec says now: it may have been opened before the lease was had. The disk is as long as its file is, also when
    /// whoever let it grow died before writing that down.
    fn read_again(&mut self) -> Result<(), Error> {
        let path = self.disk();
        let disk = std::fs::metadata(&path).map_err(file::Error::at("stat", &path))?;
        self.spec = Self::from_dir(self.dir.clone())?.spec;
        self.spec.size = self.spec.size.max(disk.len());
        Ok(())
    }

    /// Lets it grow to `size` bytes; its file system follows when a guest mounts it next. For the exclusive lease's holder.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Shrink`], or the system call that failed.
    pub fn resize(&mut self, size: u64) -> Result<(), Error> {
        check_size(size)?;
        self.read_again()?;
        if size < self.spec.size {
            return Err(Error::Shrink {
                name: self.spec.name.clone(),
                current: self.spec.size,
                size,
            });
        }
        let path = self.disk();
        let disk = std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(file::Error::at("open", &path))?;
        disk.set_len(size).map_err(file::Error::at("size", &path))?;
        disk.sync_all().map_err(file::Error::at("sync", &path))?;
        fault::point("volume.sized");
        self.spec.size = size;
        self.write_spec(Durability::Synced)
    }

    fn write_spec(&self, durability: Durability) -> Result<(), Error> {
        let path = self.dir.join("volume.json");
        Ok(json::write(&path, &self.spec, durability)?)
    }
}

fn check_size(size: u64) -> Result<(), Error> {
    if (LEAST_SIZE..=MOST_SIZE).contains(&size) {
        Ok(())
    } else {
        Err(Error::Size { size })
    }
}
