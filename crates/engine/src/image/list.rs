//! `images` and `image inspect`.

use std::collections::BTreeMap;

use oci::{Digest, Reference};
use serde_json::{Value, json};
use store::images::{self, Record};
use store::{Root, content, refs, rootfs};

use super::{ImageSummary, find};
use crate::{Engine, Error, time};

impl Engine {
    /// All images, newest first.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn images(&self) -> Result<Vec<ImageSummary>, Error> {
        let mut names: BTreeMap<Digest, Vec<refs::Entry>> = BTreeMap::new();
        for entry in refs::list(&self.root)? {
            names.entry(entry.image).or_default().push(entry);
        }
        let mut summaries = Vec::new();
        for record in images::list(&self.root)? {
            let references = names.remove(&record.id).unwrap_or_default();
            summaries.push(summarize(&self.root, &record, &references)?);
        }
        summaries.sort_by_key(|summary| std::cmp::Reverse(summary.created_ns));
        Ok(summaries)
    }

    /// All about an image, in Docker's shape, with `RootfsImage`: the path of its ext4 file.
    ///
    /// # Errors
    /// No such image.
    pub fn image_inspect(&self, name: &str) -> Result<Value, Error> {
        let (record, _) = find::find(&self.root, name)?;
        let bytes = content::read(&self.root, &record.config.digest)?;
        // As it is written: what we don't know of it is shown too.
        let raw: Value = serde_json::from_slice(&bytes).map_err(|source| Error::Config {
            image: name.to_owned(),
            source: oci::ConfigError::Json(source),
        })?;
        let config = find::config(&self.root, &record)?;
        let mut tags = Vec::new();
        let mut digests = Vec::new();
        for entry in references(&self.root, &record.id)? {
            if entry.reference.digest().is_none() {
                tags.push(entry.reference.familiar());
            }
            if let Some(target) = entry.target {
                digests.push(entry.reference.with_digest(target).familiar());
            }
        }
        digests.sort();
        digests.dedup();
        Ok(json!({
            "Id": record.id,
            "RepoTags": tags,
            "RepoDigests": digests,
            "Created": config.created,
            "Author": config.author.unwrap_or_default(),
            "Architecture": record.platform.architecture,
            "Variant": record.platform.variant,
            "Os": record.platform.os,
            "Size": size(&record),
            "Config": raw.get("config").cloned().unwrap_or_else(|| json!({})),
            "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
            "Descriptor": record.manifest,
            "RootfsImage": rootfs::path(&self.root, &record.rootfs),
        }))
    }
}

/// The row of one image.
pub(super) fn summary(root: &Root, record: &Record) -> Result<ImageSummary, Error> {
    summarize(root, record, &references(root, &record.id)?)
}

fn summarize(root: &Root, record: &Record, entries: &[refs::Entry]) -> Result<ImageSummary, Error> {
    let digests = entries.iter().filter_map(|entry| {
        let target = entry.target.or(entry.reference.digest())?;
        Some((entry.reference.familiar(), target.to_string()))
    });
    let config = find::config(root, record)?;
    Ok(ImageSummary {
        id: record.id.to_string(),
        references: familiar(entries),
        digests: digests.collect(),
        created_ns: config.created.as_deref().and_then(time::parse),
        size: size(record),
        platform: record.platform.to_string(),
        labels: config.config.labels,
    })
}

fn size(record: &Record) -> u64 {
    record.layers.iter().map(|layer| layer.size).sum()
}

/// The references that name an image.
pub(super) fn references(root: &Root, image: &Digest) -> Result<Vec<refs::Entry>, Error> {
    let mut entries = refs::list(root)?;
    entries.retain(|entry| entry.image == *image);
    Ok(entries)
}

/// Their familiar forms.
pub(super) fn familiar(entries: &[refs::Entry]) -> Vec<String> {
    let names = entries.iter().map(|entry| &entry.reference);
    names.map(Reference::familiar).collect()
}
