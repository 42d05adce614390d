//! `gourd rm`.

use engine::ErrorKind;

use crate::app::App;
use crate::args::container::Remove;
use crate::failure::{Failure, Tally, report};
use crate::render::out;

/// Removes each and prints the names of those that are gone. With `-f`, one that is not there is told of and no
/// failure, as with Docker.
pub async fn rm(app: &App, args: &Remove) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.containers {
        let removed = match args.volumes {
            true => engine.remove_with_volumes(name, args.force).await,
            false => engine.remove(name, args.force).await,
        };
        match removed {
            Ok(()) => out::line(name)?,
            Err(error) if args.force && matches!(error.kind(), ErrorKind::NotFound) => {
                report(&error.into())
            }
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
