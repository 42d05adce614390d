//! `gourd pause` and `gourd unpause`.

use crate::app::App;
use crate::args::container::Pause;
use crate::failure::{Failure, Tally};
use crate::render::out;

/// Holds each still and prints the names of those that are.
pub async fn pause(app: &App, args: &Pause) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.containers {
        match engine.pause(name).await {
            Ok(()) => out::line(name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}

/// Lets each go on and prints the names of those that do.
pub async fn unpause(app: &App, args: &Pause) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.containers {
        match engine.unpause(name).await {
            Ok(()) => out::line(name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
