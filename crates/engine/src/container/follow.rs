//! `logs -f`: a log as it grows.
//!
//! The log is the only source of what is shown, so that nothing comes twice or is left out. inotify(7) says that it has
//! grown, the supervisor that the container is gone: nobody polls.
//!
//! ```text
//!   watch ─▶ read to the end ─▶ wait for: grown ──▶ read to the end ─▶ …
//!                                         gone  ──▶ read to the end ─▶ the last, unended lines ─▶ None
//!                                         late  ──▶ the same
//! ```
//!
//! The directory is watched, so that new files of the log are seen. A container that is restarted by its policy keeps its
//! supervisor, and so is not gone.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;

use proto::supervisor::WaitRequest;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use store::TimeRange;
use store::container::Container;
use store::logs::{Reader, Splitter};
use tokio::io::unix::AsyncFd;

use super::LogsOptions;
use crate::events::late;
use crate::supervisor::{self, Client, Found};
use crate::{Engine, Error, LogRecord, sys};

/// The records of a log, oldest first, until the container has ended.
#[derive(Debug)]
pub struct Follow {
    reader: Reader,
    range: TimeRange,
    /// Of what was there at the beginning, so many lines are wanted; `None`: all of it, or that is behind us.
    tail: Option<usize>,
    /// What was there at the beginning is behind us.
    begun: bool,
    /// Makes lines, when lines are wanted, or to count those at the beginning.
    splitter: Option<Splitter>,
    /// Lines go on to be wanted after the beginning.
    lines: bool,
    ready: VecDeque<LogRecord>,
    /// `None` when the container does not run any more.
    live: Option<Live>,
}

/// What tells of growth, and of the end.
struct Live {
    watch: AsyncFd<OwnedFd>,
    /// Nothing later is wanted.
    late: Pin<Box<dyn Future<Output = ()> + Send>>,
    end: Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// What a container's first process wrote and, if it runs, what it writes until its end.
    ///
    /// # Errors
    /// No such container; a log that is corrupt.
    pub async fn follow(&self, id: &str, options: LogsOptions) -> Result<Follow, Error> {
        let container = self.container(id)?;
        let log = container.output_log();
        let live = match supervisor::find(&container).await? {
            Found::Alive(client) => {
                // By its first answer it has made the log.
                let dir = log.parent().unwrap_or(&log);
                watch(dir)?.map(|watch| Live {
                    watch,
                    late: Box::pin(late(options.range.until_ns)),
                    end: Box::pin(end(container, client)),
                })
            }
            Found::Maintained(_) | Found::Idle(..) | Found::Removed => None,
        };
        Ok(Follow {
            reader: Reader::open(&log, options.start())?,
            range: options.range,
            tail: options.tail,
            begun: false,
            splitter: options.wants_lines().then(Splitter::default),
            lines: options.lines,
            ready: VecDeque::new(),
            live,
        })
    }
}

impl Follow {
    /// The next record; `None` when the container has ended and all of it came. May be cancelled and called again.
    ///
    /// # Errors
    /// A log that is corrupt.
    pub async fn next(&mut self) -> Result<Option<LogRecord>, Error> {
        loop {
            self.read()?;
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            let Some(live) = &mut self.live else {
                let mut rest = std::iter::from_fn(|| self.splitter.as_mut()?.rest());
                return Ok(rest.find(|line| self.range.has(line.time_ns)));
            };
            tokio::select! {
                ended = &mut live.end => {
                    self.live = None;
                    ended?;
                }
                () = &mut live.late => self.live = None,
                grown = drain(&live.watch) => grown?,
            }
        }
    }

    /// Makes records ready: one when there is one, or the last ones of all that is there at the beginning.
    fn read(&mut self) -> Result<(), Error> {
        while self.ready.is_empty() || self.tail.is_some() {
            let Some(record) = self.reader.next_record()? else {
                if !self.begun {
                    self.begin();
                }
                break;
            };
            let range = self.range;
            let wanted = |record: &LogRecord| range.has(record.time_ns);
            match &mut self.splitter {
                None => self.ready.extend(Some(record).filter(wanted)),
                Some(splitter) => {
                    splitter.take(&record);
                    let lines = std::iter::from_fn(|| splitter.line());
                    self.ready.extend(lines.filter(wanted));
                }
            }
            if let Some(count) = self.tail {
                drop(self.ready.drain(..self.ready.len().saturating_sub(count)));
            }
        }
        Ok(())
    }

    /// The end was reached for the first time: from here on all is wanted, as it comes unless lines were asked for.
    fn begin(&mut self) {
        self.begun = true;
        let tail = self.tail.take();
        let range = self.range;
        let unended = |splitter: &mut Splitter| -> Vec<LogRecord> {
            let rest = std::iter::from_fn(|| splitter.rest());
            rest.filter(|line| range.has(line.time_ns)).collect()
        };
        match (&mut self.splitter, tail) {
            // A line that has begun counts when it is shown: now, unless its end may still come.
            (Some(splitter), tail) if !self.lines || self.live.is_none() => {
                self.ready.extend(unended(splitter));
                if let Some(count) = tail {
                    drop(self.ready.drain(..self.ready.len().saturating_sub(count)));
                }
            }
            (Some(splitter), Some(0)) => drop(unended(splitter)),
            _ => {}
        }
        if !self.lines {
            self.splitter = None;
        }
    }
}

/// Returns when the container is gone. One whose supervisor died without a word is gone too.
async fn end(container: Container, client: Client) -> Result<(), Error> {
    let mut rpc = client.rpc.clone();
    match client.call("wait", rpc.wait(WaitRequest {})).await {
        Err(error @ Error::Version { .. }) => Err(error),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::debug!(%error, "the supervisor is gone");
            // Its monitor may still hold on; and what happened is written down.
            supervisor::find(&container).await.map(drop)
        }
    }
}

/// `None` when the log is gone already.
fn watch(dir: &Path) -> Result<Option<AsyncFd<OwnedFd>>, Error> {
    let failed = |errno: Errno| store::file::Error::new("watch", dir, errno);
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(failed)?;
    match inotify::add_watch(&fd, dir, WatchFlags::MODIFY | WatchFlags::CREATE) {
        Ok(_) => {}
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(errno).into()),
    }
    sys::readable(fd)
        .map(Some)
        .map_err(|error| store::file::Error::new("watch", dir, error).into())
}

/// Waits for an event, and takes all that there are.
async fn drain(watch: &AsyncFd<OwnedFd>) -> Result<(), Error> {
    let failed = |error| store::file::Error::new("watch", Path::new("the log"), error);
    let mut guard = watch.readable().await.map_err(failed)?;
    let mut events = [0; 4096];
    loop {
        match rustix::io::read(watch.get_ref(), &mut events) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                guard.clear_ready();
                return Ok(());
            }
            Err(errno) => return Err(failed(errno.into()).into()),
        }
    }
}
