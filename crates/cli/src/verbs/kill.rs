//! `gourd kill`.

use crate::app::App;
use crate::args::container::Kill;
use crate::failure::{Failure, Tally};
use crate::render::out;

/// Sends the signal to each and prints the names of those that got it.
pub async fn kill(app: &App, args: &Kill) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.containers {
        match engine.kill(name, args.signal).await {
            Ok(()) => out::line(name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
