//! Reads a tar archive: ustar, pax, and GNU's long names and sparse files, old and new. Every byte of it is hostile.

use std::os::fd::BorrowedFd;

use super::entry::{BLOCK, Entry, Extent, Kind};
use super::pax::{self, Records};
use super::pipe::Input;
use crate::failure::Failed;

/// Bytes of a record block or a long name; as Go's reader.
const LONGEST: u64 = 1 << 20;

/// Extents of a sparse file; each is 16 bytes here.
const MOST_EXTENTS: usize = 1 << 20;

/// An archive that is being read.
pub(super) struct Archive {
    input: Input,
    /// Bytes of the current member's contents that were not read, and of the padding behind them.
    left: u64,
    padding: u64,
}

type Block = [u8; BLOCK];

impl Archive {
    pub(super) fn new(input: Input) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
        }
    }

    /// The next member; `None` after the last one. Contents of the one before that were not read are passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Failed> {
        let mut records = Records::default();
        let (mut long_path, mut long_link) = (None, None);
        let mut begun = false;
        loop {
            self.input.skip(self.left)?;
            self.input.skip(self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(block) = self.header()? else {
                // Something was said about a member that never came.
                return if begun {
                    Err(self.wrong("it ends too early"))
                } else {
                    Ok(None)
                };
            };
            begun |= matches!(block[156], b'x' | b'L' | b'K');
            let size = number(&block[124..136]).ok_or_else(|| self.wrong("a size is no number"))?;
            let size = u64::try_from(size).map_err(|_| self.wrong("a negative size"))?;
            match block[156] {
                b'x' => {
                    let bytes = self.special(size)?;
                    records =
                        pax::parse(&bytes).ok_or_else(|| self.wrong("a broken pax record"))?;
                }
                // What holds for the whole archive is comments in practice.
                b'g' => self.begin(size)?,
                b'L' => long_path = Some(until_zero(&self.special(size)?).to_vec()),
                b'K' => long_link = Some(until_zero(&self.special(size)?).to_vec()),
                // The volume's name.
                b'V' => self.begin(size)?,
                _ => {
                    records.path = records.path.or(long_path);
                    records.link = records.link.or(long_link);
                    return self.member(&block, size, records).map(Some);
                }
            }
        }
    }

    /// Writes the current member's contents into a file: `extents`, or `size` bytes.
    pub(super) fn write_to(&mut self, file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Failed> {
        let Kind::File { size, extents } = &entry.kind else {
            return Ok(());
        };
        let all = [Extent {
            offset: 0,
            length: *size,
        }];
        for extent in extents.as_deref().unwrap_or(&all) {
            // `member` made sure that these are all there is.
            self.left = self.left.saturating_sub(extent.length);
            let name = String::from_utf8_lossy(&entry.path);
            self.input.copy(file, extent.offset, extent.length, name)?;
        }
        Ok(())
    }

    /// Reads what follows the archive; returns how many bytes came in all.
    pub(super) fn finish(mut self) -> Result<u64, Failed> {
        self.input.drain()?;
        Ok(self.input.received())
    }

    /// The next header; `None` at two blocks of zeros, or at the end of the stream.
    fn header(&mut self) -> Result<Option<Block>, Failed> {
        let mut block = [0; BLOCK];
        for _ in 0..2 {
            if self.input.ended()? {
                return Ok(None);
            }
            self.input.exact(&mut block)?;
            if block != [0; BLOCK] {
                return match checked(&block) {
                    true => Ok(Some(block)),
                    false => Err(self.wrong("a header's checksum is wrong")),
                };
            }
        }
        Ok(None)
    }

    fn begin(&mut self, size: u64) -> Result<(), Failed> {
        let end = size
            .checked_next_multiple_of(BLOCK as u64)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or_else(|| self.wrong("a size is out of range"))?;
        (self.left, self.padding) = (size, end - size);
        Ok(())
    }

    /// The contents of a member that says something about the next one.
    fn special(&mut self, size: u64) -> Result<Vec<u8>, Failed> {
        if size > LONGEST {
            return Err(self.wrong("extended headers of more than 1 MiB"));
        }
        self.begin(size)?;
        self.rest()
    }

    fn rest(&mut self) -> Result<Vec<u8>, Failed> {
        let mut bytes = vec![0; usize::try_from(self.left).unwrap_or(0)];
        self.input.exact(&mut bytes)?;
        self.left = 0;
        Ok(bytes)
    }

    fn member(&mut self, block: &Block, size: u64, records: Records) -> Result<Entry, Failed> {
        let path = match records.path {
            Some(path) => path,
            None => name(block),
        };
        let link = records
            .link
            .unwrap_or_else(|| until_zero(&block[157..257]).to_vec());
        let id = |record: Option<u32>, field: &[u8]| {
            record.or_else(|| u32::try_from(number(field)?).ok())
        };
        let wrong = |what| self.wrong(what);
        let mut entry = Entry::empty_file(path);
        // The type that some writers put above the twelve bits says nothing that the flag does not.
        entry.mode = number(&block[100..108])
            .and_then(|mode| u32::try_from(mode & 0o7777).ok())
            .ok_or_else(|| wrong("a mode is no number"))?;
        entry.uid = id(records.uid, &block[108..116]).ok_or_else(|| wrong("a user id is none"))?;
        entry.gid = id(records.gid, &block[116..124]).ok_or_else(|| wrong("a group id is none"))?;
        entry.modified = match records.modified {
            Some(time) => time,
            None => number(&block[136..148])
                .and_then(|seconds| i64::try_from(seconds).ok())
                .map(|seconds| (seconds, 0))
                .ok_or_else(|| wrong("a time is no number"))?,
        };
        entry.attributes = records.attributes;
        let device = |field: &[u8]| {
            let number = number(field).and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| wrong("a device number is none"))
        };
        let devices = || Ok::<_, Failed>((device(&block[329..337])?, device(&block[337..345])?));
        let directory = entry.path.ends_with(b"/");
        let stored = records.size.unwrap_or(size);
        entry.kind = match block[156] {
            b'0' | 0 | b'7' if directory && records.sparse.is_none() => Kind::Directory,
            b'0' | 0 | b'7' => match records.sparse {
                None => Kind::File {
                    size: stored,
                    extents: None,
                },
                Some(sparse) => {
                    if let Some(name) = sparse.name {
                        entry.path = name;
                    }
                    self.begin(stored)?;
                    let extents = match sparse.extents {
                        Some(extents) => extents,
                        None => self.map_in_contents()?,
                    };
                    return self.sparse(entry, sparse.size.unwrap_or(stored), extents);
                }
            },
            b'S' => {
                let extents = self.old_map(block)?;
                let real = number(&block[483..495]).and_then(|size| u64::try_from(size).ok());
                let real = real.ok_or_else(|| self.wrong("a sparse file's size is no number"))?;
                self.begin(stored)?;
                return self.sparse(entry, real, extents);
            }
            b'1' => Kind::HardLink(link),
            b'2' => Kind::SymbolicLink(link),
            b'3' => {
                let (major, minor) = devices()?;
                Kind::CharacterDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = devices()?;
                Kind::BlockDevice { major, minor }
            }
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let what = format!(
                    "a member of type {:?}, which is not known",
                    char::from(other)
                );
                return Err(self.wrong(&what));
            }
        };
        // The size of a link or a device is what it links to, if anything: nothing follows. A GNU directory dump does.
        let follows = matches!(entry.kind, Kind::File { .. }) || block[156] == b'D';
        self.begin(if follows { stored } else { 0 })?;
        Ok(entry)
    }

    /// A sparse file whose `left` bytes of contents are `extents`.
    fn sparse(
        &mut self,
        mut entry: Entry,
        size: u64,
        extents: Vec<Extent>,
    ) -> Result<Entry, Failed> {
        let mut end = 0;
        let mut sum = 0_u64;
        for extent in &extents {
            let next = extent.offset.checked_add(extent.length);
            end = next
                .filter(|next| extent.offset >= end && *next <= size)
                .ok_or_else(|| self.wrong("a sparse file's map is out of order"))?;
            // Below the end, which is a u64.
            sum += extent.length;
        }
        if sum != self.left || i64::try_from(size).is_err() {
            return Err(self.wrong("a sparse file's map does not fit its contents"));
        }
        entry.kind = Kind::File {
            size,
            extents: Some(extents),
        };
        Ok(entry)
    }

    /// GNU's old map: four extents in the header, 21 in each block that follows.
    fn old_map(&mut self, header: &Block) -> Result<Vec<Extent>, Failed> {
        let mut extents = Vec::new();
        let mut more = header[482] != 0;
        let mut block = *header;
        let mut fields = 386..482;
        loop {
            for field in block[fields].chunks_exact(24) {
                let (offset, length) = field.split_at(12);
                // An unused one.
                if offset[0] == 0 && length[0] == 0 {
                    break;
                }
                let number = |field| number(field).and_then(|number| u64::try_from(number).ok());
                let (offset, length) = number(offset)
                    .zip(number(length))
                    .ok_or_else(|| self.wrong("a sparse file's map is broken"))?;
                extents.push(Extent { offset, length });
            }
            if extents.len() > MOST_EXTENTS {
                return Err(self.wrong("a sparse file has too many extents"));
            }
            if !more {
                return Ok(extents);
            }
            self.input.exact(&mut block)?;
            more = block[504] != 0;
            fields = 0..504;
        }
    }

    /// GNU's map of version 1.0: decimal lines before the contents, padded to a block.
    fn map_in_contents(&mut self) -> Result<Vec<Extent>, Failed> {
        let mut lines = Vec::new();
        let mut at = 0;
        let mut block = [0; BLOCK];
        let mut next = |archive: &mut Self| -> Result<u64, Failed> {
            loop {
                let rest = lines.get(at..).unwrap_or_default();
                if let Some(length) = rest.iter().position(|&byte| byte == b'\n') {
                    let number = pax::decimal(&rest[..length]);
                    at += length + 1;
                    return number.ok_or_else(|| archive.wrong("a sparse file's map is broken"));
                }
                if rest.len() > 20 || archive.left < BLOCK as u64 {
                    return Err(archive.wrong("a sparse file's map is broken"));
                }
                lines.drain(..at);
                at = 0;
                archive.input.exact(&mut block)?;
                archive.left -= BLOCK as u64;
                lines.extend_from_slice(&block);
            }
        };
        let count = next(self)?;
        if count > MOST_EXTENTS as u64 {
            return Err(self.wrong("a sparse file has too many extents"));
        }
        let mut extents = Vec::new();
        for _ in 0..count {
            let (offset, length) = (next(self)?, next(self)?);
            extents.push(Extent { offset, length });
        }
        Ok(extents)
    }

    fn wrong(&self, what: &str) -> Failed {
        let at = format!("before byte {}", self.input.received());
        Failed::invalid("read the archive", at, what)
    }
}

/// Whether the header's sum is right; some old writers took the bytes as signed.
fn checked(block: &Block) -> bool {
    let bytes = || {
        let blank = |(at, byte): (usize, &u8)| {
            if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            }
        };
        block.iter().enumerate().map(blank)
    };
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    number(&block[148..156])
        .is_some_and(|sum| i128::from(unsigned) == sum || i128::from(signed) == sum)
}

/// The path of a header's own fields.
fn name(block: &Block) -> Vec<u8> {
    let name = until_zero(&block[..100]);
    let prefix = until_zero(&block[345..500]);
    // GNU's old format has other things where POSIX has the prefix.
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/", name].concat()
    } else {
        name.to_vec()
    }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
}

/// A number of a header: octal digits with blanks around them, or GNU's big-endian binary.
fn number(field: &[u8]) -> Option<i128> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // The bit after the mark is the sign.
        let start = i128::from(first & 0x7f) - if first & 0x40 != 0 { 0x80 } else { 0 };
        return Some(
            rest.iter()
                .fold(start, |sum, &byte| sum << 8 | i128::from(byte)),
        );
    }
    let digits = until_zero(field).trim_ascii();
    digits.iter().try_fold(0_i128, |sum, &digit| match digit {
        b'0'..=b'7' => Some(sum << 3 | i128::from(digit - b'0')),
        _ => None,
    })
}
