//! The last step of every pull and load: blobs that are here become an image.

use oci::{
    Descriptor, Digest, Document, DocumentError, ImageConfig, Manifest, Platform, Reference,
    parse_document,
};
use store::images::{self, Record, SCHEMA};
use store::lock::{Lock, Mode};
use store::rootfs::{self, Layer};
use store::{Root, content, now_ns, refs};

use crate::Error;

/// An image whose blobs are all here.
#[derive(Debug, Clone)]
pub(super) struct Complete {
    pub(super) index: Option<Descriptor>,
    pub(super) manifest: Descriptor,
    pub(super) parsed: Manifest,
    pub(super) config: ImageConfig,
}

impl Complete {
    /// Reads the configuration, and checks that all goes together and runs on `platform`.
    pub(super) fn new(
        root: &Root,
        index: Option<Descriptor>,
        manifest: Descriptor,
        parsed: Manifest,
        platform: &Platform,
        image: &str,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Config {
            image: image.to_owned(),
            source,
        };
        let bytes = content::read(root, &parsed.config.digest)?;
        let config = ImageConfig::parse(&bytes).map_err(failed)?;
        config.check(&parsed, platform).map_err(failed)?;
        Ok(Self {
            index,
            manifest,
            parsed,
            config,
        })
    }

    /// One that is kept already.
    pub(super) fn again(root: &Root, record: Record, config: ImageConfig) -> Result<Self, Error> {
        let digest = record.manifest.digest;
        let bytes = content::read(root, &digest)?;
        let document = parse_document(Some(&record.manifest.media_type), &bytes)
            .map_err(|source| Error::Document { digest, source })?;
        let Document::Manifest(parsed) = document else {
            let source = DocumentError::MediaType(record.manifest.media_type.to_string());
            return Err(Error::Document { digest, source });
        };
        Ok(Self {
            index: record.index,
            manifest: record.manifest,
            parsed: *parsed,
            config,
        })
    }

    /// Its layers, the lowest first.
    pub(super) fn layers(&self) -> Vec<Layer> {
        let layers = self.parsed.layers.iter();
        layers
            .zip(&self.config.rootfs.diff_ids)
            .map(|(blob, diff_id)| Layer {
                blob: blob.clone(),
                diff_id: *diff_id,
            })
            .collect()
    }

    /// How many layers are to be merged; none when the rootfs image is here.
    pub(super) fn to_merge(&self, root: &Root) -> usize {
        let key = rootfs::key(&self.config.rootfs.diff_ids);
        if rootfs::path(root, &key).is_file() {
            0
        } else {
            self.parsed.layers.len()
        }
    }

    /// Makes the rootfs image, and keeps the image. The caller holds the lease on content. With it comes the lock under which
    /// the image gets its references, or a container that is made of it: until it is given back nobody removes the image.
    pub(super) fn keep(&self, root: &Root) -> Result<(Record, Lock), Error> {
        let diff_ids = &self.config.rootfs.diff_ids;
        rootfs::build(root, &self.layers())?;
        let names = images::hold(root, Mode::Shared)?;
        let id = self.parsed.config.digest;
        let known = images::get(root, &id)?;
        let record = Record {
            schema: SCHEMA,
            id,
            config: self.parsed.config.clone(),
            manifest: self.manifest.clone(),
            index: self.index.clone(),
            platform: self.config.platform.clone(),
            layers: self.parsed.layers.clone(),
            rootfs: rootfs::key(diff_ids),
            added_ns: known.as_ref().map_or_else(now_ns, |known| known.added_ns),
        };
        if known.as_ref() != Some(&record) {
            images::put(root, &record)?;
        }
        Ok((record, names))
    }
}

/// Lets a reference name an image; true when it did already. `_names` is [`images::hold`]'s, in any mode, under which the image
/// was seen to be there.
pub(super) fn tag(
    root: &Root,
    reference: &Reference,
    image: Digest,
    target: Option<Digest>,
    _names: &Lock,
) -> Result<bool, Error> {
    let before = refs::get(root, reference)?;
    let same = before.is_some_and(|entry| entry.image == image && entry.target == target);
    if !same {
        refs::set(root, reference, image, target)?;
    }
    Ok(same)
}
