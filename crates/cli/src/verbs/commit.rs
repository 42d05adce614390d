//! `gourd commit`.

use engine::CommitRequest;

use crate::app::App;
use crate::args::container::Commit;
use crate::failure::Failure;
use crate::render::out;
use crate::render::progress::Progress;

/// Makes an image of a container and prints its id.
pub async fn commit(app: &App, args: &Commit) -> Result<u8, Failure> {
    let request = CommitRequest {
        reference: args.reference.clone(),
        author: args.author.clone(),
        message: args.message.clone(),
        changes: args.change.clone(),
        pause: args.pause,
    };
    let engine = app.engine()?;
    let progress = Progress::new(args.quiet);
    let show = |event| progress.show(event);
    let made = engine.commit(&args.container, &request, &show).await;
    progress.end();
    out::line(&made?)?;
    Ok(0)
}
