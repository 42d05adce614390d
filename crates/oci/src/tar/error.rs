//! What can be wrong with an archive.

use std::fmt;
use std::io;

/// An archive that cannot be read, and where.
#[derive(Debug, thiserror::Error)]
#[error("bad tar archive at offset {offset}{}", In(.entry))]
pub struct TarError {
    /// Where, in bytes from the start of the uncompressed archive.
    pub offset: u64,
    /// The entry, if its name is known; replacement characters stand for what is not UTF-8.
    pub entry: Option<String>,
    /// What is wrong.
    #[source]
    pub problem: TarProblem,
}

struct In<'a>(&'a Option<String>);

impl fmt::Display for In<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(entry) => write!(f, " in entry {entry:?}"),
            None => Ok(()),
        }
    }
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarProblem {
    /// The archive could not be read further.
    #[error("reading failed")]
    Read(#[source] io::Error),
    /// The archive ends too early.
    #[error("truncated: {missing} bytes of the {part} are missing")]
    Truncated {
        /// `header`, `content`, …
        part: &'static str,
        /// How many bytes are missing.
        missing: u64,
    },
    /// A header's checksum does not fit, so that this is no header.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// A number in a header is not one.
    #[error("the header's field {0} is not a valid number")]
    Number(&'static str),
    /// A value is outside of what a file system can hold.
    #[error("the {what} {value} is out of range")]
    Range {
        /// `user ID`, `size`, …
        what: &'static str,
        /// The value.
        value: String,
    },
    /// An entry's type is unknown or of no use in a layer.
    #[error("the entry has the unsupported type {0:?}")]
    Type(char),
    /// A name or link target is empty, has a NUL in it, or is longer than Linux allows.
    #[error("the {what} is empty, longer than 4095 bytes, or has a NUL byte in it")]
    Name {
        /// `name` or `link target`.
        what: &'static str,
    },
    /// An extended header is too large.
    #[error("the extended header has {size} bytes, more than 1 MiB")]
    ExtendedTooLarge {
        /// Its size.
        size: u64,
    },
    /// An extended header is not a list of records.
    #[error("the extended header is malformed: {0}")]
    Extended(&'static str),
    /// An extended header's record has a value that makes no sense.
    #[error("the extended header's record {0:?} has an invalid value")]
    Record(String),
    /// A sparse file's map makes no sense.
    #[error("the sparse file's map is invalid: {0}")]
    Sparse(&'static str),
}
