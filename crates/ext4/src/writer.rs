//! A tree becomes a file system, file contents first.
//!
//! ```text
//! | superblock, descriptors | file contents ... | directories, links, xattrs, extent nodes |
//! | block bitmaps | inode bitmaps | inode tables |
//! ```
//!
//! Only the few blocks at the start of some groups that [`layout`](crate::layout) reserves
//! interrupt that order. Nothing is written twice, and what is zero is not written.

use std::io::{self, Read};
use std::ops::Range;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::extent::ExtentList;
use crate::group;
use crate::inodes::Inodes;
use crate::layout::{BLOCK, BLOCK_SIZE, EXT4_GOOD_OLD_FIRST_INO, INODE_SIZE, ZERO_BLOCK};
use crate::plan::Plan;
use crate::sink::Sink;
use crate::superblock::{NewSuperblock, checksum_seed};
use crate::tables::Tables;
use crate::tree::{Data, Timestamp, Tree};

/// What a [`Writer`] cannot know from the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterOptions {
    /// Up to 16 bytes.
    pub label: String,
    /// Identifies the file system; also the seed of directory hashes and checksums.
    pub uuid: [u8; 16],
    /// When the file system and all of its inodes were made.
    pub created: Timestamp,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Length of the disk in bytes.
    pub size: u64,
    /// Blocks of 4 KiB, used or free.
    pub blocks: u64,
    /// Blocks in use.
    pub used_blocks: u64,
    /// Inodes in use, without the ten that every file system reserves.
    pub inodes: u32,
    /// Directories among them.
    pub directories: u32,
}

/// Writes one file system onto one disk: contents first, then the tree.
#[derive(Debug)]
pub struct Writer<D> {
    sink: Sink<D>,
    options: WriterOptions,
    label: [u8; 16],
    first_block: u64,
}

impl<D: Disk> Writer<D> {
    /// Empties the disk and starts.
    ///
    /// # Errors
    /// When the label is too long or the disk refuses.
    pub fn new(disk: D, options: WriterOptions) -> Result<Self> {
        let label = encode_label(&options.label)?;
        let sink = Sink::new(disk)?;
        let first_block = sink.cursor().next();
        Ok(Writer {
            sink,
            options,
            label,
            first_block,
        })
    }

    /// Streams `len` bytes of one file's contents to the disk, behind those of the call before.
    /// Blocks of zeros become holes.
    ///
    /// # Errors
    /// When the reader fails or ends early, or the disk refuses. After a failure of the reader
    /// the writer still works, and what was written is free space.
    pub fn write_data(&mut self, reader: &mut (impl Read + ?Sized), len: u64) -> Result<Data> {
        check_len(len)?;
        let mut extents = ExtentList::default();
        self.write_run(reader, 0..len, len, &mut extents)?;
        Ok(Data {
            len,
            extents: extents.into_vec().into(),
        })
    }

    /// Takes the contents of a file of `len` bytes that are zero but for `ranges`, which are not
    /// empty, in order, apart, and inside `len`; `reader` yields the bytes of the ranges one after the
    /// other. The zeros between cost nothing, however many they are. On disk it is what
    /// [`write_data`](Self::write_data) makes of the same contents.
    ///
    /// # Errors
    /// As for `write_data`; ranges that are not as said.
    pub fn write_sparse(
        &mut self,
        reader: &mut (impl Read + ?Sized),
        len: u64,
        ranges: &[Range<u64>],
    ) -> Result<Data> {
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
            self.write_run(&mut filled, start..end.min(len), len, &mut extents)?;
        }
        Ok(Data {
            len,
            extents: extents.into_vec().into(),
        })
    }

    /// Streams the bytes `run` of a file of `len` bytes, which begin at a block, to the disk.
    fn write_run(
        &mut self,
        reader: &mut (impl Read + ?Sized),
        run: Range<u64>,
        len: u64,
        extents: &mut ExtentList,
    ) -> Result<()> {
        let mut logical = (run.start / BLOCK) as u32;
        let mut left = run.end - run.start;
        while left > 0 {
            let (physical, space) = self.sink.space(left.div_ceil(BLOCK))?;
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
            self.sink.commit(kept);
            logical += (padded / BLOCK_SIZE) as u32;
            left -= wanted as u64;
        }
        Ok(())
    }

    /// Writes everything but the contents, and the superblock last.
    ///
    /// A `lost+found` is added unless the root has one. [`Data`] that no reachable node holds
    /// becomes free space.
    ///
    /// # Errors
    /// When the tree holds something that ext4 cannot, or the disk refuses. The disk is then not
    /// a file system.
    pub fn finish(self, tree: &Tree) -> Result<Summary> {
        let plan = Plan::new(tree)?;
        let data = self.first_block..self.sink.cursor().next();
        let (uuid, created) = (self.options.uuid, self.options.created);
        let mut inodes = Inodes::new(self.sink, tree, &plan, data, &uuid, created);
        inodes.add_all()?;
        let Inodes {
            mut sink,
            mut used,
            table,
            directories,
            ..
        } = inodes;

        let count = (table.len() / INODE_SIZE) as u32;
        let tables = Tables::plan(sink.cursor(), count, &mut used);
        let descriptors =
            tables.write(&mut sink, &used, &table, &directories, checksum_seed(&uuid))?;
        let free_blocks = descriptors.iter().map(|d| u64::from(d.free_blocks)).sum();
        let superblock = NewSuperblock {
            inodes_per_group: tables.inodes_per_group,
            groups: tables.groups,
            blocks: tables.blocks,
            free_blocks,
            free_inodes: descriptors.iter().map(|d| d.free_inodes).sum(),
            overhead: tables.overhead(),
            uuid,
            label: self.label,
            created,
            journal: None,
        };
        let size = tables.blocks * BLOCK;
        let mut disk = sink.finish(size)?;
        group::write_all(&mut disk, &superblock, &descriptors)?;
        Ok(Summary {
            size,
            blocks: tables.blocks,
            used_blocks: tables.blocks - free_blocks,
            inodes: count + 1 - (EXT4_GOOD_OLD_FIRST_INO - 1),
            directories: directories.len() as u32,
        })
    }
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

/// A label as the superblock has it.
pub(crate) fn encode_label(label: &str) -> Result<[u8; 16]> {
    let mut encoded = [0; 16];
    let bytes = label.as_bytes();
    if bytes.len() > encoded.len() || bytes.contains(&0) {
        return Err(Error::Label {
            label: label.to_owned(),
        });
    }
    encoded[..bytes.len()].copy_from_slice(bytes);
    Ok(encoded)
}
