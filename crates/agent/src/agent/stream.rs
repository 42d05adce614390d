//! A stream socket for tokio: the agent's connection, and one per stdio stream.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::fs::OFlags;
use rustix::net::Shutdown;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Who the agent dials for stdio.
pub(super) trait Dial: Send + Sync + 'static {
    /// Begins a connection to a port of the host; see [`Stream::connected`].
    fn dial(&self, port: u32) -> io::Result<OwnedFd>;
}

/// The host, over vsock.
pub(super) struct Vsock;

impl Dial for Vsock {
    fn dial(&self, port: u32) -> io::Result<OwnedFd> {
        crate::sys::vsock_connect(port, None)
    }
}

/// A connected stream socket. Clones share it; it closes with the last.
#[derive(Debug, Clone)]
pub(super) struct Stream(Arc<AsyncFd<OwnedFd>>);

impl Stream {
    /// Waits until a connection that was begun without blocking stands.
    pub(super) async fn connected(socket: OwnedFd) -> io::Result<Self> {
        let socket = crate::sys::watch(socket, Interest::READABLE | Interest::WRITABLE)?;
        drop(socket.writable().await?);
        rustix::net::sockopt::socket_error(socket.get_ref())??;
        Ok(Self(Arc::new(socket)))
    }

    /// Reads some bytes; none is the end.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        read(&self.0, buffer).await
    }

    /// Writes all of `bytes`.
    pub(super) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        write_all(&self.0, bytes).await
    }

    /// The socket, for a process that takes it over: calls on it wait from now on.
    pub(super) fn blocking(&self) -> io::Result<BorrowedFd<'_>> {
        let socket = self.0.get_ref();
        let flags = rustix::fs::fcntl_getfl(socket)?;
        rustix::fs::fcntl_setfl(socket, flags - OFlags::NONBLOCK)?;
        Ok(socket.as_fd())
    }

    /// Sends the end of file.
    pub(super) fn end(&self) {
        // It fails when the other side is gone, which is an end as well.
        let _ = rustix::net::shutdown(self.0.get_ref(), Shutdown::Write);
    }

    /// Sends the end of file and waits until the other side has closed, or is gone.
    pub(super) async fn finish(&self) {
        self.end();
        let mut rest = [0; 256];
        while matches!(self.receive(&mut rest).await, Ok(1..)) {}
    }
}

/// Reads some bytes from a descriptor that does not block; none is the end.
pub(super) async fn read(fd: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = fd.readable().await?;
        match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?)) {
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

/// Writes all of `bytes` to a descriptor that does not block.
pub(super) async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = fd.writable().await?;
        match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
            Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(Ok(count)) => bytes = &bytes[count..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            match ready.try_io(|fd| Ok(rustix::io::read(fd, room)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}
