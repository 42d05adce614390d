//! Blocks on their way to the disk: handed out in ascending order, written in large pieces.

use std::ops::Range;

use crate::contents::Blocks;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::layout::{BLOCK, BLOCK_SIZE, Block, Cursor};
use crate::segment::Placed;

/// How much is gathered before it is written.
const BUFFER: usize = 1 << 20;

/// Owns the disk and the order in which its blocks fill up.
#[derive(Debug)]
pub(crate) struct Sink<D> {
    disk: D,
    cursor: Cursor,
    buffer: Vec<u8>,
    /// Bytes of the buffer that wait to be written, at block `start`.
    filled: usize,
    start: u64,
}

impl<D: Disk> Sink<D> {
    /// Empties the disk; the first block handed out is the first that is not reserved.
    pub(crate) fn new(mut disk: D) -> Result<Self> {
        set_len(&mut disk, 0)?;
        let cursor = Cursor::new(0);
        Ok(Sink {
            disk,
            cursor,
            buffer: vec![0; BUFFER],
            filled: 0,
            start: cursor.next(),
        })
    }

    /// Where the next block will lie.
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Appends one block and says where it lies.
    pub(crate) fn append(&mut self, block: &Block) -> Result<u64> {
        let (at, space) = self.space(1)?;
        space.copy_from_slice(block);
        self.commit(1);
        Ok(at)
    }

    /// Appends whole blocks that must lie at `at`, which is not before the cursor.
    pub(crate) fn append_at(&mut self, at: u64, mut bytes: &[u8]) -> Result<()> {
        debug_assert!(at >= self.cursor.next());
        if at != self.cursor.next() {
            self.cursor = Cursor::new(at);
        }
        while !bytes.is_empty() {
            let (_, space) = self.space((bytes.len() / BLOCK_SIZE) as u64)?;
            let count = space.len();
            space.copy_from_slice(&bytes[..count]);
            self.commit((count / BLOCK_SIZE) as u64);
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Appends whole blocks wherever the next ones are, and notes where that is. They are not gathered: there are many.
    pub(crate) fn append_run(&mut self, mut bytes: &[u8], placed: &mut Placed) -> Result<()> {
        debug_assert!(bytes.len().is_multiple_of(BLOCK_SIZE));
        self.flush()?;
        while !bytes.is_empty() {
            let at = self.cursor.next();
            let count = self.cursor.run((bytes.len() / BLOCK_SIZE) as u64);
            let (now, later) = bytes.split_at(count as usize * BLOCK_SIZE);
            write_blocks(&mut self.disk, now, at)?;
            self.cursor.take(count);
            placed.push(at, count);
            bytes = later;
        }
        Ok(())
    }

    /// Makes blocks that were handed out read as zeros.
    pub(crate) fn clear(&mut self, blocks: Range<u64>) -> Result<()> {
        self.flush()?;
        let (offset, len) = (blocks.start * BLOCK, (blocks.end - blocks.start) * BLOCK);
        self.disk.clear(offset, len).map_err(|source| Error::Write {
            offset,
            len: len as usize,
            source,
        })
    }

    /// Writes what waits, sets the disk's final length and gives the disk back.
    pub(crate) fn finish(mut self, len: u64) -> Result<D> {
        self.flush()?;
        set_len(&mut self.disk, len)?;
        Ok(self.disk)
    }

    fn flush(&mut self) -> Result<()> {
        if self.filled > 0 {
            let bytes = &self.buffer[..self.filled];
            write_blocks(&mut self.disk, bytes, self.start)?;
            self.filled = 0;
        }
        Ok(())
    }
}

impl<D: Disk> Blocks for Sink<D> {
    fn space(&mut self, want: u64) -> Result<(u64, &mut [u8])> {
        let next = self.cursor.next();
        if self.filled == BUFFER || self.start + (self.filled / BLOCK_SIZE) as u64 != next {
            self.flush()?;
            self.start = next;
        }
        let room = ((BUFFER - self.filled) / BLOCK_SIZE) as u64;
        let bytes = self.cursor.run(want.min(room)) as usize * BLOCK_SIZE;
        Ok((next, &mut self.buffer[self.filled..self.filled + bytes]))
    }

    fn commit(&mut self, count: u64) {
        self.cursor.take(count);
        self.filled += count as usize * BLOCK_SIZE;
    }
}

/// Writes `bytes` at a block's offset.
pub(crate) fn write_blocks(disk: &mut impl Disk, bytes: &[u8], block: u64) -> Result<()> {
    let offset = block * BLOCK;
    disk.write_at(bytes, offset).map_err(|source| Error::Write {
        offset,
        len: bytes.len(),
        source,
    })
}

fn set_len(disk: &mut impl Disk, len: u64) -> Result<()> {
    disk.set_len(len)
        .map_err(|source| Error::SetLen { len, source })
}
