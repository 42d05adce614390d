//! `logs -f`: a log as it grows.
//!
//! The log is the only source of what is shown, so that nothing comes twice or is left out. inotify(7) says that it has
//! grown, the supervisor that the container is gone: nobody polls.
//!
//! ```text
//!   watch ─▶ read to the end ─▶ wait for: grown ──▶ read to the end ─▶ …
//!                                         gone  ──▶ read to the end ─▶ the last, unended lines ─▶ None
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;

use proto::supervisor::WaitRequest;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use store::container::Container;
use store::logs::{Reader, Splitter};
use tokio::io::unix::AsyncFd;

use super::LogsOptions;
use crate::supervisor::{self, Client, Found};
use crate::{Engine, Error, LogRecord, sys};

/// The records of a log, oldest first, until the container has ended.
#[derive(Debug)]
pub struct Follow {
    reader: Reader,
    /// How many lines of what was there at the beginning are wanted; `None` when that is behind us.
    tail: Option<usize>,
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
                client.settled().await;
                watch(&log)?.map(|watch| Live {
                    watch,
                    end: Box::pin(end(container, client)),
                })
            }
            Found::Idle(_) | Found::Removed => None,
        };
        let wants_lines = options.lines || options.tail.is_some();
        Ok(Follow {
            reader: Reader::open(&log)?,
            tail: options.tail,
            splitter: wants_lines.then(Splitter::default),
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
                return Ok(self.splitter.as_mut().and_then(Splitter::rest));
            };
            tokio::select! {
                ended = &mut live.end => {
                    self.live = None;
                    ended?;
                }
                grown = drain(&live.watch) => grown?,
            }
        }
    }

    /// Makes records ready: one when there is one, or the last ones of all that is there at the beginning.
    fn read(&mut self) -> Result<(), Error> {
        while self.ready.is_empty() || self.tail.is_some() {
            let Some(record) = self.reader.next_record()? else {
                self.begun();
                break;
            };
            match &mut self.splitter {
                None => self.ready.push_back(record),
                Some(splitter) => {
                    splitter.take(&record);
                    self.ready.extend(std::iter::from_fn(|| splitter.line()));
                }
            }
            if let Some(count) = self.tail {
                drop(self.ready.drain(..self.ready.len().saturating_sub(count)));
            }
        }
        Ok(())
    }

    /// The end was reached for the first time: from here on all is wanted.
    fn begun(&mut self) {
        let Some(count) = self.tail.take() else {
            return;
        };
        let unended = |splitter: &mut Splitter| -> Vec<LogRecord> {
            std::iter::from_fn(|| splitter.rest()).collect()
        };
        match &mut self.splitter {
            // A line that has begun counts when it is shown: now, unless its end may still come.
            Some(splitter) if !self.lines || self.live.is_none() => {
                self.ready.extend(unended(splitter));
                drop(self.ready.drain(..self.ready.len().saturating_sub(count)));
            }
            Some(splitter) if count == 0 => drop(unended(splitter)),
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
fn watch(log: &Path) -> Result<Option<AsyncFd<OwnedFd>>, Error> {
    let failed = |errno: Errno| store::file::Error::new("watch", log, errno);
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(failed)?;
    match inotify::add_watch(&fd, log, WatchFlags::MODIFY) {
        Ok(_) => {}
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(errno).into()),
    }
    sys::readable(fd)
        .map(Some)
        .map_err(|error| store::file::Error::new("watch", log, error).into())
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
