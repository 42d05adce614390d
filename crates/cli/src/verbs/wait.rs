//! `gourd wait`.

use crate::app::App;
use crate::args::container::Wait;
use crate::failure::{Failure, Tally};
use crate::render::out;

/// Prints each one's exit code, in the order of the command line; ends with 0 itself.
pub async fn wait(app: &App, args: &Wait) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.containers {
        match engine.wait(name).await {
            Ok(code) => out::line(&code.to_string())?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
