//! `logs`: what a container's first process wrote.

use std::collections::VecDeque;

use store::TimeRange;
use store::logs::{Lines, Reader, Start};

use crate::{Engine, Error, LogRecord};

/// Which part of the logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogsOptions {
    /// The last so many lines only.
    pub tail: Option<usize>,
    /// Records are to be whole lines, so that a time can stand before each.
    pub lines: bool,
    /// Lines that began then only.
    pub range: TimeRange,
}

impl LogsOptions {
    /// Lines have to be told apart.
    pub(super) fn wants_lines(&self) -> bool {
        self.lines || self.tail.is_some() || !self.range.is_everything()
    }

    /// Where to begin to read.
    pub(super) fn start(&self) -> Start {
        match (self.tail, self.range.since_ns, self.range.until_ns) {
            // Lines at the end that come too late don't count.
            (Some(lines), _, None) => Start::Tail(lines),
            (_, Some(since), _) => Start::Since(since),
            _ => Start::Oldest,
        }
    }
}

/// The records of a log, oldest first.
#[derive(Debug)]
pub struct Logs {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Records(Reader),
    Lines(Lines<Reader>, TimeRange),
    Tail(VecDeque<LogRecord>),
}

impl Iterator for Logs {
    type Item = Result<LogRecord, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Source::Records(reader) => Some(reader.next()?.map_err(Into::into)),
            Source::Lines(lines, range) => loop {
                match lines.next()? {
                    Ok(line) if !range.has(line.time_ns) => {}
                    other => return Some(other.map_err(Into::into)),
                }
            },
            Source::Tail(records) => records.pop_front().map(Ok),
        }
    }
}

impl Engine {
    /// What a container's first process wrote.
    ///
    /// # Errors
    /// No such container; a log that is corrupt.
    pub fn logs(&self, id: &str, options: LogsOptions) -> Result<Logs, Error> {
        let reader = Reader::open(&self.container(id)?.output_log(), options.start())?;
        let source = if let Some(count) = options.tail {
            Source::Tail(last(Lines::new(reader), options.range, count)?)
        } else if options.wants_lines() {
            Source::Lines(Lines::new(reader), options.range)
        } else {
            Source::Records(reader)
        };
        Ok(Logs { source })
    }
}

fn last(
    lines: Lines<Reader>,
    range: TimeRange,
    count: usize,
) -> Result<VecDeque<LogRecord>, Error> {
    let mut kept = VecDeque::new();
    for line in lines {
        let line = line?;
        if !range.has(line.time_ns) {
            continue;
        }
        if kept.len() == count {
            kept.pop_front();
        }
        if count > 0 {
            kept.push_back(line);
        }
    }
    Ok(kept)
}
