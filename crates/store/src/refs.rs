//! `refs/<escaped reference>`: which image a reference names.
//!
//! File names hold lower-case letters, digits, `.`, `_` and `-`; every other byte, capitals among them, is written as
//! `%` and two digits, so that file systems that fold case agree. The file holds the reference too, because long ones
//! are cut and hashed.

use oci::{Digest, Reference};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::file::{self, Durability};
use crate::root::hex;
use crate::{Root, json};

/// The version of the files that this build writes.
pub const SCHEMA: u32 = 1;

/// A name longer than this is cut and hashed; file systems allow 255.
const LONGEST: usize = 200;

/// What stands in a reference's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// [`SCHEMA`].
    pub schema: u32,
    /// In full.
    pub reference: Reference,
    /// The image: the digest of its configuration.
    pub image: Digest,
    /// The manifest or index that the reference stands for in its registry. Absent for a loaded image.
    pub target: Option<Digest>,
}

/// What a reference names.
///
/// # Errors
/// The file is corrupt or newer.
pub fn get(root: &Root, reference: &Reference) -> Result<Option<Entry>, json::Error> {
    match json::read(&root.refs().join(escape(&reference.to_string())), SCHEMA) {
        Err(error) if error.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// Lets a reference name an image.
///
/// # Errors
/// It cannot be written.
pub fn set(
    root: &Root,
    reference: &Reference,
    image: Digest,
    target: Option<Digest>,
) -> Result<(), json::Error> {
    let path = root.refs().join(escape(&reference.to_string()));
    let entry = Entry {
        schema: SCHEMA,
        reference: reference.clone(),
        image,
        target,
    };
    json::write(&path, &entry, Durability::Synced)
}

/// Forgets a reference; false when there was none.
///
/// # Errors
/// It cannot be removed.
pub fn remove(root: &Root, reference: &Reference) -> Result<bool, file::Error> {
    file::remove(&root.refs().join(escape(&reference.to_string())))
}

/// All references, in the order of their file names.
///
/// # Errors
/// One that is corrupt or newer.
pub fn list(root: &Root) -> Result<Vec<Entry>, json::Error> {
    let dir = root.refs();
    let mut entries = Vec::new();
    for name in file::names(&dir)? {
        match json::read(&dir.join(name), SCHEMA) {
            Ok(entry) => entries.push(entry),
            // Removed since we listed.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

fn escape(reference: &str) -> String {
    let mut name = String::with_capacity(reference.len() + 16);
    for byte in reference.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => name.push(char::from(byte)),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    if name.len() > LONGEST {
        let hash = hex(&sha2::Sha256::digest(reference)[..16]);
        name.truncate(LONGEST - hash.len() - 2);
        name.push_str("%-");
        name.push_str(&hash);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_differ_even_where_case_folds() {
        let names: Vec<String> = ["a/b:Tag", "a/b:tag", "a/b:TAG", "a%2fb:tag"]
            .map(escape)
            .to_vec();
        assert_eq!(names[0], "a%2fb%3a%54ag");
        assert_eq!(names[3], "a%252fb%3atag");
        for (index, name) in names.iter().enumerate() {
            assert!(name.bytes().all(|byte| !byte.is_ascii_uppercase()));
            assert!(!names[..index].contains(name));
        }
        let long = |tail: &str| escape(&format!("{}:{tail}", "x/".repeat(120)));
        assert!(long("a").len() <= LONGEST);
        assert_ne!(long("a"), long("b"));
    }

    #[test]
    fn set_get_list_remove() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let (old, new) = (Digest::of(b"1"), Digest::of(b"2"));
        let reference: Reference = "localhost:5000/A:V1".replace("/A", "/a").parse().unwrap();
        assert_eq!(get(&root, &reference).unwrap(), None);
        set(&root, &reference, old, None).unwrap();
        set(&root, &reference, new, Some(old)).unwrap();
        assert_eq!(get(&root, &reference).unwrap().unwrap().image, new);
        assert_eq!(list(&root).unwrap().len(), 1);
        assert!(remove(&root, &reference).unwrap());
        assert!(!remove(&root, &reference).unwrap());
    }
}
