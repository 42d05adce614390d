//! Which layers are here, while others still come.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use oci::Digest;

/// Tells whoever makes a rootfs image which of its layers are here.
#[derive(Debug, Default)]
pub struct Arrivals {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    here: BTreeSet<Digest>,
    over: bool,
}

impl Arrivals {
    /// A blob is whole, and in the store.
    pub fn arrived(&self, blob: Digest) {
        self.lock().here.insert(blob);
        self.changed.notify_all();
    }

    /// No more come. Whoever waits for one ends with [`super::Error::NotComing`].
    pub fn give_up(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    /// Lets those that wait look again whether they still want it.
    pub(super) fn wake(&self) {
        // Under the lock: nobody is between the look and the wait.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Waits for a blob; false when it isn't coming, or isn't wanted any more.
    pub(super) fn wait(&self, blob: &Digest, wanted: impl Fn() -> bool) -> bool {
        let state = self.changed.wait_while(self.lock(), |state| {
            !state.here.contains(blob) && !state.over && wanted()
        });
        let state = state.unwrap_or_else(PoisonError::into_inner);
        state.here.contains(blob) && wanted()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
