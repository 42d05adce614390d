//! What can go wrong when a file system is written.

use std::io;

/// A result of the writing half of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a file system could not be written. `path` is a path within it, made printable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk refused bytes.
    #[error("cannot write {len} bytes at offset {offset} of the disk")]
    Write {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk refused its new length.
    #[error("cannot make the disk {len} bytes long")]
    SetLen {
        /// The wanted length in bytes.
        len: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The reader of a file's contents failed.
    #[error("cannot read the contents of a file of {len} bytes")]
    Read {
        /// The length that was announced.
        len: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The reader of a file's contents ended early.
    #[error("the contents of a file of {len} bytes end too early")]
    ShortFile {
        /// The length that was announced.
        len: u64,
    },
    /// ext4 numbers a file's blocks with 32 bits.
    #[error("a file of {len} bytes is larger than ext4's 16 TiB")]
    FileTooLarge {
        /// The length that was announced.
        len: u64,
    },
    /// Ranges of data that are empty, out of order, or beyond the file's end.
    #[error("the ranges of data of a file of {len} bytes are not in order and inside of it")]
    Ranges {
        /// The length that was announced.
        len: u64,
    },
    /// A label has room for 16 bytes and ends at the first zero byte.
    #[error("label {label:?} does not fit into 16 bytes")]
    Label {
        /// The label.
        label: String,
    },
    /// The size asked for cannot hold the metadata.
    #[error("{size} bytes are too few for a file system: at least {minimum} are needed")]
    TooSmall {
        /// The size asked for.
        size: u64,
        /// What would do.
        minimum: u64,
    },
    /// The size asked for is beyond what this crate lays out.
    #[error("{size} bytes are more than the {maximum} that a file system may have")]
    TooLarge {
        /// The size asked for.
        size: u64,
        /// What would do.
        maximum: u64,
    },
    /// Contents that are to wait in a segment cannot be put there.
    #[error("cannot put away {len} bytes at offset {offset} of contents that wait for their place")]
    WriteSegment {
        /// Where in the segment, in bytes.
        offset: u64,
        /// How many bytes.
        len: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Contents of a segment were asked for before all of them had their place.
    #[error("block {block} of the contents that wait for their place has none")]
    NotPlaced {
        /// Of the segment.
        block: u64,
    },
    /// The file system to grow cannot be read.
    #[error("cannot read {len} bytes at offset {offset} of the disk")]
    ReadDisk {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system to grow is none that this crate made and nobody wrote to.
    #[error("the disk holds no file system that can grow: {field} is {value:#x}")]
    Foreign {
        /// Which field of the superblock or of a descriptor.
        field: &'static str,
        /// What it is.
        value: u64,
    },
    /// A journal needs at least 4 MiB and may take half of the file system.
    #[error("a journal of {bytes} bytes does not lie between {minimum} and {maximum}")]
    JournalSize {
        /// The size asked for.
        bytes: u64,
        /// The smallest that jbd2 takes.
        minimum: u64,
        /// Half of the file system.
        maximum: u64,
    },
    /// More blocks for root alone than may be.
    #[error("{percent} per cent of the blocks for root alone are more than {maximum}")]
    Reserved {
        /// The part asked for.
        percent: u8,
        /// What would do.
        maximum: u8,
    },
    /// More inodes than the groups of a disk of that size have room for.
    #[error("{count} inodes are more than the {maximum} that a disk of that size can have")]
    Inodes {
        /// The number asked for.
        count: u32,
        /// What would do.
        maximum: u64,
    },
    /// More inodes than 32 bits can number.
    #[error("a tree of {count} entries has more than ext4 can number")]
    TooManyInodes {
        /// How many there are.
        count: usize,
    },
    /// The root of a tree is something else than a directory.
    #[error("the root of the tree is not a directory")]
    RootNotDirectory,
    /// An entry names a node that the tree does not have.
    #[error("{path} refers to a node that is not in the tree")]
    DanglingNode {
        /// The entry.
        path: String,
    },
    /// A directory may have one name only.
    #[error("directory {path} has a second name, or contains itself")]
    DirectoryLinkedTwice {
        /// One of its names.
        path: String,
    },
    /// An entry's name is empty, `.`, `..`, longer than 255 bytes, or contains `/` or a zero byte.
    #[error("{name:?} in directory {path} is not a name that ext4 can hold")]
    Name {
        /// The directory.
        path: String,
        /// The name, made printable.
        name: String,
    },
    /// More names than an inode's link count can tell.
    #[error("{path} has {links} hard links; ext4 counts to 65000")]
    TooManyLinks {
        /// One of its names.
        path: String,
        /// How many it has.
        links: u32,
    },
    /// A directory that needs a third level of its index.
    #[error("directory {path} has {entries} entries, more than its index can hold")]
    DirectoryTooLarge {
        /// The directory.
        path: String,
        /// How many it has.
        entries: usize,
    },
    /// A symbolic link's target is empty, longer than 4095 bytes, or contains a zero byte.
    #[error("symbolic link {path} has a target of {len} bytes that ext4 cannot hold")]
    SymlinkTarget {
        /// The link.
        path: String,
        /// The target's length.
        len: usize,
    },
    /// ext4 holds 12 bits of major and 20 bits of minor.
    #[error("device {path} has numbers {major}:{minor}, beyond 4095:1048575")]
    DeviceNumber {
        /// The node.
        path: String,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// An extended attribute outside of the name spaces that Linux has, or with a name too long.
    #[error("{path}: extended attribute {name:?} has a name that ext4 cannot hold")]
    XattrName {
        /// The node.
        path: String,
        /// The attribute, made printable.
        name: String,
    },
    /// Two extended attributes with one name.
    #[error("{path}: extended attribute {name:?} is there twice")]
    XattrDuplicate {
        /// The node.
        path: String,
        /// The attribute, made printable.
        name: String,
    },
    /// An access control list that is not in the kernel's form.
    #[error("{path}: extended attribute {name:?} is not a valid access control list")]
    XattrAcl {
        /// The node.
        path: String,
        /// The attribute.
        name: String,
    },
    /// Values have at most 64 KiB; names, and values that have no inode of their own, share about 90 bytes in the inode and
    /// 4 KiB beside it.
    #[error(
        "{path}: extended attribute {name:?} of {len} bytes does not fit: \
         a value has at most 65536 bytes, and all names share one block of 4096 bytes"
    )]
    XattrSpace {
        /// The node.
        path: String,
        /// The first attribute that found no room, made printable.
        name: String,
        /// The length of its value.
        len: usize,
    },
    /// Two nodes were given the same [`Data`](crate::Data); hard links are one node with two names.
    #[error("{path} shares its contents with another file")]
    SharedData {
        /// The second of them.
        path: String,
    },
    /// The [`Data`](crate::Data) was written by another writer.
    #[error("the contents of {path} are not on this disk")]
    ForeignData {
        /// The node.
        path: String,
    },
}
