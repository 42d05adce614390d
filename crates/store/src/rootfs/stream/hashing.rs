//! The digest of what a layer unpacks to, taken by whoever has time.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use oci::{Digest, Hasher};

use super::{Chunk, give_back};

/// The digest of all chunks in their order, by whoever has time.
#[derive(Debug)]
pub(super) struct Hashing {
    /// Who has it takes in the oldest chunk that waits.
    hasher: Mutex<Hasher>,
    waiting: Mutex<Waiting>,
    /// A chunk came, or the last one did.
    changed: Condvar,
    pub(super) free: Sender<Chunk>,
}

#[derive(Debug, Default)]
struct Waiting {
    chunks: VecDeque<Arc<Chunk>>,
    is_all: bool,
}

impl Hashing {
    pub(super) fn new(free: Sender<Chunk>) -> Self {
        Self {
            hasher: Mutex::default(),
            waiting: Mutex::default(),
            changed: Condvar::new(),
            free,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, chunk: Arc<Chunk>) {
        self.waiting().chunks.push_back(chunk);
        self.changed.notify_one();
    }

    /// No more chunks come.
    pub(super) fn end(&self) {
        self.waiting().is_all = true;
        self.changed.notify_all();
    }

    /// Takes in a chunk, if one waits and nobody else takes one in. Whether it did.
    pub(super) fn help(&self) -> bool {
        match self.hasher.try_lock() {
            Ok(hasher) => self.step(hasher),
            Err(TryLockError::Poisoned(error)) => self.step(error.into_inner()),
            Err(TryLockError::WouldBlock) => false,
        }
    }

    fn step(&self, mut hasher: MutexGuard<'_, Hasher>) -> bool {
        let Some(chunk) = self.waiting().chunks.pop_front() else {
            return false;
        };
        hasher.update(&chunk.bytes[..chunk.len]);
        drop(hasher);
        give_back(chunk, &self.free);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Hasher> {
        self.hasher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what waits.
    pub(super) fn drain(&self) {
        while self.step(self.lock()) {}
    }

    /// The third thread, where there is a core for it.
    pub(super) fn work(&self) {
        loop {
            self.drain();
            let waiting = self.waiting();
            let more = |waiting: &mut Waiting| waiting.chunks.is_empty() && !waiting.is_all;
            let waiting = self.changed.wait_while(waiting, more);
            if waiting
                .unwrap_or_else(PoisonError::into_inner)
                .chunks
                .is_empty()
            {
                return;
            }
        }
    }

    /// The digest, after the last chunk came.
    pub(super) fn finish(&self) -> Digest {
        self.drain();
        std::mem::take(&mut *self.lock()).finish()
    }
}
