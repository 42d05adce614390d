//! The header and its extensions.
//!
//! Source: QEMU's `docs/interop/qcow2.txt`, "Header". All fields are big-endian.
//!
//! | offset | field | offset | field |
//! | --- | --- | --- | --- |
//! | 0 | magic `QFI\xfb` | 48 | `refcount_table_offset` |
//! | 4 | `version` | 56 | `refcount_table_clusters` |
//! | 8 | `backing_file_offset` (64) | 60 | `nb_snapshots` |
//! | 16 | `backing_file_size` | 64 | `snapshots_offset` (64) |
//! | 20 | `cluster_bits` | 72 | `incompatible_features` (64) |
//! | 24 | `size` (64) | 80 | `compatible_features` (64) |
//! | 32 | `crypt_method` | 88 | `autoclear_features` (64) |
//! | 36 | `l1_size` | 96 | `refcount_order` |
//! | 40 | `l1_table_offset` (64) | 100 | `header_length` |
//! | | | 104 | `compression_type` (8) |
//!
//! Refcounts and snapshots are not read: whoever only reads the active layer does without them.

pub(crate) const MAGIC: &[u8; 4] = b"QFI\xfb";
/// How much of a file's start holds all that this module reads: the largest cluster.
pub(crate) const MOST: usize = 1 << MAX_CLUSTER_BITS;

const MIN_CLUSTER_BITS: u32 = 9;
const MAX_CLUSTER_BITS: u32 = 21;
/// QEMU's limit on an L1 table: 32 MiB.
const MAX_L1_ENTRIES: u32 = (32 << 20) / 8;
const MAX_BACKING_NAME: usize = 1023;
const V2_LENGTH: usize = 72;
const V3_LENGTH: usize = 104;

const INCOMPAT_DIRTY: u64 = 1;
const INCOMPAT_CORRUPT: u64 = 2;
const INCOMPAT_DATA_FILE: u64 = 4;
const INCOMPAT_COMPRESSION: u64 = 8;
const INCOMPAT_EXTENDED_L2: u64 = 16;

const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_FEATURE_NAMES: u32 = 0x6803_f857;

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    Zlib,
    /// One Zstandard frame a cluster.
    Zstd,
}

/// A header that was read and whose fields make sense on their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// 9 to 21.
    pub cluster_bits: u32,
    /// Bytes of the disk.
    pub size: u64,
    /// How clusters are compressed, if any is.
    pub compression: Compression,
    /// Clusters are allocated by 32nds.
    pub extended_l2: bool,
    /// How many snapshots there are.
    pub snapshots: u32,
    /// The backing file's name as it stands there.
    pub backing: Option<Vec<u8>>,
    /// The backing file's format as it stands there.
    pub backing_format: Option<Vec<u8>>,
    pub(crate) l1_size: u32,
    pub(crate) l1_offset: u64,
    /// Why the image is valid but cannot be read as it is.
    pub refusal: Option<Refusal>,
}

/// Why a valid image cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Encrypted.
    Encrypted,
    /// Not closed by its last writer.
    Dirty,
    /// QEMU found it damaged.
    Corrupt,
    /// The clusters are in another file.
    DataFile,
    /// Another compression than the two.
    Compression(u8),
    /// Features that changed the format since: their names or numbers.
    Features(String),
}

impl Refusal {
    /// A verb and what the image has.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Encrypted => "is encrypted".to_owned(),
            Self::Dirty => "was not closed by its last writer (dirty)".to_owned(),
            Self::Corrupt => "is marked as corrupt".to_owned(),
            Self::DataFile => "has its data in another file (external data file)".to_owned(),
            Self::Compression(number) => {
                format!("is compressed in a way that is not known ({number})")
            }
            Self::Features(names) => format!("has features that are not known ({names})"),
        }
    }

    /// What makes it readable.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Encrypted => {
                "decrypt it with `qemu-img convert --object secret,… --image-opts … OUT`"
            }
            Self::Dirty => {
                "end the VM that uses it; if there is none, `qemu-img check -r all` makes it clean"
            }
            Self::Corrupt => "`qemu-img check -r all` tries to mend it",
            Self::DataFile => "`qemu-img convert -O qcow2 IN OUT` brings the two together",
            Self::Compression(_) | Self::Features(_) => {
                "a newer QEMU made it: `qemu-img convert -O raw IN OUT` reads it there"
            }
        }
    }
}

/// Parses the first cluster of a file (or all of a shorter one); the error says what makes no sense.
pub(crate) fn parse(start: &[u8]) -> Result<Header, String> {
    let cut = || "the file ends in its header".to_owned();
    if start.get(..4) != Some(MAGIC) {
        return Err("it does not begin with QFI\\xfb".to_owned());
    }
    let version = get32(start, 4).ok_or_else(cut)?;
    if !(2..=3).contains(&version) {
        return Err(format!("version is {version}"));
    }
    let cluster_bits = get32(start, 20).ok_or_else(cut)?;
    if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
        return Err(format!("cluster_bits is {cluster_bits}"));
    }
    // What follows must lie in the first cluster.
    let first = start.get(..1 << cluster_bits).unwrap_or(start);
    let (features, length) = match version {
        2 => (0, V2_LENGTH),
        _ => (
            get64(first, 72).ok_or_else(cut)?,
            get32(first, 100).ok_or_else(cut)? as usize,
        ),
    };
    if version == 3 && (length < V3_LENGTH || length % 8 != 0 || length > first.len()) {
        return Err(format!("header_length is {length}"));
    }
    let word = |at| get64(first, at).ok_or_else(cut);
    let half = |at| get32(first, at).ok_or_else(cut);
    let names = Names {
        offset: word(8)?,
        size: half(16)? as usize,
    };
    let backing = names.get(first, length)?;
    let extensions = extensions(first, length, names.end(first))?;
    let compression = match features & INCOMPAT_COMPRESSION {
        0 => 0,
        // The field is there only in headers that are long enough.
        _ if length > V3_LENGTH => *first.get(V3_LENGTH).ok_or_else(cut)?,
        _ => return Err("a compression type that the header has no room for".to_owned()),
    };
    let header = Header {
        version,
        cluster_bits,
        size: word(24)?,
        compression: match compression {
            1 => Compression::Zstd,
            _ => Compression::Zlib,
        },
        extended_l2: features & INCOMPAT_EXTENDED_L2 != 0,
        snapshots: half(60)?,
        backing,
        l1_size: half(36)?,
        l1_offset: word(40)?,
        refusal: refusal(half(32)?, features, compression, &extensions),
        backing_format: extensions.backing_format,
    };
    check(&header)?;
    Ok(header)
}

/// What the tables of a header must look like.
fn check(header: &Header) -> Result<(), String> {
    if header.extended_l2 && header.cluster_bits < 14 {
        return Err("extended L2 entries in clusters smaller than 16 KiB".to_owned());
    }
    if header.l1_size > MAX_L1_ENTRIES {
        return Err(format!("l1_size is {}", header.l1_size));
    }
    let needed = header.size.div_ceil(header.l2_span());
    if u64::from(header.l1_size) < needed {
        return Err(format!(
            "l1_size is {}, but a disk of {} bytes needs {needed}",
            header.l1_size, header.size
        ));
    }
    if !header.l1_offset.is_multiple_of(header.cluster_size()) || header.l1_offset >> 56 != 0 {
        return Err(format!("l1_table_offset is {:#x}", header.l1_offset));
    }
    Ok(())
}

impl Header {
    /// Bytes of a cluster.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table.
    pub(crate) fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.entry_size()
    }

    /// Bytes of an L2 entry.
    pub(crate) fn entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Bytes of the disk that one L2 table covers.
    pub(crate) fn l2_span(&self) -> u64 {
        self.l2_entries() * self.cluster_size()
    }
}

fn refusal(crypt: u32, features: u64, compression: u8, extensions: &Extensions) -> Option<Refusal> {
    const KNOWN: u64 = INCOMPAT_DIRTY
        | INCOMPAT_CORRUPT
        | INCOMPAT_DATA_FILE
        | INCOMPAT_COMPRESSION
        | INCOMPAT_EXTENDED_L2;
    let unknown = features & !KNOWN;
    if unknown != 0 {
        let bits = (0..64).filter(|bit| unknown >> bit & 1 == 1);
        let names: Vec<String> = bits.map(|bit| extensions.feature(bit)).collect();
        return Some(Refusal::Features(names.join(", ")));
    }
    let has = |feature| features & feature != 0;
    if crypt != 0 {
        Some(Refusal::Encrypted)
    } else if has(INCOMPAT_CORRUPT) {
        Some(Refusal::Corrupt)
    } else if has(INCOMPAT_DATA_FILE) {
        Some(Refusal::DataFile)
    } else if has(INCOMPAT_DIRTY) {
        Some(Refusal::Dirty)
    } else if compression > 1 {
        Some(Refusal::Compression(compression))
    } else {
        None
    }
}

/// Where the backing file's name stands.
struct Names {
    offset: u64,
    size: usize,
}

impl Names {
    /// The name; it must lie in the first cluster, behind the header.
    fn get(&self, first: &[u8], length: usize) -> Result<Option<Vec<u8>>, String> {
        if self.offset == 0 {
            return Ok(None);
        }
        let at = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let name = at
            .checked_add(self.size)
            .and_then(|end| first.get(at..end))
            .filter(|name| {
                at >= length && (1..=MAX_BACKING_NAME).contains(&name.len()) && !name.contains(&0)
            });
        match name {
            Some(name) => Ok(Some(name.to_vec())),
            None => Err(format!(
                "the name of a backing file of {} bytes at {:#x}",
                self.size, self.offset
            )),
        }
    }

    /// Where extensions must end.
    fn end(&self, first: &[u8]) -> usize {
        match self.offset {
            0 => first.len(),
            offset => usize::try_from(offset).map_or(first.len(), |at| at.min(first.len())),
        }
    }
}

#[derive(Default)]
struct Extensions {
    backing_format: Option<Vec<u8>>,
    /// Entries of 48 bytes: type (0: incompatible), bit, name.
    feature_names: Vec<u8>,
}

impl Extensions {
    fn feature(&self, bit: u32) -> String {
        let named = self
            .feature_names
            .chunks_exact(48)
            .find(|entry| entry[0] == 0 && u32::from(entry[1]) == bit)
            .map(|entry| {
                let name = entry[2..].split(|byte| *byte == 0).next();
                String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
            });
        named
            .filter(|name| !name.is_empty() && !name.contains(char::is_control))
            .unwrap_or_else(|| format!("bit {bit}"))
    }
}

/// Extensions are type, length and as many bytes, padded to eight; type 0 ends them.
fn extensions(first: &[u8], start: usize, end: usize) -> Result<Extensions, String> {
    let mut found = Extensions::default();
    let mut at = start;
    while at + 8 <= end {
        let (Some(kind), Some(length)) = (get32(first, at), get32(first, at + 4)) else {
            break;
        };
        if kind == EXT_END {
            break;
        }
        let body = (at + 8)
            .checked_add(length as usize)
            .filter(|body_end| *body_end <= end)
            .and_then(|body_end| first.get(at + 8..body_end))
            .ok_or_else(|| format!("a header extension of {length} bytes at {at:#x}"))?;
        match kind {
            EXT_BACKING_FORMAT => found.backing_format = Some(body.to_vec()),
            EXT_FEATURE_NAMES => found.feature_names = body.to_vec(),
            _ => {}
        }
        at += 8 + body.len().next_multiple_of(8);
    }
    Ok(found)
}

pub(crate) fn get32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*field))
}

pub(crate) fn get64(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*field))
}
