//! Contents that wait for their place: those of one layer, while lower layers are still on their way.
//!
//! A segment is blocks without gaps, in the order in which they came.
//! Which of its contents are wanted is known when all layers are;
//! [`Writer::append`](crate::Writer::append) takes those over.

use std::io::{Read, Write};
use std::ops::Range;
use std::sync::Arc;

use crate::contents::{self, Blocks};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::layout::{BLOCK, BLOCK_SIZE};

/// What is gathered in memory before it is written, in bytes. Only a segment's last piece is shorter.
pub const PIECE: usize = 1 << 20;

/// Takes contents, and writes them in pieces.
#[derive(Debug)]
pub struct Segment<W> {
    writer: W,
    buffer: Vec<u8>,
    /// Bytes of the buffer that wait to be written, at block `start`.
    filled: usize,
    start: u64,
}

/// The contents of one file in a segment; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub(crate) len: u64,
    /// Their blocks on disk are those of the segment.
    pub(crate) extents: Arc<[Extent]>,
}

impl Waiting {
    /// The file's length in bytes, holes included.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first block in the segment: what came later has a higher one. None for a content without data.
    pub fn first_block(&self) -> Option<u64> {
        self.extents.first().map(|extent| extent.physical)
    }
}

impl<W: Write> Segment<W> {
    /// An empty segment; `writer` gets it, [`PIECE`] bytes at a time.
    pub fn new(writer: W) -> Self {
        Segment {
            writer,
            buffer: Vec::new(),
            filled: 0,
            start: 0,
        }
    }

    /// Takes `len` bytes, the contents of one file.
    ///
    /// # Errors
    /// As [`Writer::write_data`](crate::Writer::write_data).
    pub fn write_data(&mut self, reader: &mut (impl Read + ?Sized), len: u64) -> Result<Waiting> {
        let extents = contents::pack(self, reader, len)?;
        Ok(Waiting { len, extents })
    }

    /// Takes the contents of a file with holes.
    ///
    /// # Errors
    /// As [`Writer::write_sparse`](crate::Writer::write_sparse).
    pub fn write_sparse(
        &mut self,
        reader: &mut (impl Read + ?Sized),
        len: u64,
        ranges: &[Range<u64>],
    ) -> Result<Waiting> {
        let extents = contents::pack_sparse(self, reader, len, ranges)?;
        Ok(Waiting { len, extents })
    }

    /// Writes what is left and gives the writer back.
    ///
    /// # Errors
    /// The writer fails.
    pub fn finish(mut self) -> Result<W> {
        self.flush()?;
        Ok(self.writer)
    }

    fn flush(&mut self) -> Result<()> {
        if self.filled > 0 {
            let piece = &self.buffer[..self.filled];
            self.writer
                .write_all(piece)
                .map_err(|source| Error::WriteSegment {
                    offset: self.start * BLOCK,
                    len: piece.len(),
                    source,
                })?;
            self.start += (self.filled / BLOCK_SIZE) as u64;
            self.filled = 0;
        }
        Ok(())
    }
}

impl<W: Write> Blocks for Segment<W> {
    fn space(&mut self, want: u64) -> Result<(u64, &mut [u8])> {
        // Layers of directories and links alone have none.
        self.buffer.resize(PIECE, 0);
        if self.filled == PIECE {
            self.flush()?;
        }
        let next = self.start + (self.filled / BLOCK_SIZE) as u64;
        let room = (PIECE - self.filled) as u64;
        let bytes = want.min(room / BLOCK) * BLOCK;
        let end = self.filled + bytes as usize;
        Ok((next, &mut self.buffer[self.filled..end]))
    }

    fn commit(&mut self, count: u64) {
        self.filled += count as usize * BLOCK_SIZE;
    }
}
