//! When to lose patience with whom, in the order of time; each flow has one moment at most.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use netstack::FlowId;

/// How long all resolvers together may take: less than the C library of a guest waits (resolv.conf(5): twice 5 s), so that it hears how
/// it went.
pub const WHOLE: Duration = Duration::from_secs(9);

/// How long one may take that has others after it.
const ONE: Duration = Duration::from_secs(2);

/// How long the next resolver may take: one that others come after leaves each of them as long, the last has all that is left until
/// `end`. `left`: how many there are, it included.
pub fn patience(now: Duration, end: Duration, left: usize) -> Duration {
    let rest = end.saturating_sub(now);
    match left {
        0 | 1 => rest,
        left => ONE.min(rest / left as u32),
    }
}

/// Moments of flows.
#[derive(Debug, Default)]
pub struct Deadlines {
    order: BTreeSet<(Duration, FlowId)>,
    of: HashMap<FlowId, Duration>,
}

impl Deadlines {
    /// A flow's moment, instead of the one that it had.
    pub fn set(&mut self, flow: FlowId, when: Duration) {
        self.forget(flow);
        self.order.insert((when, flow));
        self.of.insert(flow, when);
    }

    /// A flow has none any more.
    pub fn forget(&mut self, flow: FlowId) {
        if let Some(when) = self.of.remove(&flow) {
            self.order.remove(&(when, flow));
        }
    }

    /// The earliest.
    pub fn next(&self) -> Option<Duration> {
        self.order.first().map(|(when, _)| *when)
    }

    /// A flow whose moment has come; it has none then.
    pub fn due(&mut self, now: Duration) -> Option<FlowId> {
        let (_, flow) = self
            .order
            .first()
            .copied()
            .filter(|(when, _)| *when <= now)?;
        self.forget(flow);
        Some(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_earliest_comes_first_whenever_it_was_set() {
        let mut deadlines = Deadlines::default();
        for (flow, when) in [(1, 9), (2, 2), (3, 2), (4, 1), (1, 3)] {
            deadlines.set(FlowId(flow), seconds(when));
        }
        deadlines.forget(FlowId(3));
        assert_eq!(deadlines.next(), Some(seconds(1)));
        let due: Vec<u64> = std::iter::from_fn(|| deadlines.due(seconds(3)))
            .map(|flow| flow.0)
            .collect();
        assert_eq!(due, [4, 2, 1]);
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn the_last_resolver_has_what_the_others_left() {
        // When each of so many is given up, none of which answers.
        let check = |count: usize, expect: &[u64]| {
            let mut now = seconds(100);
            let end = now + WHOLE;
            let given_up: Vec<u64> = (1..=count)
                .rev()
                .map(|left| {
                    now += patience(now, end, left);
                    (now - seconds(100)).as_secs()
                })
                .collect();
            assert_eq!(given_up, expect, "{count}");
        };
        check(1, &[9]);
        check(2, &[2, 9]);
        check(3, &[2, 4, 9]);
        check(9, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        // One that failed at once leaves its time to the others.
        assert_eq!(patience(seconds(0), WHOLE, 1), WHOLE);
        assert_eq!(patience(seconds(10), WHOLE, 2), Duration::ZERO);
    }
}
