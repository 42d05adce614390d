//! `system prune`: everything that nobody uses.

use crate::{
    ContainerFilter, Engine, Error, ImageFilter, Pruned, PrunedImages, PrunedVolumes, VolumeFilter,
    blocking,
};

/// What pruning everything did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedAll {
    /// Containers that did not run.
    pub containers: Pruned,
    /// The names of networks that no container is on then.
    pub networks: Vec<String>,
    /// Volumes without a name that no container uses then, if that was asked for.
    pub volumes: PrunedVolumes,
    /// Images that no container uses then, and remains of pulls.
    pub images: PrunedImages,
}

impl PrunedAll {
    /// What all that occupied on the disk.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.containers.bytes + self.volumes.bytes + self.images.bytes
    }
}

impl Engine {
    /// Removes the containers that don't run, the networks that no container is on then, with `volumes` the volumes without a name
    /// that no container uses then, and images without a reference, with `all` all that no container uses. Only what the filter's labels and time let
    /// through; time says nothing of volumes.
    ///
    /// # Errors
    /// As [`Engine::prune_containers`], [`Engine::prune_networks`], [`Engine::prune_volumes`] and [`Engine::prune_images`].
    pub async fn prune(
        &self,
        all: bool,
        volumes: bool,
        filter: &ImageFilter,
    ) -> Result<PrunedAll, Error> {
        let old = ContainerFilter {
            labels: filter.labels.clone(),
            without_labels: filter.without_labels.clone(),
            until_ns: filter.until_ns,
        };
        let containers = self.prune_containers(&old).await?;
        let engine = self.clone();
        let networks = blocking(move || engine.prune_networks(&old)).await?;
        let volumes = if volumes {
            let filter = VolumeFilter {
                labels: filter.labels.clone(),
                without_labels: filter.without_labels.clone(),
                ..VolumeFilter::default()
            };
            self.prune_volumes(false, &filter).await?
        } else {
            let root = self.root.clone();
            PrunedVolumes {
                bytes: blocking(move || store::volume::sweep(&root)).await?,
                ..PrunedVolumes::default()
            }
        };
        let (engine, filter) = (self.clone(), filter.clone());
        let images = blocking(move || engine.prune_images(all, &filter)).await?;
        Ok(PrunedAll {
            containers,
            networks,
            volumes,
            images,
        })
    }
}
