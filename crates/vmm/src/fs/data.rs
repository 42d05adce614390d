//! What is in files: bytes go straight between guest memory and the host's page cache.

use std::io;
use std::os::fd::AsRawFd;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::abi::{CopyFileRange, WRITE_CACHE, WRITE_KILL_SUIDGID, WriteIn, Writer};
use super::server::{Answer, Outcome, Server};
use crate::virtio::buffers::{Piece, iovecs, length};

impl Server {
    pub(super) fn read(&mut self, fh: u64, offset: u64, size: u32, body: &[Piece<'_>]) -> Outcome {
        let file = self.file(fh)?;
        let count = transfer(body, size as usize, offset, |vectors, offset| {
            // SAFETY: the vectors name pieces of guest memory, which is mapped for as long as the caller borrows them.
            // The guest may look on and write meanwhile, as with any device.
            unsafe {
                let count = vectors.len() as libc::c_int;
                libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, offset)
            }
        })?;
        Ok(Answer::Filled(count))
    }

    pub(super) fn write(&mut self, write: WriteIn, data: &[Piece<'_>]) -> Outcome {
        // Before anything: less than a byte may change a file, too (`kill_suid`).
        let mut file = self.file_to_write(write.fh)?;
        if write.size as usize != length(data) {
            return Err(Errno::INVAL);
        }
        let appends = || rustix::fs::fcntl_getfl(file).is_ok_and(|fl| fl.contains(OFlags::APPEND));
        let plain;
        if write.flags & WRITE_CACHE != 0 && appends() {
            // A page has its place, whoever's handle it comes by.
            plain = self.reopen(file, OFlags::WRONLY)?;
            file = &plain;
        }
        let count = transfer(data, length(data), write.offset, |vectors, offset| {
            // SAFETY: as in `read`; the kernel only reads through these pointers.
            unsafe {
                let count = vectors.len() as libc::c_int;
                libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count, offset)
            }
        })?;
        if write.flags & WRITE_KILL_SUIDGID != 0 {
            self.kill_suid(file)?;
        }
        let mut to = Writer::default();
        to.u32(count as u32).u32(0);
        Ok(Answer::Bytes(to.0))
    }

    pub(super) fn sync(&mut self, fh: u64, data_only: bool) -> Outcome {
        let fd = self.handles.get(&fh).and_then(|open| open.fd());
        let fd = fd.ok_or(Errno::BADF)?;
        match data_only {
            true => rustix::fs::fdatasync(fd)?,
            false => rustix::fs::fsync(fd)?,
        }
        Answer::done()
    }

    pub(super) fn allocate(&mut self, fh: u64, offset: u64, len: u64, mode: u32) -> Outcome {
        let known = FallocateFlags::KEEP_SIZE
            | FallocateFlags::PUNCH_HOLE
            | FallocateFlags::ZERO_RANGE
            | FallocateFlags::COLLAPSE_RANGE
            | FallocateFlags::INSERT_RANGE;
        let mode = FallocateFlags::from_bits(mode).filter(|mode| known.contains(*mode));
        let mode = mode.ok_or(Errno::OPNOTSUPP)?;
        rustix::fs::fallocate(self.file_to_write(fh)?, mode, offset, len)?;
        Answer::done()
    }

    /// Where data or a hole begins. The descriptor's own offset is nobody's.
    pub(super) fn seek(&mut self, fh: u64, offset: u64, whence: u32) -> Outcome {
        const SEEK_DATA: u32 = 3;
        const SEEK_HOLE: u32 = 4;
        let to = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let found = rustix::fs::seek(self.file(fh)?, to)?;
        Ok(Answer::Bytes(found.to_le_bytes().to_vec()))
    }

    pub(super) fn copy_range(&mut self, copy: CopyFileRange) -> Outcome {
        /// Others wait for this one: the guest asks again for the rest.
        const MOST: u64 = 64 << 20;
        if copy.flags != 0 {
            return Err(Errno::INVAL);
        }
        let (from, to) = (self.file(copy.fh_in)?, self.file_to_write(copy.fh_out)?);
        let (mut from_at, mut to_at) = (copy.offset_in, copy.offset_out);
        let len = copy.len.min(MOST) as usize;
        let count =
            rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), len)?;
        let mut to = Writer::default();
        to.u32(count as u32).u32(0);
        Ok(Answer::Bytes(to.0))
    }
}

/// Calls until `len` bytes are moved, or no more will be; says how many were.
fn transfer(
    pieces: &[Piece<'_>],
    len: usize,
    offset: u64,
    call: impl Fn(&[libc::iovec], libc::off_t) -> isize,
) -> Result<usize, Errno> {
    let start = libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)?;
    let mut vectors = iovecs(pieces);
    let mut left = len;
    for vector in &mut vectors {
        vector.iov_len = vector.iov_len.min(left);
        left -= vector.iov_len;
    }
    vectors.retain(|vector| vector.iov_len > 0);
    let mut rest = &mut vectors[..];
    let mut done = 0;
    while !rest.is_empty() {
        let at = start.checked_add(done as libc::off_t).ok_or(Errno::FBIG)?;
        let moved = match call(rest, at) {
            0 => break,
            moved if moved > 0 => moved as usize,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                // What was moved counts; the rest is asked for again, and refused then.
                _ if done > 0 => break,
                error => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            },
        };
        done += moved;
        let mut left = moved;
        for vector in rest.iter_mut() {
            let step = left.min(vector.iov_len);
            vector.iov_base = vector.iov_base.wrapping_byte_add(step);
            vector.iov_len -= step;
            left -= step;
        }
        while rest.first().is_some_and(|first| first.iov_len == 0) {
            rest = &mut rest[1..];
        }
    }
    Ok(done)
}
