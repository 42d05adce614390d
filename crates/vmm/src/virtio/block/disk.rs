//! The host's side of a disk: one open file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::SECTOR;
use crate::virtio::buffers::{Piece, iovecs};

/// An open raw image.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
}

impl Disk {
    /// Takes an open image. Its size, in whole sectors, is the disk's.
    pub fn new(mut file: File, read_only: bool) -> io::Result<Disk> {
        // Works for block devices as well, whose metadata have no length.
        let size = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        Ok(Disk {
            file,
            sectors: size / SECTOR,
            read_only,
        })
    }

    /// Its size.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Fills `pieces` from `offset` on.
    pub fn read(&self, pieces: &[Piece<'_>], offset: u64) -> io::Result<()> {
        self.all(pieces, offset, |vectors, offset| {
            // SAFETY: the vectors name pieces of guest memory, which is mapped for as long as the caller borrows them.
            // The guest may look on and write meanwhile, as with any device.
            unsafe {
                let count = vectors.len() as libc::c_int;
                libc::preadv(self.file.as_raw_fd(), vectors.as_ptr(), count, offset)
            }
        })
    }

    /// Writes `pieces` from `offset` on.
    pub fn write(&self, pieces: &[Piece<'_>], offset: u64) -> io::Result<()> {
        self.all(pieces, offset, |vectors, offset| {
            // SAFETY: as in `read`; the kernel only reads through these pointers.
            unsafe {
                let count = vectors.len() as libc::c_int;
                libc::pwritev(self.file.as_raw_fd(), vectors.as_ptr(), count, offset)
            }
        })
    }

    /// Calls until all bytes are moved.
    fn all(
        &self,
        pieces: &[Piece<'_>],
        offset: u64,
        call: impl Fn(&[libc::iovec], libc::off_t) -> isize,
    ) -> io::Result<()> {
        let mut vectors = iovecs(pieces);
        let mut rest = &mut vectors[..];
        let mut offset = offset;
        loop {
            while rest.first().is_some_and(|first| first.iov_len == 0) {
                rest = &mut rest[1..];
            }
            if rest.is_empty() {
                return Ok(());
            }
            let moved = match call(rest, offset as libc::off_t) {
                // The image was cut while it was in use.
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                moved if moved > 0 => moved as usize,
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error => return Err(error),
                },
            };
            offset += moved as u64;
            let mut left = moved;
            for vector in rest.iter_mut() {
                let step = left.min(vector.iov_len);
                vector.iov_base = vector.iov_base.wrapping_byte_add(step);
                vector.iov_len -= step;
                left -= step;
            }
        }
    }

    /// Makes what was written durable.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Makes a hole. Where the host has none, nothing: a discard is a hint.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match self.punch(offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Zeroes a range; with `unmap` it may become a hole.
    pub fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        // The system call refuses an empty range.
        if len == 0 {
            return Ok(());
        }
        let quick = match unmap {
            true => self.punch(offset, len),
            false => fallocate(
                &self.file,
                FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                offset,
                len,
            ),
        };
        match quick {
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeros(offset, len),
            result => Ok(result?),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> rustix::io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, offset, len)
    }

    fn write_zeros(&self, mut offset: u64, len: u64) -> io::Result<()> {
        let zeros = [0; 64 * 1024];
        let end = offset + len;
        while offset < end {
            let step = zeros.len().min((end - offset) as usize);
            self.file.write_all_at(&zeros[..step], offset)?;
            offset += step as u64;
        }
        Ok(())
    }
}
