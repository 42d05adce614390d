//! Where the bytes of a file system go.

use std::fs::File;
use std::io;

/// A place of bytes that starts out empty and reads as zeros wherever nothing was written.
///
/// Both [`format`](fn@crate::format) and [`Writer`](crate::Writer) first set its length to zero, so that what it
/// held before cannot shine through: they leave out every block that is to be zero.
pub trait Disk {
    /// Writes all of `buf` at `offset` (bytes), growing the disk when it ends before that.
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the disk `len` bytes long; new bytes read as zeros.
    fn set_len(&mut self, len: u64) -> io::Result<()>;

    /// Makes `len` bytes at `offset` read as zeros, whatever was written there. A disk that can give their space back should.
    fn clear(&mut self, offset: u64, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let count = (end - at).min(ZEROS.len() as u64);
            self.write_at(&ZEROS[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }
}

/// Truncating a file that is empty already would make ext4 on the host write it out when it is
/// closed (`auto_da_alloc`), which costs far more than everything else.
fn resize(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() == len {
        return Ok(());
    }
    file.set_len(len)
}

impl Disk for File {
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, buf, offset)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        resize(self, len)
    }
}

impl Disk for &File {
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(*self, buf, offset)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        resize(self, len)
    }
}

impl<D: Disk + ?Sized> Disk for &mut D {
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        (**self).write_at(buf, offset)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }

    fn clear(&mut self, offset: u64, len: u64) -> io::Result<()> {
        (**self).clear(offset, len)
    }
}

/// A disk in memory.
impl Disk for Vec<u8> {
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::FileTooLarge)?;
        if self.len() < range.end {
            self.resize(range.end, 0);
        }
        self[range].copy_from_slice(buf);
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.resize(len, 0);
        Ok(())
    }
}
