//! `content/`: blobs that never change, each named by its SHA-256.
//!
//! A blob comes into being in `content/ingest/`, is hashed as it is written, and gets its name when all of it is on
//! the disk; so a blob that has its name is whole. What came of a download that broke off stays there ([`Partial`]). Whoever brings in or uses blobs holds a shared lease
//! ([`lease`]); garbage collection an exclusive one.

mod partial;
mod upload;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use oci::{Descriptor, Digest, Hasher};

use crate::Root;
use crate::file::{self, Durability};
use crate::lock::{self, Lock, Mode};

pub use partial::Partial;
pub(crate) use partial::is_partial;
pub use upload::UploadNote;
pub(crate) use upload::is_note;

/// What can go wrong with blobs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not here.
    #[error("blob {0} is missing")]
    Missing(Digest),
    /// The bytes are not those that were named.
    #[error("the content has the digest {found}, expected {expected}")]
    Digest {
        /// What was announced.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// There are too few or too many bytes.
    #[error("blob {digest} has {found} bytes, expected {expected}")]
    Size {
        /// Which.
        digest: Digest,
        /// What was announced.
        expected: u64,
        /// What came so far.
        found: u64,
    },
    /// Nobody has so much to send.
    #[error("blob {digest} is said to have {size} bytes, more than the {limit} that a layer may have", limit = MAX_BLOB)]
    TooLarge {
        /// Which.
        digest: Digest,
        /// What was announced.
        size: u64,
    },
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
}

/// The largest blob that is brought in, in bytes: 1 TiB. What is kept of its progress grows with what a stranger says that
/// its size is.
pub const MAX_BLOB: u64 = 1 << 40;

/// A lease on blobs and rootfs images: shared for whoever brings in or reads some, exclusive for whoever collects.
///
/// # Errors
/// Locking failed.
pub fn lease(root: &Root, mode: Mode) -> Result<Lock, lock::Error> {
    Lock::acquire(&root.content(), mode)
}

/// The same, if it is to be had at once.
///
/// # Errors
/// Locking failed.
pub fn try_lease(root: &Root, mode: Mode) -> Result<Option<Lock>, lock::Error> {
    Lock::try_acquire(&root.content(), mode)
}

/// Where a blob is when it is here.
#[must_use]
pub fn path(root: &Root, digest: &Digest) -> PathBuf {
    root.content().join("blobs/sha256").join(digest.hex())
}

/// Whether a blob is here, with the size that its descriptor names.
#[must_use]
pub fn has(root: &Root, descriptor: &Descriptor) -> bool {
    fs::metadata(path(root, &descriptor.digest)).is_ok_and(|found| found.len() == descriptor.size)
}

/// Opens a blob.
///
/// # Errors
/// [`Error::Missing`], or it cannot be opened.
pub fn open(root: &Root, digest: &Digest) -> Result<File, Error> {
    let path = path(root, digest);
    File::open(&path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            Error::Missing(*digest)
        } else {
            file::Error::new("open", &path, error).into()
        }
    })
}

/// Reads a small blob, such as a manifest, and checks that it is what it was.
///
/// # Errors
/// [`Error::Missing`]; [`Error::Size`] when it is larger than a document may be; [`Error::Digest`].
pub fn read(root: &Root, digest: &Digest) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    open(root, digest)?
        .take(oci::MAX_DOCUMENT_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(file::Error::at("read", &path(root, digest)))?;
    if bytes.len() as u64 > oci::MAX_DOCUMENT_SIZE {
        return Err(Error::Size {
            digest: *digest,
            expected: oci::MAX_DOCUMENT_SIZE,
            found: bytes.len() as u64,
        });
    }
    let found = Digest::of(&bytes);
    if found != *digest {
        return Err(Error::Digest {
            expected: *digest,
            found,
        });
    }
    Ok(bytes)
}

/// Keeps a small blob.
///
/// # Errors
/// The system call that failed.
pub fn put(root: &Root, bytes: &[u8]) -> Result<Digest, Error> {
    let digest = Digest::of(bytes);
    let path = path(root, &digest);
    if !fs::metadata(&path).is_ok_and(|found| found.len() == bytes.len() as u64) {
        file::write(&path, bytes, Durability::Synced)?;
    }
    Ok(digest)
}

/// All blobs, in no order.
///
/// # Errors
/// The directory cannot be listed.
pub fn list(root: &Root) -> Result<Vec<Digest>, Error> {
    let names = file::names(&root.content().join("blobs/sha256"))?;
    Ok(names
        .iter()
        .filter_map(|name| format!("sha256:{name}").parse().ok())
        .collect())
}

/// The right to bring in a blob: others who want the same one wait, and find it here. Free when it is dropped, or its
/// holder dead.
#[derive(Debug)]
pub struct Claim {
    digest: Digest,
    path: PathBuf,
    _file: File,
}

impl Claim {
    /// Waits until nobody else brings the blob in. The caller holds a shared lease on content.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn acquire(root: &Root, digest: &Digest) -> Result<Self, Error> {
        let path = root
            .content()
            .join("ingest")
            .join(format!(".{}.lock", digest.hex()));
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(file::Error::at("open", &path))?;
            file.lock().map_err(file::Error::at("lock", &path))?;
            let ours = file.metadata().map_err(file::Error::at("stat", &path))?;
            // Whoever had it took the name away at its end.
            let named = fs::metadata(&path);
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Self {
                    digest: *digest,
                    path,
                    _file: file,
                });
            }
        }
    }
}

impl Claim {
    /// On which blob.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Before the lock goes. One that a crash leaves is taken over, or collected.
        let _ = fs::remove_file(&self.path);
    }
}

/// A blob that is coming in. What is dropped unfinished is removed.
#[derive(Debug)]
pub struct Ingest {
    root: Root,
    file: File,
    temporary: Option<PathBuf>,
    hasher: Hasher,
    expected: Option<(Digest, u64)>,
}

impl Ingest {
    /// Begins. With a descriptor, more bytes than it names are refused as they come.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn begin(root: &Root, expected: Option<&Descriptor>) -> Result<Self, Error> {
        let name = expected.map_or_else(|| "blob".to_owned(), |expected| expected.digest.hex());
        let temporary = file::sibling(&root.content().join("ingest").join(name));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(file::Error::at("create", &temporary))?;
        Ok(Self {
            root: root.clone(),
            file,
            temporary: Some(temporary),
            hasher: Hasher::new(),
            expected: expected.map(|descriptor| (descriptor.digest, descriptor.size)),
        })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error::Size`]; the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let found = self.hasher.len() + bytes.len() as u64;
        if let Some((digest, expected)) = self.expected
            && found > expected
        {
            return Err(Error::Size {
                digest,
                expected,
                found,
            });
        }
        self.hasher.update(bytes);
        let path = self.temporary.as_deref().unwrap_or(self.root.path());
        Ok(self
            .file
            .write_all(bytes)
            .map_err(file::Error::at("write", path))?)
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.hasher.len()
    }

    /// No bytes so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Throws the bytes away; their digest.
    #[must_use]
    pub fn discard(mut self) -> Digest {
        std::mem::take(&mut self.hasher).finish()
    }

    /// Checks that these are the bytes that were announced, and gives the blob its name.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Digest`], or it cannot be written.
    pub fn finish(mut self) -> Result<(Digest, u64), Error> {
        let size = self.hasher.len();
        let found = std::mem::take(&mut self.hasher).finish();
        if let Some((digest, expected)) = self.expected {
            if size != expected {
                return Err(Error::Size {
                    digest,
                    expected,
                    found: size,
                });
            }
            if found != digest {
                return Err(Error::Digest {
                    expected: digest,
                    found,
                });
            }
        }
        let path = path(&self.root, &found);
        if let Some(temporary) = &self.temporary {
            file::publish(&self.file, temporary, &path, Durability::Synced)?;
        }
        self.temporary = None;
        Ok((found, size))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Best effort; garbage collection clears `ingest/` too.
            let _ = fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::MediaType;

    fn setup() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn bring(root: &Root, descriptor: &Descriptor, bytes: &[u8]) -> Result<(Digest, u64), Error> {
        let mut ingest = Ingest::begin(root, Some(descriptor))?;
        for chunk in bytes.chunks(3) {
            ingest.write(chunk)?;
        }
        ingest.finish()
    }

    #[test]
    fn keeps_what_is_as_announced_and_nothing_else() {
        let (_dir, root) = setup();
        let descriptor = Descriptor::of(MediaType::OciLayer, b"hello");
        for (bytes, expect) in [
            (&b"hell"[..], "has 4 bytes, expected 5"),
            (b"hellish", "has 6 bytes, expected 5"),
            (b"hullo", "the content has the digest"),
        ] {
            let error = bring(&root, &descriptor, bytes).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
            assert!(!has(&root, &descriptor));
        }
        bring(&root, &descriptor, b"hello").unwrap();
        assert!(has(&root, &descriptor));
        assert_eq!(read(&root, &descriptor.digest).unwrap(), b"hello");
        assert_eq!(list(&root).unwrap(), [descriptor.digest]);
        let left = fs::read_dir(root.content().join("ingest")).unwrap().count();
        assert_eq!(left, 0);
    }

    #[test]
    fn one_at_a_time_brings_a_blob_in() {
        let (_dir, root) = setup();
        let digest = Digest::of(b"hello");
        let counter = std::sync::atomic::AtomicU32::new(0);
        let most = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let claim = Claim::acquire(&root, &digest).unwrap();
                        let now = counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        most.fetch_max(now + 1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::yield_now();
                        counter.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 1);
        let left = fs::read_dir(root.content().join("ingest")).unwrap().count();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_blob_that_rotted_is_not_read() {
        let (_dir, root) = setup();
        let digest = put(&root, b"{}").unwrap();
        fs::write(path(&root, &digest), b"[]").unwrap();
        assert!(matches!(read(&root, &digest), Err(Error::Digest { .. })));
        fs::remove_file(path(&root, &digest)).unwrap();
        assert!(matches!(read(&root, &digest), Err(Error::Missing(_))));
    }
}
