//! Pulling: layers come side by side, each straight into the store.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci::{Descriptor, Platform, Reference};
use registry::{Client, ClientOptions};
use store::images::Record;
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
        let record = self.fetch(&reference, &platform, progress).await?;
        list::summary(&self.root, &record)
    }

    /// Pulls; the caller holds the lease on content.
    pub(super) async fn fetch(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Fn(PullEvent),
    ) -> Result<Record, Error> {
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
        self.fetch_layers(&client, reference, &complete.parsed.layers, progress)
            .await?;
        let layers = complete.to_merge(&self.root);
        if layers > 0 {
            progress(PullEvent::Merging { layers });
        }
        let (root, reference) = (self.root.clone(), reference.clone());
        let (record, unchanged) = blocking(move || {
            let record = complete.keep(&root)?;
            fault::point("pull.kept");
            let unchanged = keep::tag(&root, &reference, record.id, Some(target))?;
            fault::point("pull.tagged");
            note::moved(&root, "pull", &reference, &record.id);
            Ok::<_, Error>((record, unchanged))
        })
        .await?;
        progress(PullEvent::Done {
            id: record.id.to_string(),
            unchanged,
        });
        Ok(record)
    }

    async fn fetch_layers(
        &self,
        client: &Client,
        reference: &Reference,
        layers: &[Descriptor],
        progress: &dyn Fn(PullEvent),
    ) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        let missing: Vec<&Descriptor> = layers
            .iter()
            .filter(|layer| seen.insert(layer.digest))
            .filter(|layer| {
                let here = content::has(&self.root, layer);
                if here {
                    let digest = layer.digest.to_string();
                    progress(PullEvent::LayerExists { digest });
                }
                !here
            })
            .collect();
        stream::iter(missing)
            .map(|layer| download::layer(&self.root, client, reference, layer, progress))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await
    }
}
