//! Who is connected, for a supervisor that lives for its clients only (`--maintenance`).
//!
//! A connection counts until it ends, or until its client says that it waits for the end. Those whose clients read what a
//! process wrote count for themselves, until they end: nobody leaves while they have not read it all.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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
    reading: usize,
}

/// One client. Clones are the same one.
#[derive(Clone)]
pub struct Client {
    presence: Presence,
    counted: Arc<Mutex<Option<Counted>>>,
    reading: Arc<OnceLock<Reading>>,
}

struct Counted(Presence);

struct Reading(Presence);

impl Presence {
    /// One more.
    pub fn enter(&self) -> Client {
        self.count.send_modify(|count| {
            count.here += 1;
            count.ever += 1;
        });
        Client {
            presence: self.clone(),
            counted: Arc::new(Mutex::new(Some(Counted(self.clone())))),
            reading: Arc::default(),
        }
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

    /// Returns when nobody is connected who reads what a process wrote.
    pub async fn unread(&self) {
        let mut count = self.count.subscribe();
        // The sender lives as long as this.
        let _ = count.wait_for(|count| count.reading == 0).await;
    }
}

impl Client {
    /// It counts no more.
    pub fn leave(&self) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        drop(counted.take());
    }

    /// It reads what a process writes.
    pub fn reads(&self) {
        self.reading.get_or_init(|| {
            self.presence.count.send_modify(|count| count.reading += 1);
            Reading(self.presence.clone())
        });
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| count.reading -= 1);
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

    #[tokio::test(flavor = "current_thread")]
    async fn readers_count_for_as_long_as_they_are_connected() {
        let presence = Presence::default();
        let unread = || tokio::time::timeout(Duration::from_millis(1), presence.unread());
        let (one, idle) = (presence.enter(), presence.enter());
        assert!(unread().await.is_ok());
        let clone = one.clone();
        clone.reads();
        one.reads();
        one.leave();
        drop(one);
        assert!(unread().await.is_err());
        drop(clone);
        assert!(unread().await.is_ok());
        drop(idle);
    }
}
