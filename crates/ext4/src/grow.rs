//! Growing a file system that this crate wrote and nobody mounts: the last group is filled up, and groups are added.
//!
//! With `meta_bg` each group's descriptors and superblock copies have their place whatever comes behind them, so nothing
//! has to move. A new group's bitmaps and inode table stand at its start and count as not written; only the last group's
//! block bitmap is, and that of the group that gets the journal.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::crc::crc32c;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::extent::{self, ExtentList};
use crate::format::{Journal, LEAST_USEFUL_BLOCKS, MAX_SIZE};
use crate::group::{
    self, Descriptor, EXT4_BG_BLOCK_UNINIT, EXT4_BG_INODE_UNINIT, EXT4_BG_INODE_ZEROED,
};
use crate::inode::{self, EXT4_EXTENTS_FL, RawInode, S_IFREG};
use crate::journal;
use crate::layout::{
    BLOCK, BLOCK_SIZE, BLOCKS_PER_GROUP, Block, DESC_PER_BLOCK, DESC_SIZE, EXT4_JOURNAL_INO,
    INODE_SIZE, INODES_PER_BLOCK, ZERO_BLOCK, first_descriptors, reserved,
};
use crate::le::{get16, get16_split, get32, get32_split, put16, put16_split};
use crate::sink::write_blocks;
use crate::superblock::{
    EXT4_FEATURE_INCOMPAT_META_BG, Grown, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock,
};
use crate::tree::Timestamp;

/// Makes the file system in `disk` `size` bytes large, and gives it a journal when it has none.
///
/// A journal that does not fit into one piece of the new space becomes smaller, or is left out below 4 MiB. New inodes come
/// with new groups.
///
/// # Errors
/// [`Error::TooSmall`] when it would shrink, [`Error::Foreign`] when this crate did not write it or it waits for its
/// journal, or the disk refuses. After an error the disk may be damaged.
pub fn grow(disk: &mut File, size: u64, journal: Journal) -> Result<()> {
    let raw = read::<SUPERBLOCK_SIZE>(disk, SUPERBLOCK_OFFSET)?;
    let old = Superblock::parse(&raw).map_err(|(field, value)| Error::Foreign { field, value })?;
    check_ours(&old)?;
    if size > MAX_SIZE {
        return Err(Error::TooLarge {
            size,
            maximum: MAX_SIZE,
        });
    }
    let mut growing = Growing::new(disk, &old, size)?;
    growing.fill_last_group(disk)?;
    growing.add_groups();
    let wanted = match journal {
        _ if old.has_journal() => None,
        Journal::None => None,
        Journal::Auto => journal::default_size(size),
        Journal::Bytes(bytes) => Some(bytes),
    };
    let created = Timestamp {
        secs: i64::from(get32(&raw, 0x108)) | i64::from(raw[0x276]) << 32,
        nanos: 0,
    };
    let journal = match wanted {
        Some(bytes) => growing.add_journal(disk, bytes / BLOCK, created)?,
        None => None,
    };
    disk.set_len(size)
        .map_err(|source| Error::SetLen { len: size, source })?;
    growing.write_bitmaps(disk)?;
    let grown = Grown {
        inodes: old.inodes_per_group * growing.groups as u32,
        blocks: growing.blocks,
        free_blocks: growing.sum(|raw| get16_split(raw, 0x0c, 0x2c).into()),
        free_inodes: growing.sum(|raw| get16_split(raw, 0x0e, 0x2e).into()) as u32,
        more_overhead: growing.more_overhead
            + journal.as_ref().map_or(0, |(_, bytes)| bytes / BLOCK),
        journal,
    };
    group::write_copies(
        disk,
        |group| grown.encode(&raw, group),
        &growing.descriptors,
    )
}

/// The one layout that this crate writes.
fn check_ours(old: &Superblock) -> Result<()> {
    let fields = [
        (
            "s_log_block_size",
            u64::from(old.block_size),
            old.block_size as usize == BLOCK_SIZE,
        ),
        (
            "s_blocks_per_group",
            old.blocks_per_group.into(),
            u64::from(old.blocks_per_group) == BLOCKS_PER_GROUP,
        ),
        (
            "s_desc_size",
            old.desc_size.into(),
            usize::from(old.desc_size) == DESC_SIZE,
        ),
        (
            "s_inode_size",
            old.inode_size.into(),
            usize::from(old.inode_size) == INODE_SIZE,
        ),
        (
            "s_inodes_per_group",
            old.inodes_per_group.into(),
            old.inodes_per_group.is_multiple_of(INODES_PER_BLOCK),
        ),
        (
            "s_first_meta_bg",
            old.first_meta_bg.into(),
            old.first_meta_bg == 0,
        ),
        (
            "s_first_data_block",
            old.first_data_block.into(),
            old.first_data_block == 0,
        ),
        (
            "s_feature_incompat",
            old.incompat.into(),
            old.incompat & EXT4_FEATURE_INCOMPAT_META_BG != 0 && !old.needs_recovery(),
        ),
        (
            "s_feature_ro_compat",
            old.ro_compat.into(),
            old.has_checksums(),
        ),
        ("s_state", 0, old.clean),
    ];
    match fields.into_iter().find(|(_, _, good)| !good) {
        Some((field, value, _)) => Err(Error::Foreign { field, value }),
        None => Ok(()),
    }
}

/// A piece of new space in one group: blocks counted from the group's start.
#[derive(Clone, Copy)]
struct Piece {
    group: u64,
    start: u64,
    end: u64,
}

struct Growing {
    seed: u32,
    inodes_per_group: u32,
    old_groups: u64,
    old_blocks: u64,
    groups: u64,
    blocks: u64,
    descriptors: Vec<[u8; DESC_SIZE]>,
    /// Block bitmaps that must be written: of the old last group, the new last one, and the journal's.
    bitmaps: Vec<(u64, Block)>,
    pieces: Vec<Piece>,
    more_overhead: u64,
}

impl Growing {
    fn new(disk: &File, old: &Superblock, size: u64) -> Result<Self> {
        let old_groups = old.blocks.div_ceil(BLOCKS_PER_GROUP);
        let table = u64::from(old.inodes_per_group / INODES_PER_BLOCK);
        let most = u64::from(u32::MAX / old.inodes_per_group);
        let mut blocks = (size / BLOCK).min(most * BLOCKS_PER_GROUP);
        let mut groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        if blocks < old.blocks {
            return Err(Error::TooSmall {
                size,
                minimum: old.blocks * BLOCK,
            });
        }
        let last = groups - 1;
        let least = reserved(last) + 2 + table + LEAST_USEFUL_BLOCKS;
        if groups > old_groups && blocks - last * BLOCKS_PER_GROUP < least {
            groups = last;
            blocks = last * BLOCKS_PER_GROUP;
        }
        let mut descriptors = Vec::with_capacity(groups as usize);
        for group in 0..old_groups {
            let at = first_descriptors(group / DESC_PER_BLOCK) * BLOCK
                + group % DESC_PER_BLOCK * DESC_SIZE as u64;
            descriptors.push(read::<DESC_SIZE>(disk, at)?);
        }
        Ok(Growing {
            seed: old.seed,
            inodes_per_group: old.inodes_per_group,
            old_groups,
            old_blocks: old.blocks,
            groups,
            blocks,
            descriptors,
            bitmaps: Vec::new(),
            pieces: Vec::new(),
            more_overhead: 0,
        })
    }

    fn blocks_in(&self, group: u64, all: u64) -> u64 {
        (all - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP)
    }

    /// Frees the blocks that were behind the end.
    fn fill_last_group(&mut self, disk: &File) -> Result<()> {
        let group = self.old_groups - 1;
        let (before, after) = (
            self.blocks_in(group, self.old_blocks),
            self.blocks_in(group, self.blocks),
        );
        let raw = &mut self.descriptors[group as usize];
        let flags = get16(raw, 0x12);
        if flags & EXT4_BG_BLOCK_UNINIT != 0 {
            return Err(Error::Foreign {
                field: "bg_flags",
                value: flags.into(),
            });
        }
        let at = get32_split(raw, 0x00, 0x20);
        let mut bits: Block = read(disk, at * BLOCK)?;
        for bit in before..after {
            bits[bit as usize / 8] &= !(1 << (bit % 8));
        }
        let free = get16_split(raw, 0x0c, 0x2c) + (after - before) as u32;
        put16_split(raw, 0x0c, 0x2c, free);
        self.bitmaps.push((group, bits));
        self.pieces.push(Piece {
            group,
            start: before,
            end: after,
        });
        Ok(())
    }

    fn add_groups(&mut self) {
        let table = u64::from(self.inodes_per_group / INODES_PER_BLOCK);
        for group in self.old_groups..self.groups {
            let (start, reserved) = (group * BLOCKS_PER_GROUP, reserved(group));
            let (own, blocks) = (reserved + 2 + table, self.blocks_in(group, self.blocks));
            let descriptor = Descriptor {
                block_bitmap: start + reserved,
                inode_bitmap: start + reserved + 1,
                inode_table: start + reserved + 2,
                free_blocks: (blocks - own) as u32,
                free_inodes: self.inodes_per_group,
                flags: EXT4_BG_INODE_ZEROED | EXT4_BG_INODE_UNINIT | EXT4_BG_BLOCK_UNINIT,
                itable_unused: self.inodes_per_group,
                ..Descriptor::default()
            };
            let mut raw = [0; DESC_SIZE];
            descriptor.encode(&mut raw, group, self.seed);
            self.descriptors.push(raw);
            self.more_overhead += own;
            self.pieces.push(Piece {
                group,
                start: own,
                end: blocks,
            });
            // The last group's bitmap tells where the file system ends.
            if group + 1 == self.groups {
                self.bitmap(group);
            }
        }
    }

    /// A group's block bitmap, which is to be written.
    fn bitmap(&mut self, group: u64) -> &mut Block {
        let known = self.bitmaps.iter().position(|(other, _)| *other == group);
        let index = known.unwrap_or_else(|| {
            let table = u64::from(self.inodes_per_group / INODES_PER_BLOCK);
            let mut bits = ZERO_BLOCK;
            mark(&mut bits, 0, reserved(group) + 2 + table);
            mark(
                &mut bits,
                self.blocks_in(group, self.blocks),
                BLOCKS_PER_GROUP,
            );
            self.bitmaps.push((group, bits));
            self.bitmaps.len() - 1
        });
        &mut self.bitmaps[index].1
    }

    /// Puts a journal of `wanted` blocks, or fewer, into one piece of the new space. `i_block` and bytes.
    fn add_journal(
        &mut self,
        disk: &mut File,
        wanted: u64,
        created: Timestamp,
    ) -> Result<Option<([u8; 60], u64)>> {
        let room = |piece: &&Piece| piece.end - piece.start;
        let Some(piece) = self
            .pieces
            .iter()
            .find(|piece| room(piece) >= wanted)
            .or_else(|| self.pieces.iter().max_by_key(room))
            .copied()
        else {
            return Ok(None);
        };
        // A journal that takes what there is leaves nothing to keep one for.
        let count = match piece.end - piece.start {
            room if room >= wanted => wanted,
            room => room / 2,
        };
        if count * BLOCK < journal::MINIMUM {
            return Ok(None);
        }
        let at = piece.group * BLOCKS_PER_GROUP + piece.start;
        mark(self.bitmap(piece.group), piece.start, piece.start + count);
        let raw = &mut self.descriptors[piece.group as usize];
        let free = get16_split(raw, 0x0c, 0x2c) - count as u32;
        put16_split(raw, 0x0c, 0x2c, free);

        let mut extents = ExtentList::default();
        extents.push(0, at, count as u32);
        let inode_seed = inode::inode_seed(self.seed, EXT4_JOURNAL_INO, 0);
        // One group's blocks are one extent: it needs no node.
        let root = extent::build_tree(&extents.into_vec(), inode_seed, |_| Ok(0))?;
        let mut inode = RawInode::new(S_IFREG | 0o600, created, created);
        inode.size = count * BLOCK;
        inode.blocks = count;
        inode.i_block = root.i_block;
        inode.flags |= EXT4_EXTENTS_FL;
        let uuid_at = SUPERBLOCK_OFFSET + 0x68;
        let uuid = read::<16>(disk, uuid_at)?;
        write_blocks(disk, &journal::superblock(count as u32, &uuid), at)?;
        let table = get32_split(&self.descriptors[0], 0x08, 0x28);
        let offset = table * BLOCK + u64::from(EXT4_JOURNAL_INO - 1) * INODE_SIZE as u64;
        let encoded = inode.encode(inode_seed);
        Disk::write_at(disk, &encoded, offset).map_err(|source| Error::Write {
            offset,
            len: encoded.len(),
            source,
        })?;
        Ok(Some((inode.i_block, inode.size)))
    }

    fn write_bitmaps(&mut self, disk: &mut File) -> Result<()> {
        for (group, bits) in &self.bitmaps {
            let raw = &mut self.descriptors[*group as usize];
            let flags = get16(raw, 0x12) & !EXT4_BG_BLOCK_UNINIT;
            put16(raw, 0x12, flags);
            put16_split(raw, 0x18, 0x38, crc32c(self.seed, bits));
            let (_, sum) = group::checksum(raw, *group as u32, self.seed);
            put16(raw, 0x1e, sum);
            write_blocks(disk, bits, get32_split(raw, 0x00, 0x20))?;
        }
        Ok(())
    }

    fn sum(&self, field: impl Fn(&[u8; DESC_SIZE]) -> u64) -> u64 {
        self.descriptors.iter().map(field).sum()
    }
}

fn mark(bits: &mut Block, start: u64, end: u64) {
    let fresh = crate::block_map::set_bits(bits, start as usize, end as usize);
    debug_assert!(fresh, "new space is nobody's");
}

fn read<const N: usize>(disk: &File, offset: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    disk.read_exact_at(&mut bytes, offset)
        .map_err(|source| Error::ReadDisk {
            offset,
            len: N,
            source,
        })?;
    Ok(bytes)
}
