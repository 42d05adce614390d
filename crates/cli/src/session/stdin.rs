//! From stdin to the guest.
//!
//! One thread reads, for as long as the session wants input. It waits in poll(2) for stdin or for the session's end,
//! whichever comes first, so it never sits in a read when the command ends and eats no key of the shell's. stdin is
//! shared with whoever started gourd and is therefore never made non-blocking. Regular files, pipes, terminals and
//! /dev/null are all the same to poll(2).

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use engine::AttachInput;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio::stdin;
use tokio::sync::mpsc;

use crate::failure::Failure;

/// One read, and one message to the supervisor.
const CHUNK: usize = 64 << 10;
/// Pieces that may wait for a guest that does not read.
const WAITING: usize = 2;

/// The reading thread, seen from the session. Dropping it ends the thread.
struct Reader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// Nothing is written to it: its end of file is the message.
    _until_dropped: OwnedFd,
}

/// Sends all of stdin, then its end.
pub async fn pump(input: &AttachInput) -> Result<(), Failure> {
    let mut reader = Reader::start().map_err(Failure::Stdin)?;
    while let Some(piece) = reader.pieces.recv().await {
        input.stdin(piece.map_err(Failure::Stdin)?).await?;
    }
    Ok(input.close_stdin().await?)
}

impl Reader {
    fn start() -> io::Result<Reader> {
        let (ended, until_dropped) = pipe_with(PipeFlags::CLOEXEC)?;
        let (sender, pieces) = mpsc::channel(WAITING);
        std::thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || {
                let mut buffer = vec![0; CHUNK];
                while let Some(piece) = next(&mut buffer, &ended).transpose() {
                    let failed = piece.is_err();
                    if sender.blocking_send(piece).is_err() || failed {
                        return;
                    }
                }
            })?;
        Ok(Reader {
            pieces,
            _until_dropped: until_dropped,
        })
    }
}

/// The next piece; `None` at the end of stdin or of the session.
fn next(buffer: &mut [u8], ended: &OwnedFd) -> io::Result<Option<Bytes>> {
    let fd = stdin();
    loop {
        let mut polled = [
            PollFd::new(&fd, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
        ];
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if !polled[1].revents().is_empty() {
            return Ok(None);
        }
        match rustix::io::read(fd, &mut *buffer) {
            // EIO: a terminal that hung up.
            Ok(0) | Err(Errno::IO) => return Ok(None),
            Ok(read) => return Ok(Some(Bytes::copy_from_slice(&buffer[..read]))),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
