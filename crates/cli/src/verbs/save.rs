//! `gourd save`.

use std::io;

use engine::ArchiveError;

use crate::app::App;
use crate::args::image::Save;
use crate::failure::Failure;
use crate::render::progress::Progress;
use crate::terminal;
use crate::verbs::target::Target;

/// Writes images into an archive. A file appears when it is whole.
pub async fn save(app: &App, args: &Save) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let progress = Progress::new(args.quiet);
    let show = |event| progress.show(event);
    let Some(path) = &args.output else {
        if terminal::stdout_is_terminal() {
            return Err(Failure::ArchiveToTerminal);
        }
        let saved = engine.save(&args.images, io::stdout(), &show).await;
        progress.end();
        return match saved {
            Err(engine::Error::Archive(ArchiveError::Write(error)))
                if error.kind() == io::ErrorKind::BrokenPipe =>
            {
                Err(Failure::ReaderGone)
            }
            other => Ok(other.map(|()| 0)?),
        };
    };
    let mut target = Target::create(path)?;
    let file = target.file()?;
    let saved = async { Ok(engine.save(&args.images, file, &show).await?) };
    let saved = target.filled(saved).await;
    progress.end();
    saved?;
    target.finish()?;
    Ok(0)
}
