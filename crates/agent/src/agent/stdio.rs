//! A process's streams: pipes or a terminal on its side, one vsock connection each on the host's.
//!
//! ```text
//! process ─ stdout pipe ─► copy_out ─► connection (id, bytes, end of file)
//! process ◄─ stdin pipe ── copy_in ◄── connection (id; then bytes, end of file from the host)
//! ```
//!
//! Pipes, not sockets, so that `echo > /dev/stdout` works. Copied through a buffer: a vsock socket can't be spliced
//! from, and splicing to it makes a packet of each page.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use proto::STREAM_ID_LEN;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::process::{ExitWatch, everybody_else_first};
use super::stream::{Dial, Stream, write_all};
use crate::failure::{Failed, Step};

/// Bytes of a copy's buffer; a vsock packet holds as many.
const BUFFER: usize = 64 << 10;

/// Bytes that a pipe holds: what a process can write before the host has to keep up.
const PIPE: usize = 256 << 10;

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// stdin.
    In,
    /// stdout or stderr.
    Out,
}

/// The child's end for one stream, and the agent's, where there is one.
pub(super) struct Ends {
    /// Blocking, for the process.
    pub(super) child: OwnedFd,
    /// Not blocking.
    pub(super) ours: Option<Arc<AsyncFd<OwnedFd>>>,
}

impl Ends {
    /// A pipe, or /dev/null when there is nobody at the other side.
    pub(super) fn make(direction: Direction, wanted: bool) -> Result<Self, Failed> {
        if !wanted {
            return Ok(Self {
                child: null()?,
                ours: None,
            });
        }
        let (reader, writer) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).step("make", "a pipe")?;
        // More than the limit for pipes allows is refused: then it stays as it was.
        let _ = rustix::pipe::fcntl_setpipe_size(&reader, PIPE);
        let (child, ours) = match direction {
            Direction::In => (reader, writer),
            Direction::Out => (writer, reader),
        };
        let ours = nonblocking(ours).step("prepare", "a pipe")?;
        Ok(Self {
            child,
            ours: Some(Arc::new(ours)),
        })
    }
}

fn null() -> Result<OwnedFd, Failed> {
    const NULL: &str = "/dev/null";
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(NULL, flags, rustix::fs::Mode::empty()).step("open", NULL)
}

/// Makes `fd` ready for tokio.
pub(super) fn nonblocking(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    crate::sys::watch(fd, Interest::READABLE | Interest::WRITABLE)
}

/// A connection to the host's stdio port that was begun, for the stream of this id.
pub(super) struct Dialling {
    socket: OwnedFd,
    id: [u8; STREAM_ID_LEN],
}

impl Dialling {
    /// Begins to dial; `None` for the empty id.
    pub(super) fn begin(dial: &impl Dial, id: &[u8]) -> Result<Option<Self>, Failed> {
        if id.is_empty() {
            return Ok(None);
        }
        let id = id
            .try_into()
            .map_err(|_| Failed::invalid("dial", "a stream", "an id has 16 bytes"))?;
        let socket = dial.dial(proto::STDIO_PORT).step("dial", "a stream")?;
        Ok(Some(Self { socket, id }))
    }

    /// Waits for the connection and sends the id.
    pub(super) async fn finish(self) -> Result<Stream, Failed> {
        let stream = Stream::connected(self.socket)
            .await
            .step("dial", "a stream")?;
        stream.send(&self.id).await.step("name", "a stream")?;
        Ok(stream)
    }
}

/// Copies what the process writes until its end: end of file, or (because others may hold the pipe) nothing left in it
/// after the process was reaped. Without a stream the bytes are dropped, so that the process never waits.
pub(super) async fn copy_out(from: Arc<AsyncFd<OwnedFd>>, to: Option<Stream>, mut exit: ExitWatch) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count @ 1..) = read_or_end(&from, &mut buffer, &mut exit).await {
        if let Some(stream) = &to
            && stream.send(&buffer[..count]).await.is_err()
        {
            // The host hung up: closing the pipe tells the process.
            return;
        }
    }
    if let Some(stream) = to {
        stream.end();
        // Closing pipe and connection is for later.
        exit.wait().await;
        everybody_else_first().await;
    }
}

async fn read_or_end(
    fd: &AsyncFd<OwnedFd>,
    buffer: &mut [u8],
    exit: &mut ExitWatch,
) -> io::Result<usize> {
    loop {
        if exit.ended() {
            return end_of_terminal(rustix::io::read(fd.get_ref(), &mut *buffer));
        }
        let mut ready = tokio::select! {
            ready = fd.readable() => ready?,
            () = exit.wait() => continue,
        };
        match ready.try_io(|fd| end_of_terminal(rustix::io::read(fd, &mut *buffer))) {
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

/// A terminal that nobody has open any more says EIO.
fn end_of_terminal(result: rustix::io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(Errno::IO) => Ok(0),
        result => Ok(result?),
    }
}

/// Copies what the host sends until its end of file, the process's, or that of the last reader. Dropping `to` is the end
/// of file for the process; a terminal has none, and stays.
pub(super) async fn copy_in(from: Stream, to: Arc<AsyncFd<OwnedFd>>, mut exit: ExitWatch) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = tokio::select! {
            received = from.receive(&mut buffer) => received.unwrap_or(0),
            _ = to.ready(Interest::ERROR) => break,
            () = exit.wait() => break,
        };
        if count == 0 {
            break;
        }
        let written = tokio::select! {
            written = write_all(&to, &buffer[..count]) => written,
            () = exit.wait() => break,
        };
        if written.is_err() {
            break;
        }
    }
}
