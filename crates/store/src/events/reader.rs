//! Reading events, and waiting for more.
//!
//! ```text
//!   .1 ──end──▶ events.jsonl ──end──▶ renamed? ──no──▶ (follow: wait)
//!                     ▲                   │ yes: all of it was there before the rename; read what came since
//!                     └───────────────────┘
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::{Error, Event, NAME, OLD, lock};
use crate::lock::Mode;
use crate::{Root, TimeRange, file};

/// The longest line that is taken for an event.
const LINE: u64 = 1 << 20;

/// The events that are there, oldest first.
#[derive(Debug)]
pub struct Events {
    root: Root,
    range: TimeRange,
    files: VecDeque<BufReader<File>>,
    /// A line that has begun, as far as it was there.
    begun: Vec<u8>,
}

impl Events {
    /// Opens what is there.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn open(root: &Root, range: TimeRange) -> Result<Self, Error> {
        let mut events = Self {
            root: root.clone(),
            range,
            files: VecDeque::new(),
            begun: Vec::new(),
        };
        events.open_after(None)?;
        Ok(events)
    }

    /// The next event; `None` when there is no more at this moment.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            match self.line()? {
                Some(line) => match parse(&line) {
                    Some(event) if self.range.has(event.time_ns) => return Ok(Some(event)),
                    _ => {}
                },
                None if self.advance()? => {}
                None => return Ok(None),
            }
        }
    }

    /// The next whole line of the file that is read, without its end.
    fn line(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.files.front_mut() else {
            return Ok(None);
        };
        loop {
            let room = LINE.saturating_sub(self.begun.len() as u64);
            let read = std::io::Read::take(&mut *file, room)
                .read_until(b'\n', &mut self.begun)
                .map_err(file::Error::at("read", &self.root.events().join(NAME)))?;
            if self.begun.last() == Some(&b'\n') {
                self.begun.pop();
                return Ok(Some(std::mem::take(&mut self.begun)));
            }
            if room == 0 {
                // Longer than any event: what is left of it is no JSON either, and is skipped as that.
                return Ok(Some(std::mem::take(&mut self.begun)));
            }
            if read == 0 {
                return Ok(None);
            }
        }
    }

    /// At the end of a file: goes on to the next one, if there is one.
    fn advance(&mut self) -> Result<bool, Error> {
        if self.files.len() > 1 {
            self.files.pop_front();
            self.torn();
            return Ok(true);
        }
        let Some(current) = self.files.front() else {
            self.open_after(None)?;
            return Ok(!self.files.is_empty());
        };
        let path = self.root.events().join(NAME);
        let ours = current
            .get_ref()
            .metadata()
            .map_err(file::Error::at("stat", &path))?;
        match std::fs::metadata(&path) {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound && ours.nlink() > 0 => {
                // Renamed, and nothing was written since. Its own last lines may have come before that.
                self.last_of_renamed()
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(file::Error::new("stat", &path, error).into())
            }
            _ => {
                // Whoever renamed it had the lock alone, so what it holds now is all.
                if self.last_of_renamed()? {
                    return Ok(true);
                }
                self.open_after(Some(ours.ino()))?;
                self.torn();
                Ok(true)
            }
        }
    }

    /// Whether more came into a file between its end and its renaming.
    fn last_of_renamed(&mut self) -> Result<bool, Error> {
        match self.files.front_mut() {
            Some(file) => {
                let more = file
                    .fill_buf()
                    .map_err(file::Error::at("read", &self.root.events().join(OLD)))?;
                Ok(!more.is_empty())
            }
            None => Ok(false),
        }
    }

    /// A line that has begun in a file that is left will not be ended.
    fn torn(&mut self) {
        if !self.begun.is_empty() {
            tracing::warn!("skipping a torn line in the events");
            self.begun.clear();
        }
    }

    /// Opens the files that come after the one with this inode; all without it.
    fn open_after(&mut self, inode: Option<u64>) -> Result<(), Error> {
        let dir = self.root.events();
        if !dir.exists() {
            return Ok(());
        }
        let _lock = lock(&self.root, Mode::Shared)?;
        self.files.clear();
        for name in [OLD, NAME] {
            let path = dir.join(name);
            let file = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other.map_err(file::Error::at("open", &path))?,
            };
            let found = file.metadata().map_err(file::Error::at("stat", &path))?;
            if Some(found.ino()) != inode {
                self.files
                    .push_back(BufReader::with_capacity(64 << 10, file));
            }
        }
        Ok(())
    }
}

impl Iterator for Events {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().transpose()
    }
}

fn parse(line: &[u8]) -> Option<Event> {
    if line.is_empty() {
        return None;
    }
    serde_json::from_slice(line)
        .inspect_err(|error| tracing::warn!(%error, "skipping a line that is no event"))
        .ok()
}

/// Events as they come, after those that are there.
#[derive(Debug)]
pub struct Follow {
    events: Events,
    watch: OwnedFd,
}

impl Follow {
    /// Begins to watch, then opens what is there; with `only_new` goes past it.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn open(root: &Root, range: TimeRange, only_new: bool) -> Result<Self, Error> {
        let dir = root.events();
        file::make_dir(&dir)?;
        let failed = |errno: Errno| file::Error::new("watch", &dir, errno);
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(failed)?;
        // The directory, so that the file may be renamed and made anew.
        inotify::add_watch(&watch, &dir, WatchFlags::MODIFY | WatchFlags::CREATE)
            .map_err(failed)?;
        let mut events = Events::open(root, range)?;
        if only_new {
            while events.files.len() > 1 {
                events.files.pop_front();
            }
            if let Some(file) = events.files.front_mut() {
                file.seek(SeekFrom::End(0))
                    .map_err(file::Error::at("seek in", &dir.join(NAME)))?;
            }
        }
        Ok(Self { events, watch })
    }

    /// The next event; `None` when there is no more at this moment. Then the descriptor becomes readable when there may be.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        self.events.next_event()
    }

    /// Takes what the descriptor has to say. Call it before [`Follow::next_event`], not after.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn drain(&self) -> Result<(), Error> {
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.watch, &mut buffer) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => {
                    let dir = self.events.root.events();
                    return Err(file::Error::new("watch", &dir, errno).into());
                }
            }
        }
    }
}

impl AsFd for Follow {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
