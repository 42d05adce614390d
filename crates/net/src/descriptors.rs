//! Whose the descriptors are. A flow takes one, and guests decide how many flows there are: so each has its share of what there is,
//! and what supervisors need to join comes first.

use std::sync::Arc;

/// Descriptors that no flow gets, where there are many: the process's own, and what goes through its hands for a moment.
const RESERVE: usize = 64;

/// A descriptor that a flow has, until it is dropped.
#[derive(Debug)]
pub struct Share {
    _own: Arc<()>,
    _all: Arc<()>,
}

/// How many descriptors a guest's flows have.
#[derive(Debug, Default)]
pub struct Account(Arc<()>);

impl Account {
    fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// The descriptors of the process.
#[derive(Debug)]
pub struct Descriptors {
    limit: usize,
    flows: Account,
}

impl Descriptors {
    /// So many as the system gives us now (`RLIMIT_NOFILE`).
    pub fn new() -> Descriptors {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        Descriptors::with(limit.unwrap_or(usize::MAX))
    }

    fn with(limit: usize) -> Descriptors {
        Descriptors {
            limit: limit - RESERVE.min(limit / 8),
            flows: Account::default(),
        }
    }

    /// How many are taken; `others`: those that are no flow's.
    pub fn taken(&self, others: usize) -> usize {
        self.flows.count() + others
    }

    /// How many are left.
    pub fn left(&self, others: usize) -> usize {
        self.limit.saturating_sub(self.taken(others))
    }

    /// One for a flow of this guest's. `None`: it has as many as are left for all who may come, which is half of them when it is
    /// alone, and a third when there are two that want all they can get.
    pub fn share(&self, own: &Account, others: usize) -> Option<Share> {
        (own.count() < self.left(others)).then(|| Share {
            _own: own.0.clone(),
            _all: self.flows.0.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_later_has_a_share_too() {
        let descriptors = Descriptors::with(110);
        let take = |account: &Account| -> Vec<Share> {
            std::iter::from_fn(|| descriptors.share(account, 7)).collect()
        };
        // 110 but for an eighth, and 7 that are others'.
        let (greedy, late) = (Account::default(), Account::default());
        let mut first = take(&greedy);
        assert_eq!(first.len(), 45);
        let second = take(&late);
        assert_eq!(second.len(), 23);
        assert_eq!(descriptors.taken(7), 45 + 23 + 7);
        assert!(descriptors.left(7) > 0);
        // What is given back is had again.
        first.truncate(10);
        assert_eq!(take(&late).len(), 40 - 23);
        drop(second);
        assert_eq!(late.count(), 0);
    }

    #[test]
    fn few_are_shared_as_well() {
        let descriptors = Descriptors::with(8);
        assert_eq!(descriptors.left(0), 7);
        assert_eq!(descriptors.left(9), 0);
        assert!(descriptors.share(&Account::default(), 9).is_none());
    }
}
