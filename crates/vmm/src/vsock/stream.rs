//! The host's side of a connection: a connected stream socket, and the bytes that it would not take yet.
//!
//! Reading and writing never wait, whatever the descriptor's flags, and go straight from and to guest memory.
//! Readiness is edge-triggered: the two flags remember the last edge until the kernel says "not now".

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{SendFlags, Shutdown};

use super::chain::{MAX_PIECES, Piece, copy_out, first_bytes};

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// That many bytes, never 0.
    Bytes(usize),
    /// Nothing now; there will be an edge.
    Nothing,
    /// End of file, or an error that means the same.
    End,
}

/// The host reads no more (`EPIPE`, `ECONNRESET`).
#[derive(Debug, PartialEq, Eq)]
pub struct Deaf;

/// A host socket with its backlog.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    /// Bytes from the guest that the socket has not taken. Bounded by the connection's `buf_alloc`.
    backlog: VecDeque<u8>,
    /// May have something to read.
    pub readable: bool,
    writable: bool,
    half_closed: bool,
    stopped: bool,
}

impl Stream {
    /// Takes a connected stream socket.
    pub fn new(fd: OwnedFd) -> Stream {
        Stream {
            fd,
            backlog: VecDeque::new(),
            readable: true,
            writable: true,
            half_closed: false,
            stopped: false,
        }
    }

    /// Bytes that wait for the socket.
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// An edge: the socket takes bytes again.
    pub fn set_writable(&mut self) {
        self.writable = true;
    }

    /// Reads into guest memory, at most `limit` bytes.
    pub fn read(&mut self, iovecs: &[libc::iovec]) -> Read {
        let mut message = message_of(iovecs);
        loop {
            // SAFETY: the message's only pointer is to iovecs that the caller made from pieces of guest memory,
            // mapped while it holds them; the guest may look on, which is as with any device.
            let got =
                unsafe { libc::recvmsg(self.fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
            if got > 0 {
                return Read::Bytes(got as usize);
            }
            if got == 0 {
                self.readable = false;
                return Read::End;
            }
            match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Read::Nothing;
                }
                _ => {
                    self.readable = false;
                    return Read::End;
                }
            }
        }
    }

    /// Writes the first `len` bytes of `pieces`; keeps what the socket does not take. Returns how many it took.
    pub fn write(&mut self, pieces: &[Piece<'_>], len: usize) -> Result<usize, Deaf> {
        let mut taken = 0;
        if self.backlog.is_empty() && self.writable {
            let iovecs: Vec<libc::iovec> = first_bytes(pieces, len)
                .map(|piece| iovec_of(&piece))
                .collect();
            taken = self.send(&iovecs)?;
        }
        if taken < len {
            self.writable = false;
            copy_out(first_bytes(pieces, len), taken, |bytes| {
                self.backlog.extend(bytes)
            });
        }
        Ok(taken)
    }

    /// Writes from the backlog. Returns how many bytes left it.
    pub fn flush(&mut self) -> Result<usize, Deaf> {
        let mut total = 0;
        while self.writable && !self.backlog.is_empty() {
            let (front, back) = self.backlog.as_slices();
            let slices = [IoSlice::new(front), IoSlice::new(back)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let sent = rustix::net::sendmsg(&self.fd, &slices, &mut Default::default(), flags);
            match sent {
                Ok(0) => self.writable = false,
                Ok(sent) => {
                    self.backlog.drain(..sent);
                    total += sent;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => self.writable = false,
                Err(_) => return Err(Deaf),
            }
        }
        if self.backlog.is_empty() {
            // A slow reader once is no reason to hold memory for ever.
            self.backlog = VecDeque::new();
        }
        Ok(total)
    }

    /// Forgets the backlog and returns how much it was.
    pub fn discard(&mut self) -> usize {
        std::mem::take(&mut self.backlog).len()
    }

    /// Tells the host that no more comes, if all has been written. Idempotent.
    pub fn finish_writing(&mut self) {
        if self.backlog.is_empty() && !self.half_closed {
            self.half_closed = true;
            // The other end may be gone already; then it needs no telling.
            let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
        }
    }

    /// Tells the host that nobody reads what it sends. Idempotent.
    pub fn stop_reading(&mut self) {
        self.readable = false;
        if !self.stopped {
            self.stopped = true;
            let _ = rustix::net::shutdown(&self.fd, Shutdown::Read);
        }
    }

    fn send(&mut self, iovecs: &[libc::iovec]) -> Result<usize, Deaf> {
        let message = message_of(iovecs);
        loop {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: as in `read`; the kernel only reads through these pointers.
            let sent = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &message, flags) };
            if sent >= 0 {
                return Ok(sent as usize);
            }
            match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => return Ok(0),
                _ => return Err(Deaf),
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The kernel's name for a piece of guest memory. Good while the piece is.
pub fn iovec_of(piece: &Piece<'_>) -> libc::iovec {
    libc::iovec {
        iov_base: piece.ptr_guard_mut().as_ptr().cast(),
        iov_len: piece.len(),
    }
}

fn message_of(iovecs: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr: no address, no buffers, no control part.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_ptr().cast_mut();
    message.msg_iovlen = iovecs.len().min(MAX_PIECES) as _;
    message
}
