//! `content/ingest/<hex>.part`: a blob that comes in piece by piece, in any order, and what came of it before.
//!
//! The file has the blob's bytes at their places, holes where they are missing, and behind them a table of how much is there:
//!
//! ```text
//! 0 ............ size | magic, 16 bytes | for each segment of 4 MiB: u32 LE, bytes from its start on that are there |
//! ```
//!
//! It is written while the bytes come, so that a killed process loses no more than the last pieces. The table is not
//! synced: after a crash of the host it may promise too much. So the digest of all bytes decides in the end, and a
//! file that lied is thrown away. Whoever writes holds the blob's [`Claim`]; there is never a second one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci::{Digest, Hasher};

use super::{Claim, Error, MAX_BLOB};
use crate::file::{self, Durability};
use crate::{Root, fault};

const MAGIC: &[u8; 16] = b"gourd partial 1\n";

/// Bytes of a segment. Parts of a download that come side by side begin at multiples of it, so that each has a count of
/// its own. Small in tests, which have many.
const SEGMENT: u64 = if cfg!(test) { 64 << 10 } else { 4 << 20 };

/// So many bytes of a segment may be there without the table saying so.
const UNSAID: u64 = SEGMENT / 16;

/// Bytes that are read back at once to be hashed.
const CHUNK: usize = 256 << 10;

/// The most that is read back to be hashed when a piece is written.
const CATCH_UP: u64 = 8 << 20;

/// The ending of the files' names.
const ENDING: &str = ".part";

/// A blob that is coming in. What is dropped stays, for the next one to go on with, unless the disk is full.
#[derive(Debug)]
pub struct Partial {
    root: Root,
    path: PathBuf,
    file: File,
    /// Dropped after the file's last word.
    claim: Claim,
    size: u64,
    /// Bytes that are there, by segment.
    counts: Vec<u32>,
    /// What the table in the file says.
    said: Vec<u32>,
    received: u64,
    hasher: Hasher,
    is_useless: bool,
}

impl Partial {
    /// Opens what is there of a blob that has `size` bytes, or begins.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; the file cannot be opened or made.
    pub fn open(root: &Root, claim: Claim, size: u64) -> Result<Self, Error> {
        if size > MAX_BLOB {
            let digest = claim.digest();
            return Err(Error::TooLarge { digest, size });
        }
        let name = format!("{}{ENDING}", claim.digest().hex());
        let path = root.content().join("ingest").join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(file::Error::at("open", &path))?;
        let mut partial = Self {
            root: root.clone(),
            path,
            file,
            claim,
            size,
            counts: Vec::new(),
            said: Vec::new(),
            received: 0,
            hasher: Hasher::new(),
            is_useless: false,
        };
        match partial.read_table() {
            Some(counts) => {
                partial.received = counts.iter().map(|count| u64::from(*count)).sum();
                partial.said.clone_from(&counts);
                partial.counts = counts;
            }
            None => partial.begin()?,
        }
        Ok(partial)
    }

    /// Throws away what is there, if anything is.
    fn begin(&mut self) -> Result<(), Error> {
        let segments = segments(self.size);
        self.counts = vec![0; segments];
        self.said = vec![0; segments];
        self.received = 0;
        self.hasher = Hasher::new();
        let whole = self.size + MAGIC.len() as u64 + 4 * segments as u64;
        let begun = (|| {
            self.file.set_len(0)?;
            self.file.set_len(whole)?;
            self.file.write_all_at(MAGIC, self.size)
        })();
        self.checked("write", begun)
    }

    /// What the table says, if it is one for a blob of this size.
    fn read_table(&self) -> Option<Vec<u32>> {
        let segments = segments(self.size);
        let mut table = vec![0; MAGIC.len() + 4 * segments];
        let whole = self.size + table.len() as u64;
        let length = self.file.metadata().ok()?.len();
        if length == self.size && length > 0 {
            // All of it was there, and only the name was missing.
            let full = |index| segment(index, self.size).end - segment(index, self.size).start;
            return Some((0..segments).map(|index| full(index) as u32).collect());
        }
        if length != whole {
            return None;
        }
        self.file.read_exact_at(&mut table, self.size).ok()?;
        let counts: Vec<u32> = table
            .strip_prefix(MAGIC)?
            .chunks_exact(4)
            .map(|count| u32::from_le_bytes([count[0], count[1], count[2], count[3]]))
            .collect();
        let fits = |(index, count): (usize, &u32)| {
            let segment = segment(index, self.size);
            u64::from(*count) <= segment.end - segment.start
        };
        counts.iter().enumerate().all(fits).then_some(counts)
    }

    /// Bytes that are there.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// What is not there, in order.
    #[must_use]
    pub fn missing(&self) -> Vec<Range<u64>> {
        let mut missing: Vec<Range<u64>> = Vec::new();
        for (index, count) in self.counts.iter().enumerate() {
            let segment = segment(index, self.size);
            let start = segment.start + u64::from(*count);
            match missing.last_mut() {
                _ if start == segment.end => {}
                Some(last) if last.end == start => last.end = segment.end,
                _ => missing.push(start..segment.end),
            }
        }
        missing
    }

    /// Takes some bytes. Pieces of one segment come in order; those of different ones in any.
    ///
    /// # Errors
    /// [`Error::Size`] when they lie behind the blob's end; the disk is full.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.size {
            return Err(Error::Size {
                digest: self.claim.digest(),
                expected: self.size,
                found: end,
            });
        }
        let written = self.file.write_all_at(bytes, offset);
        self.checked("write", written)?;
        self.count(offset..end)?;
        // Most come in order: they need not be read back.
        let hashed = self.hasher.len();
        if (offset..end).contains(&hashed)
            && let Some(fresh) = bytes.get((hashed - offset) as usize..)
        {
            self.hasher.update(fresh);
        }
        self.hash(CATCH_UP)
    }

    /// Notes that a range is there.
    fn count(&mut self, range: Range<u64>) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let index = (at / SEGMENT) as usize;
            let segment = segment(index, self.size);
            let end = range.end.min(segment.end);
            let known = segment.start + u64::from(self.counts[index]);
            // What would leave a hole behind is not counted: it comes again.
            if at <= known && end > known {
                self.received += end - known;
                self.counts[index] = (end - segment.start) as u32;
                let unsaid = self.counts[index] - self.said[index];
                if u64::from(unsaid) >= UNSAID || end == segment.end {
                    self.say(index)?;
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Writes a segment's count into the table.
    fn say(&mut self, index: usize) -> Result<(), Error> {
        let place = self.size + MAGIC.len() as u64 + 4 * index as u64;
        let count = self.counts[index];
        let written = self.file.write_all_at(&count.to_le_bytes(), place);
        self.checked("write", written)?;
        self.said[index] = count;
        fault::point("ingest.counted");
        Ok(())
    }

    /// Hashes what is there and comes next, at most so many bytes of it.
    fn hash(&mut self, most: u64) -> Result<(), Error> {
        let mut buffer = Vec::new();
        let until = self.hasher.len().saturating_add(most);
        loop {
            let at = self.hasher.len();
            let index = (at / SEGMENT) as usize;
            let Some(count) = self.counts.get(index) else {
                return Ok(());
            };
            let there = segment(index, self.size).start + u64::from(*count);
            let length = there.min(until).saturating_sub(at).min(CHUNK as u64);
            if length == 0 {
                return Ok(());
            }
            buffer.resize(length as usize, 0);
            let read = self.file.read_exact_at(&mut buffer, at);
            self.checked("read", read)?;
            self.hasher.update(&buffer);
        }
    }

    /// Checks that these are the bytes that were announced, and gives the blob its name.
    ///
    /// # Errors
    /// [`Error::Size`] when some are missing; [`Error::Digest`], and then nothing stays; it cannot be written.
    pub fn finish(mut self) -> Result<(Digest, u64), Error> {
        if self.received != self.size {
            return Err(Error::Size {
                digest: self.claim.digest(),
                expected: self.size,
                found: self.received,
            });
        }
        self.hash(u64::MAX)?;
        let found = std::mem::take(&mut self.hasher).finish();
        if found != self.claim.digest() {
            self.is_useless = true;
            return Err(Error::Digest {
                expected: self.claim.digest(),
                found,
            });
        }
        // From here on there is no table to say anything in.
        self.said.clone_from(&self.counts);
        let cut = self.file.set_len(self.size);
        self.checked("truncate", cut)?;
        fault::point("ingest.whole");
        let digest = self.claim.digest();
        let path = super::path(&self.root, &digest);
        file::publish(&self.file, &self.path, &path, Durability::Synced)?;
        Ok((digest, self.size))
    }

    /// Throws away what is there.
    pub fn discard(mut self) {
        self.is_useless = true;
    }

    /// What keeps the disk full is of no use.
    fn checked(&mut self, operation: &'static str, result: io::Result<()>) -> Result<(), Error> {
        result.map_err(|source| {
            self.is_useless |= file::is_no_room(&source);
            file::Error::new(operation, &self.path, source).into()
        })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.is_useless {
            // Best effort: the next one looks at it anyhow.
            let _ = fs::remove_file(&self.path);
            return;
        }
        for index in 0..self.counts.len() {
            if self.counts[index] != self.said[index] {
                // What is not said comes again.
                let _ = self.say(index);
            }
        }
    }
}

/// How many segments a blob has.
fn segments(size: u64) -> usize {
    usize::try_from(size.div_ceil(SEGMENT)).unwrap_or(usize::MAX)
}

/// Where a segment is.
fn segment(index: usize, size: u64) -> Range<u64> {
    let start = index as u64 * SEGMENT;
    start..size.min(start + SEGMENT)
}

/// Whether a file of `ingest/` is what is there of a blob.
pub(crate) fn is_partial(path: &Path) -> bool {
    let name = path.file_name().and_then(std::ffi::OsStr::to_str);
    let hex = name.and_then(|name| name.strip_suffix(ENDING));
    hex.is_some_and(|hex| format!("sha256:{hex}").parse::<Digest>().is_ok())
}

#[cfg(test)]
mod tests;
