//! The bytes of one file.

use std::io;

use super::{Reader, Result, Source, read_exact};
use crate::extent::Extent;
use crate::inode::Inode;

/// A file's contents: read in order through [`io::Read`], or anywhere. Holes read as zeros.
#[derive(Debug)]
pub struct Contents<'a, S> {
    reader: &'a Reader<S>,
    extents: Vec<Extent>,
    len: u64,
    position: u64,
}

impl<'a, S: Source> Contents<'a, S> {
    pub(super) fn new(reader: &'a Reader<S>, inode: &Inode, extents: Vec<Extent>) -> Self {
        Contents {
            reader,
            extents,
            len: inode.size,
            position: 0,
        }
    }

    /// Length in bytes. Of a damaged inode it may be anything: bound it before you allocate.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end.
    ///
    /// # Errors
    /// When the source fails.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = self.len.saturating_sub(offset);
        let wanted = left.min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            done += self.read_piece(&mut buf[done..wanted], offset + done as u64)?;
        }
        Ok(wanted)
    }

    /// Reads what lies in one extent or in one hole; at least one byte.
    fn read_piece(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let block_size = u64::from(self.reader.superblock.block_size);
        let block = offset / block_size;
        let end = |extent: &Extent| u64::from(extent.logical) + u64::from(extent.len);
        let at = self.extents.partition_point(|extent| end(extent) <= block);
        let next = self.extents.get(at);
        let (until, physical) = match next {
            Some(extent) if u64::from(extent.logical) <= block => {
                let within = offset - u64::from(extent.logical) * block_size;
                let physical = extent.physical * block_size + within;
                (end(extent), (!extent.unwritten).then_some(physical))
            }
            Some(extent) => (u64::from(extent.logical), None),
            None => (u64::MAX / block_size, None),
        };
        let piece = (until * block_size).saturating_sub(offset).max(1);
        let len = piece.min(buf.len() as u64) as usize;
        match physical {
            Some(physical) => read_exact(&self.reader.source, &mut buf[..len], physical)?,
            None => buf[..len].fill(0),
        }
        Ok(len)
    }
}

impl<S: Source> io::Read for Contents<'_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(buf, self.position).map_err(io::Error::other)?;
        self.position += count as u64;
        Ok(count)
    }
}
