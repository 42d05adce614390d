//! Bytes of a stream that wait: written at the back, read and sent from where they lie, dropped at the front.

/// The least that is allocated.
const LEAST: usize = 4 << 10;

/// A ring of bytes that grows. Its memory is what it has ever held at once, until it is [let go](Ring::release).
#[derive(Debug, Default)]
pub(super) struct Ring {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    /// Bytes from `start` on of which some were [put ahead](Ring::put_ahead): `len` or more.
    reach: usize,
}

impl Ring {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory.
    pub fn allocated(&self) -> usize {
        self.bytes.len()
    }

    /// All that waits, in order.
    pub fn slices(&self) -> (&[u8], &[u8]) {
        self.range(0, self.len)
    }

    /// `len` bytes from `from` on, which must be there.
    pub fn range(&self, from: usize, len: usize) -> (&[u8], &[u8]) {
        debug_assert!(from + len <= self.reach);
        let begin = self.start + from;
        // Past the wrap altogether?
        if let Some(begin) = begin.checked_sub(self.bytes.len()) {
            return (&self.bytes[begin..begin + len], &[]);
        }
        let first = len.min(self.bytes.len() - begin);
        let (front, back) = (
            &self.bytes[begin..begin + first],
            &self.bytes[..len - first],
        );
        (front, back)
    }

    /// Drops that many from the front, or all.
    pub fn drop_front(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.reach -= count;
        self.start += count;
        if self.start >= self.bytes.len() {
            self.start -= self.bytes.len();
        }
        if self.reach == 0 {
            // What comes next lies in one piece, and in memory that was touched last.
            self.start = 0;
        }
    }

    /// Gives memory back when nothing waits.
    pub fn release(&mut self) {
        if self.reach == 0 {
            *self = Ring::default();
        }
    }

    /// Free places at the back, in two pieces, up to `most`: as many as there are, and never none unless `most` is 0. What is written there
    /// counts once it is [filled](Ring::fill).
    pub fn space(&mut self, most: usize) -> (&mut [u8], &mut [u8]) {
        if self.len == self.bytes.len() && most > 0 {
            self.grow((2 * self.len).min(self.len + most));
        }
        let free = (self.bytes.len() - self.len).min(most);
        self.places(self.start + self.len, free)
    }

    /// `free` places from `end` on, which is counted from the beginning of the memory.
    fn places(&mut self, end: usize, free: usize) -> (&mut [u8], &mut [u8]) {
        if let Some(end) = end.checked_sub(self.bytes.len()) {
            return (&mut self.bytes[end..end + free], &mut []);
        }
        let (front, back) = self.bytes.split_at_mut(end);
        let first = free.min(back.len());
        (&mut back[..first], &mut front[..free - first])
    }

    /// So many bytes of the [space](Ring::space) were written, or [put ahead](Ring::put_ahead).
    pub fn fill(&mut self, count: usize) {
        self.len = (self.len + count).min(self.bytes.len());
        self.reach = self.reach.max(self.len);
    }

    /// Writes behind a gap of `gap` bytes at the back. They count once the gap is filled, and they are.
    pub fn put_ahead(&mut self, gap: usize, bytes: &[u8]) {
        let reach = self.len + gap + bytes.len();
        if self.bytes.len() < reach {
            self.grow(reach);
        }
        let (front, back) = self.places(self.start + self.len + gap, bytes.len());
        let (first, second) = bytes.split_at(front.len());
        front.copy_from_slice(first);
        back.copy_from_slice(second);
        self.reach = self.reach.max(reach);
    }

    /// Writes at the back.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.bytes.len() - self.len < bytes.len() {
            self.grow(self.len + bytes.len());
        }
        let (front, back) = self.space(bytes.len());
        let (first, second) = bytes.split_at(front.len());
        front.copy_from_slice(first);
        back.copy_from_slice(second);
        self.fill(bytes.len());
    }

    fn grow(&mut self, least: usize) {
        let mut bytes = vec![0; least.max(LEAST).next_power_of_two()];
        let (front, back) = self.range(0, self.reach);
        bytes[..front.len()].copy_from_slice(front);
        bytes[front.len()..self.reach].copy_from_slice(back);
        self.bytes = bytes;
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Clone, Debug)]
    enum Step {
        Extend(usize),
        Fill(usize, usize),
        /// Puts the second half first, and then the first half.
        Ahead(usize, usize),
        Drop(usize),
        Range(usize, usize),
        Release,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..9000_usize).prop_map(Step::Extend),
            (0..9000_usize, 0..9000_usize).prop_map(|(most, count)| Step::Fill(most, count)),
            (0..9000_usize, 0..9000_usize).prop_map(|(gap, count)| Step::Ahead(gap, count)),
            (0..20_000_usize).prop_map(Step::Drop),
            (0..20_000_usize, 0..20_000_usize).prop_map(|(from, len)| Step::Range(from, len)),
            Just(Step::Release),
        ];
        proptest::collection::vec(step, 0..60)
    }

    fn joined((front, back): (&[u8], &[u8])) -> Vec<u8> {
        [front, back].concat()
    }

    proptest! {
        /// Oracle: the standard library's.
        #[test]
        fn it_is_a_queue(steps in steps()) {
            let (mut ring, mut queue) = (Ring::default(), VecDeque::new());
            let mut next = 0_u8;
            let mut fresh = move || { next = next.wrapping_add(1); next };
            for step in steps {
                match step {
                    Step::Extend(count) => {
                        let bytes: Vec<u8> = (0..count).map(|_| fresh()).collect();
                        ring.extend(&bytes);
                        queue.extend(bytes);
                    }
                    Step::Fill(most, count) => {
                        let (front, back) = ring.space(most);
                        let room = front.len() + back.len();
                        prop_assert!(room <= most && (room > 0 || most == 0));
                        let count = count.min(room);
                        for place in front.iter_mut().chain(back).take(count) {
                            *place = fresh();
                            queue.push_back(*place);
                        }
                        ring.fill(count);
                    }
                    Step::Ahead(gap, count) => {
                        let bytes: Vec<u8> = (0..gap + count).map(|_| fresh()).collect();
                        ring.put_ahead(gap, &bytes[gap..]);
                        // Half of what is there goes meanwhile.
                        let half = queue.len() / 2;
                        ring.drop_front(half);
                        queue.drain(..half);
                        prop_assert_eq!(ring.len(), queue.len());
                        ring.extend(&bytes[..gap]);
                        ring.fill(count);
                        queue.extend(bytes);
                    }
                    Step::Drop(count) => {
                        ring.drop_front(count);
                        queue.drain(..count.min(queue.len()));
                    }
                    Step::Range(from, len) => {
                        let from = from.min(queue.len());
                        let len = len.min(queue.len() - from);
                        let expect: Vec<u8> = queue.range(from..from + len).copied().collect();
                        prop_assert_eq!(joined(ring.range(from, len)), expect);
                    }
                    Step::Release => ring.release(),
                }
                prop_assert_eq!(ring.len(), queue.len());
                prop_assert_eq!(ring.is_empty(), queue.is_empty());
                prop_assert!(ring.allocated() >= ring.len());
            }
            prop_assert_eq!(joined(ring.slices()), Vec::from(queue));
        }
    }
}
