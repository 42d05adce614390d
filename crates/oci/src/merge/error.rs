//! Why layers cannot be merged.

use std::io;

use crate::TarError;

/// A layer that cannot be merged. Layers count from 1, the lowest; names are shown as text, with
/// replacement characters where they are not UTF-8.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The archive is damaged, truncated, or uses something unknown.
    #[error("layer {layer} cannot be read")]
    Tar {
        /// Which layer.
        layer: u32,
        /// Where and why.
        #[source]
        source: TarError,
    },
    /// An entry makes no sense where it stands.
    #[error("layer {layer}: entry {entry:?} at offset {offset} cannot be applied")]
    Entry {
        /// Which layer.
        layer: u32,
        /// The entry's name.
        entry: String,
        /// Where its header is, in bytes of the uncompressed archive.
        offset: u64,
        /// Why.
        #[source]
        problem: MergeProblem,
    },
    /// The sink failed.
    #[error("layer {layer}: the content of {entry:?} cannot be stored")]
    Sink {
        /// Which layer.
        layer: u32,
        /// The entry's name.
        entry: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeProblem {
    /// Its name has more `..` than components before them.
    #[error("the name leaves the root directory")]
    NameEscapes,
    /// The target of a hard link does.
    #[error("the hard link's target {0:?} leaves the root directory")]
    TargetEscapes(String),
    /// There is nothing at the target of a hard link.
    #[error("the hard link's target {0:?} does not exist")]
    TargetMissing(String),
    /// The target of a hard link is a directory.
    #[error("the hard link's target {0:?} is a directory")]
    TargetIsDirectory(String),
    /// Something that is no directory stands for one, in the same layer.
    #[error("{0:?} is not a directory")]
    NotADirectory(String),
    /// More than 40 symbolic links on the way.
    #[error("too many symbolic links")]
    SymlinkLoop,
    /// A component of the name is longer than 255 bytes.
    #[error("the name {0:?} has more than 255 bytes")]
    NameTooLong(String),
    /// More than 2,048 directories deep.
    #[error("too many directories inside one another")]
    TooDeep,
    /// The root must be a directory.
    #[error("the root is not a directory")]
    RootNotDirectory,
    /// A whiteout without a name, or of `.` or `..`.
    #[error("{0:?} is not a valid whiteout")]
    BadWhiteout(String),
    /// Names, attributes and nodes need too much memory.
    #[error("the image has too many files: more than {0} bytes of metadata")]
    Budget(u64),
}
