//! `gourd rmi`.

use engine::{ErrorKind, Removed};

use crate::app::App;
use crate::args::image::Remove;
use crate::failure::{Failure, Tally, report};
use crate::render::out;

/// Removes each and prints what was untagged and what was deleted.
pub fn rmi(app: &App, args: &Remove) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.images {
        match engine.image_remove(name, args.force) {
            Ok(removed) => {
                for one in removed {
                    match one {
                        Removed::Untagged(reference) => {
                            out::line(&format!("Untagged: {reference}"))?
                        }
                        Removed::Deleted(id) => out::line(&format!("Deleted: {id}"))?,
                    }
                }
            }
            Err(error) if args.force && matches!(error.kind(), ErrorKind::NotFound) => {
                report(&error.into())
            }
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
