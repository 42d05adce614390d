//! `containers/<id>/`: `lock`, `spec.json`, and once it was started `state.json`, `upper.ext4`, `logs/*`.
//!
//! A container is visible when it is whole: it is made under a hidden name and renamed, and removed the other way
//! round, so a crash leaves hidden remains that the next creation clears away. Whoever holds the container's lock may
//! write its state; a supervisor holds it for as long as the container runs.
//!
//! ```text
//!   .new-<id> ──rename──▶ <id> ──rename──▶ .del-<id> ──▶ removed
//!   (made under its own lock)  (by the lock's holder)
//! ```

mod create;

mod find;
mod names;
mod repair;
mod rewrite;
pub mod sockets;
mod spec;
mod state;
mod upper;

use std::path::{Path, PathBuf};

pub use create::{create, create_hidden};
pub use find::{check_name, discard, ids, is_id, list, resolve};
pub use repair::LOST_EXIT_CODE;
pub use spec::{
    Attach, BindMount, Endpoint, HealthCheck, Image, Journal, LogLimits, Port, Process, Protocol,
    ProxyProtocol, Resolution, Restart, RestartPolicy, RootfsMode, SCHEMA, SSH_AUTH_SOCK, Socket,
    Spec, Tmpfs, Ulimit, Vm, VolumeMount, Way,
};
pub use state::{Attached, Health, HealthResult, HealthStatus, HostSocket, State, Status};

use crate::file::{self, Durability};
use crate::lock::{self, Lock, Mode};
use crate::{Root, fault, json, volume};

/// Bytes that an upper disk may grow to.
pub const UPPER_SIZE: u64 = 64 << 30;

/// What of a container is removed last: without it nobody would find and lock what is left.
const LAST: [&str; 2] = [lock::LOCK, "spec.json"];

/// What can go wrong with containers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No id begins so, and no container is called so.
    #[error("no such container: {0}")]
    NotFound(String),
    /// Several ids begin so.
    #[error("the id {prefix} is ambiguous: {} containers begin with it", matches.len())]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// All that match.
        matches: Vec<String>,
    },
    /// Names are unique.
    #[error("the name {name} is in use by container {holder}")]
    NameInUse {
        /// The name.
        name: String,
        /// The id of the container that has it.
        holder: String,
    },
    /// Not a name.
    #[error(
        "{0:?} is not a container's name: it begins with a letter or digit, goes on with these or any of _ . -, \
         and has 2 to 128 of them"
    )]
    InvalidName(String),
    /// Somebody holds its lock.
    #[error("container {0} is running")]
    Running(String),
    /// A file that is corrupt, newer, or cannot be read or written.
    #[error(transparent)]
    Json(#[from] json::Error),
    /// Locking failed.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
    /// The container's disk could not be made.
    #[error("cannot make the container's disk {}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its volumes could not be removed.
    #[error(transparent)]
    Volumes(Box<volume::Error>),
}

/// A container's directory, and what its spec says.
#[derive(Debug, Clone)]
pub struct Container {
    root: Root,
    dir: PathBuf,
    spec: Spec,
}

impl Container {
    /// The container in `dir`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none; a spec that is corrupt or newer.
    pub fn from_dir(root: &Root, dir: &Path) -> Result<Self, Error> {
        match json::read(&dir.join("spec.json"), SCHEMA) {
            Ok(spec) => Ok(Self {
                root: root.clone(),
                dir: dir.to_owned(),
                spec,
            }),
            Err(error) if error.is_not_found() => {
                let id = dir.file_name().unwrap_or_default().to_string_lossy();
                Err(Error::NotFound(id.into_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `spec.json`, as it was when this was opened.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.spec.id
    }

    /// `containers/<id>`
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The container's disk, a sparse ext4 file: an upper layer, or with [`RootfsMode::Clone`] the whole root. Made by
    /// [`Container::make_disk`].
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper.ext4")
    }

    /// What the process wrote: see [`crate::logs`].
    #[must_use]
    pub fn output_log(&self) -> PathBuf {
        self.dir.join("logs/output.log")
    }

    /// What the guest's kernel wrote.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("logs/console.log")
    }

    /// What the supervisor has to say.
    #[must_use]
    pub fn supervisor_log(&self) -> PathBuf {
        self.dir.join("logs/supervisor.log")
    }

    /// Where the supervisor listens.
    #[must_use]
    pub fn supervisor_socket(&self) -> PathBuf {
        self.root.socket(self.id(), "sup")
    }

    /// The root that it belongs to.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// `--rm` containers are not fsynced.
    #[must_use]
    pub fn durability(&self) -> Durability {
        if self.spec.remove {
            Durability::Unsynced
        } else {
            Durability::Synced
        }
    }

    /// `state.json`.
    ///
    /// # Errors
    /// Corrupt, newer, unreadable; [`Error::NotFound`] when the container was removed in the meantime.
    pub fn state(&self) -> Result<State, Error> {
        let path = self.dir.join("state.json");
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return match self.dir.exists() {
                    // The creation writes none.
                    true => Ok(State::created()),
                    false => Err(Error::NotFound(self.id().to_owned())),
                };
            }
            other => {
                other.map_err(|error| json::Error::from(file::Error::new("read", &path, error)))?
            }
        };
        if bytes.is_empty() {
            // Written for readers of a container that ran, when the power went: some file systems have the name by then, and
            // nothing in it.
            return Ok(State {
                status: Status::Running,
                started_ns: Some(self.spec.created_ns),
                ..State::created()
            });
        }
        Ok(json::parse(&bytes, &path, SCHEMA)?)
    }

    /// Replaces `state.json`. For the lock's holder.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn write_state(&self, state: &State) -> Result<(), Error> {
        self.write_state_as(state, self.durability())
    }

    /// As [`Container::write_state`], with a durability that is not the container's own: readers see it at once, but a crash
    /// of the host may bring the one before back.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn write_state_as(&self, state: &State, durability: Durability) -> Result<(), Error> {
        let path = self.dir.join("state.json");
        Ok(json::write(&path, state, durability)?)
    }

    /// Takes the container's lock if it is free: then no supervisor and no monitor of it lives.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the container was removed.
    pub fn try_lock(&self) -> Result<Option<Lock>, Error> {
        Lock::try_acquire(&self.dir, Mode::Exclusive).map_err(|error| self.gone(error))
    }

    /// Waits until the container's lock is free and takes it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the container was removed, perhaps while we waited.
    pub fn lock(&self) -> Result<Lock, Error> {
        Lock::acquire(&self.dir, Mode::Exclusive).map_err(|error| self.gone(error))
    }

    fn gone(&self, error: lock::Error) -> Error {
        match error {
            lock::Error::Gone(_) => Error::NotFound(self.id().to_owned()),
            other @ lock::Error::File(_) => other.into(),
        }
    }

    /// Removes the container with all its files, and its supervisor's socket; of one that goes at its end, the volumes
    /// without a name as well. For the lock's holder.
    ///
    /// # Errors
    /// The system call that failed; the container is invisible by then, or unchanged, or it has lost its files on a disk
    /// without room for anything else.
    pub fn remove_all(&self) -> Result<(), Error> {
        if self.spec.remove {
            // First: of a container that is gone nobody would know that they were its own.
            volume::remove_anonymous(self).map_err(|error| Error::Volumes(Box::new(error)))?;
        }
        // By its id: one that is not shown yet has another name.
        let condemned = file::condemned(&self.dir.with_file_name(self.id()));
        match file::condemn(&self.dir, &condemned, &LAST, self.durability()) {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        }
        fault::point("remove.renamed");
        file::remove(&self.supervisor_socket())?;
        names::leave_if_unlocked(&self.root, &self.spec.name)?;
        fault::point("remove.name-removed");
        file::remove_tree(&condemned)?;
        fault::point("remove.removed");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
