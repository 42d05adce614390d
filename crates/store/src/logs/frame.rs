//! One file of frames, read.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::{Error, Record, Stream};
use crate::file;

/// The longest header: 20 digits, 6 letters, 10 digits, two spaces, a line feed.
const HEADER: u64 = 39;

/// The longest frame that is believed: more is corruption.
const FRAME: u64 = 64 << 20;

/// Makes a frame.
pub(super) fn encode(frame: &mut Vec<u8>, stream: Stream, bytes: &[u8], time_ns: u64) {
    frame.clear();
    // Writing to a Vec cannot fail.
    let _ = writeln!(frame, "{time_ns} {} {}", stream.name(), bytes.len());
    frame.extend_from_slice(bytes);
    frame.push(b'\n');
}

/// Reads frames from the first to the last whole one.
#[derive(Debug)]
pub(super) struct Frames {
    file: BufReader<File>,
    path: PathBuf,
    /// Where the next frame begins.
    offset: u64,
}

impl Frames {
    /// Frames of a file that is at its beginning; `path` is for messages.
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self {
            file: BufReader::with_capacity(64 << 10, file),
            path,
            offset: 0,
        }
    }

    pub(super) fn file(&self) -> &File {
        self.file.get_ref()
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Where the next frame begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame; `None` at the end, and at a frame that was torn or is being written: asked again, it begins
    /// at that frame again, so that what follows a half-read one is never taken for a frame.
    pub(super) fn next_record(&mut self) -> Result<Option<Record>, Error> {
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
    pub(super) fn skip_record(&mut self) -> Result<bool, Error> {
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
