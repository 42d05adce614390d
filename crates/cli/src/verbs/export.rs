//! `gourd export`.

use std::io::{self, Write};

use engine::TarStream;

use super::target::Target;
use crate::app::App;
use crate::args::container::Export;
use crate::failure::Failure;
use crate::terminal;

/// Writes all files of a container into an archive. A file appears when it is whole.
pub async fn export(app: &App, args: &Export) -> Result<u8, Failure> {
    if args.output.is_none() && terminal::stdout_is_terminal() {
        return Err(Failure::ArchiveToTerminal);
    }
    let engine = app.engine()?;
    let Some(path) = &args.output else {
        let archive = engine.export(&args.container).await?;
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
        let archive = engine.export(&args.container).await?;
        write_to(archive, file, failed).await
    };
    target.filled(write).await?;
    target.finish()?;
    Ok(0)
}

/// Writes all of an archive. The writer may block: nothing else goes on meanwhile that it could hold up.
pub async fn write_to(
    mut archive: TarStream,
    mut writer: impl Write,
    failed: impl Fn(io::Error) -> Failure,
) -> Result<u64, Failure> {
    let mut written = 0;
    while let Some(bytes) = archive.next().await? {
        writer.write_all(&bytes).map_err(&failed)?;
        written += bytes.len() as u64;
    }
    writer.flush().map_err(&failed)?;
    Ok(written)
}
