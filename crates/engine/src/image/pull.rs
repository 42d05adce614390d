//! Pulling: layers come side by side, each straight into the store.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci::{Descriptor, Platform, Reference};
use registry::{Client, ClientOptions};
use store::images::Record;
use store::lock::Lock;
use store::rootfs::{self, Arrivals};
use store::{content, fault};

use super::keep::{self, Complete};
use super::{ImageSummary, PullEvent, download, find, list, note};
use crate::container::platform;
use crate::{Engine, Error, blocking};

/// Layers that come at once, as many as Docker's.
const AT_ONCE: usize = 3;

impl Engine {
    /// Pulls an image.
    ///
    /// # Errors
    /// [`crate::ErrorKind`] says what kind.
    pub async fn pull(
        &self,
        reference: &str,
        platform: Option<&str>,
        progress: &dyn Fn(PullEvent),
    ) -> Result<ImageSummary, Error> {
        let reference = find::parse(reference)?;
        let platform = self::platform(platform)?;
        let _lease = self.content_lease().await?;
        let (record, _names) = self.fetch(&reference, &platform, progress).await?;
        list::summary(&self.root, &record)
    }

    /// Pulls; the caller holds the lease on content. Until the lock is given back nobody removes the image.
    pub(super) async fn fetch(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Fn(PullEvent),
    ) -> Result<(Record, Lock), Error> {
        let client = Client::new(ClientOptions::default());
        let resolved = client.resolve(reference, platform).await?;
        let target = match &resolved.index {
            Some((index, _)) => index.digest,
            None => resolved.manifest.0.digest,
        };
        progress(PullEvent::Resolved {
            reference: reference.to_string(),
            digest: target.to_string(),
        });
        let config = &resolved.parsed.config;
        if !content::has(&self.root, config) {
            let bytes = client.blob_bytes(reference, config).await?;
            content::put(&self.root, &bytes)?;
        }
        let manifest = resolved.manifest.0.clone();
        content::put(&self.root, &resolved.manifest.1)?;
        if let Some((_, bytes)) = &resolved.index {
            content::put(&self.root, bytes)?;
        }
        fault::point("pull.documents-written");
        // Before the layers: one for another processor is not worth a byte.
        let complete = Complete::new(
            &self.root,
            resolved.index.map(|(descriptor, _)| descriptor),
            manifest,
            resolved.parsed,
            platform,
            &reference.familiar(),
        )?;
        self.fetch_and_merge(&client, reference, &complete, progress)
            .await?;
        let (root, reference) = (self.root.clone(), reference.clone());
        let (record, names, unchanged) = blocking(move || {
            let (record, names) = complete.keep(&root)?;
            fault::point("pull.kept");
            let unchanged = keep::tag(&root, &reference, record.id, Some(target), &names)?;
            fault::point("pull.tagged");
            note::moved(&root, "pull", &reference, &record.id);
            Ok::<_, Error>((record, names, unchanged))
        })
        .await?;
        progress(PullEvent::Done {
            id: record.id.to_string(),
            unchanged,
        });
        Ok((record, names))
    }

    /// The rootfs image is written while the layers come: when the last one is here, most of the others are in their place.
    async fn fetch_and_merge(
        &self,
        client: &Client,
        reference: &Reference,
        complete: &Complete,
        progress: &dyn Fn(PullEvent),
    ) -> Result<(), Error> {
        let to_merge = complete.to_merge(&self.root);
        let coming = Coming::default();
        let mut merging = pin!({
            let (root, layers) = (self.root.clone(), complete.layers());
            let arrivals = Arc::clone(&coming.0);
            blocking(move || rootfs::build_as_they_come(&root, &layers, &arrivals))
        });
        let fetched = {
            let layers = &complete.parsed.layers;
            let mut fetching =
                pin!(self.fetch_layers(client, reference, layers, &coming.0, progress));
            tokio::select! {
                fetched = &mut fetching => fetched,
                merged = &mut merging => {
                    // The image was here before, or a layer is not what it should be: no use for the rest.
                    merged?;
                    return fetching.await;
                }
            }
        };
        match &fetched {
            Ok(()) if to_merge > 0 => progress(PullEvent::Merging { layers: to_merge }),
            Ok(()) => {}
            Err(_) => coming.0.give_up(),
        }
        // Whatever came of the layers: nothing of it may be left when the lease on content is.
        let merged = merging.await;
        fetched?;
        merged.map(drop)
    }

    async fn fetch_layers(
        &self,
        client: &Client,
        reference: &Reference,
        layers: &[Descriptor],
        arrivals: &Arrivals,
        progress: &dyn Fn(PullEvent),
    ) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        let missing: Vec<&Descriptor> = layers
            .iter()
            .filter(|layer| seen.insert(layer.digest))
            .filter(|layer| {
                let here = content::has(&self.root, layer);
                if here {
                    arrivals.arrived(layer.digest);
                    let digest = layer.digest.to_string();
                    progress(PullEvent::LayerExists { digest });
                }
                !here
            })
            .collect();
        stream::iter(missing)
            .map(|layer| async move {
                download::layer(&self.root, client, reference, layer, progress).await?;
                arrivals.arrived(layer.digest);
                Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await
    }
}

/// Layers that come, until it is dropped: nobody waits for the layers of a pull that was given up.
#[derive(Default)]
struct Coming(Arc<Arrivals>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.give_up();
    }
}
