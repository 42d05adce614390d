//! Finding containers: by id, by name, by the beginning of an id; and the rules for both.

use serde::Deserialize;

use super::{Container, Error, LAST, names};
use crate::file::{self, Durability};
use crate::lock::{Lock, Mode};
use crate::{Root, fault};

/// All containers, by id. One that cannot be read is an error in its place, with its id.
///
/// # Errors
/// The directory cannot be listed.
#[allow(clippy::type_complexity)]
pub fn list(root: &Root) -> Result<Vec<Result<Container, (String, Error)>>, Error> {
    let mut containers = Vec::new();
    for id in ids(root)? {
        match Container::from_dir(root, &root.containers().join(&id)) {
            Ok(container) => containers.push(Ok(container)),
            // Removed since we listed.
            Err(Error::NotFound(_)) => {}
            Err(error) => containers.push(Err((id, error))),
        }
    }
    Ok(containers)
}

/// Finds a container by its id, its name, or the beginning of its id, in this order.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Ambiguous`], or what is wrong with the one that was meant.
pub fn resolve(root: &Root, wanted: &str) -> Result<Container, Error> {
    let id = find(root, wanted)?;
    Container::from_dir(root, &root.containers().join(id))
}

/// The id of a container, whether its files can be read or not.
fn find(root: &Root, wanted: &str) -> Result<String, Error> {
    if is_id(wanted) && root.containers().join(wanted).exists() {
        return Ok(wanted.to_owned());
    }
    // One whose spec is no JSON has no name that we know; it is found by its id.
    if let Some(id) = names::holder(root, wanted)? {
        return Ok(id);
    }
    let begins = |id: &String| !wanted.is_empty() && id.starts_with(wanted);
    let mut matches: Vec<_> = ids(root)?.into_iter().filter(begins).collect();
    match matches.len() {
        0 => Err(Error::NotFound(wanted.to_owned())),
        1 => Ok(matches.remove(0)),
        _ => Err(Error::Ambiguous {
            prefix: wanted.to_owned(),
            matches,
        }),
    }
}

/// Removes a container whose files cannot be read. It is found as by [`resolve`].
///
/// # Errors
/// [`Error::NotFound`], [`Error::Ambiguous`], [`Error::Lock`]; [`Error::Running`] when somebody holds its lock.
pub fn discard(root: &Root, wanted: &str) -> Result<(), Error> {
    let id = find(root, wanted)?;
    let dir = root.containers().join(&id);
    let Some(_lock) = Lock::try_acquire(&dir, Mode::Exclusive)? else {
        return Err(Error::Running(id));
    };
    let condemned = file::condemned(&dir);
    file::condemn(&dir, &condemned, &LAST, Durability::Synced)?;
    fault::point("discard.renamed");
    file::remove(&root.socket(&id, "sup"))?;
    Ok(file::remove_tree(&condemned)?)
}

/// The ids of all containers, sorted.
///
/// # Errors
/// The directory cannot be listed.
pub fn ids(root: &Root) -> Result<Vec<String>, Error> {
    let mut names = file::names(&root.containers())?;
    names.retain(|name| is_id(name));
    Ok(names)
}

/// 64 lower-case hexadecimal digits.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Docker's rule for names.
///
/// # Errors
/// [`Error::InvalidName`].
pub fn check_name(name: &str) -> Result<(), Error> {
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let goes_on = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if begins && goes_on && (2..=128).contains(&name.len()) {
        Ok(())
    } else {
        Err(Error::InvalidName(name.to_owned()))
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// A newer spec's name counts too: it is taken, and it is what a person calls the container.
pub(super) fn name_of(root: &Root, id: &str) -> Option<String> {
    let bytes = std::fs::read(root.containers().join(id).join("spec.json")).ok()?;
    let Named { name } = serde_json::from_slice(&bytes).ok()?;
    Some(name)
}
