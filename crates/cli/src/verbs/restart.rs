//! `gourd restart`.

use crate::app::App;
use crate::args::container::Restart;
use crate::failure::{Failure, Tally};
use crate::render::out;

/// Restarts each and prints the names of those that run again.
pub async fn restart(app: &App, args: &Restart) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.containers {
        match engine.restart(name, args.timeout, args.signal).await {
            Ok(()) => out::line(name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
