//! Which blocks an inode has: extent trees, and the block maps of older file systems.

use super::Place;
use super::state::Checker;
use crate::extent::{self, Extent, ParsedNode};
use crate::inode::{EXT4_EXTENTS_FL, Inode};
use crate::le::{get16, get32};
use crate::read::{self, Source};

const MAX_DEPTH: u16 = 5;
const DIRECT: usize = 12;
/// Header and entries of an extent tree's node.
const NODE: usize = 12;

/// What an inode's mapping came to.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    /// In ascending order.
    pub(crate) extents: Vec<Extent>,
    /// Blocks of the mapping itself.
    pub(crate) nodes: u64,
    /// Where the next extent may begin.
    next: u64,
    /// Whether findings are reported and blocks claimed.
    claim: bool,
    /// The nodes of the tree that were entered: none twice.
    visited: std::collections::HashSet<u64>,
}

impl Mapped {
    /// Blocks of contents.
    pub(crate) fn blocks(&self) -> u64 {
        self.extents
            .iter()
            .map(|extent| u64::from(extent.len))
            .sum()
    }

    /// Behind the last block; `unwritten` ones count or not.
    pub(crate) fn end(&self, unwritten: bool) -> u64 {
        let mut counted = self
            .extents
            .iter()
            .filter(|extent| unwritten || !extent.unwritten);
        let last = counted.next_back();
        last.map_or(0, |extent| {
            u64::from(extent.logical) + u64::from(extent.len)
        })
    }
}

impl<S: Source> Checker<'_, S> {
    /// Maps an inode; the first time with `claim`, which reports and claims.
    pub(crate) fn map(&mut self, inode: &Inode, claim: bool) -> read::Result<Mapped> {
        let mut mapped = Mapped {
            claim,
            ..Mapped::default()
        };
        if inode.flags & EXT4_EXTENTS_FL != 0 {
            self.extent_node(inode, &inode.i_block.clone(), None, &mut mapped)?;
        } else {
            self.block_map(inode, &mut mapped)?;
        }
        Ok(mapped)
    }

    fn map_wrong(&mut self, inode: &Inode, mapped: &Mapped, problem: impl Into<String>) {
        if mapped.claim {
            self.wrong(Place::Inode(inode.ino), problem);
        }
    }

    /// `above`: the depth of the node above, the first logical block that it promises, the first of the next one.
    fn extent_node(
        &mut self,
        inode: &Inode,
        node: &[u8],
        above: Option<(u16, u64, u64)>,
        mapped: &mut Mapped,
    ) -> read::Result<()> {
        let Some(parsed) = extent::parse_node(node) else {
            self.map_wrong(inode, mapped, "a node of its extent tree makes no sense");
            return Ok(());
        };
        // The kernel writes eh_max itself; a block may keep an entry's room for the checksum.
        let (max, room) = (usize::from(get16(node, 4)), node.len() / NODE - 1);
        if max + 2 < room {
            self.map_wrong(inode, mapped, format!("eh_max of its extent tree is {max}"));
        }
        let depth = match &parsed {
            ParsedNode::Leaf(_) => 0,
            ParsedNode::Index(depth, _) => *depth,
        };
        let expected = above.map(|(depth, ..)| depth - 1);
        if depth > MAX_DEPTH || expected.is_some_and(|expected| expected != depth) {
            self.map_wrong(
                inode,
                mapped,
                format!("the depth of its extent tree is {depth}"),
            );
            return Ok(());
        }
        let end = above.map_or(1 << 32, |(.., end)| end);
        let first = match &parsed {
            ParsedNode::Leaf(extents) => extents.first().map(|extent| extent.logical),
            ParsedNode::Index(_, children) => children.first().map(|(logical, _)| *logical),
        };
        if let (Some((_, start, _)), Some(first)) = (above, first)
            && u64::from(first) != start
        {
            self.map_wrong(
                inode,
                mapped,
                format!("a node of its extent tree begins at {first}, the one above says {start}"),
            );
        }
        if first.is_none() && (above.is_some() || depth > 0) {
            self.map_wrong(inode, mapped, "a node of its extent tree is empty");
        }
        match parsed {
            ParsedNode::Leaf(extents) => {
                for extent in extents {
                    self.extent(inode, extent, end, mapped);
                }
            }
            ParsedNode::Index(depth, children) => {
                let ends = children
                    .iter()
                    .skip(1)
                    .map(|(logical, _)| u64::from(*logical));
                let ends: Vec<u64> = ends.chain([end]).collect();
                for ((logical, block), end) in children.into_iter().zip(ends) {
                    self.extent_child(inode, block, (depth, logical.into(), end), mapped)?;
                }
            }
        }
        Ok(())
    }

    fn extent_child(
        &mut self,
        inode: &Inode,
        block: u64,
        above: (u16, u64, u64),
        mapped: &mut Mapped,
    ) -> read::Result<()> {
        if !self.inside(block, 1) {
            self.map_wrong(inode, mapped, format!("its extent tree has block {block}"));
            return Ok(());
        }
        // Each node once: damaged trees must not take longer than they are large.
        if !mapped.visited.insert(block) {
            self.map_wrong(
                inode,
                mapped,
                format!("its extent tree has block {block} twice"),
            );
            return Ok(());
        }
        mapped.nodes += 1;
        if mapped.claim {
            self.claim(Place::Inode(inode.ino), block, 1);
        }
        let raw = self.block(block)?;
        if self.geometry.superblock.has_checksums()
            && let Some((stored, computed)) = extent::node_checksum(&raw, inode.seed)
            && stored != computed
        {
            self.map_wrong(
                inode,
                mapped,
                format!(
                    "the checksum of block {block} of its extent tree is {stored:#x}, should be {computed:#x}"
                ),
            );
        }
        self.extent_node(inode, &raw, Some(above), mapped)
    }

    fn extent(&mut self, inode: &Inode, extent: Extent, end: u64, mapped: &mut Mapped) {
        let logical = u64::from(extent.logical);
        let after = logical + u64::from(extent.len);
        if extent.len == 0 || after > end || logical < mapped.next {
            self.map_wrong(
                inode,
                mapped,
                format!(
                    "its extent of {} blocks at {logical} is out of place",
                    extent.len
                ),
            );
            return;
        }
        if !self.inside(extent.physical, extent.len.into()) {
            self.map_wrong(
                inode,
                mapped,
                format!(
                    "its extent at {logical} is said to lie at block {}",
                    extent.physical
                ),
            );
            return;
        }
        mapped.next = after;
        if mapped.claim {
            self.claim(Place::Inode(inode.ino), extent.physical, extent.len.into());
        }
        mapped.extents.push(extent);
    }

    /// Twelve blocks, then one of pointers, one of pointers to those, and one more level.
    fn block_map(&mut self, inode: &Inode, mapped: &mut Mapped) -> read::Result<()> {
        let i_block = inode.i_block;
        for number in 0..DIRECT {
            let block = u64::from(get32(&i_block, number * 4));
            self.mapped_block(inode, number as u64, block, mapped);
        }
        let per_block = self.geometry.block_size() / 4;
        let mut logical = DIRECT as u64;
        let mut span = per_block;
        for level in 0..3 {
            let block = get32(&i_block, (DIRECT + level) * 4).into();
            self.pointers(inode, block, logical, span, mapped)?;
            logical += span;
            span *= per_block;
        }
        Ok(())
    }

    /// A block of pointers that covers `span` blocks from `logical` on.
    fn pointers(
        &mut self,
        inode: &Inode,
        block: u64,
        logical: u64,
        span: u64,
        mapped: &mut Mapped,
    ) -> read::Result<()> {
        if block == 0 {
            return Ok(());
        }
        if !self.inside(block, 1) || !mapped.visited.insert(block) {
            self.map_wrong(inode, mapped, format!("its block map has block {block}"));
            return Ok(());
        }
        mapped.nodes += 1;
        if mapped.claim {
            self.claim(Place::Inode(inode.ino), block, 1);
        }
        let raw = self.block(block)?;
        let each = span / (self.geometry.block_size() / 4);
        for (number, pointer) in raw.chunks_exact(4).enumerate() {
            let (pointer, at) = (get32(pointer, 0).into(), logical + number as u64 * each);
            match each {
                1 => self.mapped_block(inode, at, pointer, mapped),
                _ => self.pointers(inode, pointer, at, each, mapped)?,
            }
        }
        Ok(())
    }

    fn mapped_block(&mut self, inode: &Inode, logical: u64, block: u64, mapped: &mut Mapped) {
        if block == 0 {
            return;
        }
        let Some(logical) = u32::try_from(logical)
            .ok()
            .filter(|_| self.inside(block, 1))
        else {
            self.map_wrong(
                inode,
                mapped,
                format!("its block {logical} is said to lie at {block}"),
            );
            return;
        };
        if mapped.claim {
            self.claim(Place::Inode(inode.ino), block, 1);
        }
        match mapped.extents.last_mut() {
            Some(last)
                if u64::from(last.logical) + u64::from(last.len) == u64::from(logical)
                    && last.physical + u64::from(last.len) == block =>
            {
                last.len += 1;
            }
            _ => mapped.extents.push(Extent {
                logical,
                len: 1,
                physical: block,
                unwritten: false,
            }),
        }
    }
}
