//! Whether a container's processes are frozen, and on whose behalf.
//!
//! A person may pause it, and transfers hold it still while they read: it is frozen as long as one of them wants that. A
//! stop thaws it for good. Changes go to the agent one after another.

use proto::supervisor::Failure;
use tokio::sync::{Mutex, watch};

use crate::guest::Guest;

/// Of one run.
pub struct Freezer {
    wanted: Mutex<Wanted>,
    frozen: watch::Sender<bool>,
}

#[derive(Default)]
struct Wanted {
    by_person: bool,
    holders: u32,
    /// It is being stopped: nobody freezes it any more.
    thawed: bool,
}

impl Wanted {
    fn frozen(&self) -> bool {
        !self.thawed && (self.by_person || self.holders > 0)
    }
}

impl Default for Freezer {
    fn default() -> Self {
        Freezer {
            wanted: Mutex::default(),
            frozen: watch::Sender::new(false),
        }
    }
}

impl Freezer {
    /// Whether the processes are frozen, now and from now on.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.frozen.subscribe()
    }

    /// A person pauses it, or lets it go on. False when it was so already.
    pub async fn pause(&self, guest: &Guest, paused: bool) -> Result<bool, Failure> {
        let mut wanted = self.wanted.lock().await;
        if wanted.by_person == paused {
            return Ok(false);
        }
        wanted.by_person = paused;
        let applied = self.apply(guest, &wanted).await;
        if applied.is_err() {
            wanted.by_person = !paused;
        }
        applied.map(|()| true)
    }

    /// Holds it still until [`Freezer::release`], which must follow.
    pub async fn hold(&self, guest: &Guest) -> Result<(), Failure> {
        let mut wanted = self.wanted.lock().await;
        wanted.holders += 1;
        let applied = self.apply(guest, &wanted).await;
        if applied.is_err() {
            wanted.holders -= 1;
        }
        applied
    }

    /// The end of a [`Freezer::hold`].
    pub async fn release(&self, guest: &Guest) {
        let mut wanted = self.wanted.lock().await;
        wanted.holders -= 1;
        if let Err(failure) = self.apply(guest, &wanted).await {
            // The guest is lost, most likely, and nothing of it runs any more.
            let failure = crate::failure::describe(&failure);
            tracing::warn!(%failure, "the container can't be thawed");
        }
    }

    /// Thaws it for good. True when a person had paused it.
    pub async fn thaw(&self, guest: &Guest) -> Result<bool, Failure> {
        let mut wanted = self.wanted.lock().await;
        wanted.thawed = true;
        let paused = std::mem::take(&mut wanted.by_person);
        self.apply(guest, &wanted).await.map(|()| paused)
    }

    async fn apply(&self, guest: &Guest, wanted: &Wanted) -> Result<(), Failure> {
        let frozen = wanted.frozen();
        if frozen != *self.frozen.borrow() {
            guest.pause(frozen).await?;
            self.frozen.send_replace(frozen);
        }
        Ok(())
    }
}
