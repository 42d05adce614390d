//! Disk images that somebody brings, and what is wrong with file systems. None of it needs a state directory.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use store::disk::{self, Converted, Description, OpenOptions, Progress};
use store::ext4::check::{self, Report};

use store::lock::Mode;
use store::{container, rootfs};

use crate::{Engine, Error, blocking};

/// Makes the new file `to` the raw disk that `from` holds: a qcow2 image with its backing files, a raw one, or either of
/// them compressed. `progress` is called from other threads; `Break` ends the conversion.
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
    blocking(move || disk::convert(&from, &to, &options, &progress)).await
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
    Open(std::io::Error),
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
