//! A tree becomes a file system, file contents first.
//!
//! ```text
//! | superblock, descriptors | file contents ... | directories, links, xattrs, extent nodes |
//! | block bitmaps | inode bitmaps | inode tables |
//! ```
//!
//! Only the few blocks at the start of some groups that [`layout`](crate::layout) reserves
//! interrupt that order. Nothing is written twice, and what is zero is not written. Contents that nobody
//! holds in the end are cleared.

use std::io::Read;
use std::ops::Range;

use crate::contents;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::group;
use crate::inodes::Inodes;
use crate::layout::{BLOCK, EXT4_GOOD_OLD_FIRST_INO, INODE_SIZE};
use crate::plan::Plan;
use crate::segment::Placed;
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
        let extents = contents::pack(&mut self.sink, reader, len)?;
        Ok(Data { len, extents })
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
        let extents = contents::pack_sparse(&mut self.sink, reader, len, ranges)?;
        Ok(Data { len, extents })
    }

    /// Takes over the next `piece` of a segment, whole blocks as [`Segment`](crate::Segment) wrote them, behind what
    /// the call before took, and notes in `placed` where it lies. Pieces of one segment come in their order, and not
    /// between those of another one.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn place(&mut self, piece: &[u8], placed: &mut Placed) -> Result<()> {
        self.sink.append_run(piece, placed)
    }

    /// Writes everything but the contents, and the superblock last.
    ///
    /// A `lost+found` is added unless the root has one. [`Data`] that no reachable node holds
    /// becomes free space, and reads as zeros.
    ///
    /// # Errors
    /// When the tree holds something that ext4 cannot, or the disk refuses. The disk is then not
    /// a file system.
    pub fn finish(self, tree: &Tree) -> Result<Summary> {
        let plan = Plan::new(tree)?;
        let data = self.first_block..self.sink.cursor().next();
        let (uuid, created) = (self.options.uuid, self.options.created);
        let mut inodes = Inodes::new(self.sink, tree, &plan, data.clone(), &uuid, created);
        inodes.add_all()?;
        let Inodes {
            mut sink,
            mut used,
            table,
            directories,
            values,
            ..
        } = inodes;

        let count = (table.len() / INODE_SIZE) as u32;
        let tables = Tables::plan(sink.cursor(), count, &mut used);
        for free in used.free(data) {
            sink.clear(free)?;
        }
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
            ea_inode: values > 0,
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
