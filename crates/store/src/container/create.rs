//! Making a container: whole, or not at all.

use std::path::Path;

use super::{Container, Error, Journal, Spec, State, UPPER_SIZE, check_name, ids, is_id, name_of};
use crate::file::{self, Durability};
use crate::lock::{LOCK, Lock, Mode};
use crate::{Root, json};

const NEW: &str = ".new-";
const CONDEMNED: &str = ".del-";

/// Makes a container from its spec. It comes with its lock held, so that nobody starts or removes it before the
/// caller does.
///
/// # Errors
/// [`Error::NameInUse`], [`Error::InvalidName`], or what failed; nothing is left of it then.
pub fn create(root: &Root, spec: &Spec) -> Result<(Container, Lock), Error> {
    check_name(&spec.name)?;
    if !is_id(&spec.id) {
        return Err(Error::InvalidName(spec.id.clone()));
    }
    let containers = root.containers();
    let new = containers.join(format!("{NEW}{}", spec.id));
    let lock = {
        let _containers = Lock::acquire(&containers, Mode::Exclusive)?;
        clear_remains(&containers)?;
        // Early, so that a conflict costs no disk. It counts below.
        check_free(root, &spec.name)?;
        file::make_dir(&new)?;
        // Before the others may look at it again: a hidden directory without a lock's holder is remains.
        Lock::acquire(&new, Mode::Exclusive)?
    };
    let made = fill(&new, spec).and_then(|()| {
        let _containers = Lock::acquire(&containers, Mode::Exclusive)?;
        check_free(root, &spec.name)?;
        let dir = containers.join(&spec.id);
        file::rename(&new, &dir, durability(spec))?;
        Container::from_dir(root, &dir)
    });
    match made {
        Ok(container) => Ok((container, lock)),
        Err(error) => {
            // Best effort: the next creation clears it away otherwise.
            let _ = file::remove_tree(&new);
            Err(error)
        }
    }
}

fn durability(spec: &Spec) -> Durability {
    if spec.remove {
        Durability::Unsynced
    } else {
        Durability::Synced
    }
}

fn fill(dir: &Path, spec: &Spec) -> Result<(), Error> {
    let durability = durability(spec);
    file::make_dir(&dir.join("logs"))?;
    make_upper(&dir.join("upper.ext4"), spec, durability)?;
    let state = State::created();
    json::write(&dir.join("state.json"), &state, durability)?;
    json::write(&dir.join("spec.json"), spec, durability)?;
    Ok(())
}

fn check_free(root: &Root, name: &str) -> Result<(), Error> {
    for id in ids(root)? {
        // One whose spec cannot be read must not keep others from being made.
        if name_of(root, &id).as_deref() == Some(name) {
            return Err(Error::NameInUse {
                name: name.to_owned(),
                holder: id,
            });
        }
    }
    Ok(())
}

/// Removes what creations and removals left that a crash cut short. For the holder of the lock on `containers/`.
fn clear_remains(containers: &Path) -> Result<(), Error> {
    let entries = std::fs::read_dir(containers).map_err(file::Error::at("list", containers))?;
    for entry in entries {
        let entry = entry.map_err(file::Error::at("list", containers))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(NEW) && !name.starts_with(CONDEMNED) {
            continue;
        }
        let dir = entry.path();
        if !dir.join(LOCK).exists() {
            file::remove_tree(&dir)?;
        } else if let Ok(Some(_lock)) = Lock::try_acquire(&dir, Mode::Exclusive) {
            tracing::warn!(dir = %dir.display(), "clearing away what a crash left");
            file::remove_tree(&dir)?;
        }
    }
    Ok(())
}

/// A journal is for whoever mounts the disk after a crash. Nobody does where it goes with the container, unless a way of
/// journalling was asked for.
fn journal(spec: &Spec) -> ext4::Journal {
    match spec.vm.journal {
        Journal::None => ext4::Journal::None,
        Journal::Ordered if spec.remove => ext4::Journal::None,
        Journal::Ordered | Journal::Writeback | Journal::Journal => ext4::Journal::Auto,
    }
}

fn make_upper(path: &Path, spec: &Spec, durability: Durability) -> Result<(), Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Upper {
        path: path.to_owned(),
        source,
    };
    // Empty: a file that is cut to nothing is written out by ext4 on the host as soon as it is closed (`auto_da_alloc`),
    // and it then costs a tenth of a second to remove it.
    let mut disk = disk::create_sparse(path, 0).map_err(|error| failed(error.into()))?;
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&oci::Digest::of(spec.id.as_bytes()).as_bytes()[..16]);
    let options = ext4::FormatOptions {
        size: UPPER_SIZE,
        label: "upper".to_owned(),
        uuid,
        created: std::time::SystemTime::now().into(),
        journal: journal(spec),
        ..ext4::FormatOptions::default()
    };
    ext4::format(&mut disk, &options).map_err(|error| failed(error.into()))?;
    if durability == Durability::Synced {
        disk.sync_all().map_err(file::Error::at("sync", path))?;
    }
    Ok(())
}
