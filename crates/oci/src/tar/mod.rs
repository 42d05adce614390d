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

pub use archive::{Archive, Data};
pub use error::{TarError, TarProblem};
pub use sparse::DataExtent;
pub(crate) use sparse::Filled;

use crate::merge::Timestamp;

/// One file of an archive, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as written, not empty, without NUL.
    pub path: Vec<u8>,
    /// Where the file's own header is, in bytes from the start of the archive.
    pub offset: u64,
    /// What it is.
    pub kind: EntryKind,
    /// 0 to 0o7777.
    pub mode: u16,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When its content last changed.
    pub mtime: Timestamp,
    /// Sorted by name, each name once.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// With holes.
        len: u64,
        /// Where there is data, if the file is sparse; [`Archive::data`] yields these only.
        extents: Option<Vec<DataExtent>>,
    },
    /// Another name of an earlier entry's file, or of a lower layer's.
    HardLink(Vec<u8>),
    /// A symbolic link, and its target.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Which driver.
        major: u32,
        /// Which device of it.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Which driver.
        major: u32,
        /// Which device of it.
        minor: u32,
    },
}
