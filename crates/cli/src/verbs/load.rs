//! `gourd load`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::app::App;
use crate::args::image::Load;
use crate::failure::Failure;
use crate::render::out;
use crate::render::progress::Progress;
use crate::terminal;

/// Loads the images of an archive and prints their names, or ids where the archive names none.
pub async fn load(app: &App, args: &Load) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let progress = Progress::new(args.quiet);
    let show = |event| progress.show(event);
    let loaded = match &args.input {
        Some(path) if path.is_dir() => engine.load_folder(path, &show).await,
        input => engine.load(open(input.as_deref())?, &show).await,
    };
    progress.end();
    for image in loaded? {
        match image.reference {
            Some(reference) => out::line(&format!("Loaded image: {reference}"))?,
            None => out::line(&format!("Loaded image ID: {}", image.id))?,
        }
    }
    Ok(0)
}

fn open(path: Option<&Path>) -> Result<Box<dyn Read + Send>, Failure> {
    Ok(match path {
        Some(path) => Box::new(File::open(path).map_err(|source| Failure::Open {
            path: path.to_owned(),
            source,
        })?),
        None if terminal::stdin_is_terminal() => return Err(Failure::NoArchive),
        None => Box::new(io::stdin()),
    })
}
