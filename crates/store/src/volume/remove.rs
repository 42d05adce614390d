//! Removing volumes, and what crashes left of them.

use super::{Error, Volume, create, find};
use crate::container::Container;
use crate::file::{self, Durability};
use crate::lock::{LOCK, Lock, Mode};
use crate::{Root, fault};

/// Removes a volume. `_index` is [`super::hold`]'s in exclusive mode, under which the caller saw that no container uses it;
/// `_lease` is the volume's, exclusive.
///
/// # Errors
/// The system call that failed; the volume is invisible by then, or unchanged.
pub fn remove(root: &Root, volume: &Volume, _index: &Lock, _lease: &Lock) -> Result<(), Error> {
    condemn(root, volume, Durability::Synced)
}

/// Removes a volume that was made a moment ago, under the same hold of the index, and whose name nobody was told.
///
/// # Errors
/// As [`remove`].
pub fn discard(root: &Root, volume: &Volume) -> Result<(), Error> {
    condemn(root, volume, Durability::Unsynced)
}

fn condemn(root: &Root, volume: &Volume, durability: Durability) -> Result<(), Error> {
    let condemned = create::hidden(root, "del", volume.name());
    let last = [LOCK, "volume.json"];
    match file::condemn(volume.dir(), &condemned, &last, durability) {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    }
    fault::point("volume.condemned");
    Ok(file::remove_tree(&condemned)?)
}

/// Removes the volumes without a name that were made for a container, but for those that another one uses by now. For the
/// holder of the container's lock: nothing of it writes to them any more. Their names.
///
/// # Errors
/// The system call that failed.
pub fn remove_anonymous(container: &Container) -> Result<Vec<String>, Error> {
    let (root, spec) = (container.root(), container.spec());
    let mut own = spec
        .mounts
        .iter()
        .filter(|mount| mount.anonymous)
        .peekable();
    let mut removed = Vec::new();
    if own.peek().is_none() {
        return Ok(removed);
    }
    let _index = super::hold(root, Mode::Exclusive)?;
    let users = match find::users(root) {
        Ok(users) => users,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, vm_id = spec.id, "its volumes are left behind");
            return Ok(removed);
        }
    };
    for mount in own {
        let others = users.get(&mount.volume);
        if others.is_some_and(|others| others.iter().any(|user| user.id != spec.id)) {
            continue;
        }
        match find::open(root, &mount.volume) {
            Ok(volume) => condemn(root, &volume, container.durability())?,
            Err(Error::NotFound(_)) => continue,
            Err(error) => return Err(error),
        }
        fault::point("volume.anonymous-removed");
        removed.push(mount.volume.clone());
    }
    Ok(removed)
}

/// Removes what creations and removals left that a crash cut short; does nothing while somebody may be at one, and leaves
/// alone what is being copied. The bytes that it occupied.
///
/// # Errors
/// The system call that failed.
pub fn sweep(root: &Root) -> Result<u64, Error> {
    let remains = remains(root)?;
    if remains.is_empty() {
        return Ok(0);
    }
    let index = root.volumes().join(".index");
    let Some(_alone) = Lock::try_acquire(&index, Mode::Exclusive)? else {
        return Ok(0);
    };
    let mut bytes = 0;
    for dir in remains {
        if create::is_locked(&dir)? {
            continue;
        }
        tracing::warn!(dir = %dir.display(), "clearing away what a crash left");
        bytes += file::occupied_tree(&dir)?;
        file::remove_tree(&dir)?;
    }
    Ok(bytes)
}

/// Directories of volumes that are being made or removed, or were when a crash came.
///
/// # Errors
/// The system call that failed.
pub fn remains(root: &Root) -> Result<Vec<std::path::PathBuf>, file::Error> {
    let dir = root.volumes();
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(file::Error::at("list", &dir))?,
    };
    let mut remains = Vec::new();
    for entry in entries {
        let entry = entry.map_err(file::Error::at("list", &dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".new-") || name.starts_with(".del-") {
            remains.push(entry.path());
        }
    }
    Ok(remains)
}
