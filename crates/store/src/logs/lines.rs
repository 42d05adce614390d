//! Lines, out of records that hold parts of lines, or many.

use super::{Error, Record};

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
pub(super) const LINE: usize = 16 << 10;

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
