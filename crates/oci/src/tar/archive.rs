//! Reads an archive entry by entry.

use std::io::{self, Read};

use super::error::{TarError, TarProblem};
use super::header::{BLOCK, Block, Header, parse_header, text};
use super::pax::{Extended, PaxSparse, decimal};
use super::sparse::{self, DataExtent};
use super::{Entry, EntryKind};
use crate::merge::Timestamp;

/// The largest extended header or long name.
const MAX_EXTENDED: u64 = 1 << 20;
/// The longest name and link target: `PATH_MAX` less the final NUL.
const MAX_PATH: usize = 4095;
/// The largest file: what ext4 holds with 4 KiB blocks.
const MAX_FILE: u64 = 16 << 40;

/// A tar archive that is being read.
///
/// ```text
/// next_entry ──► Entry ──► data() yields the content ──► next_entry skips what is left ──► …
/// ```
#[derive(Debug)]
pub struct Archive<R> {
    reader: R,
    /// Where the reader is.
    offset: u64,
    /// What is left of the current entry's content, and the padding after it.
    content: u64,
    padding: u64,
    /// The current entry, for errors.
    entry: Option<Vec<u8>>,
    global: Extended,
    finished: bool,
    /// Why [`Data`] failed: its reader may get to see an `io::Error` only.
    failure: Option<TarError>,
}

/// The headers that come before an entry's own.
#[derive(Default)]
struct Before {
    extended: Option<Extended>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// What decides an entry's kind.
struct Shape {
    kind: u8,
    is_named_as_directory: bool,
    size: i128,
    link: Vec<u8>,
    device: (i128, i128),
    sparse: PaxSparse,
}

impl<R: Read> Archive<R> {
    /// An archive that begins where `reader` is.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            offset: 0,
            content: 0,
            padding: 0,
            entry: None,
            global: Extended::default(),
            finished: false,
            failure: None,
        }
    }

    /// The next entry, or `None` at the end of the archive.
    ///
    /// # Errors
    /// What is wrong with the archive, and where; or why it could not be read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_content()?;
        let mut before = Before::default();
        loop {
            self.entry = None;
            if self.finished {
                return Ok(None);
            }
            let offset = self.offset;
            let Some(block) = self.read_header_block()? else {
                self.finished = true;
                return self.end(before);
            };
            let Some(header) = parse_header(&block).map_err(|p| self.error_at(offset, p))? else {
                self.finished = true;
                return self.end(before);
            };
            self.entry = Some(header.name.clone());
            match header.kind {
                b'x' | b'X' | b'g' | b'L' | b'K' => self.extension(&header, &mut before)?,
                // The name of the volume, and of files on earlier ones: nothing to unpack.
                b'V' => self.skip_special(&header)?,
                _ => return self.entry(&block, header, offset, before).map(Some),
            }
        }
    }

    /// The content of the entry that [`Archive::next_entry`] gave last.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    /// The error behind one that [`Data`] returned.
    pub fn take_failure(&mut self) -> Option<TarError> {
        self.failure.take()
    }

    /// Reads what follows the archive's end.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn drain(&mut self) -> Result<(), TarError> {
        match io::copy(&mut self.reader, &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(e) => Err(self.error(TarProblem::Read(e))),
        }
    }

    fn error(&self, problem: TarProblem) -> TarError {
        self.error_at(self.offset, problem)
    }

    fn error_at(&self, offset: u64, problem: TarProblem) -> TarError {
        let entry = self.entry.as_deref();
        TarError {
            offset,
            entry: entry.map(|name| String::from_utf8_lossy(name).into_owned()),
            problem,
        }
    }

    /// An end right after an extended header would lose an entry.
    fn end(&self, before: Before) -> Result<Option<Entry>, TarError> {
        if before.extended.is_some() || before.long_name.is_some() || before.long_link.is_some() {
            let problem = TarProblem::Truncated {
                part: "header after an extended header",
                missing: BLOCK as u64,
            };
            return Err(self.error(problem));
        }
        Ok(None)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.reader.read(buffer) {
                Ok(n) => {
                    self.offset += n as u64;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.error(TarProblem::Read(e))),
            }
        }
    }

    fn read_exact(&mut self, buffer: &mut [u8], part: &'static str) -> Result<(), TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => {
                    let missing = (buffer.len() - filled) as u64;
                    return Err(self.error(TarProblem::Truncated { part, missing }));
                }
                n => filled += n,
            }
        }
        Ok(())
    }

    /// A header, or `None` where the stream ends instead.
    fn read_header_block(&mut self) -> Result<Option<Block>, TarError> {
        let mut block = [0; BLOCK];
        match self.read(&mut block)? {
            0 => Ok(None),
            n => {
                self.read_exact(&mut block[n..], "header")?;
                Ok(Some(block))
            }
        }
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 8192];
        while self.content > 0 {
            self.read_content(&mut buffer)?;
        }
        let padding = std::mem::take(&mut self.padding) as usize;
        self.read_exact(&mut buffer[..padding], "padding")
    }

    fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.read(&mut buffer[..most])?;
        if n == 0 {
            let missing = self.content;
            let part = "content";
            return Err(self.error(TarProblem::Truncated { part, missing }));
        }
        self.content -= n as u64;
        Ok(n)
    }

    fn start_content(&mut self, size: u64) {
        self.content = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn size(&self, size: i128) -> Result<u64, TarError> {
        let range = || TarProblem::Range {
            what: "size",
            value: size.to_string(),
        };
        let size = u64::try_from(size).map_err(|_| self.error(range()))?;
        if size > MAX_FILE {
            return Err(self.error(range()));
        }
        Ok(size)
    }

    fn skip_special(&mut self, header: &Header) -> Result<(), TarError> {
        let size = self.size(header.size)?;
        self.start_content(size);
        self.skip_content()
    }

    /// An extended header or a GNU long name.
    fn extension(&mut self, header: &Header, before: &mut Before) -> Result<(), TarError> {
        let size = self.size(header.size)?;
        if size > MAX_EXTENDED {
            return Err(self.error(TarProblem::ExtendedTooLarge { size }));
        }
        let offset = self.offset;
        self.start_content(size);
        let mut bytes = vec![0; size as usize];
        self.read_exact(&mut bytes, "extended header")?;
        self.content = 0;
        self.skip_content()?;
        match header.kind {
            b'L' => before.long_name = Some(text(&bytes).to_vec()),
            b'K' => before.long_link = Some(text(&bytes).to_vec()),
            b'g' => {
                let mut global = std::mem::take(&mut self.global);
                let result = global.apply(&bytes, true);
                self.global = global;
                result.map_err(|p| self.error_at(offset, p))?;
            }
            _ => {
                let extended = before.extended.get_or_insert_with(|| self.global.clone());
                extended
                    .apply(&bytes, false)
                    .map_err(|p| self.error_at(offset, p))?;
            }
        }
        Ok(())
    }

    /// Puts together what an entry's own header and those before it say.
    fn entry(
        &mut self,
        block: &Block,
        header: Header,
        offset: u64,
        before: Before,
    ) -> Result<Entry, TarError> {
        let extended = before.extended.unwrap_or_else(|| self.global.clone());
        let path = extended.path.or(before.long_name).unwrap_or(header.name);
        let path = extended.sparse.name.clone().unwrap_or(path);
        self.entry = Some(path.clone());
        if !is_path(&path) {
            return Err(self.error_at(offset, TarProblem::Name { what: "name" }));
        }
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => Timestamp {
                secs: self.in_range("time", header.mtime)?,
                nanos: 0,
            },
        };
        let uid = extended.uid.map_or(header.uid, i128::from);
        let gid = extended.gid.map_or(header.gid, i128::from);
        let shape = Shape {
            kind: header.kind,
            // V7 has no type for directories.
            is_named_as_directory: path.ends_with(b"/"),
            size: extended.size.map_or(header.size, i128::from),
            link: extended.link.or(before.long_link).unwrap_or(header.link),
            device: (header.major, header.minor),
            sparse: extended.sparse,
        };
        Ok(Entry {
            offset,
            kind: self.kind(block, shape, offset)?,
            mode: header.mode,
            uid: self.in_range("user ID", uid)?,
            gid: self.in_range("group ID", gid)?,
            mtime,
            xattrs: extended.xattrs.into_iter().collect(),
            path,
        })
    }

    /// What an entry is; starts its content.
    fn kind(&mut self, block: &Block, shape: Shape, offset: u64) -> Result<EntryKind, TarError> {
        let is_sparse = shape.sparse.is_present();
        match shape.kind {
            // As other readers do: what a directory's content might be, nobody knows. GNU's
            // type D has a list of names there.
            b'0' | 0 | b'7' if shape.is_named_as_directory && !is_sparse => {
                self.directory_with_content(shape.size)
            }
            b'D' => self.directory_with_content(shape.size),
            b'0' | 0 | b'7' => self.file(shape.size, shape.sparse),
            b'S' => self.old_gnu_sparse(block, shape.size),
            b'1' => Ok(EntryKind::HardLink(self.link_target(shape.link, offset)?)),
            b'2' => Ok(EntryKind::Symlink(self.link_target(shape.link, offset)?)),
            b'3' => {
                let (major, minor) = self.device(shape.device)?;
                Ok(EntryKind::CharDevice { major, minor })
            }
            b'4' => {
                let (major, minor) = self.device(shape.device)?;
                Ok(EntryKind::BlockDevice { major, minor })
            }
            b'5' => Ok(EntryKind::Directory),
            b'6' => Ok(EntryKind::Fifo),
            other => {
                let problem = TarProblem::Type(char::from(other));
                Err(self.error_at(offset, problem))
            }
        }
    }

    fn directory_with_content(&mut self, size: i128) -> Result<EntryKind, TarError> {
        let size = self.size(size)?;
        self.start_content(size);
        Ok(EntryKind::Directory)
    }

    fn device(&self, (major, minor): (i128, i128)) -> Result<(u32, u32), TarError> {
        let major = self.in_range("major device number", major)?;
        Ok((major, self.in_range("minor device number", minor)?))
    }

    fn in_range<T: TryFrom<i128>>(&self, what: &'static str, value: i128) -> Result<T, TarError> {
        T::try_from(value).map_err(|_| {
            let value = value.to_string();
            self.error(TarProblem::Range { what, value })
        })
    }

    fn link_target(&self, target: Vec<u8>, offset: u64) -> Result<Vec<u8>, TarError> {
        if !is_path(&target) {
            let what = "link target";
            return Err(self.error_at(offset, TarProblem::Name { what }));
        }
        Ok(target)
    }

    fn file(&mut self, size: i128, sparse: PaxSparse) -> Result<EntryKind, TarError> {
        let size = self.size(size)?;
        self.start_content(size);
        if !sparse.is_present() {
            let extents = None;
            return Ok(EntryKind::File { len: size, extents });
        }
        let map = match (sparse.major, sparse.minor) {
            (Some(1), Some(0)) => self.map_in_content()?,
            (None | Some(0), None | Some(0 | 1)) => sparse
                .map
                .ok_or_else(|| self.error(TarProblem::Sparse("there is none")))?,
            _ => return Err(self.error(TarProblem::Sparse("its version is unknown"))),
        };
        let len = sparse.real_size;
        let len = len.ok_or_else(|| self.error(TarProblem::Sparse("the size is missing")))?;
        self.sparse_file(map, len)
    }

    fn sparse_file(&mut self, map: Vec<DataExtent>, len: u64) -> Result<EntryKind, TarError> {
        let len = self.size(i128::from(len))?;
        let extents = sparse::check_map(map, len, self.content).map_err(|p| self.error(p))?;
        let extents = Some(extents);
        Ok(EntryKind::File { len, extents })
    }

    /// Format 1.0: the map is at the start of the content, a number a line, padded to a block.
    fn map_in_content(&mut self) -> Result<Vec<DataExtent>, TarError> {
        let mut lines = Vec::new();
        let mut at = 0;
        let mut next = |this: &mut Self| -> Result<u64, TarError> {
            let bad = |this: &Self| this.error(TarProblem::Sparse("a line is not a number"));
            loop {
                let end = lines[at..].iter().position(|b| *b == b'\n');
                if let Some(end) = end {
                    let number = decimal(&lines[at..at + end]).ok_or_else(|| bad(this))?;
                    at += end + 1;
                    return Ok(number);
                }
                if lines.len() - at > 20 {
                    return Err(bad(this));
                }
                if this.content < BLOCK as u64 {
                    return Err(this.error(TarProblem::Sparse("it is longer than the content")));
                }
                lines.drain(..at);
                at = 0;
                let mut block = [0; BLOCK];
                this.read_exact(&mut block, "content")?;
                this.content -= BLOCK as u64;
                lines.extend_from_slice(&block);
            }
        };
        let count = next(self)?;
        if count > sparse::MAX_EXTENTS as u64 {
            return Err(self.error(TarProblem::Sparse("too many extents")));
        }
        let mut map = Vec::new();
        for _ in 0..count {
            let offset = next(self)?;
            let len = next(self)?;
            map.push(DataExtent { offset, len });
        }
        Ok(map)
    }

    /// GNU tar's own format: the map is in the header and in blocks after it.
    fn old_gnu_sparse(&mut self, block: &Block, size: i128) -> Result<EntryKind, TarError> {
        let packed = self.size(size)?;
        let (mut map, mut more, len) = sparse::old_gnu_header(block).map_err(|p| self.error(p))?;
        while more {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block, "sparse map")?;
            sparse::old_gnu_entries(&block[..504], &mut map).map_err(|p| self.error(p))?;
            more = block[504] != 0;
        }
        self.start_content(packed);
        self.sparse_file(map, len)
    }
}

fn is_path(path: &[u8]) -> bool {
    !path.is_empty() && path.len() <= MAX_PATH && !path.contains(&0)
}

/// An entry's content; for a sparse file, that of its extents one after the other.
#[derive(Debug)]
pub struct Data<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_content(buffer).map_err(|error| {
            let kind = match &error.problem {
                TarProblem::Read(e) => e.kind(),
                _ => io::ErrorKind::UnexpectedEof,
            };
            let text = error.to_string();
            self.0.failure = Some(error);
            io::Error::new(kind, text)
        })
    }
}
