//! A container's own disk: an empty upper layer, or a private copy of the rootfs image.
//!
//! It is made by the first start, not by the creation: a container that never runs costs no disk. It is made under
//! another name and renamed, so that a crash leaves none.

use std::path::{Path, PathBuf};

use super::{Container, Error, Journal, RootfsMode, Spec, UPPER_SIZE};
use crate::fault;
use crate::file::{self, Durability};
use crate::lock::Lock;
use crate::rootfs;

impl Container {
    /// Makes the container's disk, unless it is there. `_lock` is the container's: nobody else makes it, and nobody uses it.
    ///
    /// # Errors
    /// [`Error::Disk`]; there is none then.
    pub fn make_disk(&self, _lock: &Lock) -> Result<(), Error> {
        let path = self.upper();
        if path.exists() {
            return Ok(());
        }
        let new = self.dir().join(".upper.ext4.new");
        // What a crash left.
        file::remove(&new)?;
        let made = match self.spec().vm.rootfs {
            RootfsMode::Overlay => make_upper(&new, self.spec(), self.durability()),
            RootfsMode::Clone => self.make_clone(&new),
            RootfsMode::Volume => return Ok(()),
        };
        let made = made.and_then(|()| {
            fault::point("disk.made");
            file::rename(&new, &path, self.durability())?;
            fault::point("disk.renamed");
            Ok(())
        });
        if made.is_err() {
            // Best effort: the error that matters is the first one.
            let _ = file::remove(&new);
        }
        made
    }

    fn make_clone(&self, path: &Path) -> Result<(), Error> {
        let failed = failed(path);
        let image = rootfs::path(self.root(), &self.spec().image.rootfs);
        disk::copy(&image, path).map_err(|error| failed(error.into()))?;
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(file::Error::at("open", path))?;
        ext4::grow(&mut file, size(self.spec()), journal(self.spec()))
            .map_err(|error| failed(error.into()))?;
        if self.durability() == Durability::Synced {
            file.sync_all().map_err(file::Error::at("sync", path))?;
        }
        Ok(())
    }
}

fn failed(path: &Path) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
    let path: PathBuf = path.to_owned();
    move |source| Error::Disk {
        path: path.clone(),
        source,
    }
}

fn size(spec: &Spec) -> u64 {
    match spec.vm.storage_size {
        0 => UPPER_SIZE,
        size => size,
    }
}

/// A journal is for whoever mounts the disk after a crash. Nobody does where it goes with the container, unless a way of
/// journalling was asked for.
fn journal(spec: &Spec) -> ext4::Journal {
    match spec.vm.journal {
        Journal::None => ext4::Journal::None,
        Journal::Ordered if spec.remove => ext4::Journal::None,
        Journal::Ordered | Journal::Writeback | Journal::Journal => ext4::Journal::Auto,
    }
}

fn make_upper(path: &Path, spec: &Spec, durability: Durability) -> Result<(), Error> {
    let failed = failed(path);
    // Empty: a file that is cut to nothing is written out by ext4 on the host as soon as it is closed (`auto_da_alloc`),
    // and it then costs a tenth of a second to remove it.
    let mut disk = disk::create_sparse(path, 0).map_err(|error| failed(error.into()))?;
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&oci::Digest::of(spec.id.as_bytes()).as_bytes()[..16]);
    let options = ext4::FormatOptions {
        size: size(spec),
        label: "upper".to_owned(),
        uuid,
        created: std::time::SystemTime::now().into(),
        journal: journal(spec),
        // Whatever an image's file has must go up with it.
        large_xattrs: true,
        ..ext4::FormatOptions::default()
    };
    ext4::format(&mut disk, &options).map_err(|error| failed(error.into()))?;
    if durability == Durability::Synced {
        disk.sync_all().map_err(file::Error::at("sync", path))?;
    }
    Ok(())
}
