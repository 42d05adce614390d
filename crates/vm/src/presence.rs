//! Who is connected, for a supervisor that lives for its clients only (`--maintenance`).
//!
//! A connection counts until it ends, or until its client says that it waits for the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// How long the first client may take to come: it connects before the supervisor has started, so that only one that died in
/// between takes this long.
const FIRST: Duration = Duration::from_secs(20);

/// Counts clients. Clones count together.
#[derive(Clone, Default)]
pub struct Presence {
    count: Arc<watch::Sender<Count>>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    here: usize,
    ever: usize,
}

/// One client. Clones are the same one.
#[derive(Clone, Default)]
pub struct Client(Arc<Mutex<Option<Counted>>>);

struct Counted(Presence);

impl Presence {
    /// One more.
    pub fn enter(&self) -> Client {
        self.count.send_modify(|count| {
            count.here += 1;
            count.ever += 1;
        });
        Client(Arc::new(Mutex::new(Some(Counted(self.clone())))))
    }

    /// Returns when everybody has left, or nobody came in time.
    pub async fn deserted(&self) {
        let mut count = self.count.subscribe();
        let left = |count: &Count| count.ever > 0 && count.here == 0;
        let came = count.wait_for(|count| count.ever > 0);
        let came = tokio::time::timeout(FIRST, came).await.is_ok();
        if came {
            let _ = count.wait_for(left).await;
        }
    }
}

impl Client {
    /// It counts no more.
    pub fn leave(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| count.here -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn deserted(presence: &Presence) -> bool {
        tokio::time::timeout(Duration::from_millis(1), presence.deserted())
            .await
            .is_ok()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_last_one_out() {
        let presence = Presence::default();
        assert!(!deserted(&presence).await);
        let first = presence.enter();
        let second = presence.enter();
        drop(first);
        assert!(!deserted(&presence).await);
        let clone = second.clone();
        clone.leave();
        clone.leave();
        assert!(deserted(&presence).await);
        let third = presence.enter();
        assert!(!deserted(&presence).await);
        drop(third);
        assert!(deserted(&presence).await);
    }
}
