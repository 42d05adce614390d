//! A set of block numbers: one bit each, in pieces that are made when their first bit is set.

use std::collections::HashMap;

const PER_PIECE: u64 = 1 << 15;
const WORDS: usize = (PER_PIECE / 64) as usize;

/// Block numbers.
#[derive(Debug, Default)]
pub(crate) struct Bits {
    pieces: HashMap<u64, Box<[u64; WORDS]>>,
}

impl Bits {
    /// Adds numbers; the first of them that was there already.
    pub(crate) fn add(&mut self, start: u64, count: u64) -> Option<u64> {
        let mut twice = None;
        let (mut at, end) = (start, start.saturating_add(count));
        while at < end {
            let piece = self
                .pieces
                .entry(at / PER_PIECE)
                .or_insert_with(|| Box::new([0; WORDS]));
            let stop = end.min((at / PER_PIECE + 1) * PER_PIECE);
            while at < stop {
                let within = at % PER_PIECE;
                let count = (64 - within % 64).min(stop - at);
                let mask = (u64::MAX >> (64 - count)) << (within % 64);
                let word = &mut piece[(within / 64) as usize];
                let before = *word & mask;
                if before != 0 && twice.is_none() {
                    twice = Some(at - within % 64 + u64::from(before.trailing_zeros()));
                }
                *word |= mask;
                at += count;
            }
        }
        twice
    }

    /// Whether a number is there.
    pub(crate) fn has(&self, number: u64) -> bool {
        let within = number % PER_PIECE;
        self.pieces
            .get(&(number / PER_PIECE))
            .is_some_and(|piece| piece[(within / 64) as usize] >> (within % 64) & 1 == 1)
    }

    /// Sets the bits of `map` (little-endian) that stand for numbers from `start` on; gives how many of `count` are there.
    pub(crate) fn copy(&self, start: u64, count: u64, map: &mut [u8]) -> u64 {
        let (mut used, mut done) = (0, 0);
        while done < count {
            let at = start + done;
            let len = (PER_PIECE - at % PER_PIECE).min(count - done);
            if let Some(piece) = self.pieces.get(&(at / PER_PIECE)) {
                for bit in 0..len {
                    let within = (at + bit) % PER_PIECE;
                    let target = done + bit;
                    if piece[(within / 64) as usize] >> (within % 64) & 1 == 1 {
                        map[(target / 8) as usize] |= 1 << (target % 8);
                        used += 1;
                    }
                }
            }
            done += len;
        }
        used
    }

    /// How many numbers there are.
    pub(crate) fn count(&self) -> u64 {
        let words = self.pieces.values().flat_map(|piece| piece.iter());
        words.map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_there_once() {
        let mut bits = Bits::default();
        assert_eq!(bits.add(100, 0), None);
        assert_eq!(bits.add(PER_PIECE - 70, 200), None);
        assert_eq!(bits.count(), 200);
        assert!(bits.has(PER_PIECE - 70) && bits.has(PER_PIECE + 129));
        assert!(!bits.has(PER_PIECE - 71) && !bits.has(PER_PIECE + 130));
        let mut map = [0; 3];
        assert_eq!(bits.copy(PER_PIECE + 120, 24, &mut map), 10);
        assert_eq!(map, [0xff, 3, 0]);
        assert_eq!(bits.add(PER_PIECE + 129, 5), Some(PER_PIECE + 129));
        assert_eq!(bits.add(0, 1 << 20), Some(PER_PIECE - 70));
        assert_eq!(bits.count(), 1 << 20);
    }
}
