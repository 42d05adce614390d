//! Why a file system, or a part of it, cannot be read.

use std::io;

/// A result of the reading half of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a file system, or a part of it, could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source failed.
    #[error("cannot read {len} bytes at offset {offset}")]
    Read {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not ext4, or not with sense.
    #[error("not an ext4 file system: {field} is {value:#x}")]
    Superblock {
        /// The kernel's name of the field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// Features that change the format in a way that this reader does not know.
    #[error("features {features:#x} (s_feature_incompat) are not supported")]
    Features {
        /// The unknown bits.
        features: u32,
    },
    /// Features that change the format in a way that the checker does not know.
    #[error("features {features:#x} (s_feature_ro_compat) are not supported")]
    ReadOnlyFeatures {
        /// The unknown bits.
        features: u32,
    },
    /// The source is shorter than the file system.
    #[error("a file system of {expected} bytes is cut off at {actual}")]
    Truncated {
        /// What the superblock says.
        expected: u64,
        /// How much there is.
        actual: u64,
    },
    /// Metadata does not match its checksum.
    #[error("checksum of {what} {number} is {stored:#x}, should be {computed:#x}")]
    Checksum {
        /// Kind of metadata.
        what: &'static str,
        /// Group, inode or block.
        number: u64,
        /// What stands there.
        stored: u32,
        /// What should.
        computed: u32,
    },
    /// A block number outside of the file system.
    #[error("{what} of inode {ino} refers to block {block}, beyond the end")]
    Block {
        /// Kind of metadata.
        what: &'static str,
        /// The inode, or zero.
        ino: u32,
        /// The number.
        block: u64,
    },
    /// An inode number that does not exist.
    #[error("inode {ino} does not exist")]
    NoInode {
        /// The number.
        ino: u32,
    },
    /// Metadata of an inode that makes no sense.
    #[error("inode {ino} is damaged: {what}")]
    Inode {
        /// The number.
        ino: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// Valid, but beyond this reader.
    #[error("inode {ino} uses {what}, which is not supported")]
    Unsupported {
        /// The number.
        ino: u32,
        /// The feature.
        what: &'static str,
    },
    /// Asked for something that an inode of this type does not have.
    #[error("inode {ino} is not a {wanted}")]
    WrongType {
        /// The number.
        ino: u32,
        /// What it was taken for.
        wanted: &'static str,
    },
}
