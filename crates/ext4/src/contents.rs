//! File contents on their way into blocks: read, cut into blocks, those of zeros left out.
//!
//! The same for both places that take contents: the disk to be ([`Sink`](crate::sink::Sink)) and a
//! [`Segment`](crate::Segment), where they wait.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentList};
use crate::layout::{BLOCK, BLOCK_SIZE, ZERO_BLOCK};

/// A place that takes blocks in ascending order.
pub(crate) trait Blocks {
    /// Room for at least one of `want` blocks, contiguous, and the block where it lies.
    fn space(&mut self, want: u64) -> Result<(u64, &mut [u8])>;

    /// Keeps the first `count` blocks of what [`space`](Self::space) gave.
    fn commit(&mut self, count: u64);
}

/// Takes `len` bytes of `reader`.
pub(crate) fn pack(
    blocks: &mut impl Blocks,
    reader: &mut (impl Read + ?Sized),
    len: u64,
) -> Result<Arc<[Extent]>> {
    check_len(len)?;
    let mut extents = ExtentList::default();
    pack_run(blocks, reader, 0..len, len, &mut extents)?;
    Ok(extents.into_vec().into())
}

/// Takes a content of `len` bytes that is zero but for `ranges`, whose bytes `reader` yields one
/// after the other.
pub(crate) fn pack_sparse(
    blocks: &mut impl Blocks,
    reader: &mut (impl Read + ?Sized),
    len: u64,
    ranges: &[Range<u64>],
) -> Result<Arc<[Extent]>> {
    check_len(len)?;
    let mut end = 0;
    for range in ranges {
        if range.start < end || range.is_empty() || range.end > len {
            return Err(Error::Ranges { len });
        }
        end = range.end;
    }
    let mut filled = Filled {
        reader,
        ranges,
        at: 0,
    };
    let mut extents = ExtentList::default();
    let mut ranges = ranges.iter().peekable();
    while let Some(range) = ranges.next() {
        let start = range.start / BLOCK * BLOCK;
        let mut end = range.end.next_multiple_of(BLOCK);
        // Those that begin in the same block, or in the next one, go with it.
        while let Some(next) = ranges.next_if(|next| next.start <= end) {
            end = next.end.next_multiple_of(BLOCK);
        }
        filled.at = start;
        pack_run(blocks, &mut filled, start..end.min(len), len, &mut extents)?;
    }
    Ok(extents.into_vec().into())
}

/// Takes the bytes `run` of a file of `len` bytes, which begin at a block.
fn pack_run(
    blocks: &mut impl Blocks,
    reader: &mut (impl Read + ?Sized),
    run: Range<u64>,
    len: u64,
    extents: &mut ExtentList,
) -> Result<()> {
    let mut logical = (run.start / BLOCK) as u32;
    let mut left = run.end - run.start;
    while left > 0 {
        let (physical, space) = blocks.space(left.div_ceil(BLOCK))?;
        let wanted = left.min(space.len() as u64) as usize;
        let padded = wanted.next_multiple_of(BLOCK_SIZE);
        reader
            .read_exact(&mut space[..wanted])
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => Error::ShortFile { len },
                _ => Error::Read { len, source },
            })?;
        space[wanted..padded].fill(0);
        let kept = squeeze(&mut space[..padded], logical, physical, extents);
        blocks.commit(kept);
        logical += (padded / BLOCK_SIZE) as u32;
        left -= wanted as u64;
    }
    Ok(())
}

/// ext4 numbers a file's blocks with 32 bits.
fn check_len(len: u64) -> Result<()> {
    if len.div_ceil(BLOCK) > u64::from(u32::MAX) {
        return Err(Error::FileTooLarge { len });
    }
    Ok(())
}

/// A file's bytes from `at` on: the reader's in `ranges`, zeros elsewhere.
struct Filled<'a, R: ?Sized> {
    reader: &'a mut R,
    /// Those that are not read to their end.
    ranges: &'a [Range<u64>],
    at: u64,
}

impl<R: Read + ?Sized> Read for Filled<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((first, rest)) = self.ranges.split_first()
            && first.end <= self.at
        {
            self.ranges = rest;
        }
        let (until, is_data) = match self.ranges.first() {
            Some(range) if self.at < range.start => (range.start, false),
            Some(range) => (range.end, true),
            None => (u64::MAX, false),
        };
        let most = usize::try_from(until - self.at).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let count = if is_data {
            self.reader.read(&mut buffer[..most])?
        } else {
            buffer[..most].fill(0);
            most
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// Moves the blocks that are not zero to the front of `space`, which lies at block `physical`,
/// notes them as extents, and returns how many there are.
fn squeeze(space: &mut [u8], logical: u32, physical: u64, extents: &mut ExtentList) -> u64 {
    let mut kept = 0;
    for i in 0..space.len() / BLOCK_SIZE {
        let from = i * BLOCK_SIZE;
        if space[from..from + BLOCK_SIZE] == ZERO_BLOCK {
            continue;
        }
        if kept != i {
            space.copy_within(from..from + BLOCK_SIZE, kept * BLOCK_SIZE);
        }
        extents.push(logical + i as u32, physical + kept as u64, 1);
        kept += 1;
    }
    kept as u64
}
