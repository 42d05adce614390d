//! Stretches of the sequence numbers (RFC 2018): what came before its turn, and what the guest says of the same kind.

use super::before;

/// The most that are remembered. A guest that makes more holes than this sends again what comes later.
const MOST: usize = 32;

/// Apart from each other and in order; each is its first number and the one behind its last.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().copied()
    }

    /// How many numbers there are from `from` on.
    pub fn count_from(&self, from: u32) -> usize {
        let later = self.iter().map(|(begin, end)| {
            let begin = if before(begin, from) { from } else { begin };
            (end.wrapping_sub(begin) as i32).max(0) as usize
        });
        later.sum()
    }

    /// Adds one, which must not be empty. False: there are too many. All that are in here at a time lie within half of the circle.
    pub fn insert(&mut self, mut begin: u32, mut end: u32) -> bool {
        self.0.retain(|(first, last)| {
            let apart = before(*last, begin) || before(end, *first);
            if !apart {
                begin = if before(*first, begin) { *first } else { begin };
                end = if before(end, *last) { *last } else { end };
            }
            apart
        });
        if self.0.len() >= MOST {
            return false;
        }
        let at = self.0.partition_point(|(first, _)| before(*first, begin));
        self.0.insert(at, (begin, end));
        true
    }

    /// Forgets what comes before `edge`.
    pub fn cut(&mut self, edge: u32) {
        self.0.retain_mut(|(begin, end)| {
            if before(*begin, edge) {
                *begin = edge;
            }
            before(*begin, *end)
        });
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The end of the one that has this number.
    pub fn end_of(&self, number: u32) -> Option<u32> {
        let has = |(begin, end): &(u32, u32)| !before(number, *begin) && before(number, *end);
        self.iter().find(has).map(|(_, end)| end)
    }

    /// Where the first one behind this number begins.
    pub fn next_after(&self, number: u32) -> Option<u32> {
        let mut begins = self.iter().map(|(begin, _)| begin);
        begins.find(|begin| before(number, *begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
        /// Oracle: a flag for each number.
        #[test]
        fn they_are_a_set(
            base: u32,
            steps in proptest::collection::vec((0..200_usize, 1..30_usize, any::<bool>()), 1..40),
        ) {
            let (mut ranges, mut flags) = (Ranges::default(), [false; 256]);
            let at = |place: usize| base.wrapping_add(place as u32);
            for (begin, len, cut) in steps {
                if cut && begin < 40 {
                    ranges.cut(at(begin));
                    flags[..begin].fill(false);
                } else if ranges.insert(at(begin), at(begin + len)) {
                    flags[begin..begin + len].fill(true);
                }
                let mut found = [false; 256];
                for (begin, end) in ranges.iter() {
                    let (begin, end) = (begin.wrapping_sub(base) as usize, end.wrapping_sub(base) as usize);
                    prop_assert!(begin < end && (begin == 0 || !found[begin - 1]));
                    found[begin..end].fill(true);
                }
                prop_assert_eq!(found, flags);
                for (place, set) in flags.iter().enumerate() {
                    prop_assert_eq!(ranges.end_of(at(place)).is_some(), *set);
                    let end = ranges.end_of(at(place)).map(|end| end.wrapping_sub(base) as usize);
                    prop_assert!(end.is_none_or(|end| !flags[end] && flags[place..end].iter().all(|set| *set)));
                    let next = ranges.next_after(at(place)).map(|next| next.wrapping_sub(base) as usize);
                    let expect = (place + 1..256).find(|next| flags[*next] && !flags[next - 1]);
                    prop_assert_eq!(next, expect);
                    let count = flags[place..].iter().filter(|set| **set).count();
                    prop_assert_eq!(ranges.count_from(at(place)), count);
                }
            }
        }
    }

    #[test]
    fn there_are_not_too_many() {
        let mut ranges = Ranges::default();
        for number in 0..MOST as u32 {
            assert!(ranges.insert(10 * number, 10 * number + 1));
        }
        assert!(!ranges.insert(5, 6));
        // One that fills a hole is none more.
        assert!(ranges.insert(1, 10));
        assert!(ranges.insert(5000, 6000));
    }
}
