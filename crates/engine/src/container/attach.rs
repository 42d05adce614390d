//! A stream to and from a process in a guest.

use bytes::Bytes;

use super::{Event, TerminalSize};
use crate::Error;

/// A stream to and from a process.
#[derive(Debug)]
pub struct Attachment {
    input: AttachInput,
    output: AttachOutput,
}

impl Attachment {
    /// Its two directions, to be used at the same time.
    #[must_use]
    pub fn split(self) -> (AttachInput, AttachOutput) {
        (self.input, self.output)
    }
}

/// Towards the process. Clones go to the same place.
#[derive(Debug, Clone)]
pub struct AttachInput {}

#[allow(clippy::todo, unused_variables, clippy::unused_async)]
impl AttachInput {
    /// Sends input; waits while the process does not read.
    ///
    /// # Errors
    /// The attachment has ended.
    pub async fn stdin(&self, bytes: Bytes) -> Result<(), Error> {
        todo!()
    }

    /// The process reads end of file.
    ///
    /// # Errors
    /// The attachment has ended.
    pub async fn close_stdin(&self) -> Result<(), Error> {
        todo!()
    }

    /// The terminal has another size.
    ///
    /// # Errors
    /// The attachment has ended.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        todo!()
    }

    /// Sends a signal to the process; it does not queue behind input.
    ///
    /// # Errors
    /// The attachment has ended.
    pub async fn signal(&self, signal: u32) -> Result<(), Error> {
        todo!()
    }
}

/// From the process.
#[derive(Debug)]
pub struct AttachOutput {}

#[allow(clippy::todo, unused_variables, clippy::unused_async)]
impl AttachOutput {
    /// The next event. [`Event::Exited`] or [`Event::Failed`] is the last.
    ///
    /// # Errors
    /// The supervisor is gone without having said how the process ended.
    pub async fn next(&mut self) -> Result<Event, Error> {
        todo!()
    }

    /// After the last event: waits until the supervisor's process is gone, if we started it.
    ///
    /// # Errors
    /// Waiting failed.
    pub async fn finish(self) -> Result<(), Error> {
        todo!()
    }
}
