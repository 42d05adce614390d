//! What the passes share.

use std::collections::{HashMap, HashSet};

use super::bits::Bits;
use super::{Geometry, Place, Report};
use crate::read::{self, Source};

/// What is known of an inode in use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Node {
    /// The type's bits of its mode.
    pub(crate) format: u16,
    /// As it says.
    pub(crate) links: u16,
    /// Names that were found, and `.` and `..` of directories.
    pub(crate) seen: u32,
    /// Of a directory: the one that has its name; zero: none was found.
    pub(crate) parent: u32,
    /// Of a directory: what its `..` says.
    pub(crate) dot_dot: u32,
}

/// A group as its descriptor has it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Group {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
    pub(crate) free_blocks: u32,
    pub(crate) free_inodes: u32,
    pub(crate) used_dirs: u32,
    pub(crate) flags: u16,
    pub(crate) block_bitmap_csum: u32,
    pub(crate) inode_bitmap_csum: u32,
    pub(crate) itable_unused: u32,
    /// Its places lie in the file system: its table can be read.
    pub(crate) usable: bool,
}

/// A block of extended attributes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XattrBlock {
    /// As it says.
    pub(crate) references: u32,
    pub(crate) seen: u32,
    /// Blocks that its values have in inodes of their own.
    pub(crate) values: u64,
}

/// The passes' common state.
#[derive(Debug)]
pub(crate) struct Checker<'a, S> {
    pub(crate) source: &'a S,
    pub(crate) geometry: Geometry,
    pub(crate) report: Report,
    pub(crate) groups: Vec<Group>,
    /// Blocks that have an owner.
    pub(crate) used: Bits,
    pub(crate) nodes: HashMap<u32, Node>,
    /// In the order of their numbers.
    pub(crate) directories: Vec<u32>,
    /// Deleted while open.
    pub(crate) orphans: HashSet<u32>,
    pub(crate) xattr_blocks: HashMap<u64, XattrBlock>,
    /// Inodes that hold values of attributes, and how often they are referred to.
    pub(crate) xattr_inodes: HashMap<u32, u32>,
}

impl<'a, S: Source> Checker<'a, S> {
    pub(crate) fn new(source: &'a S, geometry: Geometry, report: Report) -> Self {
        Self {
            source,
            geometry,
            report,
            groups: Vec::new(),
            used: Bits::default(),
            nodes: HashMap::new(),
            directories: Vec::new(),
            orphans: HashSet::new(),
            xattr_blocks: HashMap::new(),
            xattr_inodes: HashMap::new(),
        }
    }

    pub(crate) fn wrong(&mut self, place: Place, problem: impl Into<String>) {
        self.report.add(place, problem.into());
    }

    /// Whether blocks lie in the file system.
    pub(crate) fn inside(&self, start: u64, count: u64) -> bool {
        start > u64::from(self.geometry.superblock.first_data_block)
            && start
                .checked_add(count)
                .is_some_and(|end| end <= self.geometry.superblock.blocks)
    }

    /// Gives blocks, which lie inside, to an owner.
    pub(crate) fn claim(&mut self, place: Place, start: u64, count: u64) {
        if let Some(block) = self.used.add(start, count) {
            self.wrong(
                place,
                format!("block {block} belongs to something else too"),
            );
        }
    }

    /// Reads a block that lies inside.
    pub(crate) fn block(&self, block: u64) -> read::Result<Vec<u8>> {
        let mut raw = vec![0; self.geometry.block_size() as usize];
        read::read_exact(self.source, &mut raw, block * self.geometry.block_size())?;
        Ok(raw)
    }

    /// The raw bytes of an inode; none when its group's table is not to be found.
    pub(crate) fn raw_inode(&self, ino: u32) -> read::Result<Option<Vec<u8>>> {
        let sb = &self.geometry.superblock;
        let Some(index) = ino.checked_sub(1) else {
            return Ok(None);
        };
        let group = self.groups.get((index / sb.inodes_per_group) as usize);
        let Some(group) = group.filter(|group| group.usable) else {
            return Ok(None);
        };
        let within = u64::from(index % sb.inodes_per_group) * u64::from(sb.inode_size);
        let mut raw = vec![0; sb.inode_size.into()];
        let at = group.inode_table * self.geometry.block_size() + within;
        read::read_exact(self.source, &mut raw, at)?;
        Ok(Some(raw))
    }

    pub(crate) fn finish(mut self) -> Report {
        self.report.used_blocks = self.used.count();
        self.report.directories = self.directories.len() as u64;
        self.report
    }
}
