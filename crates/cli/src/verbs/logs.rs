//! `gourd logs`.

use engine::{LogRecord, LogsOptions, Stream, TimeRange};

use crate::app::App;
use crate::args::container::Logs;
use crate::failure::Failure;
use crate::render::{human, out};

/// Prints what a container's first process wrote, each stream to its own; with `-f`, until it has ended.
pub async fn logs(app: &App, args: &Logs) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let options = LogsOptions {
        tail: args.tail.0,
        lines: args.timestamps,
        range: TimeRange {
            since_ns: args.since,
            until_ns: args.until,
        },
    };
    if args.follow {
        let mut records = engine.follow(&args.container, options).await?;
        while let Some(record) = records.next().await? {
            show(&record, args.timestamps)?;
        }
        return Ok(0);
    }
    for record in engine.logs(&args.container, options)? {
        show(&record?, args.timestamps)?;
    }
    Ok(0)
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
