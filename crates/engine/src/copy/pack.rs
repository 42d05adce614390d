//! Packs files of this host into a tar archive: ustar headers, pax ones where these are too small, GNU's old format for
//! files with holes, which every reader knows.
//!
//! What changes while it is read is packed as its header said: cut, or filled up with zeros.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;

use super::Error;

const BLOCK: usize = 512;
/// More extents than that, and a file is packed with its holes.
const EXTENTS: usize = 4096;
/// The largest number of eight and of twelve octal digits' fields, one of which is their end.
const SEVEN_DIGITS: u64 = 0o7_777_777;
const ELEVEN_DIGITS: u64 = 0o77_777_777_777;

/// Writes an archive.
pub(super) struct Packer<W> {
    out: W,
    keep_owner: bool,
    buffer: Vec<u8>,
    /// The first names of files with several, by device and inode.
    names: HashMap<(u64, u64), Vec<u8>>,
}

/// One level of the walk.
struct Level {
    entries: fs::ReadDir,
    path: PathBuf,
    name: Vec<u8>,
}

impl<W: Write> Packer<W> {
    pub(super) fn new(out: W, keep_owner: bool) -> Self {
        Self {
            out,
            keep_owner,
            buffer: vec![0; 128 << 10],
            names: HashMap::new(),
        }
    }

    /// Packs what is at `path`, with all that is below it, under `name`; then the archive's end.
    pub(super) fn pack(mut self, path: &Path, name: &OsStr) -> Result<(), Error> {
        let name = name.as_bytes().to_vec();
        let mut levels = Vec::new();
        levels.extend(self.one(path.to_owned(), name)?);
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.entries.next() else {
                levels.pop();
                continue;
            };
            let entry = entry.map_err(Error::host("list", &level.path))?;
            let mut name = level.name.clone();
            name.push(b'/');
            name.extend_from_slice(entry.file_name().as_bytes());
            let path = entry.path();
            match self.one(path, name) {
                Ok(level) => levels.extend(level),
                // Removed since it was listed.
                Err(Error::Host { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(Error::Stream)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::Stream)
    }

    /// Packs one file; a directory to go on with.
    fn one(&mut self, path: PathBuf, name: Vec<u8>) -> Result<Option<Level>, Error> {
        let found = fs::symlink_metadata(&path).map_err(Error::host("stat", &path))?;
        let kind = found.file_type();
        if kind.is_dir() {
            let entries = fs::read_dir(&path).map_err(Error::host("list", &path))?;
            let mut with_slash = name.clone();
            with_slash.push(b'/');
            self.header(&found, &with_slash, b'5', 0, b"")?;
            return Ok(Some(Level {
                entries,
                path,
                name,
            }));
        }
        if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(Error::host("read", &path))?;
            self.header(&found, &name, b'2', 0, target.as_os_str().as_bytes())?;
        } else if kind.is_file() {
            if found.nlink() > 1 {
                if let Some(first) = self.names.get(&(found.dev(), found.ino())).cloned() {
                    self.header(&found, &name, b'1', 0, &first)?;
                    return Ok(None);
                }
                self.names.insert((found.dev(), found.ino()), name.clone());
            }
            self.file(&path, &name)?;
        } else if kind.is_fifo() {
            self.header(&found, &name, b'6', 0, b"")?;
        } else if kind.is_char_device() || kind.is_block_device() {
            let letter = if kind.is_char_device() { b'3' } else { b'4' };
            self.header(&found, &name, letter, 0, b"")?;
        } else {
            // A socket is nothing without its process.
            tracing::debug!(path = %path.display(), "a socket is not copied");
        }
        Ok(None)
    }

    fn file(&mut self, path: &Path, name: &[u8]) -> Result<(), Error> {
        let mut file = fs::OpenOptions::new()
            .read(true)
            // It could have become a pipe or a link by now.
            .custom_flags(
                (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK)
                    .bits()
                    .cast_signed(),
            )
            .open(path)
            .map_err(Error::host("open", path))?;
        let found = file.metadata().map_err(Error::host("stat", path))?;
        let extents = extents(&file, &found).map_err(Error::host("seek in", path))?;
        match extents {
            None => {
                self.header(&found, name, b'0', found.len(), b"")?;
                self.content(&mut file, path, found.len())?;
                self.pad(found.len())
            }
            Some(extents) => {
                let stored = extents.iter().map(|(_, length)| length).sum();
                self.sparse_header(&found, name, stored, &extents)?;
                for (offset, length) in extents {
                    rustix::fs::seek(&file, SeekFrom::Start(offset))
                        .map_err(|errno| Error::host("seek in", path)(errno.into()))?;
                    self.content(&mut file, path, length)?;
                }
                self.pad(stored)
            }
        }
    }

    fn content(&mut self, file: &mut File, path: &Path, length: u64) -> Result<(), Error> {
        let mut left = length;
        while left > 0 {
            let most =
                usize::try_from(left).map_or(self.buffer.len(), |left| left.min(self.buffer.len()));
            let read = match file.read(&mut self.buffer[..most]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::host("read", path)(error)),
            };
            let piece = if read == 0 {
                tracing::warn!(path = %path.display(), "the file shrank; filling up with zeros");
                self.buffer[..most].fill(0);
                most
            } else {
                read
            };
            self.out
                .write_all(&self.buffer[..piece])
                .map_err(Error::Stream)?;
            left -= piece as u64;
        }
        Ok(())
    }

    fn pad(&mut self, length: u64) -> Result<(), Error> {
        let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
        if over > 0 {
            self.write(&[0; BLOCK][over..])?;
        }
        Ok(())
    }

    /// A header, and the pax one before it when its fields are too small.
    fn header(
        &mut self,
        found: &Metadata,
        name: &[u8],
        kind: u8,
        size: u64,
        link: &[u8],
    ) -> Result<(), Error> {
        let mut records = Vec::new();
        let block = self.block(found, name, kind, size, link, &mut records);
        self.extended(&records)?;
        self.write(&seal(block))
    }

    fn block(
        &self,
        found: &Metadata,
        name: &[u8],
        kind: u8,
        size: u64,
        link: &[u8],
        records: &mut Vec<u8>,
    ) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        if name.len() > 100 {
            record(records, "path", name);
        }
        put(&mut block[..100], name);
        octal(&mut block[100..108], u64::from(found.mode() & 0o7777));
        let owner = |id: u32| if self.keep_owner { u64::from(id) } else { 0 };
        for (range, key, id) in [
            (108..116, "uid", owner(found.uid())),
            (116..124, "gid", owner(found.gid())),
        ] {
            if id > SEVEN_DIGITS {
                record(records, key, id.to_string().as_bytes());
            }
            octal(&mut block[range], id.min(SEVEN_DIGITS));
        }
        if size > ELEVEN_DIGITS {
            record(records, "size", size.to_string().as_bytes());
        }
        octal(&mut block[124..136], size.min(ELEVEN_DIGITS));
        let seconds = found.mtime();
        let fits = u64::try_from(seconds).is_ok_and(|seconds| seconds <= ELEVEN_DIGITS);
        if !fits {
            record(records, "mtime", seconds.to_string().as_bytes());
        }
        octal(
            &mut block[136..148],
            if fits { seconds.unsigned_abs() } else { 0 },
        );
        block[156] = kind;
        if link.len() > 100 {
            record(records, "linkpath", link);
        }
        put(&mut block[157..257], link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        if matches!(kind, b'3' | b'4') {
            octal(
                &mut block[329..337],
                u64::from(rustix::fs::major(found.rdev())),
            );
            octal(
                &mut block[337..345],
                u64::from(rustix::fs::minor(found.rdev())),
            );
        }
        block
    }

    /// GNU's old format: four extents in the header, 21 in each block that follows.
    fn sparse_header(
        &mut self,
        found: &Metadata,
        name: &[u8],
        stored: u64,
        extents: &[(u64, u64)],
    ) -> Result<(), Error> {
        let mut records = Vec::new();
        let mut block = self.block(found, name, b'S', stored, b"", &mut records);
        self.extended(&records)?;
        block[257..265].copy_from_slice(b"ustar  \0");
        let entry = |field: &mut [u8], (offset, length): (u64, u64)| {
            number(&mut field[..12], offset);
            number(&mut field[12..24], length);
        };
        let (first, rest) = extents.split_at(extents.len().min(4));
        for (index, extent) in first.iter().enumerate() {
            entry(&mut block[386 + 24 * index..], *extent);
        }
        block[482] = u8::from(!rest.is_empty());
        number(&mut block[483..495], found.len());
        self.write(&seal(block))?;
        let mut pieces = rest.chunks(21).peekable();
        while let Some(piece) = pieces.next() {
            let mut block = [0; BLOCK];
            for (index, extent) in piece.iter().enumerate() {
                entry(&mut block[24 * index..], *extent);
            }
            block[504] = u8::from(pieces.peek().is_some());
            self.write(&block)?;
        }
        Ok(())
    }

    fn extended(&mut self, records: &[u8]) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        let mut block = [0; BLOCK];
        put(&mut block[..100], b"././@PaxHeader");
        octal(&mut block[100..108], 0o644);
        octal(&mut block[108..116], 0);
        octal(&mut block[116..124], 0);
        octal(&mut block[124..136], records.len() as u64);
        octal(&mut block[136..148], 0);
        block[156] = b'x';
        block[257..265].copy_from_slice(b"ustar\x0000");
        self.write(&seal(block))?;
        self.write(records)?;
        self.pad(records.len() as u64)
    }
}

/// Where a file with holes has data; an empty extent at its end. `None` for one without, or with very many.
fn extents(file: &File, found: &Metadata) -> io::Result<Option<Vec<(u64, u64)>>> {
    if found.blocks().saturating_mul(512) >= found.len() {
        return Ok(None);
    }
    let mut extents = Vec::new();
    let mut at = 0;
    while at < found.len() {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL) => return rewound(file),
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(found.len());
        if end <= start {
            break;
        }
        extents.push((start, end - start));
        if extents.len() > EXTENTS || extents == [(0, found.len())] {
            return rewound(file);
        }
        at = end;
    }
    if extents
        .last()
        .is_none_or(|(offset, length)| offset + length < found.len())
    {
        extents.push((found.len(), 0));
    }
    Ok(Some(extents))
}

fn rewound(file: &File) -> io::Result<Option<Vec<(u64, u64)>>> {
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    Ok(None)
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// Digits, and a zero byte.
fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    put(field, format!("{value:0width$o}").as_bytes());
}

/// The same, or GNU's binary numbers for what is too large.
fn number(field: &mut [u8], value: u64) {
    if value <= ELEVEN_DIGITS {
        octal(&mut field[..12], value);
    } else {
        field[0] = 0x80;
        field[4..12].copy_from_slice(&value.to_be_bytes());
    }
}

/// With its checksum.
fn seal(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

/// `<length> <key>=<value>\n`, the length's own digits included.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body;
    while body + length.to_string().len() != length {
        length = body + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}
