//! `logs`: what a container's first process wrote.

use std::collections::VecDeque;

use store::logs::{Lines, Reader};

use super::LogsOptions;
use crate::{Engine, Error, LogRecord};

/// The records of a log, oldest first.
#[derive(Debug)]
pub struct Logs {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Records(Reader),
    Lines(Lines<Reader>),
    Tail(VecDeque<LogRecord>),
}

impl Iterator for Logs {
    type Item = Result<LogRecord, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Source::Records(reader) => Some(reader.next()?.map_err(Into::into)),
            Source::Lines(lines) => Some(lines.next()?.map_err(Into::into)),
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
        let reader = Reader::open(&self.container(id)?.output_log())?;
        let source = match options {
            LogsOptions {
                tail: Some(count), ..
            } => Source::Tail(last(Lines::new(reader), count)?),
            LogsOptions { lines: true, .. } => Source::Lines(Lines::new(reader)),
            LogsOptions { .. } => Source::Records(reader),
        };
        Ok(Logs { source })
    }
}

fn last(lines: Lines<Reader>, count: usize) -> Result<VecDeque<LogRecord>, Error> {
    let mut kept = VecDeque::new();
    for line in lines {
        let line = line?;
        if kept.len() == count {
            kept.pop_front();
        }
        if count > 0 {
            kept.push_back(line);
        }
    }
    Ok(kept)
}
