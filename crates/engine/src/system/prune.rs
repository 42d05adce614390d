//! `system prune`: everything that nobody uses.

use crate::{ContainerFilter, Engine, Error, ImageFilter, Pruned, PrunedImages, blocking};

/// What pruning everything did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedAll {
    /// Containers that did not run.
    pub containers: Pruned,
    /// Images that no container uses then, and remains of pulls.
    pub images: PrunedImages,
}

impl PrunedAll {
    /// What all that occupied on the disk.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.containers.bytes + self.images.bytes
    }
}

impl Engine {
    /// Removes the containers that don't run, then images without a reference, with `all` all that no container uses. Of
    /// both only what the filter's labels and time let through.
    ///
    /// # Errors
    /// As [`Engine::prune_containers`] and [`Engine::prune_images`].
    pub async fn prune(&self, all: bool, filter: &ImageFilter) -> Result<PrunedAll, Error> {
        let containers = ContainerFilter {
            labels: filter.labels.clone(),
            without_labels: filter.without_labels.clone(),
            until_ns: filter.until_ns,
        };
        let containers = self.prune_containers(&containers).await?;
        let (engine, filter) = (self.clone(), filter.clone());
        let images = blocking(move || engine.prune_images(all, &filter)).await?;
        Ok(PrunedAll { containers, images })
    }
}
