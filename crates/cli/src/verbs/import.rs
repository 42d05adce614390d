//! `gourd import`.

use std::fs::File;
use std::io::{self, Read};

use engine::ImportRequest;

use crate::app::App;
use crate::args::image::Import;
use crate::failure::Failure;
use crate::render::out;
use crate::render::progress::Progress;
use crate::terminal;

/// Makes an image of an archive of files and prints its id.
pub async fn import(app: &App, args: &Import) -> Result<u8, Failure> {
    let name = args.file.to_string_lossy();
    let archive: Box<dyn Read + Send> = if name == "-" {
        if terminal::stdin_is_terminal() {
            return Err(Failure::NoArchive);
        }
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&args.file).map_err(|source| Failure::Open {
            path: args.file.clone(),
            source,
        })?)
    };
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
