//! An empty file system in a sparse file.
//!
//! Every 4096 groups start with the bitmaps and inode tables of all of them; in the first ones the
//! root directory, `lost+found` and the journal follow. Of all that only the parts that are not zero
//! are written: a group that holds nothing but reserved blocks is marked so that its bitmaps need
//! not exist, and every inode table counts as zeroed because a new file reads as zeros.

use crate::block_map::{BlockMap, set_bits};
use crate::crc::crc32c;
use crate::directory::{self, EXT4_FT_DIR, Entry, Place};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::extent::{self, ExtentList};
use crate::group::{
    self, Descriptor, EXT4_BG_BLOCK_UNINIT, EXT4_BG_INODE_UNINIT, EXT4_BG_INODE_ZEROED,
};
use crate::inode::{self, EXT4_EXTENTS_FL, RawInode, S_IFDIR, S_IFREG};
use crate::journal;
use crate::layout::{
    BLOCK, BLOCKS_PER_GROUP, Block, Cursor, EXT4_GOOD_OLD_FIRST_INO, EXT4_JOURNAL_INO,
    EXT4_ROOT_INO, GROUP_BYTES, GROUPS_TOGETHER, INODE_SIZE, INODES_PER_BLOCK,
    MAX_INODES_PER_GROUP, ZERO_BLOCK, reserved,
};
use crate::sink::Sink;
use crate::superblock::{self, NewSuperblock, checksum_seed, hash_seed};
use crate::tree::Timestamp;
use crate::writer::encode_label;

/// Blocks that `lost+found` has from the start, so that a check can move files there when the
/// disk is full.
const LOST_FOUND_BLOCKS: u32 = 4;
/// A group at the end with fewer blocks than its metadata and these is left out.
pub(crate) const LEAST_USEFUL_BLOCKS: u64 = 50;
pub(crate) const MAX_SIZE: u64 = 1 << 50;
/// mke2fs's limit.
const MAX_RESERVED_PERCENT: u8 = 50;

/// How large a journal an empty file system gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Journal {
    /// 4 to 64 MiB, growing with the disk; none below 16 MiB.
    #[default]
    Auto,
    /// None: after a crash the file system must be checked.
    None,
    /// So many bytes, at least 4 MiB; rounded down to whole blocks.
    Bytes(u64),
}

/// What [`format`](fn@format) makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatOptions {
    /// Length of the disk in bytes. What is left over after whole blocks, or in a group at the end
    /// too small to be of use, stays unused until the file system grows.
    pub size: u64,
    /// Up to 16 bytes.
    pub label: String,
    /// Identifies the file system; also the seed of directory hashes and checksums. Random, unless
    /// the same bytes are to come out again.
    pub uuid: [u8; 16],
    /// The journal.
    pub journal: Journal,
    /// One inode per so many bytes; by default 16 KiB, or 8 KiB on disks below 1 GiB.
    pub bytes_per_inode: Option<u64>,
    /// So many inodes at least, whatever `bytes_per_inode` says: what fills the last blocks of the tables comes on top.
    pub inodes: Option<u32>,
    /// The part of all blocks that only root may use, in per cent, at most 50; none by default.
    pub reserved_percent: u8,
    /// The time of the file system, its root and its `lost+found`.
    pub created: Timestamp,
    /// Permission bits of the root directory.
    pub root_mode: u16,
    /// Owner of the root directory.
    pub root_uid: u32,
    /// Group of the root directory.
    pub root_gid: u32,
    /// Extended attributes may have values of up to 64 KiB (`ea_inode`); otherwise all of a file's must fit into a block.
    pub large_xattrs: bool,
}

impl Default for FormatOptions {
    /// A disk of 1 GiB whose root belongs to root; identifier and time are zero.
    fn default() -> Self {
        FormatOptions {
            size: 1 << 30,
            label: String::new(),
            uuid: [0; 16],
            journal: Journal::Auto,
            bytes_per_inode: None,
            inodes: None,
            reserved_percent: 0,
            created: Timestamp::default(),
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
            large_xattrs: false,
        }
    }
}

/// Empties the disk and makes it an empty file system of the given size.
///
/// It grows with the kernel's online resize or `resize2fs`: descriptors lie in meta groups.
///
/// # Errors
/// When the size, label or journal cannot be had, or the disk refuses.
pub fn format(disk: &mut impl Disk, options: &FormatOptions) -> Result<()> {
    let label = encode_label(&options.label)?;
    if options.reserved_percent > MAX_RESERVED_PERCENT {
        return Err(Error::Reserved {
            percent: options.reserved_percent,
            maximum: MAX_RESERVED_PERCENT,
        });
    }
    let mut layout = Layout::new(options)?;
    let mut sink = Sink::new(disk)?;
    let first_inodes = layout.add_inodes(options)?;
    let (descriptors, bitmaps) = layout.descriptors(checksum_seed(&options.uuid));
    let mut blocks = first_inodes.blocks;
    blocks.extend(bitmaps);
    blocks.sort_unstable_by_key(|(at, _)| *at);
    for (at, block) in &blocks {
        sink.append_at(*at, block)?;
    }
    let superblock = NewSuperblock {
        inodes_per_group: layout.inodes_per_group,
        groups: layout.groups,
        blocks: layout.blocks,
        free_blocks: descriptors.iter().map(|d| u64::from(d.free_blocks)).sum(),
        free_inodes: descriptors.iter().map(|d| d.free_inodes).sum(),
        overhead: layout.overhead() + first_inodes.journal_blocks,
        uuid: options.uuid,
        label,
        created: options.created,
        journal: first_inodes.journal,
        ea_inode: options.large_xattrs,
    };
    let disk = sink.finish(options.size)?;
    let reserved = layout.blocks / 100 * u64::from(options.reserved_percent);
    let descriptors = group::encode_all(&descriptors, superblock.seed());
    let copy = |group| superblock::with_reserved(superblock.encode(group), reserved);
    group::write_copies(disk, copy, &descriptors)
}

/// Blocks to be written, and what the superblock must know of them.
struct FirstInodes {
    blocks: Vec<(u64, Block)>,
    journal: Option<([u8; 60], u64)>,
    journal_blocks: u64,
}

struct Layout {
    groups: u64,
    blocks: u64,
    inodes_per_group: u32,
    /// By group: block bitmap, inode bitmap, inode table.
    places: Vec<[u64; 3]>,
    used: BlockMap,
    /// Behind the metadata of the first groups.
    cursor: Cursor,
}

impl Layout {
    fn new(options: &FormatOptions) -> Result<Self> {
        let size = options.size;
        if size > MAX_SIZE {
            return Err(Error::TooLarge {
                size,
                maximum: MAX_SIZE,
            });
        }
        let default_ratio = if size < 1 << 30 { 8 << 10 } else { 16 << 10 };
        let ratio = options.bytes_per_inode.unwrap_or(default_ratio).max(BLOCK);
        let in_full_group = (GROUP_BYTES / ratio).clamp(64, u64::from(MAX_INODES_PER_GROUP));
        let all_blocks = size / BLOCK;
        let groups = all_blocks.div_ceil(BLOCKS_PER_GROUP);
        // a disk of less than a group has inodes for what it is
        let share = match options.inodes {
            Some(count) => u64::from(count)
                .div_ceil(groups.max(1))
                .max(INODES_PER_BLOCK.into()),
            None if groups == 1 => (size / ratio).max(64),
            None => in_full_group,
        };
        let most = (u64::from(u32::MAX) / groups.max(1)).min(MAX_INODES_PER_GROUP.into());
        if share > most && options.inodes.is_some() {
            return Err(Error::Inodes {
                count: options.inodes.unwrap_or_default(),
                maximum: most * groups,
            });
        }
        let inodes_per_group = (share.min(most) as u32).next_multiple_of(INODES_PER_BLOCK);
        let mut layout = Layout {
            groups,
            blocks: all_blocks,
            inodes_per_group: inodes_per_group
                .min(most as u32 / INODES_PER_BLOCK * INODES_PER_BLOCK),
            places: Vec::new(),
            used: BlockMap::default(),
            cursor: Cursor::new(0),
        };
        layout.leave_out_a_small_end(size)?;
        layout.place();
        Ok(layout)
    }

    fn leave_out_a_small_end(&mut self, size: u64) -> Result<()> {
        let last = self.groups.saturating_sub(1);
        let least = reserved(last) + 2 + self.table_blocks() + LEAST_USEFUL_BLOCKS;
        let in_last = self.blocks - last * BLOCKS_PER_GROUP;
        if in_last >= least {
            return Ok(());
        }
        if last == 0 {
            return Err(Error::TooSmall {
                size,
                minimum: least * BLOCK,
            });
        }
        self.groups = last;
        self.blocks = last * BLOCKS_PER_GROUP;
        Ok(())
    }

    fn table_blocks(&self) -> u64 {
        u64::from(self.inodes_per_group / INODES_PER_BLOCK)
    }

    fn overhead(&self) -> u64 {
        let reserved: u64 = (0..self.groups).map(reserved).sum();
        reserved + self.groups * (2 + self.table_blocks())
    }

    /// Puts the metadata of the groups that have theirs together at the start of the first.
    fn place(&mut self) {
        let sizes = [1, 1, self.table_blocks()];
        let mut places = vec![[0; 3]; self.groups as usize];
        for (batch, part) in (0..).zip(places.chunks_mut(GROUPS_TOGETHER as usize)) {
            let mut cursor = Cursor::new(batch * GROUPS_TOGETHER * BLOCKS_PER_GROUP);
            for (kind, size) in sizes.into_iter().enumerate() {
                let mut rest = &mut part[..];
                while !rest.is_empty() {
                    // as many as lie in one piece, and at least one
                    let fit = cursor.run(rest.len() as u64 * size) / size;
                    let count = fit.max(1) as usize;
                    let start = cursor.take_contiguous(count as u64 * size);
                    let (now, later) = rest.split_at_mut(count);
                    for (place, at) in now.iter_mut().zip((start..).step_by(size as usize)) {
                        place[kind] = at;
                    }
                    let fresh = self.used.mark(start, count as u64 * size);
                    debug_assert!(fresh, "tables do not overlap");
                    rest = later;
                }
            }
            if batch == 0 {
                self.cursor = cursor;
            }
        }
        self.places = places;
    }

    /// Root, `lost+found` and journal.
    fn add_inodes(&mut self, options: &FormatOptions) -> Result<FirstInodes> {
        let seed = checksum_seed(&options.uuid);
        let journal_bytes = self.journal_bytes(options)?;
        let mut blocks = Vec::new();
        let mut table = [ZERO_BLOCK];
        let mut put = |ino: u32, raw: &RawInode| {
            let at = (ino - 1) as usize * INODE_SIZE;
            let encoded = raw.encode(inode::inode_seed(seed, ino, 0));
            table[0][at..at + INODE_SIZE].copy_from_slice(&encoded);
        };
        let created = options.created;

        let mut root = RawInode::new(S_IFDIR | (options.root_mode & 0o7777), created, created);
        (root.uid, root.gid, root.links) = (options.root_uid, options.root_gid, 3);
        let entry = Entry {
            name: crate::plan::LOST_FOUND,
            ino: EXT4_GOOD_OLD_FIRST_INO,
            file_type: EXT4_FT_DIR,
        };
        let leaf = first_leaf(&[entry], EXT4_ROOT_INO, options);
        self.fill(&mut root, &[leaf], EXT4_ROOT_INO, seed, &mut blocks)?;
        put(EXT4_ROOT_INO, &root);

        let ino = EXT4_GOOD_OLD_FIRST_INO;
        let mut lost_found = RawInode::new(S_IFDIR | 0o700, created, created);
        lost_found.links = 2;
        let empty = directory::empty_leaf(inode::inode_seed(seed, ino, 0));
        let mut leaves = vec![empty; LOST_FOUND_BLOCKS as usize];
        leaves[0] = first_leaf(&[], ino, options);
        self.fill(&mut lost_found, &leaves, ino, seed, &mut blocks)?;
        put(ino, &lost_found);

        let mut first = FirstInodes {
            blocks: Vec::new(),
            journal: None,
            journal_blocks: 0,
        };
        if let Some(bytes) = journal_bytes {
            let mut raw = RawInode::new(S_IFREG | 0o600, created, created);
            let count = (bytes / BLOCK) as u32;
            let leading = [journal::superblock(count, &options.uuid)];
            raw.size = u64::from(count) * BLOCK;
            self.map(
                &mut raw,
                count,
                &leading,
                EXT4_JOURNAL_INO,
                seed,
                &mut blocks,
            )?;
            put(EXT4_JOURNAL_INO, &raw);
            first.journal = Some((raw.i_block, raw.size));
            first.journal_blocks = raw.blocks;
        }
        first.blocks.push((self.places[0][2], table[0]));
        first.blocks.append(&mut blocks);
        Ok(first)
    }

    fn journal_bytes(&self, options: &FormatOptions) -> Result<Option<u64>> {
        let bytes = match options.journal {
            Journal::None => return Ok(None),
            Journal::Auto => return Ok(journal::default_size(options.size)),
            Journal::Bytes(bytes) => bytes,
        };
        // 2^32 blocks are jbd2's limit, 2^18 are beyond use
        let maximum = (options.size / 2).min(BLOCK << 22);
        if bytes < journal::MINIMUM || bytes > maximum {
            return Err(Error::JournalSize {
                bytes,
                minimum: journal::MINIMUM,
                maximum,
            });
        }
        Ok(Some(bytes))
    }

    fn fill(
        &mut self,
        raw: &mut RawInode,
        leaves: &[Block],
        ino: u32,
        seed: u32,
        blocks: &mut Vec<(u64, Block)>,
    ) -> Result<()> {
        raw.size = leaves.len() as u64 * BLOCK;
        self.map(raw, leaves.len() as u32, leaves, ino, seed, blocks)
    }

    /// Gives an inode `count` blocks, of which the first are `leading`; the others stay zero.
    fn map(
        &mut self,
        raw: &mut RawInode,
        count: u32,
        leading: &[Block],
        ino: u32,
        seed: u32,
        blocks: &mut Vec<(u64, Block)>,
    ) -> Result<()> {
        let mut extents = ExtentList::default();
        let mut logical = 0;
        while logical < count {
            let run = self.cursor.run(u64::from(count - logical));
            let at = self.take(run);
            let from = leading.len().min(logical as usize);
            let now = leading[from..].iter().take(run as usize);
            blocks.extend((at..).zip(now.copied()));
            extents.push(logical, at, run as u32);
            logical += run as u32;
        }
        raw.blocks = u64::from(count);
        let inode_seed = inode::inode_seed(seed, ino, 0);
        let root = extent::build_tree(&extents.into_vec(), inode_seed, |node| {
            let at = self.take(1);
            blocks.push((at, *node));
            Ok(at)
        })?;
        raw.blocks += root.nodes;
        raw.i_block = root.i_block;
        raw.flags |= EXT4_EXTENTS_FL;
        Ok(())
    }

    fn take(&mut self, count: u64) -> u64 {
        let at = self.cursor.take(count);
        let fresh = self.used.mark(at, count);
        debug_assert!(fresh, "the cursor is behind all tables");
        at
    }

    /// All descriptors, and the bitmaps that must be written.
    fn descriptors(&mut self, seed: u32) -> (Vec<Descriptor>, Vec<(u64, Block)>) {
        let per_group = self.inodes_per_group;
        let mut bitmaps = Vec::new();
        let mut descriptors = Vec::with_capacity(self.places.len());
        for (group, [block_bitmap, inode_bitmap, inode_table]) in (0..).zip(&self.places) {
            let start = group * BLOCKS_PER_GROUP;
            let blocks = (self.blocks - start).min(BLOCKS_PER_GROUP);
            let mut descriptor = Descriptor {
                block_bitmap: *block_bitmap,
                inode_bitmap: *inode_bitmap,
                inode_table: *inode_table,
                free_blocks: (blocks - reserved(group)) as u32,
                free_inodes: per_group,
                flags: EXT4_BG_INODE_ZEROED | EXT4_BG_INODE_UNINIT | EXT4_BG_BLOCK_UNINIT,
                itable_unused: per_group,
                ..Descriptor::default()
            };
            // the last group's bitmap tells where the file system ends
            if self.used.group(group).is_some() || group + 1 == self.groups {
                let fresh = self.used.mark(start, reserved(group));
                debug_assert!(fresh, "reserved blocks are nobody's");
                descriptor.flags &= !EXT4_BG_BLOCK_UNINIT;
                descriptor.free_blocks = blocks as u32 - self.used.used(group);
                let mut bits = self.used.group(group).copied().unwrap_or(ZERO_BLOCK);
                set_bits(&mut bits, blocks as usize, BLOCKS_PER_GROUP as usize);
                descriptor.block_bitmap_csum = crc32c(seed, &bits);
                bitmaps.push((*block_bitmap, bits));
            }
            descriptors.push(descriptor);
        }
        let first = &mut descriptors[0];
        let in_use = EXT4_GOOD_OLD_FIRST_INO;
        let mut bits = ZERO_BLOCK;
        set_bits(&mut bits, 0, in_use as usize);
        set_bits(&mut bits, per_group as usize, MAX_INODES_PER_GROUP as usize);
        first.flags &= !EXT4_BG_INODE_UNINIT;
        first.inode_bitmap_csum = crc32c(seed, &bits[..per_group as usize / 8]);
        first.free_inodes -= in_use;
        first.itable_unused -= in_use;
        first.used_dirs = 2;
        bitmaps.push((first.inode_bitmap, bits));
        (descriptors, bitmaps)
    }
}

fn first_leaf(entries: &[Entry<'_>], ino: u32, options: &FormatOptions) -> Block {
    let place = Place {
        ino,
        parent: EXT4_ROOT_INO,
        inode_seed: inode::inode_seed(checksum_seed(&options.uuid), ino, 0),
        hash_seed: hash_seed(&options.uuid),
    };
    directory::encode_small(entries, &place)
}
