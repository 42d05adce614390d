//! Names in a directory, in one piece of memory: a million of them cost little more than their bytes.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, RawDir};

/// Bytes that the kernel is asked for at once.
const CHUNK: usize = 32 << 10;

/// Some names of a directory, or all of them.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Each name with its zero byte.
    bytes: Vec<u8>,
    /// Where each name begins, and its type.
    starts: Vec<(u32, FileType)>,
    next: usize,
}

impl Listing {
    /// The names that the kernel gives next; none at the end of the directory. In its order.
    pub(super) fn some(directory: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let mut listing = Self::default();
        listing.read(directory)?;
        Ok(listing)
    }

    /// Every name, sorted by its bytes.
    pub(super) fn all(directory: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let mut listing = Self::default();
        while listing.read(directory)? {}
        let Self { bytes, starts, .. } = &mut listing;
        starts.sort_unstable_by(|a, b| name_at(bytes, a.0).cmp(name_at(bytes, b.0)));
        Ok(listing)
    }

    /// False at the end of the directory.
    fn read(&mut self, directory: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); CHUNK];
        let mut entries = RawDir::new(directory, &mut buffer);
        loop {
            let Some(entry) = entries.next() else {
                return Ok(false);
            };
            let entry = entry?;
            let name = entry.file_name().to_bytes_with_nul();
            if !matches!(name, b".\0" | b"..\0") {
                let start =
                    u32::try_from(self.bytes.len()).map_err(|_| rustix::io::Errno::NOMEM)?;
                self.starts.push((start, entry.file_type()));
                self.bytes.extend_from_slice(name);
            }
            // More is asked for when there is something to show for it.
            if entries.is_buffer_empty() && !self.starts.is_empty() {
                return Ok(true);
            }
        }
    }

    /// The next name, without passing it.
    pub(super) fn peek(&self) -> Option<(&CStr, FileType)> {
        let &(start, kind) = self.starts.get(self.next)?;
        Some((name_at(&self.bytes, start), kind))
    }

    /// Passes the next name.
    pub(super) fn advance(&mut self) {
        self.next += 1;
    }
}

fn name_at(bytes: &[u8], start: u32) -> &CStr {
    let rest = bytes.get(start as usize..).unwrap_or_default();
    CStr::from_bytes_until_nul(rest).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn every_name_comes_once() {
        let directory = tempfile::tempdir().unwrap();
        let expect: BTreeSet<String> = (0..3000).map(|number| format!("file-{number}")).collect();
        for name in &expect {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let open = || std::fs::File::open(directory.path()).unwrap();
        let drained = |listing: &mut Listing, to: &mut Vec<String>| {
            while let Some((name, kind)) = listing.peek() {
                assert_eq!(kind, FileType::RegularFile);
                to.push(name.to_str().unwrap().to_owned());
                listing.advance();
            }
        };
        let mut all = Vec::new();
        drained(&mut Listing::all(open().as_fd()).unwrap(), &mut all);
        assert!(all.iter().eq(expect.iter()));
        let (file, mut some) = (open(), Vec::new());
        loop {
            let mut listing = Listing::some(file.as_fd()).unwrap();
            if listing.peek().is_none() {
                break;
            }
            drained(&mut listing, &mut some);
        }
        assert_eq!(some.len(), expect.len());
        assert_eq!(some.into_iter().collect::<BTreeSet<_>>(), expect);
    }
}
