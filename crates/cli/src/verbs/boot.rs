//! `gourd system boot`.

use crate::app::App;
use crate::failure::{Failure, Tally};
use crate::render::out;

/// Starts what is to run whenever the host does, and prints the names of those that were started.
pub async fn boot(app: &App) -> Result<u8, Failure> {
    let mut tally = Tally::default();
    for started in app.engine()?.start_on_boot().await? {
        match started.result {
            Ok(()) => out::line(&started.name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
