//! `gourd logs`.

use std::collections::VecDeque;
use std::time::Duration;

use engine::{AttachOptions, Engine, Error, ErrorKind, Event, LogRecord, LogsOptions, Stream};

use crate::app::App;
use crate::args::container::Logs;
use crate::failure::Failure;
use crate::render::{human, out};

/// The log is written around the time at which an event tells of it: it is read once more after this long.
const SETTLED: Duration = Duration::from_millis(50);

/// Prints what a container's first process wrote, each stream to its own.
pub async fn logs(app: &App, args: &Logs) -> Result<u8, Failure> {
    let engine = app.engine()?;
    if args.follow {
        follow(&engine, args).await?;
        return Ok(0);
    }
    let options = LogsOptions {
        tail: args.tail.0,
        lines: args.timestamps,
    };
    for record in engine.logs(&args.container, options)? {
        show(&record?, args.timestamps)?;
    }
    Ok(0)
}

/// Attaches to hear of output and of the end; what is shown is the log's, so that nothing is shown twice or left out.
async fn follow(engine: &Engine, args: &Logs) -> Result<(), Failure> {
    let listening = AttachOptions {
        stdin: false,
        stdout: true,
        stderr: true,
        size: None,
    };
    let attachment = match engine.attach(&args.container, listening).await {
        Ok(attachment) => Some(attachment),
        Err(Error::NotRunning { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mut tailing = Tailing::open(engine, args)?;
    tailing.catch_up()?;
    let Some((_input, mut output)) = attachment.map(engine::Attachment::split) else {
        return Ok(());
    };
    let mut settled = true;
    loop {
        let event = if settled {
            Some(output.next().await)
        } else {
            tokio::time::timeout(SETTLED, output.next()).await.ok()
        };
        settled = event.is_none();
        let ended = matches!(
            event,
            Some(Ok(Event::Exited(_) | Event::Failed(_)) | Err(_))
        );
        tailing.catch_up()?;
        if ended {
            return Ok(());
        }
    }
}

/// A log that is still being written.
struct Tailing<'e> {
    engine: &'e Engine,
    args: &'e Logs,
    records: engine::Logs,
    /// Records that were read, to find the place again.
    read: usize,
    /// The last lines, until the end is reached for the first time.
    held: Option<VecDeque<LogRecord>>,
}

impl<'e> Tailing<'e> {
    fn open(engine: &'e Engine, args: &'e Logs) -> Result<Self, Failure> {
        let records = Self::records(engine, args)?;
        Ok(Tailing {
            engine,
            args,
            records,
            read: 0,
            held: args.tail.0.map(|_| VecDeque::new()),
        })
    }

    fn records(engine: &Engine, args: &Logs) -> Result<engine::Logs, Failure> {
        let lines = args.timestamps || args.tail.0.is_some();
        Ok(engine.logs(&args.container, LogsOptions { tail: None, lines })?)
    }

    /// Shows what has come.
    fn catch_up(&mut self) -> Result<(), Failure> {
        let mut reopened = false;
        loop {
            match self.records.next() {
                None => break,
                Some(Ok(record)) => {
                    self.read += 1;
                    self.take(record)?;
                }
                // A record that was being written when its first half was read: begin again, at the same place.
                Some(Err(error)) if error.kind() == ErrorKind::Corrupt && !reopened => {
                    reopened = true;
                    self.records = Self::records(self.engine, self.args)?;
                    for record in self.records.by_ref().take(self.read) {
                        record?;
                    }
                }
                Some(Err(error)) => return Err(error.into()),
            }
        }
        self.held
            .take()
            .unwrap_or_default()
            .iter()
            .try_for_each(|record| show(record, self.args.timestamps))
    }

    fn take(&mut self, record: LogRecord) -> Result<(), Failure> {
        let Some(held) = &mut self.held else {
            return show(&record, self.args.timestamps);
        };
        held.push_back(record);
        if held.len() > self.args.tail.0.unwrap_or(usize::MAX) {
            held.pop_front();
        }
        Ok(())
    }
}

fn show(record: &LogRecord, timestamps: bool) -> Result<(), Failure> {
    let mut bytes = Vec::with_capacity(record.bytes.len() + 32);
    if timestamps {
        bytes.extend_from_slice(human::timestamp(record.time_ns).as_bytes());
        bytes.push(b' ');
    }
    bytes.extend_from_slice(&record.bytes);
    match record.stream {
        Stream::Stdout => out::write(&bytes),
        Stream::Stderr => out::stderr_bytes(&bytes),
    }
}
