//! Disk images that somebody brings, and what is wrong with file systems. None of it needs a state directory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use store::disk::{self, Converted, Description, ImageError, OpenOptions, Progress};
use store::ext4::check::{self, Report};
use store::lock::Mode;
use store::{container, rootfs};

use crate::{Engine, Error, blocking};

/// Makes the new file `to` the raw disk that `from` holds: a qcow2 image with its backing files, a raw one, or either of
/// them compressed. `progress` is called from other threads; `Break` ends the conversion.
///
/// It is written under a hidden name beside `to`, and has its own when all of it is on the disk: a death leaves no half of it
/// that looks whole.
///
/// # Errors
/// `to` exists, `from` cannot be read. There is no `to` then.
pub async fn convert_disk(
    from: &Path,
    to: &Path,
    options: &OpenOptions,
    progress: impl Fn(Progress) -> ControlFlow<()> + Send + Sync + 'static,
) -> Result<Converted, Error> {
    let (from, to, options) = (from.to_owned(), to.to_owned(), options.clone());
    blocking(move || convert_hidden(&from, &to, &options, &progress)).await
}

fn convert_hidden(
    from: &Path,
    to: &Path,
    options: &OpenOptions,
    progress: &(dyn Fn(Progress) -> ControlFlow<()> + Sync),
) -> Result<Converted, Error> {
    let failed = |operation| {
        move |source| ImageError::Io {
            operation,
            path: to.to_owned(),
            source,
        }
    };
    if to.symlink_metadata().is_ok() {
        return Err(failed("create")(io::ErrorKind::AlreadyExists.into()).into());
    }
    let mut name = OsString::from(".");
    name.push(to.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let hidden = to.with_file_name(name);
    let converted = match disk::convert(from, &hidden, options, progress) {
        // The name that was asked for is the one that tells the user something.
        Err(ImageError::Io {
            operation,
            path,
            source,
        }) if path == hidden => return Err(failed(operation)(source).into()),
        converted => converted?,
    };
    let keep = || {
        File::open(&hidden)?.sync_all()?;
        match renameat_with(CWD, &hidden, CWD, to, RenameFlags::NOREPLACE) {
            // A file system that does not know of it.
            Err(Errno::INVAL) => fs::rename(&hidden, to)?,
            renamed => renamed?,
        }
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    keep().map_err(|source| {
        let _ = fs::remove_file(&hidden);
        failed("create")(source)
    })?;
    Ok(converted)
}

/// What a file is: its format, its size, what it stands on.
///
/// # Errors
/// It cannot be read, or its first bytes are damaged.
pub fn describe_disk(path: &Path, options: &OpenOptions) -> Result<Description, Error> {
    Ok(disk::describe(path, options)?)
}

/// A file with a file system that [`check_file_system`] did not find clean, or not find at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot check {}", path.display())]
pub struct CheckError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: CheckFailure,
}

/// Why a file system cannot be checked.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum CheckFailure {
    /// The file.
    Open(io::Error),
    /// What is in it.
    Read(store::ext4::read::Error),
}

/// Checks the ext4 file system that is a whole file or block device. Nothing is changed.
///
/// # Errors
/// It cannot be read, is no ext4, or has features that are not known.
pub async fn check_file_system(path: &Path) -> Result<Report, Error> {
    let path = path.to_owned();
    blocking(move || {
        let failed = |source| CheckError {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(|error| failed(CheckFailure::Open(error)))?;
        check::check(&file).map_err(|error| failed(CheckFailure::Read(error)))
    })
    .await
}

impl Engine {
    /// Checks the disk of a container that does not run, the root file system of an image, or a volume that nobody writes;
    /// gives its path too.
    ///
    /// # Errors
    /// No such thing; the container runs; somebody writes to the volume; as [`check_file_system`].
    pub async fn check_file_system_of(&self, name: &str) -> Result<(PathBuf, Report), Error> {
        let container = match self.container(name) {
            Ok(container) => container,
            Err(Error::Container(
                container::Error::NotFound(_) | container::Error::InvalidName(_),
            )) => {
                let (record, _) = match crate::image::find(&self.root, name) {
                    Err(Error::NoSuchImage(_) | Error::Reference { .. })
                        if self.has_volume(name) =>
                    {
                        return self.check_volume(name).await;
                    }
                    found => found?,
                };
                let path = rootfs::path(&self.root, &record.rootfs);
                let report = check_file_system(&path).await?;
                return Ok((path, report));
            }
            Err(error) => return Err(error),
        };
        // Held until the end: a disk that a guest writes is never what it was a moment ago.
        let Some(_lock) = container.try_lock()? else {
            return Err(Error::Running {
                name: container.spec().name.clone(),
            });
        };
        let path = container.upper();
        let report = check_file_system(&path).await?;
        Ok((path, report))
    }

    fn has_volume(&self, name: &str) -> bool {
        !matches!(
            store::volume::open(&self.root, name),
            Err(store::volume::Error::NotFound(_))
        )
    }

    async fn check_volume(&self, name: &str) -> Result<(PathBuf, Report), Error> {
        let volume = store::volume::open(&self.root, name)?;
        // Readers may go on: what they have mounted does not change.
        let lease = crate::volume::lease(self, &volume, Mode::Shared)?;
        let path = volume.disk();
        let report = check_file_system(&path).await?;
        drop(lease);
        Ok((path, report))
    }
}
