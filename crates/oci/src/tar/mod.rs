//! Reads tar archives as raw bytes: names need not be UTF-8, nothing touches a file system.
//!
//! POSIX.1-2001 (`pax`, `ustar`), V7, and GNU tar's and star's extensions, as far as they occur in
//! layers: long names, base-256 numbers, sparse files in all four forms, extended attributes
//! (`SCHILY.xattr.`). What is unknown is an error, never skipped in silence, so that two readers
//! cannot see two different archives in the same bytes. Like other readers this one accepts the
//! end of the stream between two entries as the end of the archive.
//!
//! The archive is not trusted: what is kept in memory for one entry is limited to a few MiB.

mod archive;
mod error;
mod header;
mod pax;
mod sparse;

pub(crate) use archive::Archive;
pub use error::{TarError, TarProblem};
pub use sparse::DataExtent;
pub(crate) use sparse::Filled;

use crate::merge::Timestamp;

/// One file of an archive, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name as written, not empty, without NUL.
    pub(crate) path: Vec<u8>,
    /// Where the file's own header is, in bytes from the start of the archive.
    pub(crate) offset: u64,
    pub(crate) kind: EntryKind,
    /// 0 to 0o7777.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// Sorted by name, each name once.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File {
        /// With holes.
        len: u64,
        /// Where there is data, if the file is sparse; [`Archive::data`] yields these only.
        extents: Option<Vec<DataExtent>>,
    },
    /// Another name of an earlier entry's file, or of a lower layer's.
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Directory,
    Fifo,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}
