//! Group descriptors, and where they and the superblock's copies are written.
//!
//! Source: `Documentation/filesystems/ext4/group_descr.rst`.
//!
//! | offset | field | high half |
//! | --- | --- | --- |
//! | 0x00 | `bg_block_bitmap` (32) | 0x20 |
//! | 0x04 | `bg_inode_bitmap` (32) | 0x24 |
//! | 0x08 | `bg_inode_table` (32) | 0x28 |
//! | 0x0c | `bg_free_blocks_count` (16) | 0x2c |
//! | 0x0e | `bg_free_inodes_count` (16) | 0x2e |
//! | 0x10 | `bg_used_dirs_count` (16) | 0x30 |
//! | 0x12 | `bg_flags` (16) | |
//! | 0x18 | `bg_block_bitmap_csum` (16) | 0x38 |
//! | 0x1a | `bg_inode_bitmap_csum` (16) | 0x3a |
//! | 0x1c | `bg_itable_unused` (16) | 0x32 |
//! | 0x1e | `bg_checksum` (16) | |

use crate::crc::crc32c;
use crate::disk::Disk;
use crate::error::Result;
use crate::layout::{
    BLOCK_SIZE, BLOCKS_PER_GROUP, DESC_PER_BLOCK, DESC_SIZE, has_descriptors, has_super,
};
use crate::le::{get16, get32, get32_split, put16, put16_split, put32_split};
use crate::sink::write_blocks;
use crate::superblock::{NewSuperblock, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE};

/// The inode bitmap is not written: all inodes are free.
pub(crate) const EXT4_BG_INODE_UNINIT: u16 = 1;
/// The block bitmap is not written: only the group's own metadata is used.
pub(crate) const EXT4_BG_BLOCK_UNINIT: u16 = 2;
/// The inode table reads as zeros where no inode is: nothing is left to initialise.
pub(crate) const EXT4_BG_INODE_ZEROED: u16 = 4;

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
    pub(crate) free_blocks: u32,
    pub(crate) free_inodes: u32,
    pub(crate) used_dirs: u32,
    pub(crate) flags: u16,
    pub(crate) block_bitmap_csum: u32,
    pub(crate) inode_bitmap_csum: u32,
    /// Inodes at the end of the table that were never used.
    pub(crate) itable_unused: u32,
}

impl Descriptor {
    pub(crate) fn encode(&self, raw: &mut [u8], group: u64, seed: u32) {
        put32_split(raw, 0x00, 0x20, self.block_bitmap);
        put32_split(raw, 0x04, 0x24, self.inode_bitmap);
        put32_split(raw, 0x08, 0x28, self.inode_table);
        put16_split(raw, 0x0c, 0x2c, self.free_blocks);
        put16_split(raw, 0x0e, 0x2e, self.free_inodes);
        put16_split(raw, 0x10, 0x30, self.used_dirs);
        put16(raw, 0x12, self.flags);
        put16_split(raw, 0x18, 0x38, self.block_bitmap_csum);
        put16_split(raw, 0x1a, 0x3a, self.inode_bitmap_csum);
        put16_split(raw, 0x1c, 0x32, self.itable_unused);
        let (_, sum) = checksum(raw, group as u32, seed);
        put16(raw, 0x1e, sum);
    }
}

/// The stored and the computed checksum of a descriptor of at least 32 bytes.
pub(crate) fn checksum(raw: &[u8], group: u32, seed: u32) -> (u16, u16) {
    let sum = crc32c(seed, &group.to_le_bytes());
    let sum = crc32c(sum, &raw[..0x1e]);
    let sum = crc32c(sum, &[0; 2]);
    let sum = crc32c(sum, &raw[0x20..]);
    (get16(raw, 0x1e), sum as u16)
}

/// Where a group's inode table starts, from a descriptor of 32 bytes or more.
pub(crate) fn parse_inode_table(raw: &[u8]) -> u64 {
    if raw.len() >= DESC_SIZE {
        get32_split(raw, 0x08, 0x28)
    } else {
        get32(raw, 0x08).into()
    }
}

/// Writes all copies of the superblock and the descriptors, the primary superblock last: before
/// that nothing takes the disk for a file system.
pub(crate) fn write_all(
    disk: &mut impl Disk,
    superblock: &NewSuperblock,
    descriptors: &[Descriptor],
) -> Result<()> {
    let raw = encode_all(descriptors, superblock.seed());
    write_copies(disk, |group| superblock.encode(group), &raw)
}

/// Encodes the descriptors of all groups.
pub(crate) fn encode_all(descriptors: &[Descriptor], seed: u32) -> Vec<[u8; DESC_SIZE]> {
    let mut raw = vec![[0; DESC_SIZE]; descriptors.len()];
    for ((raw, descriptor), group) in raw.iter_mut().zip(descriptors).zip(0..) {
        descriptor.encode(raw, group, seed);
    }
    raw
}

/// The same with encoded descriptors; `superblock` makes the copy that stands in a group.
pub(crate) fn write_copies(
    disk: &mut impl Disk,
    superblock: impl Fn(u64) -> [u8; SUPERBLOCK_SIZE],
    descriptors: &[[u8; DESC_SIZE]],
) -> Result<()> {
    let mut blocks = Vec::with_capacity(descriptors.len().div_ceil(DESC_PER_BLOCK as usize));
    for part in descriptors.chunks(DESC_PER_BLOCK as usize) {
        let mut block = part.concat();
        block.resize(BLOCK_SIZE, 0);
        blocks.push(block);
    }
    let mut buffer = Vec::with_capacity(2 * BLOCK_SIZE);
    for group in (0..descriptors.len() as u64).rev() {
        buffer.clear();
        if has_super(group) {
            let start = if group == 0 {
                SUPERBLOCK_OFFSET as usize
            } else {
                0
            };
            buffer.resize(BLOCK_SIZE, 0);
            buffer[start..start + SUPERBLOCK_SIZE].copy_from_slice(&superblock(group));
        }
        if has_descriptors(group) {
            buffer.extend_from_slice(&blocks[(group / DESC_PER_BLOCK) as usize]);
        }
        if !buffer.is_empty() {
            write_blocks(disk, &buffer, group * BLOCKS_PER_GROUP)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_keeps_its_high_halves_and_its_sum() {
        let descriptor = Descriptor {
            inode_table: 0x1_2345_6789,
            free_inodes: 0x1_0001,
            ..Descriptor::default()
        };
        let mut raw = [0; DESC_SIZE];
        descriptor.encode(&mut raw, 70_000, 9);
        assert_eq!(parse_inode_table(&raw), 0x1_2345_6789);
        let (stored, computed) = checksum(&raw, 70_000, 9);
        assert_eq!(stored, computed);
        assert_ne!(checksum(&raw, 70_001, 9).1, computed);
    }
}
