//! `system df`: what occupies the disk, by `st_blocks`, and what of it could go.
//!
//! An image's files are its blobs and its rootfs image; images share them. Nothing is locked: what comes or goes
//! meanwhile is counted or not.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use store::images;
use store::{content, file, gc, kernels, rootfs, volume};

use crate::{ContainerSummary, Engine, Error, ImageSummary, VolumeFilter, VolumeSummary, blocking};

/// What occupies the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DiskUsage {
    /// Each image.
    pub images: Vec<ImageUsage>,
    /// All images together: what they share counts once.
    pub images_size: u64,
    /// What would be free if all images that no container uses went.
    pub images_reclaimable: u64,
    /// Each container.
    pub containers: Vec<ContainerUsage>,
    /// Each volume.
    pub volumes: Vec<VolumeSummary>,
    /// Each kernel.
    pub kernels: Vec<KernelUsage>,
    /// What pulls and builds that broke off left behind.
    pub remains: Remains,
}

/// An image's share of the disk, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageUsage {
    /// The image.
    #[serde(flatten)]
    pub image: ImageSummary,
    /// Its blobs and its rootfs image.
    pub occupied: u64,
    /// What other images have too.
    pub shared: u64,
    /// What would be free if it went.
    pub unique: u64,
    /// How many containers use it.
    pub containers: usize,
}

/// A container's share of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerUsage {
    /// The container.
    #[serde(flatten)]
    pub container: ContainerSummary,
    /// Bytes of its disk, its logs and its state.
    pub occupied: u64,
}

/// A kernel's share of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelUsage {
    /// Its name.
    pub name: String,
    /// As `uname -r`.
    pub release: String,
    /// Bytes, with its modules and the initramfs made of them.
    pub occupied: u64,
    /// It is what a container gets that names none, or a container names it.
    pub used: bool,
}

/// Files that nothing leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Remains {
    /// How many.
    pub files: usize,
    /// Bytes.
    pub occupied: u64,
}

/// A file or folder that images have: its bytes, how many images have it, and whether a container uses one of them.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    bytes: u64,
    images: usize,
    used: bool,
}

impl Engine {
    /// What occupies the disk, newest first.
    ///
    /// # Errors
    /// State that cannot be read.
    pub async fn disk_usage(&self) -> Result<DiskUsage, Error> {
        let containers = self.list(true).await?;
        let engine = self.clone();
        blocking(move || engine.measure(containers)).await
    }

    fn measure(&self, containers: Vec<ContainerSummary>) -> Result<DiskUsage, Error> {
        let mut usage = DiskUsage {
            kernels: self.measure_kernels()?,
            volumes: self.volumes(&VolumeFilter::default())?,
            remains: self.measure_remains()?,
            ..DiskUsage::default()
        };
        self.measure_images(&containers, &mut usage)?;
        for container in containers {
            let dir = self.root.containers().join(&container.id);
            usage.containers.push(ContainerUsage {
                occupied: file::occupied_tree(&dir)?,
                container,
            });
        }
        Ok(usage)
    }

    fn measure_images(
        &self,
        containers: &[ContainerSummary],
        usage: &mut DiskUsage,
    ) -> Result<(), Error> {
        let users = |id: &str| {
            let user = |container: &&ContainerSummary| container.image_id == id;
            containers.iter().filter(user).count()
        };
        let records = images::list(&self.root)?;
        let mut shares: BTreeMap<PathBuf, Share> = BTreeMap::new();
        for record in &records {
            let used = users(&record.id.to_string()) > 0;
            for path in self.files_of(record) {
                let share = shares.entry(path.clone()).or_default();
                if share.images == 0 {
                    share.bytes = file::occupied_tree(&path)?;
                }
                share.images += 1;
                share.used |= used;
            }
        }
        usage.images_size = shares.values().map(|share| share.bytes).sum();
        let idle = shares.values().filter(|share| !share.used);
        usage.images_reclaimable = idle.map(|share| share.bytes).sum();
        let mut sizes = BTreeMap::new();
        for record in &records {
            let (mut shared, mut unique) = (0, 0);
            for path in self.files_of(record) {
                match shares.get(&path) {
                    Some(share) if share.images > 1 => shared += share.bytes,
                    Some(share) => unique += share.bytes,
                    None => {}
                }
            }
            sizes.insert(record.id.to_string(), (shared, unique));
        }
        for image in self.images()? {
            // One that came since has none yet.
            let (shared, unique) = sizes.get(&image.id).copied().unwrap_or_default();
            usage.images.push(ImageUsage {
                containers: users(&image.id),
                image,
                occupied: shared + unique,
                shared,
                unique,
            });
        }
        Ok(())
    }

    /// Each once: an image may have a layer twice.
    fn files_of(&self, record: &images::Record) -> std::collections::BTreeSet<PathBuf> {
        record
            .blobs()
            .map(|digest| content::path(&self.root, digest))
            .chain([self.root.rootfs().join(&record.rootfs)])
            .collect()
    }

    fn measure_kernels(&self) -> Result<Vec<KernelUsage>, Error> {
        let default = kernels::resolve(&self.root, "").ok();
        let named: Vec<String> = store::container::list(&self.root)?
            .into_iter()
            .flatten()
            .map(|container| container.spec().vm.kernel.clone())
            .collect();
        kernels::list(&self.root)?
            .into_iter()
            .map(|kernel| {
                let dir = kernel.file.parent().unwrap_or(&kernel.file);
                Ok(KernelUsage {
                    occupied: file::occupied_tree(dir)?,
                    used: default.as_ref() == Some(&kernel) || named.contains(&kernel.name),
                    name: kernel.name,
                    release: kernel.release,
                })
            })
            .collect()
    }

    fn measure_remains(&self) -> Result<Remains, Error> {
        let unused = gc::unused(&self.root)?;
        let blobs = unused
            .blobs
            .iter()
            .map(|one| content::path(&self.root, one));
        let rootfs = unused.rootfs.iter().map(|key| {
            let path = rootfs::path(&self.root, key);
            path.parent().map_or(path.clone(), PathBuf::from)
        });
        let mut remains = Remains::default();
        let volumes = volume::remains(&self.root)?;
        for path in blobs.chain(rootfs).chain(unused.unfinished).chain(volumes) {
            remains.files += 1;
            remains.occupied += file::occupied_tree(&path)?;
        }
        Ok(remains)
    }
}
