//! Bitmaps and counters against what has an owner.

use super::Place;
use super::state::{Checker, Group};
use crate::crc::crc32c;
use crate::group::{EXT4_BG_BLOCK_UNINIT, EXT4_BG_INODE_UNINIT};
use crate::inode::S_IFDIR;
use crate::layout::EXT4_ROOT_INO;
use crate::read::{self, Source};

/// Which of a group's two bitmaps.
struct Bitmap {
    what: &'static str,
    at: u64,
    /// Bits that stand for something, and those that a checksum covers.
    bits: u64,
    summed: u64,
    /// It is not written: what it would hold follows from elsewhere.
    uninit: bool,
    csum: u32,
}

/// Of a group, or of all.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    free_blocks: u64,
    free_inodes: u64,
    directories: u64,
}

impl<S: Source> Checker<'_, S> {
    pub(super) fn bitmaps(&mut self) -> read::Result<()> {
        let counted = self.inodes_by_group();
        let mut all = Counts::default();
        for number in 0..self.groups.len() {
            let group = self.groups[number];
            let (inodes, directories) = counted.get(number).copied().unwrap_or_default();
            let found = Counts {
                free_blocks: self.block_bitmap(number as u64, &group)?,
                free_inodes: self.inode_bitmap(number as u64, &group, inodes)?,
                directories,
            };
            self.group_counts(Place::Group(number as u64), &group, &found);
            all.free_blocks += found.free_blocks;
            all.free_inodes += found.free_inodes;
        }
        self.report.used_inodes = u64::from(self.geometry.superblock.inodes) - all.free_inodes;
        let sb = &self.geometry.superblock;
        let (blocks, inodes) = (sb.free_blocks, u64::from(sb.free_inodes));
        if blocks != all.free_blocks {
            self.wrong(
                Place::Superblock,
                format!(
                    "s_free_blocks_count is {blocks}, should be {}",
                    all.free_blocks
                ),
            );
        }
        if inodes != all.free_inodes {
            self.wrong(
                Place::Superblock,
                format!(
                    "s_free_inodes_count is {inodes}, should be {}",
                    all.free_inodes
                ),
            );
        }
        Ok(())
    }

    /// Inodes in use, the reserved ones included, and directories among them.
    fn inodes_by_group(&self) -> Vec<(u64, u64)> {
        let mut counts = vec![(0, 0); self.groups.len()];
        let per_group = self.geometry.superblock.inodes_per_group;
        let reserved = (1..self.geometry.first_ino()).filter(|ino| *ino != EXT4_ROOT_INO);
        let other = reserved.filter(|ino| !self.nodes.contains_key(ino));
        for (ino, format) in self
            .nodes
            .iter()
            .map(|(ino, node)| (*ino, node.format))
            .chain(other.map(|ino| (ino, 0)))
        {
            if let Some((inodes, directories)) = counts.get_mut(((ino - 1) / per_group) as usize) {
                *inodes += 1;
                *directories += u64::from(format == S_IFDIR);
            }
        }
        counts
    }

    /// Gives how many blocks are free.
    fn block_bitmap(&mut self, number: u64, group: &Group) -> read::Result<u64> {
        let (start, blocks) = self.geometry.span(number);
        let mut expected = vec![0; self.geometry.block_size() as usize];
        let used = self
            .used
            .copy(start, blocks.min(expected.len() as u64 * 8), &mut expected);
        let bitmap = Bitmap {
            what: "block",
            at: group.block_bitmap,
            bits: blocks,
            summed: u64::from(self.geometry.superblock.blocks_per_group),
            uninit: group.flags & EXT4_BG_BLOCK_UNINIT != 0,
            csum: group.block_bitmap_csum,
        };
        self.bitmap(number, &bitmap, &expected)?;
        Ok(blocks - used)
    }

    /// Gives how many inodes are free; `used` are in use.
    fn inode_bitmap(&mut self, number: u64, group: &Group, used: u64) -> read::Result<u64> {
        let per_group = u64::from(self.geometry.superblock.inodes_per_group);
        let uninit = group.flags & EXT4_BG_INODE_UNINIT != 0;
        if uninit {
            if used > 0 {
                let problem =
                    format!("{used} inodes are in use, but its inode bitmap is not there");
                self.wrong(Place::Group(number), problem);
            }
            return Ok(per_group - used);
        }
        let mut expected = vec![0u8; self.geometry.block_size() as usize];
        let reserved = self.geometry.first_ino();
        for bit in 0..per_group.min(expected.len() as u64 * 8) {
            let ino = (number * per_group + 1 + bit) as u32;
            let known = ino < reserved && ino != EXT4_ROOT_INO;
            if known || self.nodes.contains_key(&ino) {
                expected[(bit / 8) as usize] |= 1 << (bit % 8);
            }
        }
        let bitmap = Bitmap {
            what: "inode",
            at: group.inode_bitmap,
            bits: per_group,
            summed: per_group,
            uninit,
            csum: group.inode_bitmap_csum,
        };
        self.bitmap(number, &bitmap, &expected)?;
        Ok(per_group - used)
    }

    /// Compares a bitmap that is written with what it should be.
    fn bitmap(&mut self, number: u64, bitmap: &Bitmap, expected: &[u8]) -> read::Result<()> {
        // One that is not written stands for one in which only metadata is used.
        if bitmap.uninit || !self.inside(bitmap.at, 1) {
            return Ok(());
        }
        let place = Place::Group(number);
        let found = self.block(bitmap.at)?;
        let sb = &self.geometry.superblock;
        if sb.has_checksums() {
            let sum = crc32c(sb.seed, &found[..(bitmap.summed / 8) as usize]);
            let sum = if sb.desc_size >= 64 {
                sum
            } else {
                sum & 0xffff
            };
            if sum != bitmap.csum {
                self.wrong(
                    place,
                    format!(
                        "the checksum of its {} bitmap is {:#x}, should be {sum:#x}",
                        bitmap.what, bitmap.csum
                    ),
                );
            }
        }
        self.compare(place, bitmap, &found, expected);
        Ok(())
    }

    fn compare(&mut self, place: Place, bitmap: &Bitmap, found: &[u8], expected: &[u8]) {
        let (mut free, mut taken, mut first) = (0u64, 0u64, None);
        for bit in 0..bitmap.bits.min(found.len() as u64 * 8) {
            let at = |bits: &[u8]| bits[(bit / 8) as usize] >> (bit % 8) & 1 == 1;
            let (is, should) = (at(found), at(expected));
            if is != should {
                first.get_or_insert(bit);
                taken += u64::from(is);
                free += u64::from(should);
            }
        }
        if let Some(first) = first {
            self.wrong(
                place,
                format!(
                    "its {} bitmap has {free} free that are in use, {taken} taken that are not; the first is number \
                     {first} of the group",
                    bitmap.what
                ),
            );
        }
        let padding = bitmap.bits..found.len() as u64 * 8;
        let unset = padding.filter(|bit| found[(bit / 8) as usize] >> (bit % 8) & 1 == 0);
        if unset.count() > 0 {
            self.wrong(
                place,
                format!("the end of its {} bitmap is not filled up", bitmap.what),
            );
        }
    }

    fn group_counts(&mut self, place: Place, group: &Group, found: &Counts) {
        for (what, is, should) in [
            ("bg_free_blocks_count", group.free_blocks, found.free_blocks),
            ("bg_free_inodes_count", group.free_inodes, found.free_inodes),
            ("bg_used_dirs_count", group.used_dirs, found.directories),
        ] {
            if u64::from(is) != should {
                self.wrong(place, format!("{what} is {is}, should be {should}"));
            }
        }
    }
}
