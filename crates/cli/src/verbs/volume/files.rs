//! `gourd volume export`, `gourd volume import`.

use std::io::{self, Write};

use engine::VolumeArchive;

use crate::app::App;
use crate::args::volume::{Export, Import};
use crate::failure::Failure;
use crate::render::out;
use crate::terminal;
use crate::verbs::import::open_archive;
use crate::verbs::target::Target;

/// Writes all files of a volume into an archive. A file appears when it is whole.
pub async fn export(app: &App, args: &Export) -> Result<u8, Failure> {
    if args.output.is_none() && terminal::stdout_is_terminal() {
        return Err(Failure::ArchiveToTerminal);
    }
    let engine = app.engine()?;
    let Some(path) = &args.output else {
        let archive = engine.volume_export(&args.volume).await?;
        write_to(archive, io::stdout(), Failure::stdout).await?;
        return Ok(0);
    };
    let mut target = Target::create(path)?;
    let file = target.file()?;
    let failed = |source| Failure::Create {
        path: path.clone(),
        source,
    };
    let write = async {
        let archive = engine.volume_export(&args.volume).await?;
        write_to(archive, file, failed).await
    };
    target.filled(write).await?;
    target.finish()?;
    Ok(0)
}

/// Writes all of an archive, and waits until the volume is free again. The writer may block: nothing else goes on meanwhile
/// that it could hold up.
async fn write_to(
    mut archive: VolumeArchive,
    mut writer: impl Write,
    failed: impl Fn(io::Error) -> Failure,
) -> Result<(), Failure> {
    let written = async {
        while let Some(bytes) = archive.next().await? {
            writer.write_all(&bytes).map_err(&failed)?;
        }
        writer.flush().map_err(&failed)
    };
    let written = written.await;
    archive.end().await;
    written
}

/// Unpacks an archive in a volume and prints the volume's name.
pub async fn import(app: &App, args: &Import) -> Result<u8, Failure> {
    let archive = open_archive(&args.file)?;
    app.engine()?
        .volume_import(&args.volume, args.owner, archive)
        .await?;
    out::line(&args.volume)?;
    Ok(0)
}
