//! The end of a [`Writer`](crate::Writer)'s file system: bitmaps and inode tables of all groups.

use crate::block_map::{BlockMap, set_bits};
use crate::crc::crc32c;
use crate::disk::Disk;
use crate::error::Result;
use crate::group::{Descriptor, EXT4_BG_INODE_ZEROED};
use crate::layout::{
    BLOCK_SIZE, BLOCKS_PER_GROUP, Cursor, INODE_SIZE, INODES_PER_BLOCK, MAX_INODES_PER_GROUP,
    ZERO_BLOCK, reserved,
};
use crate::sink::Sink;

/// Each group has so many even where the tree needs fewer: a copy that grows gets its inodes with its groups. It costs
/// nothing, because the table's end is a hole.
const LEAST_INODES_PER_GROUP: u32 = 4096;

/// Where the tables lie. All block bitmaps come first, then all inode bitmaps, then the tables.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) groups: u64,
    pub(crate) blocks: u64,
    pub(crate) inodes_per_group: u32,
    /// By group: block bitmap, inode bitmap, inode table.
    places: Vec<[u64; 3]>,
}

impl Tables {
    /// Places tables for inodes 1 to `inodes` behind `cursor`, in as few groups as will do, and
    /// marks them and all reserved blocks as used.
    pub(crate) fn plan(cursor: Cursor, inodes: u32, used: &mut BlockMap) -> Self {
        let mut groups = 1;
        let tables = loop {
            let (tables, end) = Self::place(cursor, inodes, groups);
            let needed = end
                .div_ceil(BLOCKS_PER_GROUP)
                .max(u64::from(inodes.div_ceil(MAX_INODES_PER_GROUP)));
            if needed <= groups {
                break tables;
            }
            groups = needed;
        };
        let mut fresh = true;
        for (group, [block_bitmap, inode_bitmap, table]) in (0..).zip(&tables.places) {
            fresh &= used.mark(group * BLOCKS_PER_GROUP, reserved(group));
            fresh &= used.mark(*block_bitmap, 1) && used.mark(*inode_bitmap, 1);
            fresh &= used.mark(*table, tables.table_blocks());
        }
        debug_assert!(fresh, "tables lie behind all else");
        tables
    }

    fn place(mut cursor: Cursor, inodes: u32, groups: u64) -> (Self, u64) {
        let share = u64::from(inodes).div_ceil(groups) as u32;
        let inodes_per_group = share
            .max(LEAST_INODES_PER_GROUP)
            .next_multiple_of(INODES_PER_BLOCK)
            .min(MAX_INODES_PER_GROUP);
        let mut tables = Tables {
            groups,
            blocks: 0,
            inodes_per_group,
            places: vec![[0; 3]; groups as usize],
        };
        let sizes = [1, 1, tables.table_blocks()];
        let mut end = 0;
        for (kind, size) in sizes.into_iter().enumerate() {
            for place in &mut tables.places {
                place[kind] = cursor.take_contiguous(size);
                end = place[kind] + size;
            }
        }
        // groups that are there for their inodes alone must have some block of their own
        let last = groups - 1;
        let least = last * BLOCKS_PER_GROUP + reserved(last) + 1;
        tables.blocks = end.max(least);
        (tables, end)
    }

    fn table_blocks(&self) -> u64 {
        u64::from(self.inodes_per_group / INODES_PER_BLOCK)
    }

    /// Blocks that no file can ever have.
    pub(crate) fn overhead(&self) -> u64 {
        let reserved: u64 = (0..self.groups).map(reserved).sum();
        reserved + self.groups * (2 + self.table_blocks())
    }

    /// Writes bitmaps and tables. `table` holds the inodes that are used, `directories` the
    /// numbers of directories among them.
    pub(crate) fn write(
        &self,
        sink: &mut Sink<impl Disk>,
        used: &BlockMap,
        table: &[u8],
        directories: &[u32],
        seed: u32,
    ) -> Result<Vec<Descriptor>> {
        let per_group = self.inodes_per_group;
        let inodes = (table.len() / INODE_SIZE) as u32;
        let mut descriptors = Vec::with_capacity(self.places.len());
        for (group, [block_bitmap, inode_bitmap, inode_table]) in (0..).zip(&self.places) {
            let bits = self.block_bits(used, group);
            sink.append_at(*block_bitmap, &bits)?;
            descriptors.push(Descriptor {
                block_bitmap: *block_bitmap,
                inode_bitmap: *inode_bitmap,
                inode_table: *inode_table,
                free_blocks: self.blocks_in(group) - used.used(group),
                flags: EXT4_BG_INODE_ZEROED,
                block_bitmap_csum: crc32c(seed, &bits),
                ..Descriptor::default()
            });
        }
        for (group, descriptor) in (0..).zip(&mut descriptors) {
            let in_use = inodes.saturating_sub(group * per_group).min(per_group);
            let mut bits = ZERO_BLOCK;
            set_bits(&mut bits, 0, in_use as usize);
            set_bits(&mut bits, per_group as usize, MAX_INODES_PER_GROUP as usize);
            sink.append_at(descriptor.inode_bitmap, &bits)?;
            descriptor.inode_bitmap_csum = crc32c(seed, &bits[..per_group as usize / 8]);
            descriptor.free_inodes = per_group - in_use;
            descriptor.itable_unused = per_group - in_use;
        }
        for ino in directories {
            descriptors[((ino - 1) / per_group) as usize].used_dirs += 1;
        }
        for (descriptor, part) in descriptors
            .iter()
            .zip(table.chunks(per_group as usize * INODE_SIZE))
        {
            let (whole, rest) = part.split_at(part.len() / BLOCK_SIZE * BLOCK_SIZE);
            sink.append_at(descriptor.inode_table, whole)?;
            if !rest.is_empty() {
                let mut block = ZERO_BLOCK;
                block[..rest.len()].copy_from_slice(rest);
                let at = descriptor.inode_table + (whole.len() / BLOCK_SIZE) as u64;
                sink.append_at(at, &block)?;
            }
        }
        Ok(descriptors)
    }

    fn blocks_in(&self, group: u64) -> u32 {
        (self.blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP) as u32
    }

    /// A group's block bitmap as written: blocks beyond the end count as used.
    fn block_bits(&self, used: &BlockMap, group: u64) -> [u8; BLOCK_SIZE] {
        let mut bits = used.group(group).copied().unwrap_or(ZERO_BLOCK);
        let end = self.blocks_in(group) as usize;
        set_bits(&mut bits, end, BLOCKS_PER_GROUP as usize);
        bits
    }
}
