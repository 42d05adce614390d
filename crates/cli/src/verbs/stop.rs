//! `gourd stop`.

use crate::app::App;
use crate::args::container::Stop;
use crate::failure::{Failure, Tally};
use crate::render::out;

/// Stops each and prints the names of those that are stopped.
pub async fn stop(app: &App, args: &Stop) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.containers {
        match engine.stop(name, args.timeout, args.signal).await {
            Ok(()) => out::line(name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
