//! From the guest to stdout and stderr.
//!
//! One thread writes, with blocking calls, in the order in which the bytes came; the channel to it is short, so that a
//! slow reader slows the guest down instead of filling memory. Small pieces that wait together go out together.

use std::io;
use std::os::fd::BorrowedFd;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::{stderr, stdout};
use tokio::sync::{mpsc, oneshot};

/// Pieces that may wait for a slow reader.
const WAITING: usize = 16;
/// Small pieces are joined up to this.
const BATCH: usize = 256 << 10;

/// Where a piece goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// The writing thread, seen from the session.
pub struct Writer {
    pieces: mpsc::Sender<(Stream, Bytes)>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Writer {
    /// Starts the thread.
    pub fn start() -> io::Result<Writer> {
        let (pieces, waiting) = mpsc::channel(WAITING);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                // The session may be gone already; then nobody asks.
                let _ = end.send(write_all(waiting));
            })?;
        Ok(Writer { pieces, ended })
    }

    /// Hands over a piece; waits while the reader is slow. `false`: writing failed, [`Writer::finish`] says how.
    pub async fn write(&self, stream: Stream, bytes: Bytes) -> bool {
        self.pieces.send((stream, bytes)).await.is_ok()
    }

    /// Waits until everything is written.
    pub async fn finish(self) -> io::Result<()> {
        drop(self.pieces);
        self.ended
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the output thread is gone")))
    }
}

fn write_all(mut waiting: mpsc::Receiver<(Stream, Bytes)>) -> io::Result<()> {
    let mut next = waiting.blocking_recv();
    while let Some((stream, first)) = next.take() {
        let mut joined = Vec::new();
        while joined.len() + first.len() < BATCH {
            match waiting.try_recv() {
                Ok((same, more)) if same == stream => {
                    if joined.is_empty() {
                        joined.extend_from_slice(&first);
                    }
                    joined.extend_from_slice(&more);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let bytes: &[u8] = if joined.is_empty() { &first } else { &joined };
        let fd = match stream {
            Stream::Stdout => stdout(),
            Stream::Stderr => stderr(),
        };
        write(fd, bytes)?;
        if next.is_none() {
            next = waiting.blocking_recv();
        }
    }
    Ok(())
}

fn write(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Somebody who shares the descriptor made it non-blocking.
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
