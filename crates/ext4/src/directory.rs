//! Directories: entries, and the hash tree over many of them.
//!
//! Source: `Documentation/filesystems/ext4/directory.rst`. An entry is `inode` (32), `rec_len`
//! (16), `name_len` (8), `file_type` (8), then the name, padded to four bytes. A leaf block ends
//! in a 12-byte entry without inode that holds the block's checksum.
//!
//! A directory of one block is linear. A larger one is indexed: block 0 holds `.`, `..` and the
//! root of the index, which names leaf blocks by the lowest hash in them, directly or through one
//! level of index blocks.

use crate::crc::crc32c;
use crate::dirhash::{DX_HASH_HALF_MD4, half_md4};
use crate::layout::{BLOCK_SIZE, Block, ZERO_BLOCK};
use crate::le::{get16, get32, put16, put32};

pub(crate) const EXT4_FT_REG_FILE: u8 = 1;
pub(crate) const EXT4_FT_DIR: u8 = 2;
pub(crate) const EXT4_FT_CHRDEV: u8 = 3;
pub(crate) const EXT4_FT_BLKDEV: u8 = 4;
pub(crate) const EXT4_FT_FIFO: u8 = 5;
pub(crate) const EXT4_FT_SOCK: u8 = 6;
pub(crate) const EXT4_FT_SYMLINK: u8 = 7;
const EXT4_FT_DIR_CSUM: u8 = 0xde;

/// The entry that carries a leaf's checksum.
pub(crate) const TAIL: usize = 12;
const LEAF: usize = BLOCK_SIZE - TAIL;
const DOTS: usize = 24;
/// `dx_root_info` and eight bytes per entry; the last eight bytes are the checksum's.
const ROOT_ENTRIES: usize = 0x20;
const NODE_ENTRIES: usize = 8;
const ROOT_LIMIT: usize = (BLOCK_SIZE - ROOT_ENTRIES) / 8 - 1;
const NODE_LIMIT: usize = (BLOCK_SIZE - NODE_ENTRIES) / 8 - 1;

/// One name and what it stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) ino: u32,
    pub(crate) file_type: u8,
}

impl Entry<'_> {
    fn size(&self) -> usize {
        8 + self.name.len().next_multiple_of(4)
    }

    /// Writes the entry at `at`, `rec_len` bytes long.
    fn put(&self, block: &mut Block, at: usize, rec_len: usize) {
        put32(block, at, self.ino);
        put16(block, at + 4, rec_len as u16);
        block[at + 6] = self.name.len() as u8;
        block[at + 7] = self.file_type;
        block[at + 8..at + 8 + self.name.len()].copy_from_slice(self.name);
    }
}

/// A directory's blocks in logical order.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) blocks: Vec<Block>,
    pub(crate) indexed: bool,
}

/// Which directory is written, and what its hashes and checksums start from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) ino: u32,
    pub(crate) parent: u32,
    pub(crate) inode_seed: u32,
    pub(crate) hash_seed: [u32; 4],
}

/// Encodes a directory; none when its index would need a third level.
pub(crate) fn encode(entries: &[Entry<'_>], place: &Place) -> Option<Encoded> {
    let size: usize = entries.iter().map(Entry::size).sum();
    if DOTS + size > LEAF {
        return indexed(entries, place);
    }
    Some(Encoded {
        blocks: vec![encode_small(entries, place)],
        indexed: false,
    })
}

/// Encodes a directory of a few short names, which fit into one block.
pub(crate) fn encode_small(entries: &[Entry<'_>], place: &Place) -> Block {
    let all: Vec<Entry<'_>> = dots(place).iter().chain(entries).copied().collect();
    leaf(&all, place.inode_seed)
}

fn dots(place: &Place) -> [Entry<'static>; 2] {
    let directory = |name, ino| Entry {
        name,
        ino,
        file_type: EXT4_FT_DIR,
    };
    [directory(b".", place.ino), directory(b"..", place.parent)]
}

/// A leaf without entries, such as `lost+found` keeps for bad times.
pub(crate) fn empty_leaf(inode_seed: u32) -> Block {
    let mut block = ZERO_BLOCK;
    put16(&mut block, 4, LEAF as u16);
    seal_leaf(&mut block, inode_seed);
    block
}

fn leaf(entries: &[Entry<'_>], inode_seed: u32) -> Block {
    let mut block = ZERO_BLOCK;
    let mut at = 0;
    for (i, entry) in entries.iter().enumerate() {
        let last = i + 1 == entries.len();
        let rec_len = if last { LEAF - at } else { entry.size() };
        entry.put(&mut block, at, rec_len);
        at += rec_len;
    }
    seal_leaf(&mut block, inode_seed);
    block
}

fn seal_leaf(block: &mut Block, inode_seed: u32) {
    put16(block, LEAF + 4, TAIL as u16);
    block[LEAF + 7] = EXT4_FT_DIR_CSUM;
    let sum = crc32c(inode_seed, &block[..LEAF]);
    put32(block, LEAF + 8, sum);
}

fn indexed(entries: &[Entry<'_>], place: &Place) -> Option<Encoded> {
    let mut hashed: Vec<((u32, u32), Entry<'_>)> = entries
        .iter()
        .map(|entry| (half_md4(entry.name, &place.hash_seed), *entry))
        .collect();
    hashed.sort_unstable_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.name.cmp(y.name)));

    let mut leaves: Vec<Block> = Vec::new();
    let mut index: Vec<u32> = Vec::new();
    let mut rest = &hashed[..];
    let mut last_hash = None;
    while let Some(((hash, _), _)) = rest.first() {
        let mut size = 0;
        let fits = rest.iter().take_while(|(_, entry)| {
            size += entry.size();
            size <= LEAF
        });
        let (now, later) = rest.split_at(fits.count());
        let now: Vec<Entry<'_>> = now.iter().map(|(_, entry)| *entry).collect();
        leaves.push(leaf(&now, place.inode_seed));
        // an odd hash says that the block before has entries of the same hash
        let continues = u32::from(last_hash == Some(*hash));
        index.push(if leaves.len() == 1 {
            0
        } else {
            hash | continues
        });
        last_hash = rest
            .get(now.len().wrapping_sub(1))
            .map(|((hash, _), _)| *hash);
        rest = later;
    }

    let deep = leaves.len() > ROOT_LIMIT;
    let nodes = if deep {
        leaves.len().div_ceil(NODE_LIMIT)
    } else {
        0
    };
    if nodes > ROOT_LIMIT {
        return None;
    }
    let first_leaf = 1 + nodes as u32;
    let leaf_entries: Vec<(u32, u32)> = index.into_iter().zip(first_leaf..).collect();
    let mut blocks = vec![ZERO_BLOCK];
    let mut root_entries = Vec::new();
    if deep {
        for part in leaf_entries.chunks(NODE_LIMIT) {
            root_entries.push((part[0].0, blocks.len() as u32));
            blocks.push(node(part, place.inode_seed));
        }
    } else {
        root_entries = leaf_entries;
    }
    blocks[0] = root(
        &dots(place),
        &root_entries,
        u8::from(deep),
        place.inode_seed,
    );
    blocks.extend(leaves);
    Some(Encoded {
        blocks,
        indexed: true,
    })
}

/// `dx_root`: the two dots, `dx_root_info` at 0x18, entries from 0x20.
fn root(dots: &[Entry<'_>; 2], entries: &[(u32, u32)], levels: u8, inode_seed: u32) -> Block {
    let mut block = ZERO_BLOCK;
    dots[0].put(&mut block, 0, 12);
    dots[1].put(&mut block, 12, BLOCK_SIZE - 12);
    block[0x1c] = DX_HASH_HALF_MD4;
    block[0x1d] = 8; // info_length
    block[0x1e] = levels;
    put_index(&mut block, ROOT_ENTRIES, ROOT_LIMIT, entries);
    seal_index(&mut block, ROOT_ENTRIES, inode_seed);
    block
}

/// `dx_node`: one entry without inode that spans the block, index entries from 8.
fn node(entries: &[(u32, u32)], inode_seed: u32) -> Block {
    let mut block = ZERO_BLOCK;
    put16(&mut block, 4, BLOCK_SIZE as u16);
    put_index(&mut block, NODE_ENTRIES, NODE_LIMIT, entries);
    seal_index(&mut block, NODE_ENTRIES, inode_seed);
    block
}

/// `limit` and `count` take the place of the first entry's hash, which is the lowest anyway.
fn put_index(block: &mut Block, at: usize, limit: usize, entries: &[(u32, u32)]) {
    for (i, (hash, target)) in entries.iter().enumerate() {
        put32(block, at + i * 8, *hash);
        put32(block, at + i * 8 + 4, *target);
    }
    put16(block, at, limit as u16);
    put16(block, at + 2, entries.len() as u16);
}

fn seal_index(block: &mut Block, at: usize, inode_seed: u32) {
    if let Some((_, sum)) = index_checksum(&block[..], at, inode_seed) {
        put32(block, BLOCK_SIZE - 4, sum);
    }
}

/// `dx_tail` stands behind the last possible entry; its sum covers the entries in use and itself
/// with the sum taken as zero. The stored and the computed sum.
fn index_checksum(block: &[u8], at: usize, inode_seed: u32) -> Option<(u32, u32)> {
    let tail = at + usize::from(get16(block, at)) * 8;
    let used = block.get(..at + usize::from(get16(block, at + 2)) * 8)?;
    let tail = block.get(tail..tail + 8)?;
    let sum = crc32c(inode_seed, used);
    let sum = crc32c(sum, &tail[..4]);
    Some((get32(tail, 4), crc32c(sum, &[0; 4])))
}

/// The stored and the computed checksum of a directory block, index or leaf; none when it has no
/// room for one. The block has at least 1024 bytes.
pub(crate) fn block_checksum(
    block: &[u8],
    first: bool,
    indexed: bool,
    inode_seed: u32,
) -> Option<(u32, u32)> {
    let spans = usize::from(get16(block, 4)) == block.len() || get16(block, 4) == u16::MAX;
    if indexed && first {
        index_checksum(block, ROOT_ENTRIES, inode_seed)
    } else if indexed && get32(block, 0) == 0 && spans {
        index_checksum(block, NODE_ENTRIES, inode_seed)
    } else {
        let (body, tail) = block.split_at(block.len() - TAIL);
        let is_tail = get16(tail, 4) == TAIL as u16 && tail[7] == EXT4_FT_DIR_CSUM;
        is_tail.then(|| (get32(tail, 8), crc32c(inode_seed, body)))
    }
}

/// Parses the entries of a block in use, without index and checksum entries; none when an
/// entry leaves the block or its own record.
pub(crate) fn parse_block(block: &[u8]) -> Option<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < block.len() {
        let rest = &block[at..];
        if rest.len() < 8 {
            return None;
        }
        // in blocks of 64 KiB the whole block does not fit 16 bits
        let rec_len = match get16(rest, 4) {
            0 | u16::MAX if block.len() == 1 << 16 => rest.len(),
            len => usize::from(len),
        };
        let name_len = usize::from(rest[6]);
        if rec_len < 8 || rec_len % 4 != 0 || rec_len > rest.len() || 8 + name_len > rec_len {
            return None;
        }
        if get32(rest, 0) != 0 {
            if name_len == 0 {
                return None;
            }
            entries.push(Entry {
                name: &rest[8..8 + name_len],
                ino: get32(rest, 0),
                file_type: rest[7],
            });
        }
        at += rec_len;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(count: u32, name: impl Fn(u32) -> Vec<u8>, blocks: usize, indexed: bool) {
        let names: Vec<Vec<u8>> = (0..count).map(name).collect();
        let entries: Vec<Entry<'_>> = names
            .iter()
            .zip(100..)
            .map(|(name, ino)| Entry {
                name,
                ino,
                file_type: EXT4_FT_REG_FILE,
            })
            .collect();
        let place = Place {
            ino: 12,
            parent: 2,
            inode_seed: 5,
            hash_seed: [1, 2, 3, 4],
        };
        let encoded = encode(&entries, &place).unwrap();
        assert_eq!((encoded.blocks.len(), encoded.indexed), (blocks, indexed));
        let mut found = Vec::new();
        for (i, block) in encoded.blocks.iter().enumerate() {
            let (stored, computed) = block_checksum(&block[..], i == 0, indexed, 5).unwrap();
            assert_eq!(stored, computed);
            let parsed = parse_block(&block[..]).unwrap();
            found.extend(parsed.iter().map(|e| (e.name.to_vec(), e.ino)));
        }
        let mut expect: Vec<(Vec<u8>, u32)> = names.into_iter().zip(100..).collect();
        expect.push((b".".to_vec(), 12));
        expect.push((b"..".to_vec(), 2));
        expect.sort();
        found.sort();
        assert_eq!(found, expect);
    }

    #[test]
    fn every_entry_comes_back() {
        check(0, |_| Vec::new(), 1, false);
        check(255, |i| format!("{i:08}").into_bytes(), 1 + 1, true);
        check(256, |i| format!("{i:08}").into_bytes(), 1 + 2, true);
        check(100, |i| format!("{i:0255}").into_bytes(), 8, true);
        // 15 entries of 264 bytes a leaf: more than 507 leaves need a second level
        check(
            8000,
            |i| format!("{i:0255}").into_bytes(),
            1 + 2 + 534,
            true,
        );
    }

    #[test]
    fn an_index_of_three_levels_is_refused() {
        assert_eq!(ROOT_LIMIT, 507);
        assert_eq!(NODE_LIMIT, 510);
    }
}
