//! `state.json` of the container whose lock we hold: what stands in it, and when it reaches the disk.
//!
//! Whoever changes something changes it here and has it written; so that what two tasks know about never undoes each
//! other. Three ways to write: [`Record::show`] for readers, at once, on the disk when the kernel likes; [`Record::keep`] on
//! the disk soon, by a thread of its own, with nobody waiting; [`Record::write`] on the disk before it returns. What was
//! only shown may be an empty file after a power cut, which is read as a container that was lost: so what is shown is kept, too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::container::{self, Container, State};
use store::file::Durability;
use tokio::task::JoinHandle;

/// The state of a container.
pub struct Record {
    file: Arc<File>,
    /// The last write that nobody waited for.
    kept: Mutex<Option<JoinHandle<()>>>,
}

struct File {
    container: Container,
    /// Held while it is written, so that an older state never replaces a newer one.
    state: Mutex<State>,
}

impl Record {
    /// Nothing is written by this.
    pub fn new(container: Container, state: State) -> Self {
        Record {
            file: Arc::new(File {
                container,
                state: Mutex::new(state),
            }),
            kept: Mutex::default(),
        }
    }

    /// Changes it, or looks at it, in memory.
    pub fn edit<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.file.state())
    }

    /// Writes it.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn write(&self) -> Result<(), container::Error> {
        let durability = self.file.container.durability();
        self.file.write(durability)
    }

    /// As [`Record::write`]; a failure is told in the log only, because what happened has happened.
    pub fn write_or_log(&self) {
        if let Err(error) = self.write() {
            complain(&error);
        }
    }

    /// Writes it for readers.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn show(&self) -> Result<(), container::Error> {
        self.file.write(Durability::Unsynced)
    }

    /// As [`Record::show`]; a failure is told in the log only.
    pub fn show_or_log(&self) {
        if let Err(error) = self.show() {
            complain(&error);
        }
    }

    /// Has it written by another thread.
    pub fn keep(&self) {
        if self.file.container.durability() == Durability::Unsynced {
            return;
        }
        let file = self.file.clone();
        let writing = tokio::task::spawn_blocking(move || {
            if let Err(error) = file.write(Durability::Synced) {
                complain(&error);
            }
        });
        *self.kept() = Some(writing);
    }

    /// Waits for the last [`Record::keep`].
    pub async fn kept_is_done(&self) {
        let kept = self.kept().take();
        if let Some(kept) = kept {
            let _ = kept.await;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, durability: Durability) -> Result<(), container::Error> {
        let state = self.state();
        self.container.write_state_as(&state, durability)
    }
}

fn complain(error: &container::Error) {
    let error = error as &dyn std::error::Error;
    tracing::error!(error, "the state can't be written");
}
