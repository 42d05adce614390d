//! What can go wrong with a disk image that somebody brings.

use std::io;
use std::path::{Path, PathBuf};

use crate::wrapper::Wrapper;

/// Why a disk image cannot be opened or converted. [`remedy`](Self::remedy) says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A system call.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// A verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Bytes that no program should have written.
    #[error("{} is a damaged qcow2 image: {what}", path.display())]
    Damaged {
        /// The image, or one of its backing files.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// A valid qcow2 image that cannot be read as it is.
    #[error("{} {what}", path.display())]
    Refused {
        /// The image, or one of its backing files.
        path: PathBuf,
        /// A verb and what it has.
        what: String,
        /// What makes it readable.
        remedy: &'static str,
    },
    /// Another format of disk images.
    #[error("{} is a disk image of the format {format}, which is not read here", path.display())]
    Foreign {
        /// The image.
        path: PathBuf,
        /// Its name.
        format: &'static str,
    },
    /// A backing file that must not be opened.
    #[error("the backing file {name:?} of {} is not opened: {reason}", path.display())]
    Backing {
        /// The image that names it.
        path: PathBuf,
        /// As it stands in the image.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// Compressed bytes that are damaged or cut off.
    #[error("cannot decompress {} ({wrapper})", path.display())]
    Unwrap {
        /// The file.
        path: PathBuf,
        /// How it is compressed.
        wrapper: Wrapper,
        /// What the decompressor says.
        #[source]
        source: io::Error,
    },
    /// Compressed twice.
    #[error("{} is compressed twice: {outer}, and {inner} in it", path.display())]
    WrappedTwice {
        /// The file.
        path: PathBuf,
        /// Outside.
        outer: Wrapper,
        /// Inside.
        inner: Wrapper,
    },
    /// More than the caller wants.
    #[error("the disk in {} has {} bytes, the limit is {limit}", path.display(),
        size.map_or_else(|| "more".to_owned(), |size| size.to_string()))]
    TooLarge {
        /// The image.
        path: PathBuf,
        /// Its length, where it is known beforehand.
        size: Option<u64>,
        /// The most that it may have.
        limit: u64,
    },
    /// The caller's progress function said stop.
    #[error("the conversion of {} was interrupted", path.display())]
    Interrupted {
        /// The image.
        path: PathBuf,
    },
}

impl ImageError {
    pub(crate) fn at<E: Into<io::Error>>(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "check the path",
                io::ErrorKind::PermissionDenied => {
                    "check who owns it and who may read and write there"
                }
                io::ErrorKind::AlreadyExists => "choose another name, or remove what is there",
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space, or write to another disk"
                }
                io::ErrorKind::FileTooLarge => {
                    "the file system there cannot hold a file of that length: choose another"
                }
                _ => return None,
            },
            Self::Damaged { .. } => {
                "fetch it again and compare its checksum; `qemu-img check` says more about it"
            }
            Self::Refused { remedy, .. } => remedy,
            Self::Foreign { .. } => "`qemu-img convert -O qcow2 IN OUT` makes one that is",
            Self::Backing { .. } => {
                "put it beside the image, or allow it with --backing any if you trust the image; \
                 `qemu-img rebase` changes the name in the image"
            }
            Self::Unwrap { .. } => {
                "the file is damaged or cut off: fetch it again and compare its checksum"
            }
            Self::WrappedTwice { .. } => "decompress it once before",
            Self::TooLarge { .. } => "raise the limit if you trust the image",
            Self::Interrupted { .. } => return None,
        })
    }
}

impl From<crate::Error> for ImageError {
    fn from(error: crate::Error) -> Self {
        Self::Io {
            operation: error.operation,
            path: error.path,
            source: error.source,
        }
    }
}
