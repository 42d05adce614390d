//! `gourd import`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use engine::ImportRequest;

use crate::app::App;
use crate::args::image::Import;
use crate::failure::Failure;
use crate::render::out;
use crate::render::progress::Progress;
use crate::terminal;

/// Opens an archive; `-` is stdin, which must not be a terminal.
pub(crate) fn open_archive(file: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if file.as_os_str() == "-" {
        if terminal::stdin_is_terminal() {
            return Err(Failure::NoArchive);
        }
        return Ok(Box::new(io::stdin()));
    }
    let opened = File::open(file).map_err(|source| Failure::Open {
        path: file.to_owned(),
        source,
    })?;
    Ok(Box::new(opened))
}

/// Makes an image of an archive of files and prints its id.
pub async fn import(app: &App, args: &Import) -> Result<u8, Failure> {
    let name = args.file.to_string_lossy();
    let archive = open_archive(&args.file)?;
    let message = args.message.clone();
    let request = ImportRequest {
        reference: args.reference.clone(),
        changes: args.change.clone(),
        message: message.unwrap_or_else(|| format!("Imported from {name}")),
        platform: args.platform.clone(),
    };
    let engine = app.engine()?;
    let progress = Progress::new(args.quiet);
    let show = |event| progress.show(event);
    let imported = engine.import(archive, &request, &show).await;
    progress.end();
    out::line(&imported?)?;
    Ok(0)
}
