//! Writes, formats and reads ext4 file systems, without a kernel, a mount or root.
//!
//! Two ways to make one:
//!
//! - [`Writer`] turns a [`Tree`] into a file system that is exactly as large as it must be, for
//!   read-only use. File contents stream into place first, in the order of the calls; everything
//!   that describes them (directories, inode tables, bitmaps) follows at the end, when the tree is
//!   known. The bytes depend on nothing but the calls. Contents that come before their turn wait in a
//!   [`Segment`].
//! - [`format`](fn@format) makes an empty file system of a given size in a sparse file, for volumes and upper
//!   disks. It writes a few hundred blocks, whatever the size.
//!
//! [`grow`](fn@grow) makes a larger one of either, with room for new files: a private copy of an image.
//!
//! [`read`] is the way back: a reader that trusts no byte of what it reads; [`check`] says what is wrong with a file system.
//!
//! Everything is synchronous and single-threaded; whoever calls owns the disk. Of the ext4 family
//! only one layout is written: 4 KiB blocks, 128 MiB groups, 256-byte inodes, 64-byte group
//! descriptors under `meta_bg`, checksums on all metadata. The format's source is the kernel's
//! `Documentation/filesystems/ext4/`; each module names its chapter.

mod block_map;
pub mod check;
mod contents;
mod crc;
mod directory;
mod dirhash;
mod disk;
mod error;
mod extent;
mod format;
mod group;
mod grow;
mod inode;
mod inodes;
mod journal;
mod layout;
mod le;
mod plan;
pub mod read;
mod segment;
mod sink;
mod superblock;
mod tables;
mod tree;
mod writer;
mod xattr;

pub use disk::Disk;
pub use error::{Error, Result};
pub use format::{FormatOptions, Journal, format};
pub use grow::grow;
pub use segment::{PIECE, Placed, Segment, Waiting};
pub use tree::{Data, Kind, Node, NodeId, Timestamp, Tree};
pub use writer::{Summary, Writer, WriterOptions};
pub use xattr::is_supported as supports_xattr;
