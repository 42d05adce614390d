//! `rootfs/<chain id>-w<writer>/rootfs.ext4`: an image's layers merged into one read-only file system.
//!
//! Made once for all images with the same layers. Who makes it holds its lock; a second one waits and finds it done.
//! It gets its name when it is whole. Containers that run hold a shared lease.
//!
//! ```text
//!   blobs ─▶ decompress, hash ─▶ oci::LayerIndex, oci::Merger ─▶ ext4::Writer ─▶ rename
//!            (side by side)
//! ```
//!
//! A pull starts it before its layers are here ([`Arrivals`]). The drawings at the top of `assemble` and `stream` say which threads there are.

mod arrivals;
mod assemble;
mod behind;
mod gzip;
mod mount_points;
mod packing;
mod queue;
mod stream;
mod tree;
mod waiting;

use std::path::{Path, PathBuf};

pub use arrivals::Arrivals;
use oci::{Descriptor, Digest, MergeError};
pub use packing::{compression, decompress};

use crate::file::{self, Durability};
use crate::lock::{self, Lock, Mode};
use crate::{Root, content};

/// Changes whenever the same layers would become other bytes, so that a mended writer writes anew.
pub const WRITER: u32 = 5;

/// What every image may unpack to, however few bytes it came in: 1 GiB.
pub const ALWAYS_UNPACKED: u64 = 1 << 30;

/// Beyond [`ALWAYS_UNPACKED`] an image may unpack to so many times the bytes of its layers. Images of programs have ratios of 2 to 4;
/// 10 GB of zeros come in 10 KB.
pub const MAX_RATIO: u64 = 100;

/// What no image may unpack to unless its user says so: 256 GiB.
pub const MAX_UNPACKED: u64 = 256 << 30;

/// Bytes of memory in which contents of upper layers may wait for their place: 64 MiB. What is more waits in a file.
const MEMORY: u64 = 64 << 20;

/// How a rootfs image is made. Its bytes do not depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Layers that are read at once. Each takes one core for its decompression, and less than another one for the rest.
    pub threads: usize,
    /// Bytes of memory in which contents of upper layers may wait for their place.
    pub memory: u64,
    /// As many bytes as the layers may unpack to, all together; none for [`max_unpacked`] of them.
    pub max_unpacked: Option<u64>,
    /// As many bytes as names and attributes may take in memory, of each layer and of all that is merged.
    pub max_metadata: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory: MEMORY,
            max_unpacked: None,
            max_metadata: oci::METADATA_BUDGET,
        }
    }
}

/// Why there is no rootfs image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer is not here.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// A layer that was to come does not.
    #[error("layer {0} is not coming")]
    NotComing(Digest),
    /// A layer cannot be decompressed.
    #[error("layer {layer} cannot be decompressed")]
    Decompress {
        /// The blob.
        layer: Digest,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A layer is not what the image's configuration says.
    #[error("layer {layer} unpacks to the diff ID {found}, expected {expected}")]
    DiffId {
        /// The blob.
        layer: Digest,
        /// As the configuration says.
        expected: Digest,
        /// As it is.
        found: Digest,
    },
    /// The layers are more than anybody wants.
    #[error(
        "with layer {layer} the image unpacks to more than the {} MiB allowed ({packed} bytes packed)",
        limit >> 20
    )]
    TooLarge {
        /// The blob that went beyond.
        layer: Digest,
        /// What all of it may unpack to, in bytes.
        limit: u64,
        /// What all of it came in, in bytes.
        packed: u64,
    },
    /// The layers cannot be merged.
    #[error("layer {layer} cannot be merged")]
    Merge {
        /// The blob.
        layer: Digest,
        /// Why.
        #[source]
        source: MergeError,
    },
    /// What is in a layer cannot be written.
    #[error("cannot write {entry:?} of layer {layer} to {}", path.display())]
    Store {
        /// The blob.
        layer: Digest,
        /// The file's name in it.
        entry: String,
        /// Where to.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file system cannot be written.
    #[error("cannot write the rootfs image {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: ext4::Error,
    },
    /// The file cannot be made.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// Locking failed.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
}

/// The key of the rootfs image of these layers.
#[must_use]
pub fn key(diff_ids: &[Digest]) -> String {
    // Without layers the file system is empty, and so is what is hashed.
    let chain = oci::chain_id(diff_ids).unwrap_or_else(|| Digest::of(b""));
    format!("{}-w{WRITER}", chain.hex())
}

/// The rootfs image of a key. It may not exist yet.
#[must_use]
pub fn path(root: &Root, key: &str) -> PathBuf {
    root.rootfs().join(key).join("rootfs.ext4")
}

/// A shared lease: the image stays for as long as a copy of it is held.
///
/// # Errors
/// [`lock::Error::Gone`] when there is no such rootfs image.
pub fn lease(root: &Root, key: &str) -> Result<Lock, lock::Error> {
    let dir = root.rootfs().join(key);
    let lease = Lock::acquire(&dir, Mode::Shared)?;
    if path(root, key).is_file() {
        Ok(lease)
    } else {
        Err(lock::Error::Gone(dir))
    }
}

/// One layer: its blob, and what it unpacks to.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The blob.
    pub blob: Descriptor,
    /// The digest of the tar archive in it.
    pub diff_id: Digest,
}

/// As many bytes as these layers may unpack to, all together, unless their user says otherwise: [`MAX_RATIO`] times what they came
/// in, but at least [`ALWAYS_UNPACKED`] and at most [`MAX_UNPACKED`].
#[must_use]
pub fn max_unpacked(layers: &[Layer]) -> u64 {
    max_unpacked_of(packed(layers))
}

/// The same for so many packed bytes.
#[must_use]
pub fn max_unpacked_of(packed: u64) -> u64 {
    packed
        .saturating_mul(MAX_RATIO)
        .clamp(ALWAYS_UNPACKED, MAX_UNPACKED)
}

fn packed(layers: &[Layer]) -> u64 {
    let sizes = layers.iter().map(|layer| layer.blob.size);
    sizes.fold(0, u64::saturating_add)
}

/// Makes the rootfs image of these layers, the lowest first, unless it is there. Its path.
///
/// They may unpack to what the root directory was opened with ([`Root::allow_unpacked`]).
///
/// The caller holds a shared lease on content, so that layers and rootfs image stay until something refers to them.
///
/// # Errors
/// As [`Error`] says; there is no rootfs image then.
pub fn build(root: &Root, layers: &[Layer]) -> Result<PathBuf, Error> {
    make(root, layers, &options(root), None)
}

/// As [`build`], while layers still come: each is read when it is here.
///
/// # Errors
/// As [`Error`] says, [`Error::NotComing`] with it; there is no rootfs image then.
pub fn build_as_they_come(
    root: &Root,
    layers: &[Layer],
    arrivals: &Arrivals,
) -> Result<PathBuf, Error> {
    make(root, layers, &options(root), Some(arrivals))
}

fn options(root: &Root) -> Options {
    Options {
        max_unpacked: root.max_unpacked(),
        ..Options::default()
    }
}

/// As [`build`], with options.
///
/// # Errors
/// As [`Error`] says; there is no rootfs image then.
pub fn build_with(root: &Root, layers: &[Layer], options: &Options) -> Result<PathBuf, Error> {
    make(root, layers, options, None)
}

fn make(
    root: &Root,
    layers: &[Layer],
    options: &Options,
    arrivals: Option<&Arrivals>,
) -> Result<PathBuf, Error> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
    let key = key(&diff_ids);
    let path = path(root, &key);
    if path.is_file() {
        return Ok(path);
    }
    let dir = root.rootfs().join(&key);
    let _lock = loop {
        file::make_dir(&dir)?;
        match Lock::acquire(&dir, Mode::Exclusive) {
            // Whoever held it failed, and took the directory away.
            Err(lock::Error::Gone(_)) => {}
            other => break other?,
        }
    };
    if path.is_file() {
        return Ok(path);
    }
    // Ours alone under the lock; a crash leaves it to the next one.
    let temporary = dir.join("rootfs.ext4.new");
    file::remove(&temporary)?;
    let written = write(root, &key, layers, (options, arrivals), &temporary)
        .and_then(|file| Ok(file::publish(&file, &temporary, &path, Durability::Synced)?));
    match written {
        Ok(()) => Ok(path),
        Err(error) => {
            // Best effort: the error that matters is the first one.
            let _ = file::remove_tree(&dir);
            Err(error)
        }
    }
}

fn write(
    root: &Root,
    key: &str,
    layers: &[Layer],
    how: (&Options, Option<&Arrivals>),
    temporary: &Path,
) -> Result<std::fs::File, Error> {
    let file = disk::create_sparse(temporary, 0)?;
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&Digest::of(key.as_bytes()).as_bytes()[..16]);
    let ext4_options = ext4::WriterOptions {
        label: "rootfs".to_owned(),
        uuid,
        ..ext4::WriterOptions::default()
    };
    let summary = assemble::write(root, layers, how, ext4_options, (&file, temporary))?;
    tracing::debug!(
        key,
        inodes = summary.inodes,
        size = summary.size,
        "rootfs image written"
    );
    Ok(file)
}

#[cfg(test)]
mod tests;
