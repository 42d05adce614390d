//! Making a container: whole, or not at all.

use std::path::Path;

use super::{Container, Error, Spec, check_name, is_id, names};
use crate::file::{self, Durability};
use crate::lock::{LOCK, Lock, Mode};
use crate::{Root, fault, json};

const NEW: &str = ".new-";

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
        let containers_lock = Lock::acquire(&containers, Mode::Exclusive)?;
        clear_remains(&containers)?;
        // Early, so that a conflict costs little. It counts below.
        names::check_free(root, &spec.name, names::Locked::new(&containers_lock))?;
        file::make_dir(&new)?;
        fault::point("create.begun");
        // Before the others may look at it again: a hidden directory without a lock's holder is remains.
        Lock::acquire(&new, Mode::Exclusive)?
    };
    let made = fill(&new, spec).and_then(|()| publish(root, &new, spec));
    match made {
        Ok(container) => Ok((container, lock)),
        Err(error) => {
            // Best effort: the next creation clears it away otherwise.
            let _ = file::remove_tree(&new);
            Err(error)
        }
    }
}

/// Makes what a supervisor takes for a container, and nobody else sees: the VM in which a volume's files are read and
/// written. The caller removes its directory; when it dies, the next creation does.
///
/// # Errors
/// What failed; nothing is left of it then.
pub fn create_hidden(root: &Root, spec: &Spec) -> Result<(Container, Lock), Error> {
    let new = root.containers().join(format!("{NEW}{}", spec.id));
    let lock = {
        let _containers_lock = Lock::acquire(&root.containers(), Mode::Exclusive)?;
        file::make_dir(&new)?;
        Lock::acquire(&new, Mode::Exclusive)?
    };
    match fill(&new, spec).and_then(|()| Container::from_dir(root, &new)) {
        Ok(container) => Ok((container, lock)),
        Err(error) => {
            // Best effort, as above.
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

/// The spec, and room for logs. State and disk come with the first start.
fn fill(new: &Path, spec: &Spec) -> Result<(), Error> {
    file::make_dir(&new.join("logs"))?;
    // Nobody looks into a hidden directory: no detour by another name.
    json::write_new(&new.join("spec.json"), spec, durability(spec))?;
    fault::point("create.spec-written");
    Ok(())
}

/// Gives the container its name and its place. That is durable with the next thing that is: a host that goes down within
/// seconds may forget a container that nobody has started, but never has half of one.
fn publish(root: &Root, new: &Path, spec: &Spec) -> Result<Container, Error> {
    let containers = root.containers();
    let dir = containers.join(&spec.id);
    {
        let lock = Lock::acquire(&containers, Mode::Exclusive)?;
        let locked = names::Locked::new(&lock);
        names::check_free(root, &spec.name, locked)?;
        names::enter(root, &spec.name, &spec.id, locked)?;
        fault::point("create.name-entered");
        file::rename(new, &dir, Durability::Unsynced)?;
    }
    fault::point("create.renamed");
    Container::from_dir(root, &dir)
}

/// Removes what creations and removals left that a crash cut short. For the holder of the lock on `containers/`.
fn clear_remains(containers: &Path) -> Result<(), Error> {
    let entries = std::fs::read_dir(containers).map_err(file::Error::at("list", containers))?;
    for entry in entries {
        let entry = entry.map_err(file::Error::at("list", containers))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(NEW) && !name.starts_with(file::CONDEMNED) {
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
