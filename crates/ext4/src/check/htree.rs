//! The index over a large directory.

use std::collections::HashMap;

use super::geometry::Geometry;
use crate::dirhash::{DX_HASH_HALF_MD4, half_md4};
use crate::le::{get16, get32};

const ROOT_ENTRIES: usize = 0x20;
const NODE_ENTRIES: usize = 8;
const INCOMPAT_LARGEDIR: u32 = 0x4000;
const FLAGS_UNSIGNED_HASH: u32 = 2;
/// Legacy, half MD4, TEA, and the same with unsigned bytes.
const MOST_HASH: u8 = 5;

/// What is gathered of one index while its directory's blocks pass by in order.
#[derive(Debug)]
pub(crate) struct Index {
    problems: Vec<String>,
    levels: u8,
    /// By block of the directory: the level at which it stands, the hashes that may be in it (from, below).
    expected: HashMap<u32, (u8, u32, u64)>,
    /// Leaves: the least and the greatest hash that was seen.
    seen: HashMap<u32, (u32, u32)>,
    /// None: names are not hashed, in a way that is not known here.
    seed: Option<[u32; 4]>,
    /// Bytes above 127 count as negative ones, which is not known here.
    signed: bool,
    largest: u8,
    checksums: bool,
}

impl Index {
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let raw = &geometry.raw;
        Self {
            problems: Vec::new(),
            levels: 0,
            expected: HashMap::new(),
            seen: HashMap::new(),
            seed: Some(std::array::from_fn(|i| get32(raw, 0xec + i * 4))),
            signed: get32(raw, 0x160) & FLAGS_UNSIGNED_HASH == 0,
            largest: if geometry.superblock.incompat & INCOMPAT_LARGEDIR != 0 {
                3
            } else {
                2
            },
            checksums: geometry.superblock.has_checksums(),
        }
    }

    /// Takes a block; true when it belongs to the index, false when it is a leaf.
    pub(crate) fn take(&mut self, logical: u32, block: &[u8]) -> bool {
        if logical == 0 {
            self.root(block);
            return true;
        }
        let spans = usize::from(get16(block, 4)) == block.len() || get16(block, 4) == u16::MAX;
        let looks = get32(block, 0) == 0 && spans;
        match self.expected.get(&logical).copied() {
            Some((level, from, below)) if level > 0 => {
                if looks {
                    self.entries(logical, block, NODE_ENTRIES, level - 1, (from, below));
                } else {
                    self.problems
                        .push(format!("block {logical} is no node of it"));
                }
                true
            }
            // Nodes may stand behind the leaves that they name.
            None if looks && self.levels > 0 => {
                self.problems
                    .push(format!("node {logical} is not named in it"));
                true
            }
            _ => false,
        }
    }

    fn root(&mut self, block: &[u8]) {
        let (hash, length, levels, flags) = (block[0x1c], block[0x1d], block[0x1e], block[0x1f]);
        if get32(block, 0x18) != 0
            || length != 8
            || hash > MOST_HASH
            || levels >= self.largest
            || flags & 1 != 0
        {
            self.problems.push(format!(
                "its root has hash {hash}, length {length}, {levels} levels, flags {flags}"
            ));
            return;
        }
        self.levels = levels;
        if hash != DX_HASH_HALF_MD4 {
            self.seed = None;
        }
        self.entries(0, block, ROOT_ENTRIES, levels, (0, 1 << 32));
    }

    /// Entries are hash and block; the first one's hash is `limit` and `count` instead.
    fn entries(&mut self, logical: u32, block: &[u8], start: usize, level: u8, bounds: (u32, u64)) {
        let (limit, count) = (get16(block, start), get16(block, start + 2));
        let tail = if self.checksums { 8 } else { 0 };
        let room = (block.len() - start - tail) / 8;
        if usize::from(limit) != room || count > limit || count == 0 {
            self.problems
                .push(format!("block {logical} has {count} entries of {limit}"));
            return;
        }
        let entry = |number: usize| {
            let at = start + number * 8;
            let hash = if number == 0 {
                bounds.0
            } else {
                get32(block, at)
            };
            (hash, get32(block, at + 4) & 0x0fff_ffff)
        };
        for number in 0..usize::from(count) {
            let (hash, target) = entry(number);
            let below = match number + 1 {
                next if next < usize::from(count) => entry(next).0.into(),
                _ => bounds.1,
            };
            // The lowest bit says that the leaf before goes on: it then has this hash too.
            if u64::from(hash) & !1 > below & !1 {
                self.problems
                    .push(format!("hashes of block {logical} are out of order"));
            }
            let twice = self.expected.insert(target, (level, hash, below));
            if twice.is_some() || target == 0 {
                self.problems
                    .push(format!("block {target} is named twice in it"));
            }
        }
    }

    /// A name in a leaf.
    pub(crate) fn name(&mut self, logical: u32, name: &[u8]) {
        let Some(seed) = &self.seed else {
            return;
        };
        if self.signed && !name.is_ascii() {
            return;
        }
        let (hash, _) = half_md4(name, seed);
        let seen = self.seen.entry(logical).or_insert((hash, hash));
        *seen = (seen.0.min(hash), seen.1.max(hash));
    }

    /// What is wrong with the index of a directory of so many blocks.
    pub(crate) fn finish(mut self, blocks: u64) -> Vec<String> {
        if !self.problems.is_empty() {
            return self.problems;
        }
        for number in 1..u32::try_from(blocks).unwrap_or(u32::MAX) {
            if !self.expected.contains_key(&number) {
                self.problems
                    .push(format!("block {number} is not named in it"));
                break;
            }
        }
        for (number, (_, from, below)) in &self.expected {
            if u64::from(*number) >= blocks {
                self.problems
                    .push(format!("it names block {number}, behind the end"));
            }
            let Some((least, most)) = self.seen.get(number) else {
                continue;
            };
            let most_allowed = (*below & !1) + (*below & 1);
            if least < &(from & !1) || (u64::from(*most) >= most_allowed && most_allowed != 1 << 32)
            {
                self.problems
                    .push(format!("block {number} has names of other hashes"));
            }
        }
        self.problems.sort();
        self.problems
    }
}
