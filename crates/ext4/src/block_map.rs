//! Which blocks are used: one bitmap per group, made when its first block is marked.

use std::ops::Range;

use crate::layout::{BLOCKS_PER_GROUP, Block, ZERO_BLOCK};

/// The block bitmaps of a file system that may still grow.
#[derive(Debug, Default)]
pub(crate) struct BlockMap {
    groups: Vec<Option<Box<Block>>>,
}

impl BlockMap {
    /// Marks blocks as used. False when one of them was used already.
    #[must_use]
    pub(crate) fn mark(&mut self, start: u64, count: u64) -> bool {
        let mut fresh = true;
        let (mut block, end) = (start, start + count);
        while block < end {
            let group = (block / BLOCKS_PER_GROUP) as usize;
            if self.groups.len() <= group {
                self.groups.resize(group + 1, None);
            }
            let bits = self.groups[group].get_or_insert_with(|| Box::new(ZERO_BLOCK));
            let first = block % BLOCKS_PER_GROUP;
            let last = BLOCKS_PER_GROUP.min(first + (end - block));
            fresh &= set_bits(&mut bits[..], first as usize, last as usize);
            block += last - first;
        }
        fresh
    }

    /// The runs of `blocks` that are not used, in order.
    pub(crate) fn free(&self, blocks: Range<u64>) -> Vec<Range<u64>> {
        let mut free: Vec<Range<u64>> = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end {
            let (group, bit) = (at / BLOCKS_PER_GROUP, (at % BLOCKS_PER_GROUP) as usize);
            let (used, end) = match self.group(group) {
                Some(bits) if bit.is_multiple_of(8) && bits[bit / 8] == 0xff => (true, at + 8),
                Some(bits) => (bits[bit / 8] >> (bit % 8) & 1 == 1, at + 1),
                None => (false, (group + 1) * BLOCKS_PER_GROUP),
            };
            let end = end.min(blocks.end);
            match free.last_mut() {
                _ if used => {}
                Some(last) if last.end == at => last.end = end,
                _ => free.push(at..end),
            }
            at = end;
        }
        free
    }

    /// A group's bitmap; none when nothing in it is used.
    pub(crate) fn group(&self, group: u64) -> Option<&Block> {
        self.groups.get(group as usize)?.as_deref()
    }

    /// How many blocks of a group are used.
    pub(crate) fn used(&self, group: u64) -> u32 {
        self.group(group).map_or(0, |bits| {
            let (words, _) = bits.as_chunks::<8>();
            words
                .iter()
                .map(|word| u64::from_ne_bytes(*word).count_ones())
                .sum()
        })
    }
}

/// Sets bits `first..end` of a little-endian bitmap. False when one was set already.
pub(crate) fn set_bits(bits: &mut [u8], first: usize, end: usize) -> bool {
    let mut fresh = true;
    let mut bit = first;
    while bit < end {
        if bit.is_multiple_of(8) && end - bit >= 8 {
            let bytes = &mut bits[bit / 8..end / 8];
            fresh &= bytes.iter().all(|byte| *byte == 0);
            bytes.fill(0xff);
            bit = end / 8 * 8;
            continue;
        }
        let byte = &mut bits[bit / 8];
        let count = (8 - bit % 8).min(end - bit);
        let mask = (0xffu8 >> (8 - count)) << (bit % 8);
        fresh &= *byte & mask == 0;
        *byte |= mask;
        bit += count;
    }
    fresh
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_runs_are_what_nobody_marked() {
        let mut map = BlockMap::default();
        let group = BLOCKS_PER_GROUP;
        let check = |map: &BlockMap, blocks: Range<u64>, expect: &[Range<u64>]| {
            assert_eq!(map.free(blocks.clone()), expect, "{blocks:?}");
        };
        let all = 5..3 * group + 1;
        check(&map, all.clone(), std::slice::from_ref(&all));
        check(&map, 5..5, &[]);
        assert!(map.mark(2, 31) && map.mark(40, 1) && map.mark(3 * group, 8));
        check(&map, 0..41, &[0..2, 33..40]);
        check(&map, 3..45, &[33..40, 41..45]);
        check(
            &map,
            41..3 * group + 9,
            &[41..3 * group, 3 * group + 8..3 * group + 9],
        );
    }

    #[test]
    fn counts_across_groups_and_sees_double_use() {
        let mut map = BlockMap::default();
        assert!(map.mark(BLOCKS_PER_GROUP - 3, 10));
        assert_eq!((map.used(0), map.used(1), map.used(2)), (3, 7, 0));
        assert!(!map.mark(BLOCKS_PER_GROUP + 6, 2));
        assert!(map.group(2).is_none());
        let mut bits = [0u8; 4];
        assert!(set_bits(&mut bits, 3, 21));
        assert_eq!(bits, [0xf8, 0xff, 0x1f, 0]);
    }
}
