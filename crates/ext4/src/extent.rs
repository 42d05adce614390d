//! Extents: which blocks of the disk hold which blocks of a file.
//!
//! Source: `Documentation/filesystems/ext4/ifork.rst`, "Extent Tree". The tree's root lies in the
//! inode's 60 bytes `i_block`: a 12-byte header and four entries; each further node is a block.
//!
//! | offset | header | index entry | leaf entry |
//! | --- | --- | --- | --- |
//! | 0x0 | `eh_magic` 0xF30A | `ei_block` | `ee_block` |
//! | 0x2 | `eh_entries` | | |
//! | 0x4 | `eh_max` | `ei_leaf_lo` | `ee_len` (16), `ee_start_hi` (16) |
//! | 0x6 | `eh_depth` | | |
//! | 0x8 | `eh_generation` (32) | `ei_leaf_hi` (16) | `ee_start_lo` (32) |

use crate::crc::crc32c;
use crate::error::Result;
use crate::layout::{BLOCK_SIZE, Block, ZERO_BLOCK};
use crate::le::{get16, get32, put16, put32};

pub(crate) const EXT4_EXT_MAGIC: u16 = 0xf30a;
pub(crate) const EXT_INIT_MAX_LEN: u32 = 1 << 15;
const HEADER: usize = 12;
const ENTRY: usize = 12;
const PER_BLOCK: usize = (BLOCK_SIZE - HEADER) / ENTRY;
const PER_INODE: usize = 4;

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first block of the file.
    pub logical: u32,
    /// How many blocks, at least one.
    pub len: u32,
    /// The first block on the disk.
    pub physical: u64,
    /// Allocated, but reads as zeros.
    pub unwritten: bool,
}

/// Extents in the making, in ascending order.
#[derive(Debug, Default)]
pub(crate) struct ExtentList {
    extents: Vec<Extent>,
}

impl ExtentList {
    /// Appends `len` blocks, joining them to the last extent where that is possible.
    pub(crate) fn push(&mut self, logical: u32, physical: u64, len: u32) {
        let (mut logical, mut physical, mut len) = (logical, physical, len);
        while len > 0 {
            let mut taken = len.min(EXT_INIT_MAX_LEN);
            match self.extents.last_mut() {
                Some(last)
                    if last.logical + last.len == logical
                        && last.physical + u64::from(last.len) == physical
                        && last.len < EXT_INIT_MAX_LEN =>
                {
                    taken = taken.min(EXT_INIT_MAX_LEN - last.len);
                    last.len += taken;
                }
                _ => self.extents.push(Extent {
                    logical,
                    len: taken,
                    physical,
                    unwritten: false,
                }),
            }
            logical += taken;
            physical += u64::from(taken);
            len -= taken;
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Extent> {
        self.extents
    }
}

/// The root of an extent tree, as it stands in the inode.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) i_block: [u8; 60],
    /// How many blocks the tree itself takes.
    pub(crate) nodes: u64,
}

/// Builds a tree over `extents`; `append` puts a node on disk and says where it lies.
/// `inode_seed` starts the nodes' checksums.
pub(crate) fn build_tree(
    extents: &[Extent],
    inode_seed: u32,
    mut append: impl FnMut(&Block) -> Result<u64>,
) -> Result<Root> {
    let mut root = Root {
        i_block: [0; 60],
        nodes: 0,
    };
    if extents.len() <= PER_INODE {
        encode(&mut root.i_block, PER_INODE, 0, extents, put_leaf);
        return Ok(root);
    }
    let mut level = Vec::with_capacity(extents.len().div_ceil(PER_BLOCK));
    for node in extents.chunks(PER_BLOCK) {
        let mut block = ZERO_BLOCK;
        encode(&mut block, PER_BLOCK, 0, node, put_leaf);
        seal(&mut block, inode_seed);
        level.push((node[0].logical, append(&block)?));
    }
    let mut depth = 1;
    root.nodes = level.len() as u64;
    while level.len() > PER_INODE {
        let mut above = Vec::with_capacity(level.len().div_ceil(PER_BLOCK));
        for node in level.chunks(PER_BLOCK) {
            let mut block = ZERO_BLOCK;
            encode(&mut block, PER_BLOCK, depth, node, put_index);
            seal(&mut block, inode_seed);
            above.push((node[0].0, append(&block)?));
        }
        level = above;
        depth += 1;
        root.nodes += level.len() as u64;
    }
    encode(&mut root.i_block, PER_INODE, depth, &level, put_index);
    Ok(root)
}

fn encode<T>(node: &mut [u8], max: usize, depth: u16, entries: &[T], put: impl Fn(&mut [u8], &T)) {
    put16(node, 0, EXT4_EXT_MAGIC);
    put16(node, 2, entries.len() as u16);
    put16(node, 4, max as u16);
    put16(node, 6, depth);
    for (slot, entry) in node[HEADER..].chunks_mut(ENTRY).zip(entries) {
        put(slot, entry);
    }
}

fn put_leaf(slot: &mut [u8], extent: &Extent) {
    put32(slot, 0, extent.logical);
    put16(slot, 4, extent.len as u16);
    put16(slot, 6, (extent.physical >> 32) as u16);
    put32(slot, 8, extent.physical as u32);
}

fn put_index(slot: &mut [u8], &(logical, block): &(u32, u64)) {
    put32(slot, 0, logical);
    put32(slot, 4, block as u32);
    put16(slot, 8, (block >> 32) as u16);
}

/// `et_checksum` stands behind the last possible entry.
fn seal(block: &mut Block, inode_seed: u32) {
    let at = HEADER + PER_BLOCK * ENTRY;
    let sum = crc32c(inode_seed, &block[..at]);
    put32(block, at, sum);
}

/// A node that was read: either kind of entries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedNode {
    /// Depth 0.
    Leaf(Vec<Extent>),
    /// Depth and (first logical block, node).
    Index(u16, Vec<(u32, u64)>),
}

/// Parses a node of any size; none when it is not one.
pub(crate) fn parse_node(node: &[u8]) -> Option<ParsedNode> {
    if node.len() < HEADER || get16(node, 0) != EXT4_EXT_MAGIC {
        return None;
    }
    let (count, max, depth) = (get16(node, 2), get16(node, 4), get16(node, 6));
    let entries = node[HEADER..].chunks_exact(ENTRY);
    if count > max || usize::from(max) > entries.len() {
        return None;
    }
    let entries = entries.take(usize::from(count));
    if depth > 0 {
        let index = |slot: &[u8]| {
            let block = u64::from(get16(slot, 8)) << 32 | u64::from(get32(slot, 4));
            (get32(slot, 0), block)
        };
        return Some(ParsedNode::Index(depth, entries.map(index).collect()));
    }
    let leaf = |slot: &[u8]| {
        let len = u32::from(get16(slot, 4));
        let unwritten = len > EXT_INIT_MAX_LEN;
        Extent {
            logical: get32(slot, 0),
            len: if unwritten {
                len - EXT_INIT_MAX_LEN
            } else {
                len
            },
            physical: u64::from(get16(slot, 6)) << 32 | u64::from(get32(slot, 8)),
            unwritten,
        }
    };
    Some(ParsedNode::Leaf(entries.map(leaf).collect()))
}

/// Where a node's checksum stands, and what it should be.
pub(crate) fn node_checksum(block: &[u8], inode_seed: u32) -> Option<(u32, u32)> {
    let at = HEADER + usize::from(get16(block, 4)) * ENTRY;
    let stored = block.get(at..at + 4)?;
    Some((get32(stored, 0), crc32c(inode_seed, &block[..at])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_up_to_the_longest_extent() {
        let mut list = ExtentList::default();
        list.push(0, 100, 1);
        list.push(1, 101, 40_000);
        list.push(40_002, 40_102, 1);
        let extents = list.into_vec();
        let lens: Vec<u32> = extents.iter().map(|e| e.len).collect();
        assert_eq!(lens, [32_768, 7_233, 1]);
        assert_eq!(extents[1].logical, 32_768);
        assert_eq!(extents[1].physical, 100 + 32_768);
    }

    #[test]
    fn every_level_comes_back() {
        let extents: Vec<Extent> = (0..5000u32)
            .map(|i| Extent {
                logical: i * 2,
                len: 1,
                physical: (1 << 33) + u64::from(i),
                unwritten: false,
            })
            .collect();
        let mut blocks: Vec<Block> = Vec::new();
        let root = build_tree(&extents, 7, |block| {
            blocks.push(*block);
            Ok(blocks.len() as u64 - 1)
        })
        .unwrap();
        assert_eq!(root.nodes, 16);
        let Some(ParsedNode::Index(2, top)) = parse_node(&root.i_block) else {
            panic!("no index at the root");
        };
        let mut found = Vec::new();
        for (_, node) in top {
            let Some(ParsedNode::Index(1, leaves)) = parse_node(&blocks[node as usize]) else {
                panic!("no index below the root");
            };
            for (_, leaf) in leaves {
                let (stored, computed) = node_checksum(&blocks[leaf as usize], 7).unwrap();
                assert_eq!(stored, computed);
                let Some(ParsedNode::Leaf(part)) = parse_node(&blocks[leaf as usize]) else {
                    panic!("no leaf");
                };
                found.extend(part);
            }
        }
        assert_eq!(found, extents);
    }
}
