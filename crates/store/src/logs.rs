//! `logs/output.log`: what a container's first process wrote.
//!
//! Frames, one after another: `<unix ns> <stdout|stderr> <len>\n`, then `len` raw bytes, then `\n`. So the file reads
//! well in a pager and holds any bytes. The supervisor appends, one frame a write; a crash can tear the last frame,
//! which readers leave out and the next writer cuts off.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::file;

/// The longest header: 20 digits, 6 letters, 10 digits, two spaces, a line feed.
const HEADER: u64 = 39;

/// The longest frame that is believed: more is corruption.
const FRAME: u64 = 64 << 20;

/// How reading failed. Writing fails with [`file::Error`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
    /// There is no frame where one should begin.
    #[error("{} is corrupt at byte {offset}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
}

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1, and all of a terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// As frames name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Some bytes that were written at once, or one line of them ([`Lines`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Where they were written to.
    pub stream: Stream,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Appends.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    frame: Vec<u8>,
}

impl Writer {
    /// Opens a log for appending, making it when it is not there. A last frame that a crash tore is cut off.
    ///
    /// # Errors
    /// A system call that failed, or a log that is corrupt before its end.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(file::Error::at("open", path))?;
        let length = file
            .seek(SeekFrom::End(0))
            .map_err(file::Error::at("seek in", path))?;
        if length > 0 {
            let mut reader = Reader::open(path)?;
            while reader.skip_record()? {}
            if reader.offset < length {
                file.set_len(reader.offset)
                    .map_err(file::Error::at("truncate", path))?;
            }
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            frame: Vec::new(),
        })
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// The write that failed, for example on a full disk.
    pub fn append(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        time_ns: u64,
    ) -> Result<(), file::Error> {
        self.frame.clear();
        // Writing to a Vec cannot fail.
        let _ = writeln!(self.frame, "{time_ns} {} {}", stream.name(), bytes.len());
        self.frame.extend_from_slice(bytes);
        self.frame.push(b'\n');
        self.file
            .write_all(&self.frame)
            .map_err(file::Error::at("write", &self.path))
    }
}

/// Reads frames from the first to the last whole one.
#[derive(Debug)]
pub struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    /// Where the next frame begins.
    offset: u64,
}

impl Reader {
    /// Opens a log. One that was never written is empty.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open("/dev/null"),
            other => other,
        };
        Ok(Self {
            file: BufReader::with_capacity(64 << 10, file.map_err(file::Error::at("open", path))?),
            path: path.to_owned(),
            offset: 0,
        })
    }

    /// The next frame; `None` at the end, and at a frame that was torn or is being written: asked again, it begins
    /// at that frame again, so that what follows a half-read one is never taken for a frame.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for what is no frame.
    pub fn next_record(&mut self) -> Result<Option<Record>, Error> {
        let record = self.whole_record()?;
        if record.is_none() {
            // Also drops what is buffered: a writer may cut a torn frame off and write another one.
            self.file
                .seek(SeekFrom::Start(self.offset))
                .map_err(file::Error::at("seek in", &self.path))?;
        }
        Ok(record)
    }

    fn whole_record(&mut self) -> Result<Option<Record>, Error> {
        let Some(header) = self.header()? else {
            return Ok(None);
        };
        let mut bytes = Vec::with_capacity(usize::try_from(header.length).unwrap_or(0) + 1);
        (&mut self.file)
            .take(header.length + 1)
            .read_to_end(&mut bytes)
            .map_err(file::Error::at("read", &self.path))?;
        if (bytes.len() as u64) < header.length + 1 {
            return Ok(None);
        }
        if bytes.pop() != Some(b'\n') {
            return Err(self.corrupt());
        }
        self.offset += header.bytes + header.length + 1;
        Ok(Some(Record {
            time_ns: header.time_ns,
            stream: header.stream,
            bytes,
        }))
    }

    /// Goes past the next frame; false at the end.
    fn skip_record(&mut self) -> Result<bool, Error> {
        let Some(header) = self.header()? else {
            return Ok(false);
        };
        let length = i64::try_from(header.length).unwrap_or(i64::MAX);
        self.file
            .seek_relative(length)
            .map_err(file::Error::at("seek in", &self.path))?;
        let mut end = [0];
        match self.file.read(&mut end) {
            Ok(0) => Ok(false),
            Ok(_) if end[0] == b'\n' => {
                self.offset += header.bytes + header.length + 1;
                Ok(true)
            }
            Ok(_) => Err(self.corrupt()),
            Err(error) => Err(file::Error::new("read", &self.path, error).into()),
        }
    }

    fn header(&mut self) -> Result<Option<Header>, Error> {
        let mut line = Vec::with_capacity(HEADER as usize);
        (&mut self.file)
            .take(HEADER)
            .read_until(b'\n', &mut line)
            .map_err(file::Error::at("read", &self.path))?;
        if line.last() == Some(&b'\n') {
            parse_header(&line).ok_or_else(|| self.corrupt()).map(Some)
        } else if line.len() as u64 == HEADER {
            Err(self.corrupt())
        } else {
            Ok(None)
        }
    }

    fn corrupt(&self) -> Error {
        Error::Corrupt {
            path: self.path.clone(),
            offset: self.offset,
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

struct Header {
    time_ns: u64,
    stream: Stream,
    length: u64,
    bytes: u64,
}

fn parse_header(line: &[u8]) -> Option<Header> {
    let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let mut words = text.split(' ');
    let header = Header {
        time_ns: parse_number(words.next()?)?,
        stream: match words.next()? {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            _ => return None,
        },
        length: parse_number(words.next()?)?,
        bytes: line.len() as u64,
    };
    (words.next().is_none() && header.length <= FRAME).then_some(header)
}

/// `str::parse` takes a sign; frames have none.
fn parse_number(word: &str) -> Option<u64> {
    word.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| word.parse().ok())?
}

/// Records made into lines: each with its line feed (the last of a stream may lack one), each with the time at which
/// it began. A line longer than 16 KiB comes in pieces, as from Docker.
#[derive(Debug)]
pub struct Lines<I> {
    records: I,
    splitter: Splitter,
}

impl<I> Lines<I> {
    /// Lines of `records`.
    pub fn new(records: I) -> Self {
        Self {
            records,
            splitter: Splitter::default(),
        }
    }
}

/// Docker's buffer for one line.
const LINE: usize = 16 << 10;

/// Makes lines of records that come one by one.
#[derive(Debug, Default)]
pub struct Splitter {
    /// A line that has begun, for each stream.
    begun: [Option<Record>; 2],
    ready: std::collections::VecDeque<Record>,
}

impl Splitter {
    /// The next whole line.
    pub fn line(&mut self) -> Option<Record> {
        self.ready.pop_front()
    }

    /// A line that has begun and will not be ended.
    pub fn rest(&mut self) -> Option<Record> {
        self.begun.iter_mut().find_map(Option::take)
    }

    /// One more record.
    pub fn take(&mut self, record: &Record) {
        let begun = &mut self.begun[record.stream as usize];
        for piece in record.bytes.split_inclusive(|byte| *byte == b'\n') {
            for piece in piece.chunks(LINE) {
                let line = begun.get_or_insert_with(|| Record {
                    bytes: Vec::new(),
                    ..*record
                });
                line.bytes.extend_from_slice(piece);
                if line.bytes.ends_with(b"\n") || line.bytes.len() >= LINE {
                    self.ready.extend(begun.take());
                }
            }
        }
    }
}

impl<I: Iterator<Item = Result<Record, Error>>> Iterator for Lines<I> {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(line) = self.splitter.line() {
                return Some(Ok(line));
            }
            match self.records.next() {
                Some(Ok(record)) => self.splitter.take(&record),
                Some(Err(error)) => return Some(Err(error)),
                None => return self.splitter.rest().map(Ok),
            }
        }
    }
}

#[cfg(test)]
mod tests;
