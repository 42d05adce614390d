//! The two ends of a transfer's stream: a bounded buffer each, between the socket and the container's files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::entry::BLOCK;
use crate::failure::{Failed, Step};

/// Bytes of a buffer: some packets of vsock (64 KiB each).
const BUFFER: usize = 256 << 10;

/// Where an archive goes.
pub(super) struct Output {
    to: OwnedFd,
    buffer: Box<[u8]>,
    filled: usize,
    sent: u64,
}

impl Output {
    pub(super) fn new(to: OwnedFd) -> Self {
        Self {
            to,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0,
            sent: 0,
        }
    }

    /// Appends `bytes`.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<(), Failed> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Appends as many zeros.
    pub(super) fn zeros(&mut self, mut count: u64) -> Result<(), Failed> {
        while count > 0 {
            let room = self.room()?;
            let now = room.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            room[..now].fill(0);
            self.filled += now;
            count -= now as u64;
        }
        Ok(())
    }

    /// Fills the last block of contents of this length.
    pub(super) fn pad(&mut self, length: u64) -> Result<(), Failed> {
        self.zeros(length.next_multiple_of(BLOCK as u64) - length)
    }

    /// Appends `count` bytes of a file from `offset` on. One that was cut in the meantime reads as zeros there, because
    /// the header has promised its length.
    pub(super) fn copy(
        &mut self,
        from: BorrowedFd<'_>,
        mut offset: u64,
        mut count: u64,
    ) -> rustix::io::Result<Result<(), Failed>> {
        while count > 0 {
            let room = match self.room() {
                Ok(room) => room,
                Err(failed) => return Ok(Err(failed)),
            };
            let most = room.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            match rustix::io::pread(from, &mut room[..most], offset) {
                Ok(0) => return Ok(self.zeros(count)),
                Ok(read) => {
                    self.filled += read;
                    offset += read as u64;
                    count -= read as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Ok(()))
    }

    fn room(&mut self) -> Result<&mut [u8], Failed> {
        if self.filled == self.buffer.len() {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.filled..])
    }

    fn flush(&mut self) -> Result<(), Failed> {
        let mut rest = &self.buffer[..self.filled];
        while !rest.is_empty() {
            match rustix::io::write(&self.to, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Failed::os("send to", "the host", errno)),
            }
        }
        self.sent += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Sends what is left; returns how many bytes it were in all.
    pub(super) fn finish(mut self) -> Result<u64, Failed> {
        self.flush()?;
        Ok(self.sent)
    }
}

/// Where an archive comes from.
pub(super) struct Input {
    from: OwnedFd,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    received: u64,
}

impl Input {
    pub(super) fn new(from: OwnedFd) -> Self {
        Self {
            from,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            received: 0,
        }
    }

    /// Bytes that came so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// What is there, and at least a byte; nothing at the end of the stream.
    fn available(&mut self) -> Result<&[u8], Failed> {
        while self.start == self.end {
            match rustix::io::read(&self.from, &mut *self.buffer) {
                Ok(0) => break,
                Ok(count) => {
                    (self.start, self.end) = (0, count);
                    self.received += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Failed::os("receive from", "the host", errno)),
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Whether the stream is at its end.
    pub(super) fn ended(&mut self) -> Result<bool, Failed> {
        Ok(self.available()?.is_empty())
    }

    /// Fills all of `bytes`.
    pub(super) fn exact(&mut self, mut bytes: &mut [u8]) -> Result<(), Failed> {
        while !bytes.is_empty() {
            let there = self.some()?;
            let count = there.len().min(bytes.len());
            bytes[..count].copy_from_slice(&there[..count]);
            self.start += count;
            bytes = &mut bytes[count..];
        }
        Ok(())
    }

    /// Passes over as many bytes.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), Failed> {
        while count > 0 {
            let there = self.some()?.len() as u64;
            let now = there.min(count);
            // No more than the buffer holds.
            self.start += usize::try_from(now).unwrap_or(0);
            count -= now;
        }
        Ok(())
    }

    /// Writes the next `count` bytes into a file from `offset` on.
    pub(super) fn copy(
        &mut self,
        to: BorrowedFd<'_>,
        mut offset: u64,
        mut count: u64,
        name: impl std::fmt::Display,
    ) -> Result<(), Failed> {
        while count > 0 {
            let there = self.some()?;
            let most = there
                .len()
                .min(usize::try_from(count).unwrap_or(usize::MAX));
            let written = match rustix::io::pwrite(to.as_fd(), &there[..most], offset) {
                Err(Errno::INTR) => 0,
                result => result.step("write", &name)?,
            };
            self.start += written;
            offset += written as u64;
            count -= written as u64;
        }
        Ok(())
    }

    /// Passes over everything until the end of the stream.
    pub(super) fn drain(&mut self) -> Result<(), Failed> {
        while !self.available()?.is_empty() {
            self.start = self.end;
        }
        Ok(())
    }

    fn some(&mut self) -> Result<&[u8], Failed> {
        let received = self.received;
        let there = self.available()?;
        if there.is_empty() {
            let at = format!("at byte {received}");
            return Err(Failed::invalid("read the archive", at, "it ends too early"));
        }
        Ok(there)
    }
}
