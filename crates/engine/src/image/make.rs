//! New images: a configuration and layers become a manifest and an image.

use oci::{Descriptor, Digest, ImageConfig, Manifest, MediaType};
use store::images::Record;
use store::lock::Lock;
use store::{Root, content, fault};

use super::keep::Complete;
use crate::{Error, time};

/// Now, as configurations have it.
pub(super) fn now() -> String {
    time::format(store::now_ns())
}

/// Writes configuration and manifest, makes the rootfs image and keeps the image. The layers are in the store; the caller
/// holds the lease on content. The lock is [`Complete::keep`]'s. `fresh` tells, in case of an error too, which blobs came.
pub(super) fn image(
    root: &Root,
    config: &ImageConfig,
    layers: Vec<Descriptor>,
    fresh: &mut Vec<Digest>,
) -> Result<(Record, Lock), Error> {
    let encode = |bytes: Result<Vec<u8>, serde_json::Error>| {
        bytes.map_err(|source| Error::Config {
            image: "the new image".to_owned(),
            source: oci::ConfigError::Json(source),
        })
    };
    let bytes = encode(serde_json::to_vec(config))?;
    fresh.push(content::put(root, &bytes)?);
    fault::point("image.config-written");
    let config_blob = Descriptor::of(MediaType::OciConfig, &bytes);
    let parsed = Manifest::new(config_blob, layers);
    let bytes = encode(serde_json::to_vec(&parsed))?;
    fresh.push(content::put(root, &bytes)?);
    fault::point("image.manifest-written");
    let manifest = Descriptor::of(MediaType::OciManifest, &bytes);
    let image = parsed.config.digest.to_string();
    // It may be for another machine: then it can be kept, saved and pushed, but not run here.
    Complete::new(root, None, manifest, parsed, &config.platform, &image)?.keep(root)
}
