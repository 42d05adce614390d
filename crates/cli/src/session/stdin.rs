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

use super::keys::{Keys, Watch};
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

/// Sends all of stdin, then its end. With `keys`, comes back as soon as they are typed; otherwise with the end.
pub async fn pump(input: &AttachInput, keys: Option<&Keys>) -> Result<Typed, Failure> {
    let mut reader = Reader::start().map_err(Failure::Stdin)?;
    let mut watch = keys.cloned().map(Watch::new);
    while let Some(piece) = reader.pieces.recv().await {
        let piece = piece.map_err(Failure::Stdin)?;
        let (piece, leaves) = match &mut watch {
            None => (piece, false),
            Some(watch) => {
                let (passed, leaves) = watch.pass(&piece);
                (passed.into(), leaves)
            }
        };
        if !piece.is_empty() {
            input.stdin(piece).await?;
        }
        if leaves {
            return Ok(Typed::Keys);
        }
    }
    let rest = watch.map(|mut watch| watch.rest()).unwrap_or_default();
    if !rest.is_empty() {
        input.stdin(rest.into()).await?;
    }
    input.close_stdin().await?;
    Ok(Typed::End)
}

/// What ended stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// Its end.
    End,
    /// The keys that leave the session.
    Keys,
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
