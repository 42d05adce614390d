//! `gourd pull`.

use std::cell::RefCell;

use engine::PullEvent;

use crate::app::App;
use crate::args::image::Pull;
use crate::failure::Failure;
use crate::render::out;
use crate::render::progress::Progress;

/// Pulls an image; prints its full reference.
pub async fn pull(app: &App, args: &Pull) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let progress = Progress::new(args.quiet);
    let reference = RefCell::new(args.image.clone());
    let show = |event| {
        if let PullEvent::Resolved {
            reference: full, ..
        } = &event
        {
            reference.replace(full.clone());
        }
        progress.show(event);
    };
    let pulled = engine
        .pull(&args.image, args.platform.as_deref(), &show)
        .await;
    progress.end();
    pulled?;
    out::line(&reference.borrow())?;
    Ok(0)
}
