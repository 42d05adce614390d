//! Extent trees.

use super::{Error, Reader, Result, Source, check};
use crate::extent::{self, Extent, ParsedNode};
use crate::inode::{
    EXT4_EA_INODE_FL, EXT4_ENCRYPT_FL, EXT4_EXTENTS_FL, EXT4_INLINE_DATA_FL, Inode,
};

/// The kernel's limit on an extent tree's depth.
const EXT4_MAX_EXTENT_DEPTH: u16 = 5;

struct ExtentWalk {
    extents: Vec<Extent>,
    /// The lowest logical block that may come next.
    next: u64,
}

impl<S: Source> Reader<S> {
    /// The extents of a file, directory or long symbolic link, in ascending order.
    ///
    /// # Errors
    /// When they overlap, leave the file system, or the inode has none by design.
    pub fn extents(&self, inode: &Inode) -> Result<Vec<Extent>> {
        let ino = inode.ino;
        let unsupported = |what| Err(Error::Unsupported { ino, what });
        if inode.flags & EXT4_INLINE_DATA_FL != 0 {
            return unsupported("inline data");
        }
        if inode.flags & EXT4_ENCRYPT_FL != 0 {
            return unsupported("encryption");
        }
        if inode.flags & EXT4_EA_INODE_FL != 0 {
            return unsupported("values of extended attributes as contents");
        }
        self.extents_of(inode)
    }

    /// As [`extents`](Self::extents), of a value of an extended attribute too.
    pub(super) fn extents_of(&self, inode: &Inode) -> Result<Vec<Extent>> {
        let ino = inode.ino;
        if inode.flags & EXT4_EXTENTS_FL == 0 {
            return Err(Error::Unsupported {
                ino,
                what: "a block map instead of extents",
            });
        }
        let root = extent::parse_node(&inode.i_block).ok_or(Error::Inode {
            ino,
            what: "no extent tree",
        })?;
        let mut walk = ExtentWalk {
            extents: Vec::new(),
            next: 0,
        };
        self.walk_extents(inode, root, EXT4_MAX_EXTENT_DEPTH + 1, &mut walk)?;
        Ok(walk.extents)
    }

    /// Every node below the root has an entry, and entries ascend, so no block is met twice.
    fn walk_extents(
        &self,
        inode: &Inode,
        node: ParsedNode,
        above: u16,
        walk: &mut ExtentWalk,
    ) -> Result<()> {
        let ino = inode.ino;
        let damaged = |what| Err(Error::Inode { ino, what });
        let (depth, children) = match node {
            ParsedNode::Leaf(extents) => {
                for extent in extents {
                    self.take_extent(ino, extent, walk)?;
                }
                return Ok(());
            }
            ParsedNode::Index(depth, children) => (depth, children),
        };
        if depth >= above {
            return damaged("an extent tree that is too deep");
        }
        for (logical, block) in children {
            if u64::from(logical) < walk.next {
                return damaged("extents out of order");
            }
            walk.next = logical.into();
            let raw = self.block(block, "the extent tree", ino)?;
            let child = extent::parse_node(&raw);
            let child_depth = match &child {
                Some(ParsedNode::Leaf(extents)) if !extents.is_empty() => 0,
                Some(ParsedNode::Index(depth, children)) if !children.is_empty() => *depth,
                _ => return damaged("a node of the extent tree"),
            };
            if child_depth.checked_add(1) != Some(depth) {
                return damaged("the depth of the extent tree");
            }
            if self.verify {
                let (stored, computed) = extent::node_checksum(&raw, inode.seed).unwrap_or((0, 1));
                check("extent node", block, stored, computed)?;
            }
            if let Some(child) = child {
                self.walk_extents(inode, child, depth, walk)?;
            }
        }
        Ok(())
    }

    fn take_extent(&self, ino: u32, extent: Extent, walk: &mut ExtentWalk) -> Result<()> {
        let end = u64::from(extent.logical) + u64::from(extent.len);
        let damaged = |what| Err(Error::Inode { ino, what });
        if extent.len == 0 || end > 1 << 32 {
            return damaged("an extent of no or too many blocks");
        }
        if u64::from(extent.logical) < walk.next {
            return damaged("extents out of order");
        }
        let last = extent.physical + u64::from(extent.len);
        if extent.physical == 0 || last > self.superblock.blocks {
            return Err(Error::Block {
                what: "an extent",
                ino,
                block: last - 1,
            });
        }
        walk.next = end;
        walk.extents.push(extent);
        Ok(())
    }
}
