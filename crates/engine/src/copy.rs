//! `cp`: files between this host and a container, by Docker's rules.
//!
//! ```text
//!   out:  guest ─ tar ─► Files::read ─► queue ─► a thread unpacks here
//!   in:   a thread packs here ─► queue ─► Files::write ─ tar ─► guest
//! ```
//!
//! The queues are short, so the slowest part sets the pace, and memory is bounded.

mod pack;
mod rules;
mod unpack;

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc;

pub use rules::Refusal;
use rules::{Asked, End, Plan, There};

use crate::container::{Files, UnpackOptions};

/// Pieces between the thread and the connection.
const QUEUE: usize = 8;

/// A piece.
const PIECE: usize = 256 << 10;

/// Links at a destination that are followed one after another.
const LINKS: u32 = 100;

/// Why a copy did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Docker's rules forbid it.
    #[error(transparent)]
    Rules(#[from] Refusal),
    /// There is no such file in the container.
    #[error("could not find the file {path} in container {container}")]
    NotFound {
        /// As asked for.
        path: String,
        /// The container's name.
        container: String,
    },
    /// The destination's parent.
    #[error("invalid output path: directory {:?} does not exist", .0.display().to_string())]
    NoParent(PathBuf),
    /// A device, a socket, a pipe.
    #[error("destination {0:?} must be a directory or a regular file")]
    Irregular(String),
    /// Something other than a directory, with a slash behind it.
    #[error("{0:?} is not a directory")]
    NotADirectory(String),
    /// A path that is no text, which a container's can't be.
    #[error("the name {0:?} is not UTF-8")]
    NotText(PathBuf),
    /// Something other than a directory is in the way.
    #[error("cannot overwrite non-directory {:?} with a directory", path.display().to_string())]
    DirectoryOverOther {
        /// Which.
        path: PathBuf,
    },
    /// A directory is in the way.
    #[error("cannot overwrite directory {:?} with non-directory {name:?}", path.display().to_string())]
    OtherOverDirectory {
        /// Which.
        path: PathBuf,
        /// What the archive has.
        name: String,
    },
    /// The archive wants to write outside of the destination.
    #[error("the archive leads out of the destination with {path:?}")]
    Escape {
        /// The name in it.
        path: String,
    },
    /// A system call on this host failed.
    #[error("cannot {operation} {}", path.display())]
    Host {
        /// A verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The guest's archive is none.
    #[error("the container's archive is not usable")]
    Archive(#[from] oci::tar::TarError),
    /// The archive broke off.
    #[error("the archive broke off")]
    Stream(#[source] io::Error),
}

impl Error {
    /// For `map_err`.
    fn host(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

/// How to copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Copy what a link leads to.
    pub follow_link: bool,
    /// Keep user and group ids, and the bits that lend them.
    pub archive: bool,
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Of the archive that went over.
    pub bytes: u64,
    /// Devices that could not be made here.
    pub skipped: u64,
}

impl Files {
    /// Copies a file or directory of the container to this host. `progress` hears how many bytes came.
    ///
    /// # Errors
    /// [`Error`] for what the rules forbid and what failed here; what failed in the guest.
    pub async fn copy_out(
        &self,
        source: &str,
        destination: &Path,
        options: CopyOptions,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Copied, crate::Error> {
        let asked = Asked::parse(OsStr::new(source), Path::new("/"));
        let found = self.source(source, &asked, options.follow_link).await?;
        let here = std::env::current_dir().map_err(Error::host("find", Path::new(".")))?;
        let destination = Asked::parse(destination.as_os_str(), &here);
        let plan = host_destination(&destination, found)?;
        let unpacker =
            unpack::Unpacker::new(&plan.directory, plan.rename.as_deref(), options.archive)?;
        let mut archive = self.read(source, options.follow_link).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let unpacking = tokio::task::spawn_blocking(move || unpacker.unpack(Pieces::new(receiver)));
        let mut bytes = 0;
        let pumped = async {
            while let Some(piece) = archive.next().await? {
                bytes += piece.len() as u64;
                progress(bytes);
                if sender.send(piece).await.is_err() {
                    // The thread says why.
                    break;
                }
            }
            Ok::<_, crate::Error>(())
        }
        .await;
        drop(sender);
        let unpacked = unpacking.await.map_err(|_| crate::Error::Interrupted)?;
        pumped?;
        Ok(Copied {
            bytes,
            skipped: unpacked?,
        })
    }

    /// Whether the source is a directory.
    async fn source(&self, text: &str, asked: &Asked, follow: bool) -> Result<bool, crate::Error> {
        let missing = || Error::NotFound {
            path: text.to_owned(),
            container: self.container().to_owned(),
        };
        let stat = self.stat(text).await?.ok_or_else(missing)?;
        let stat = if stat.is_symlink() && (follow || asked.end != End::Name) {
            if stat.link_target.is_empty() {
                return Err(missing().into());
            }
            self.stat(&stat.link_target).await?.ok_or_else(missing)?
        } else {
            stat
        };
        if !stat.is_dir() && asked.end != End::Name {
            return Err(Error::NotADirectory(text.to_owned()).into());
        }
        Ok(stat.is_dir())
    }

    /// Copies a file or directory of this host into the container. `progress` hears how many bytes went.
    ///
    /// # Errors
    /// As [`Files::copy_out`].
    pub async fn copy_in(
        &self,
        source: &Path,
        destination: &str,
        options: CopyOptions,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Copied, crate::Error> {
        let here = std::env::current_dir().map_err(Error::host("find", Path::new(".")))?;
        let source = Asked::parse(source.as_os_str(), &here);
        let (path, found) = host_source(&source, options.follow_link)?;
        let (asked, there) = self.destination(destination).await?;
        let plan = rules::plan(found.is_dir(), &asked, there).map_err(Error::from)?;
        let directory = plan
            .directory
            .to_str()
            .ok_or_else(|| Error::NotText(plan.directory.clone()))?;
        let name = plan.rename.unwrap_or_else(|| source.name());
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let packing = tokio::task::spawn_blocking(move || {
            pack::Packer::new(Sink::new(sender), options.archive).pack(&path, &name)
        });
        let unpack = UnpackOptions {
            no_overwrite_dir_non_dir: true,
            keep_owner: options.archive,
        };
        let mut writing = self.write(directory, unpack);
        let mut bytes = 0;
        // The guest looks at the directory before anything else.
        let refused = |error| match error {
            crate::Error::Guest {
                not_found: true, ..
            } => Error::NotFound {
                path: directory.to_owned(),
                container: self.container().to_owned(),
            }
            .into(),
            other => other,
        };
        while let Some(piece) = receiver.recv().await {
            bytes += Bytes::len(&piece) as u64;
            progress(bytes);
            writing.send(piece).await.map_err(refused)?;
        }
        // Dropping what is written when this failed tells the guest that it was broken off.
        packing.await.map_err(|_| crate::Error::Interrupted)??;
        writing.finish().await.map_err(refused)?;
        Ok(Copied { bytes, skipped: 0 })
    }

    /// Where a path of the container leads, and what is there.
    async fn destination(&self, text: &str) -> Result<(Asked, There), crate::Error> {
        let mut asked = Asked::parse(OsStr::new(text), Path::new("/"));
        let clean = |asked: &Asked| asked.path.to_string_lossy().into_owned();
        let mut stat = self.stat(&clean(&asked)).await?;
        if let Some(link) = stat.as_ref().filter(|stat| stat.is_symlink()) {
            if link.link_target.is_empty() {
                return Err(Error::NotFound {
                    path: text.to_owned(),
                    container: self.container().to_owned(),
                }
                .into());
            }
            asked.path = PathBuf::from(&link.link_target);
            stat = self.stat(&clean(&asked)).await?;
        }
        let there = match stat {
            None => There::Nothing,
            Some(stat) if stat.is_dir() => There::Directory,
            Some(stat) if !stat.is_file() => return Err(Error::Irregular(text.to_owned()).into()),
            Some(_) if asked.end != End::Name => {
                return Err(Error::NotADirectory(text.to_owned()).into());
            }
            Some(_) => There::Other,
        };
        Ok((asked, there))
    }

    /// The directory of the container that an archive from elsewhere is unpacked in, when it is one.
    ///
    /// # Errors
    /// It is something else, or nothing.
    pub async fn directory(&self, text: &str) -> Result<String, crate::Error> {
        match self.destination(text).await? {
            (asked, There::Directory) => Ok(asked.path.to_string_lossy().into_owned()),
            _ => Err(Error::NotADirectory(text.to_owned()).into()),
        }
    }
}

/// A source here: where it really is, and what. The name of the copy is the asked one's, whatever links lead to.
fn host_source(asked: &Asked, follow: bool) -> Result<(PathBuf, Metadata), Error> {
    let stat = Error::host("stat", &asked.path);
    let (path, found) = if follow || asked.end != End::Name {
        let real = asked.path.canonicalize();
        match real.and_then(|real| Ok((real.symlink_metadata()?, real))) {
            Ok((found, real)) => (real, found),
            Err(error) => return Err(stat(error)),
        }
    } else {
        let found = asked.path.symlink_metadata().map_err(stat)?;
        (asked.path.clone(), found)
    };
    if asked.end != End::Name && !found.is_dir() {
        let text = asked.written().to_string_lossy().into_owned();
        return Err(Error::NotADirectory(text));
    }
    Ok((path, found))
}

/// Where a copy goes here.
fn host_destination(asked: &Asked, source_is_directory: bool) -> Result<Plan, Error> {
    let shown = || asked.written().to_string_lossy().into_owned();
    let mut asked = asked.clone();
    for _ in 0..LINKS {
        let parent = asked.path.parent().unwrap_or(Path::new("/")).to_owned();
        let found = match asked.path.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !parent.is_dir() {
                    return Err(Error::NoParent(parent));
                }
                return Ok(rules::plan(source_is_directory, &asked, There::Nothing)?);
            }
            Err(error) => return Err(Error::host("stat", &asked.path)(error)),
        };
        let there = if found.is_symlink() {
            let target =
                std::fs::read_link(&asked.path).map_err(Error::host("read", &asked.path))?;
            let end = asked.end;
            asked = Asked::parse(target.as_os_str(), &parent);
            asked.end = end;
            continue;
        } else if found.is_dir() {
            There::Directory
        } else if !found.is_file() {
            return Err(Error::Irregular(shown()));
        } else if asked.end != End::Name {
            return Err(Error::NotADirectory(shown()));
        } else {
            There::Other
        };
        return Ok(rules::plan(source_is_directory, &asked, there)?);
    }
    let links = io::Error::from(rustix::io::Errno::LOOP);
    Err(Error::host("follow", &asked.path)(links))
}

/// What came, for a thread that reads.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Pieces {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self {
            receiver,
            piece: Bytes::new(),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let read = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

/// What a thread writes, in pieces.
struct Sink {
    sender: mpsc::Sender<Bytes>,
    piece: BytesMut,
}

impl Sink {
    fn new(sender: mpsc::Sender<Bytes>) -> Self {
        Self {
            sender,
            piece: BytesMut::with_capacity(PIECE),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, BytesMut::with_capacity(PIECE));
        self.sender
            .blocking_send(piece.freeze())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
