//! `content/ingest/<hex>.<12 hex>.push`: where a registry wants the rest of a blob that a push was killed over.
//!
//! The second part of the name stands for the repository. What is in the file is the address of the upload, in the registry's own words,
//! and nothing else is known of it: the registry says how much it has, and may have forgotten it. The file is private: who has the
//! address may send.

use std::fs;
use std::path::{Path, PathBuf};

use oci::Digest;

use crate::Root;
use crate::file::{self, Durability};

/// The longest address that is read, in bytes.
const MOST: u64 = 64 << 10;

/// The ending of the files' names.
const ENDING: &str = ".push";

/// The note of one blob's upload to one repository.
#[derive(Debug, Clone)]
pub struct UploadNote {
    path: PathBuf,
}

impl UploadNote {
    /// Where it would be. `repository` has the registry's name in front. The caller holds a shared lease on content.
    #[must_use]
    pub fn new(root: &Root, digest: &Digest, repository: &str) -> Self {
        let place = Digest::of(repository.as_bytes()).hex();
        let name = format!("{}.{}{ENDING}", digest.hex(), &place[..12]);
        let path = root.content().join("ingest").join(name);
        Self { path }
    }

    /// The address that was noted.
    #[must_use]
    pub fn read(&self) -> Option<String> {
        let is_short = fs::metadata(&self.path).is_ok_and(|found| found.len() <= MOST);
        is_short.then(|| fs::read_to_string(&self.path).ok())?
    }

    /// Notes another one; `None` when there is nothing more to send. A note that a crash of the host takes costs sending anew.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn write(&self, address: Option<&str>) -> Result<(), file::Error> {
        match address {
            Some(address) => file::write(&self.path, address.as_bytes(), Durability::Unsynced),
            None => file::remove(&self.path).map(drop),
        }
    }
}

/// Whether a file of `ingest/` is such a note.
pub(crate) fn is_note(path: &Path) -> bool {
    let name = path.file_name().and_then(std::ffi::OsStr::to_str);
    name.is_some_and(|name| name.ends_with(ENDING) && !name.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_of_one_blob_and_one_repository() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let note = |repository| UploadNote::new(&root, &Digest::of(b"x"), repository);
        assert_eq!(note("a/b").read(), None);
        note("a/b").write(Some("http://a/upload")).unwrap();
        assert_eq!(note("a/b").read().as_deref(), Some("http://a/upload"));
        assert_eq!(note("a/c").read(), None);
        assert!(is_note(&note("a/b").path));
        note("a/b").write(None).unwrap();
        note("a/b").write(None).unwrap();
        assert_eq!(note("a/b").read(), None);
    }
}
