//! Reading a log over all its files, while the writer may begin new ones.
//!
//! ```text
//!   oldest ──end──▶ … ──end──▶ .1 ──end──▶ output.log ──end──▶ has another file the name by now?
//!                                              ▲                 │ no: that is all, at this moment
//!                                              └─────────────────┘ yes: ours is whole; its last frames, then the next
//! ```

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files::{self, Id};
use super::frame::Frames;
use super::{Error, Record};
use crate::file;

/// How often a file is looked for that moves on before it can be opened.
const TRIES: u32 = 100;

/// Files of which the end is looked for at most.
const TAIL_FILES: usize = 64;

/// Clocks that stamp files are coarser than the one that stamps frames.
const COARSE_NS: u64 = 1_000_000_000;

/// Where to begin. Whole files are left out; what is left may begin before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// With the oldest frame that is kept.
    #[default]
    Oldest,
    /// Early enough for so many lines.
    Tail(usize),
    /// Early enough for the lines that began at this time, in nanoseconds since 1970, or later.
    Since(u64),
}

/// Reads frames from the first to the last whole one.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    start: Start,
    frames: Option<Frames>,
}

impl Reader {
    /// Opens the log whose newest file is `path`. One that was never written is empty.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn open(path: &Path, start: Start) -> Result<Self, Error> {
        let mut reader = Self {
            path: path.to_owned(),
            start,
            frames: None,
        };
        reader.begin()?;
        Ok(reader)
    }

    /// The next frame; `None` when there is no more at this moment.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for what is no frame in the newest file. Older ones are left there, with a warning.
    pub fn next_record(&mut self) -> Result<Option<Record>, Error> {
        loop {
            let Some(frames) = &mut self.frames else {
                self.begin()?;
                if self.frames.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let corrupt = match frames.next_record() {
                Ok(Some(record)) => return Ok(Some(record)),
                Ok(None) => None,
                Err(error @ Error::Corrupt { .. }) => Some(error),
                Err(error) => return Err(error),
            };
            let Some(next) = next_file(&self.path, frames)? else {
                return corrupt.map_or(Ok(None), Err);
            };
            match corrupt {
                // Ours lost its name, so it is whole now; frames may have come between the two looks.
                None => {
                    if let Ok(Some(record)) = frames.next_record() {
                        return Ok(Some(record));
                    }
                }
                Some(error) => tracing::warn!(%error, "going on with the next file of the log"),
            }
            self.frames = Some(next);
        }
    }

    fn begin(&mut self) -> Result<(), Error> {
        for _ in 0..TRIES {
            let list = files::list(&self.path)?;
            let chosen = match self.start {
                Start::Oldest => list.last(),
                Start::Since(time_ns) => {
                    // One more than needed: its last line may end in the next one.
                    let older = list
                        .iter()
                        .position(|named| named.modified_ns + COARSE_NS < time_ns);
                    older.map_or(list.last(), |index| list.get(index))
                }
                Start::Tail(lines) => match self.tail(&list, lines)? {
                    Some(index) => list.get(index),
                    None => continue,
                },
            };
            let Some(named) = chosen else {
                return Ok(());
            };
            if let Some((file, path)) = files::open(&self.path, named)? {
                self.frames = Some(Frames::new(file, path));
                return Ok(());
            }
        }
        Ok(())
    }

    /// The place in the list from which on there are so many whole lines; `None` when the files moved meanwhile.
    fn tail(&self, list: &[files::Named], lines: usize) -> Result<Option<usize>, Error> {
        // The first line feed of each stream may end a line that began in a file that is left out.
        let wanted = lines.saturating_add(2);
        let mut seen = 0;
        for (index, named) in list.iter().take(TAIL_FILES).enumerate() {
            let Some((file, path)) = files::open(&self.path, named)? else {
                return Ok(None);
            };
            let mut frames = Frames::new(file, path);
            // One that is corrupt is told of when it is read.
            while let Ok(Some(record)) = frames.next_record() {
                seen += record.bytes.iter().filter(|byte| **byte == b'\n').count();
            }
            if seen >= wanted {
                return Ok(Some(index));
            }
        }
        Ok(Some(list.len().saturating_sub(1)))
    }
}

impl Iterator for Reader {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

/// The file after the one that is read; `None` when that one is the newest.
fn next_file(path: &Path, frames: &Frames) -> Result<Option<Frames>, Error> {
    for _ in 0..TRIES {
        let ours = frames
            .file()
            .metadata()
            .map_err(file::Error::at("stat", frames.path()))?;
        let id = Id::of(&ours);
        if files::look(path)?.is_some_and(|newest| Id::of(&newest) == id) {
            return Ok(None);
        }
        let list = files::list(path)?;
        let next = match list.iter().position(|named| named.id == id) {
            Some(0) => return Ok(None),
            Some(index) => list.get(index - 1),
            // We are so slow that it was removed: the oldest that is left comes next.
            None if ours.nlink() == 0 => list.last(),
            None => continue,
        };
        let Some(named) = next else {
            return Ok(None);
        };
        if let Some((file, path)) = files::open(path, named)? {
            return Ok(Some(Frames::new(file, path)));
        }
    }
    Ok(None)
}
