//! `gourd cp`.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Mutex;

use bytes::Bytes;
use engine::{CopyOptions, Engine, UnpackOptions};
use indicatif::{ProgressBar, ProgressDrawTarget};

use super::export::write_to;
use crate::app::App;
use crate::args::container::Copy;
use crate::failure::Failure;
use crate::render::{human, out};
use crate::terminal;

/// One read of an archive on stdin.
const CHUNK: usize = 256 << 10;

/// Where a copy begins or ends.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// `-`
    Stream,
    /// On this host.
    Here(PathBuf),
    /// In a container.
    There { container: String, path: String },
}

impl Place {
    /// Docker's rule: what begins with `/` or has a `.` before the first colon is here; `NAME:PATH` is there.
    fn parse(text: &str) -> Place {
        if text == "-" {
            return Place::Stream;
        }
        match text.split_once(':') {
            Some((container, path))
                if !container.starts_with(['/', '.']) && !container.is_empty() =>
            {
                Place::There {
                    container: container.to_owned(),
                    path: path.to_owned(),
                }
            }
            _ => Place::Here(text.into()),
        }
    }
}

/// Copies between a container and this host.
pub async fn cp(app: &App, args: &Copy) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let options = CopyOptions {
        follow_link: args.follow_link,
        archive: args.archive,
    };
    match (Place::parse(&args.source), Place::parse(&args.destination)) {
        (Place::There { .. }, Place::There { .. }) => Err(Failure::BetweenContainers),
        (Place::There { container, path }, Place::Stream) => {
            if terminal::stdout_is_terminal() {
                return Err(Failure::ArchiveToTerminal);
            }
            let files = engine.files(&container).await?;
            if files.stat(&path).await?.is_none() {
                let container = files.container().to_owned();
                return Err(
                    engine::Error::from(engine::CopyError::NotFound { path, container }).into(),
                );
            }
            let archive = files.read(&path, args.follow_link).await?;
            write_to(archive, io::stdout(), Failure::stdout).await?;
            Ok(0)
        }
        (Place::There { container, path }, Place::Here(here)) => {
            let shown = here.display().to_string();
            let progress = Progress::new(args.quiet, "Copying from container");
            let files = engine.files(&container).await?;
            let copied = files
                .copy_out(&path, &here, options, &|bytes| progress.show(bytes))
                .await;
            progress.end();
            let copied = copied?;
            if copied.skipped > 0 {
                out::stderr(&format!(
                    "gourd: {} not copied: only root makes devices\n",
                    match copied.skipped {
                        1 => "a device was".to_owned(),
                        many => format!("{many} devices were"),
                    }
                ))?;
            }
            say(args.quiet, copied.bytes, &shown)
        }
        (Place::Here(here), Place::There { container, path }) => {
            // Better said before a VM is started for it.
            if !args.follow_link {
                std::fs::symlink_metadata(&here).map_err(|source| Failure::Open {
                    path: here.clone(),
                    source,
                })?;
            }
            let progress = Progress::new(args.quiet, "Copying to container");
            let files = engine.files(&container).await?;
            let copied = files
                .copy_in(&here, &path, options, &|bytes| progress.show(bytes))
                .await;
            progress.end();
            say(args.quiet, copied?.bytes, &format!("{container}:{path}"))
        }
        (Place::Stream, Place::There { container, path }) => {
            if terminal::stdin_is_terminal() {
                return Err(Failure::NoArchive);
            }
            stdin_to(&engine, &container, &path, args.archive).await?;
            Ok(0)
        }
        _ => Err(Failure::NoContainer),
    }
}

fn say(quiet: bool, bytes: u64, to: &str) -> Result<u8, Failure> {
    if !quiet {
        out::stderr(&format!(
            "Successfully copied {} to {to}\n",
            human::size(bytes)
        ))?;
    }
    Ok(0)
}

/// An archive from stdin into a directory of a container.
async fn stdin_to(
    engine: &Engine,
    container: &str,
    path: &str,
    keep_owner: bool,
) -> Result<(), Failure> {
    let files = engine.files(container).await?;
    let directory = files.directory(path).await?;
    let mut unpacking = files.write(
        &directory,
        UnpackOptions {
            no_overwrite_dir_non_dir: true,
            keep_owner,
        },
    );
    // A thread reads: a read that takes long must not hold up the connection.
    let (sender, mut pieces) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(4);
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            let mut stdin = io::stdin().lock();
            let mut buffer = vec![0; CHUNK];
            loop {
                let piece = match stdin.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => Ok(Bytes::copy_from_slice(&buffer[..read])),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = piece.is_err();
                if sender.blocking_send(piece).is_err() || failed {
                    return;
                }
            }
        })
        .map_err(|source| Failure::SetUp {
            what: "the input thread",
            source,
        })?;
    while let Some(piece) = pieces.recv().await {
        unpacking.send(piece.map_err(Failure::Stdin)?).await?;
    }
    Ok(unpacking.finish().await?)
}

/// How far it is, on a terminal.
struct Progress {
    bar: Option<Mutex<(ProgressBar, Cell<u64>)>>,
}

impl Progress {
    fn new(quiet: bool, what: &'static str) -> Progress {
        let shown = !quiet
            && terminal::stderr_is_terminal()
            && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let bar = shown.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_prefix(what);
            if let Ok(style) = indicatif::ProgressStyle::with_template("{prefix} - {msg}") {
                bar.set_style(style);
            }
            Mutex::new((bar, Cell::new(0)))
        });
        Progress { bar }
    }

    fn show(&self, bytes: u64) {
        let Some(Ok(bar)) = self.bar.as_ref().map(Mutex::lock) else {
            return;
        };
        // The bar draws a few times a second; making the words costs more than copying.
        if bytes >= bar.1.get() + (1 << 20) {
            bar.1.set(bytes);
            bar.0.set_message(human::size(bytes));
            bar.0.tick();
        }
    }

    fn end(&self) {
        if let Some(Ok(bar)) = self.bar.as_ref().map(Mutex::lock) {
            bar.0.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: splitCpArg of the docker CLI.
    #[test]
    fn places() {
        let there = |container: &str, path: &str| Place::There {
            container: container.to_owned(),
            path: path.to_owned(),
        };
        let here = |path: &str| Place::Here(path.into());
        let check = |text: &str, expect: Place| assert_eq!(Place::parse(text), expect, "{text}");
        check("-", Place::Stream);
        check("box:/etc", there("box", "/etc"));
        check("box:etc", there("box", "etc"));
        check("box:", there("box", ""));
        check("box:/a:b", there("box", "/a:b"));
        check("/a:b", here("/a:b"));
        check("./a:b", here("./a:b"));
        check("../a:b", here("../a:b"));
        check(".", here("."));
        check("file", here("file"));
        check(":x", here(":x"));
    }
}
