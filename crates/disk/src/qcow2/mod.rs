//! One qcow2 file: which of its bytes hold which bytes of the disk.
//!
//! Source: QEMU's `docs/interop/qcow2.txt`, "Cluster mapping". A guest offset chooses an entry of the L1 table, which
//! stays in memory (at most 32 MiB, checked against the file's length); that names an L2 table of one cluster, of which
//! a [`Cursor`] holds the last one read; its entry names a cluster, plain or compressed.
//!
//! Nothing here trusts a number of the file. Where QEMU reads zeros for a cluster that lies behind the file's end, this
//! reader says that the file is cut off: nobody wants half a download to become a disk.

mod cluster;
mod header;

use std::fs::File;
use std::os::unix::fs::FileExt;

pub use cluster::Decompressor;
pub use header::{Compression, Header};
pub(crate) use header::{MAGIC, MOST, get64, parse};

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Subclusters of a cluster with extended L2 entries.
const SUBCLUSTERS: u32 = 32;

/// Why bytes of a qcow2 file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call.
    #[error("cannot read {len} bytes at offset {offset:#x}")]
    Read {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: usize,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Bytes that no program should have written.
    #[error("{0}")]
    Damaged(String),
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// What a range of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whatever the backing file has there, zeros where there is none.
    Unallocated,
    /// Zeros.
    Zero,
    /// Bytes of the file, from this offset on.
    Data {
        /// In bytes.
        offset: u64,
    },
    /// A part of a compressed cluster.
    Compressed {
        /// Where the compressed bytes are.
        offset: u64,
        /// How many bytes to read; the end of them may be somebody else's.
        len: u32,
        /// Where the cluster begins on the disk.
        cluster: u64,
    },
}

/// A range of the disk that is of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What it is.
    pub kind: Kind,
    /// Bytes, at least one.
    pub len: u64,
}

/// An L2 table that was read. Each thread that maps has its own.
#[derive(Debug, Default)]
pub struct Cursor {
    /// Where the table was read from.
    at: Option<u64>,
    table: Vec<u8>,
}

/// An open qcow2 file.
#[derive(Debug)]
pub struct Qcow2 {
    file: File,
    header: Header,
    l1: Vec<u64>,
    /// Of the file, in bytes.
    len: u64,
}

impl Qcow2 {
    /// Reads the L1 table of a file whose header was parsed.
    ///
    /// # Errors
    /// A table that does not lie in the file, or a system call that failed.
    pub fn open(file: File, header: Header) -> Result<Self> {
        let read = |source| Error::Read {
            offset: 0,
            len: 0,
            source,
        };
        let len = file.metadata().map_err(read)?.len();
        let bytes = u64::from(header.l1_size) * 8;
        let inside = header
            .l1_offset
            .checked_add(bytes)
            .is_some_and(|end| end <= len);
        if bytes > 0 && (!inside || header.l1_offset == 0) {
            return Err(Error::Damaged(format!(
                "the L1 table at {:#x} lies behind the end of the file, which is cut off at {len:#x}",
                header.l1_offset
            )));
        }
        // Only what the disk needs: the rest of the table is reserve.
        let needed = header.size.div_ceil(header.l2_span());
        let mut raw = vec![0; needed as usize * 8];
        read_at(&file, &mut raw, header.l1_offset)?;
        let (words, _) = raw.as_chunks::<8>();
        Ok(Self {
            l1: words.iter().map(|word| u64::from_be_bytes(*word)).collect(),
            file,
            header,
            len,
        })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What stands at a byte of the disk, and for how long (at most `most` bytes). `at` lies on the disk.
    ///
    /// # Errors
    /// Tables that make no sense or lie behind the end of the file.
    pub fn map(&self, cursor: &mut Cursor, at: u64, most: u64) -> Result<Run> {
        let span = self.header.l2_span();
        let index = at / span;
        let left = (span - at % span).min(most);
        let entry = usize::try_from(index).ok().and_then(|i| self.l1.get(i));
        let table = entry.map_or(0, |entry| entry & OFFSET_MASK);
        if table == 0 {
            return Ok(self.without_tables(index, left, most));
        }
        if !table.is_multiple_of(self.header.cluster_size()) {
            return Err(Error::Damaged(format!(
                "entry {index} of the L1 table names an L2 table at {table:#x}"
            )));
        }
        self.load(cursor, table)?;
        self.map_in_table(cursor, at, left)
    }

    /// As far as L1 entries go on without tables.
    fn without_tables(&self, index: u64, left: u64, most: u64) -> Run {
        let span = self.header.l2_span();
        let mut len = left;
        let rest = self.l1.get(index as usize + 1..).unwrap_or_default();
        for entry in rest {
            if len >= most || entry & OFFSET_MASK != 0 {
                break;
            }
            len = len.saturating_add(span);
        }
        Run {
            kind: Kind::Unallocated,
            len: len.min(most),
        }
    }

    fn load(&self, cursor: &mut Cursor, table: u64) -> Result<()> {
        if cursor.at == Some(table) {
            return Ok(());
        }
        let size = self.header.cluster_size();
        if table.checked_add(size).is_none_or(|end| end > self.len) {
            return Err(self.cut_off("an L2 table", table));
        }
        cursor.at = None;
        cursor.table.resize(size as usize, 0);
        read_at(&self.file, &mut cursor.table, table)?;
        cursor.at = Some(table);
        Ok(())
    }

    /// Joins the neighbours that are of one kind. `left` bytes do not leave the table.
    fn map_in_table(&self, cursor: &Cursor, at: u64, left: u64) -> Result<Run> {
        let mut run = self.map_piece(cursor, at)?;
        while run.len < left {
            let next = self.map_piece(cursor, at + run.len)?;
            let joined = match (run.kind, next.kind) {
                (Kind::Unallocated, Kind::Unallocated) | (Kind::Zero, Kind::Zero) => true,
                (Kind::Data { offset }, Kind::Data { offset: next }) => offset + run.len == next,
                _ => false,
            };
            if !joined {
                break;
            }
            run.len += next.len;
        }
        run.len = run.len.min(left);
        Ok(run)
    }

    /// What stands at a byte, to the end of its cluster or subcluster.
    fn map_piece(&self, cursor: &Cursor, at: u64) -> Result<Run> {
        let size = self.header.cluster_size();
        let entry_at = (at / size % self.header.l2_entries() * self.header.entry_size()) as usize;
        let within = at % size;
        let cluster = at - within;
        // The table has a cluster's length.
        let entry = get64(&cursor.table, entry_at).unwrap_or(0);
        if entry & COMPRESSED != 0 {
            return Ok(Run {
                kind: self.compressed(entry, cluster)?,
                len: size - within,
            });
        }
        let offset = entry & OFFSET_MASK;
        if !offset.is_multiple_of(size) {
            return Err(Error::Damaged(format!(
                "the cluster at {cluster:#x} of the disk is said to lie at {offset:#x}"
            )));
        }
        if self.header.extended_l2 {
            let bitmap = get64(&cursor.table, entry_at + 8).unwrap_or(0);
            return self.subcluster(offset, bitmap, cluster, within);
        }
        let kind = if entry & ZERO != 0 {
            if self.header.version < 3 {
                return Err(Error::Damaged(format!(
                    "the cluster at {cluster:#x} of the disk is a zero cluster in a version 2 image"
                )));
            }
            Kind::Zero
        } else if offset == 0 {
            Kind::Unallocated
        } else {
            self.data(offset, within)?
        };
        Ok(Run {
            kind,
            len: size - within,
        })
    }

    /// Bits 0 to 31 of the bitmap: allocated; 32 to 63: reads as zeros.
    fn subcluster(&self, offset: u64, bitmap: u64, cluster: u64, within: u64) -> Result<Run> {
        let size = self.header.cluster_size() / u64::from(SUBCLUSTERS);
        let index = (within / size) as u32;
        let allocated = bitmap >> index & 1 == 1;
        let zero = bitmap >> (index + SUBCLUSTERS) & 1 == 1;
        let kind = match (allocated, zero) {
            (false, false) => Kind::Unallocated,
            (false, true) => Kind::Zero,
            (true, false) if offset != 0 => self.data(offset, within)?,
            (true, _) => {
                return Err(Error::Damaged(format!(
                    "the bitmap {bitmap:#x} of the cluster at {cluster:#x} of the disk makes no sense"
                )));
            }
        };
        Ok(Run {
            kind,
            len: size - within % size,
        })
    }

    fn data(&self, offset: u64, within: u64) -> Result<Kind> {
        // The last cluster of a file need not be whole.
        if offset >= self.len {
            return Err(self.cut_off("a cluster", offset));
        }
        Ok(Kind::Data {
            offset: offset + within,
        })
    }

    /// The lower bits are the offset, the upper ones the number of further sectors.
    fn compressed(&self, entry: u64, cluster: u64) -> Result<Kind> {
        let bits = 62 - (self.header.cluster_bits - 8);
        let offset = entry & ((1 << bits) - 1);
        let sectors = (entry & !COMPRESSED & !(1 << 63)) >> bits;
        let len = (sectors + 1) * 512 - offset % 512;
        if offset >= self.len {
            return Err(self.cut_off("a compressed cluster", offset));
        }
        // At most 2^14 sectors. The file may end before its last sector does.
        Ok(Kind::Compressed {
            offset,
            len: len.min(self.len - offset) as u32,
            cluster,
        })
    }

    fn cut_off(&self, what: &str, at: u64) -> Error {
        Error::Damaged(format!(
            "{what} at {at:#x} lies behind the end of the file, which is cut off at {:#x}",
            self.len
        ))
    }
}

/// Reads all of `buf`; what lies behind the file's end is zeros.
pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> Result<()> {
    let len = buf.len();
    let mut done = 0;
    while done < len {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => {
                buf[done..].fill(0);
                break;
            }
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(Error::Read {
                    offset,
                    len,
                    source,
                });
            }
        }
    }
    Ok(())
}
