//! How much containers take on the host's disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use store::container;

use crate::{Engine, Error};

/// How much a container takes on the host's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerSize {
    /// Bytes of its own disk.
    pub writable: u64,
    /// Bytes of its own disk and of the image that it stands on, which others may share.
    pub whole: u64,
}

impl Engine {
    /// How much a container takes on the host's disk.
    ///
    /// # Errors
    /// No such container.
    pub fn container_size(&self, id: &str) -> Result<ContainerSize, Error> {
        let container = self.container(id)?;
        let writable = allocated(&container.upper());
        let image = store::rootfs::path(&self.root, &container.spec().image.rootfs);
        let below = match container.spec().vm.rootfs {
            container::RootfsMode::Overlay => allocated(&image),
            container::RootfsMode::Clone | container::RootfsMode::Volume => 0,
        };
        Ok(ContainerSize {
            writable,
            whole: writable + below,
        })
    }
}

/// Bytes that a file, or all files in a directory, take on their disk, as far as they can be seen.
pub(super) fn allocated(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else {
        return 0;
    };
    let entries = metadata.is_dir().then(|| std::fs::read_dir(path).ok());
    let within: u64 = entries
        .flatten()
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| allocated(&entry.path()))
        .sum();
    metadata.blocks() * 512 + within
}
