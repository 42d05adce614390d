//! `gourd save`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use engine::ArchiveError;

use crate::app::App;
use crate::args::image::Save;
use crate::failure::Failure;
use crate::render::progress::Progress;
use crate::terminal;

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
    let target = Target::create(path)?;
    let file = target.file()?;
    let saved = engine.save(&args.images, file, &show).await;
    progress.end();
    saved?;
    target.finish()?;
    Ok(0)
}

/// A file that gets its name when it is whole; a pipe or a device is written as it is.
pub(super) struct Target<'p> {
    path: &'p Path,
    file: File,
    temporary: Option<PathBuf>,
}

impl<'p> Target<'p> {
    /// Begins it.
    pub(super) fn create(path: &'p Path) -> Result<Self, Failure> {
        let failed = |source| Failure::Create {
            path: path.to_owned(),
            source,
        };
        let is_special = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
        if is_special {
            let file = File::options().write(true).open(path).map_err(failed)?;
            return Ok(Self {
                path,
                file,
                temporary: None,
            });
        }
        let name = path
            .file_name()
            .ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
        let hidden = format!(".{}.{}", name.to_string_lossy(), std::process::id());
        let temporary = path.with_file_name(hidden);
        Ok(Self {
            path,
            file: File::create_new(&temporary).map_err(failed)?,
            temporary: Some(temporary),
        })
    }

    /// To write to.
    pub(super) fn file(&self) -> Result<File, Failure> {
        self.file.try_clone().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Failure {
        Failure::Create {
            path: self.path.to_owned(),
            source,
        }
    }

    /// It is whole.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        if let Some(temporary) = &self.temporary {
            self.file
                .sync_all()
                .and_then(|()| std::fs::rename(temporary, self.path))
                .map_err(|source| self.failed(source))?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Best effort: whatever went wrong was said.
            let _ = std::fs::remove_file(temporary);
        }
    }
}
