//! `containers/.names/`: from a name to the id of its container, without reading every spec.
//!
//! An entry is a symbolic link that is never followed: the name, pointing to the id. It is a hint, and `spec.json` is what
//! counts: an entry whose container is not there, or is called otherwise, is none. So only a missing entry could lie, and
//! there is none: an entry is made before its container can be seen under that name, both under the lock of
//! `containers/`, and one that is removed is not its container's any more.
//!
//! The entries are not synced. After the host went down some may be missing: `.boot` says in which boot of the host they
//! were made whole, and in another they are made anew from all specs. So they are for containers of an older gourd.

use std::marker::PhantomData;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::Error;
use super::find::{check_name, ids, is_id, name_of};
use crate::lock::{Lock, Mode};
use crate::{Root, file};

/// Proof that the lock of `containers/` is held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locked<'a>(PhantomData<&'a Lock>);

impl<'a> Locked<'a> {
    /// `lock` is that of `containers/`.
    pub(super) fn new(_lock: &'a Lock) -> Self {
        Self(PhantomData)
    }
}

/// The id of the container that has a name.
pub(super) fn holder(root: &Root, name: &str) -> Result<Option<String>, Error> {
    if check_name(name).is_err() {
        return Ok(None);
    }
    if !whole(root) {
        let lock = Lock::acquire(&root.containers(), Mode::Exclusive)?;
        match rebuild(root, Locked::new(&lock)) {
            // Who wants to remove something needs to find it first.
            Err(Error::File(error)) if error.is_no_room() => {
                let named = |id: &String| name_of(root, id).as_deref() == Some(name);
                return Ok(ids(root)?.into_iter().find(named));
            }
            other => other?,
        }
    }
    Ok(entry(root, name))
}

/// That nobody has a name.
///
/// # Errors
/// [`Error::NameInUse`].
pub(super) fn check_free(root: &Root, name: &str, locked: Locked<'_>) -> Result<(), Error> {
    rebuild(root, locked)?;
    // One whose spec cannot be read must not keep others from being made.
    match entry(root, name) {
        Some(holder) => Err(Error::NameInUse {
            name: name.to_owned(),
            holder,
        }),
        None => Ok(()),
    }
}

/// An entry that is true.
fn entry(root: &Root, name: &str) -> Option<String> {
    let target = std::fs::read_link(path(root, name)).ok()?;
    let id = target.into_os_string().into_string().ok()?;
    (is_id(&id) && name_of(root, &id).as_deref() == Some(name)).then_some(id)
}

/// Makes an entry for a name that is free, in the place of one that was not true any more.
pub(super) fn enter(root: &Root, name: &str, id: &str, _locked: Locked<'_>) -> Result<(), Error> {
    let path = path(root, name);
    match symlink(id, &path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            file::remove(&path)?;
            symlink(id, &path).map_err(file::Error::at("link", &path))?;
        }
        other => other.map_err(file::Error::at("link", &path))?,
    }
    Ok(())
}

/// Removes an entry that is not true any more.
pub(super) fn leave(root: &Root, name: &str, _locked: Locked<'_>) -> Result<(), Error> {
    if check_name(name).is_ok() && entry(root, name).is_none() {
        file::remove(&path(root, name))?;
    }
    Ok(())
}

/// As [`leave`], of a container that was removed. When somebody has the lock the entry stays: it is a hint that leads
/// nowhere.
pub(super) fn leave_if_unlocked(root: &Root, name: &str) -> Result<(), Error> {
    match Lock::try_acquire(&root.containers(), Mode::Exclusive)? {
        Some(lock) => leave(root, name, Locked::new(&lock)),
        None => Ok(()),
    }
}

fn path(root: &Root, name: &str) -> PathBuf {
    root.containers().join(".names").join(name)
}

/// Every container that can be read has its entry.
fn whole(root: &Root) -> bool {
    std::fs::read_link(path(root, ".boot"))
        .is_ok_and(|made_in| made_in.as_os_str() == boot().as_str())
}

/// This boot of the host. Where the kernel does not say, all are one.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("v1-{}", id.trim())
}

/// Makes all entries anew, when they were not made in this boot.
fn rebuild(root: &Root, locked: Locked<'_>) -> Result<(), Error> {
    if whole(root) {
        return Ok(());
    }
    let dir = root.containers().join(".names");
    file::remove_tree(&dir)?;
    file::make_dir(&dir)?;
    for id in ids(root)? {
        // One without a name that can be read is found by its id.
        if let Some(name) = name_of(root, &id)
            && check_name(&name).is_ok()
        {
            enter(root, &name, &id, locked)?;
        }
    }
    let boot_path = path(root, ".boot");
    Ok(symlink(boot(), &boot_path).map_err(file::Error::at("link", &boot_path))?)
}
