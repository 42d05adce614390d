//! `logs/output.log`: what a container's first process wrote, and `output.log.1` and so on: what it wrote before that.
//!
//! Frames, one after another: `<unix ns> <stdout|stderr> <len>\n`, then `len` raw bytes, then `\n`. So the file reads
//! well in a pager and holds any bytes. The supervisor appends, one frame a write; a crash can tear the last frame,
//! which readers leave out and the next writer cuts off.
//!
//! A frame that would make the file larger than its limit goes into a new one. The files before move up by one, the
//! highest first, and the last one goes. So at any moment, also after a crash at any moment, the files are in order with at
//! most one number left out, and what left its name is never written again.
//!
//! Nobody locks: a reader that stands still must not hold up a container. Readers know files by their inodes, and look at
//! the names twice.

mod files;
mod frame;
mod lines;
mod reader;
mod writer;

use std::path::PathBuf;

pub use lines::{Lines, Splitter};
pub use reader::{Reader, Start};
pub use writer::Writer;

use crate::file;

/// How reading or opening failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
    /// There is no frame where one should begin.
    #[error("{} is corrupt at byte {offset}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
}

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1, and all of a terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// As frames name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Some bytes that were written at once, or one line of them ([`Lines`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Where they were written to.
    pub stream: Stream,
    /// The bytes.
    pub bytes: Vec<u8>,
}

#[cfg(test)]
mod tests;
