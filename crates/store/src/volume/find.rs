//! Finding volumes, and who uses them.

use std::collections::BTreeMap;

use super::{Error, Volume};
use crate::{Root, container, file};

/// A container that has a volume in its spec, whether it runs or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Every mount of it is read-only.
    pub read_only: bool,
}

/// The volume of this name.
///
/// # Errors
/// [`Error::NotFound`]; a spec that is corrupt or newer.
pub fn open(root: &Root, name: &str) -> Result<Volume, Error> {
    if check_name(name).is_err() {
        return Err(Error::NotFound(name.to_owned()));
    }
    Volume::from_dir(root.volumes().join(name))
}

pub(super) fn exists(root: &Root, name: &str) -> bool {
    root.volumes().join(name).exists()
}

/// All volumes, by name. One that cannot be read is an error in its place, with its name.
///
/// # Errors
/// The directory cannot be listed.
#[allow(clippy::type_complexity)]
pub fn list(root: &Root) -> Result<Vec<Result<Volume, (String, Error)>>, Error> {
    let mut volumes = Vec::new();
    for name in file::names(&root.volumes())? {
        match open(root, &name) {
            Ok(volume) => volumes.push(Ok(volume)),
            // Removed since we listed.
            Err(Error::NotFound(_)) => {}
            Err(error) => volumes.push(Err((name, error))),
        }
    }
    Ok(volumes)
}

/// The containers that use volumes, by the volume's name.
///
/// # Errors
/// [`Error::Container`]: one that cannot be read may use any.
pub fn users(root: &Root) -> Result<BTreeMap<String, Vec<User>>, Error> {
    let unknown = |id: String, source| Error::Container {
        id,
        source: Box::new(source),
    };
    let containers = container::list(root).map_err(|error| Error::Containers(Box::new(error)))?;
    let mut users: BTreeMap<String, Vec<User>> = BTreeMap::new();
    for container in containers {
        let container = container.map_err(|(id, source)| unknown(id, source))?;
        let spec = container.spec();
        for mount in &spec.mounts {
            let known = users.entry(mount.volume.clone()).or_default();
            match known.iter_mut().find(|user| user.id == spec.id) {
                Some(user) => user.read_only &= mount.read_only,
                None => known.push(User {
                    id: spec.id.clone(),
                    name: spec.name.clone(),
                    read_only: mount.read_only,
                }),
            }
        }
    }
    Ok(users)
}

/// Docker's rule for names.
///
/// # Errors
/// [`Error::InvalidName`].
pub fn check_name(name: &str) -> Result<(), Error> {
    let begins = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let goes_on = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if begins && goes_on && (2..=128).contains(&name.len()) {
        Ok(())
    } else {
        Err(Error::InvalidName(name.to_owned()))
    }
}
