//! Contents before they have a place: those of one layer, while lower layers are still on their way.
//!
//! A segment is blocks without gaps, in the order in which they came. [`Writer::place`](crate::Writer::place)
//! takes it over piece by piece, whenever those below it are all there; which of its contents are wanted need
//! not be known by then.

use std::io::{Read, Write};
use std::ops::Range;
use std::sync::Arc;

use crate::contents::{self, Blocks};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentList};
use crate::layout::{BLOCK, BLOCK_SIZE};
use crate::tree::Data;

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

/// Where the blocks of one segment came to lie on the disk.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// In the order of the segment, without gaps.
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    /// The first block, of the segment.
    start: u64,
    len: u64,
    /// The first block, of the disk.
    physical: u64,
}

impl Placed {
    /// Blocks of the segment that have their place.
    fn end(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.start + run.len)
    }

    /// The segment's next `len` blocks lie at `physical`.
    pub(crate) fn push(&mut self, physical: u64, len: u64) {
        let start = self.end();
        match self.runs.last_mut() {
            Some(last) if last.physical + last.len == physical => last.len += len,
            _ => self.runs.push(Run {
                start,
                len,
                physical,
            }),
        }
    }

    /// A content of the segment, as it lies on the disk.
    ///
    /// # Errors
    /// [`Error::NotPlaced`]: some of it is not there.
    pub fn data(&self, contents: &Waiting) -> Result<Data> {
        let mut extents = ExtentList::default();
        for extent in contents.extents.iter() {
            let (mut logical, mut from) = (extent.logical, extent.physical);
            let mut left = u64::from(extent.len);
            if from + left > self.end() {
                return Err(Error::NotPlaced {
                    block: from + left - 1,
                });
            }
            while left > 0 {
                let next = self.runs.partition_point(|run| run.start <= from);
                let run = self.runs[next - 1];
                let within = from - run.start;
                let count = left.min(run.len - within);
                extents.push(logical, run.physical + within, count as u32);
                logical += count as u32;
                from += count;
                left -= count;
            }
        }
        Ok(Data {
            len: contents.len,
            extents: extents.into_vec().into(),
        })
    }
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
