//! Descriptors, manifests and indexes (OCI image specification 1.1; Docker image manifest
//! version 2, schema 2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, MediaType, Platform};

/// The largest manifest, index or image configuration that is read: 4 MiB, which is also the
/// least that the distribution specification asks registries to take.
pub const MAX_DOCUMENT_SIZE: u64 = 4 << 20;

/// What something is, how large it is, and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the content.
    pub media_type: MediaType,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes.
    pub size: u64,
    /// The platform, on entries of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Other places where the content may be fetched from.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub urls: Vec<String>,
    /// Free-form notes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The kind of artifact, where the content is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// Docker and Go write `null` where a list or map is empty.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Descriptor {
    /// A descriptor with the three required fields.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            platform: None,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            artifact_type: None,
        }
    }

    /// The descriptor of `content`.
    pub fn of(media_type: MediaType, content: &[u8]) -> Self {
        Self::new(media_type, Digest::of(content), content.len() as u64)
    }
}

/// An image manifest: a configuration and layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type; OCI allows leaving it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The kind of artifact, if this is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
    /// Free-form notes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// An image index: manifests for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type; OCI allows leaving it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The manifests, and sometimes further indexes.
    #[serde(deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    /// Free-form notes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// An OCI manifest.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config,
            layers,
            annotations: BTreeMap::new(),
        }
    }
}

impl Index {
    /// An OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OciIndex),
            manifests,
            annotations: BTreeMap::new(),
        }
    }
}

/// What a registry or a layout has under a name: a manifest, or an index of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image manifest.
    Manifest(Box<Manifest>),
    /// An index of manifests.
    Index(Index),
}

/// Why bytes are not a manifest or index that gourd can use.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Larger than [`MAX_DOCUMENT_SIZE`].
    #[error("the document has {size} bytes, more than the {limit} allowed", limit = MAX_DOCUMENT_SIZE)]
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("the document is not a valid {what}")]
    Json {
        /// `manifest`, `index` or `image configuration`.
        what: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Neither a manifest nor an index.
    #[error("media type {0:?} is neither an image manifest nor an index")]
    MediaType(String),
    /// Docker's manifest schema 1.
    #[error("Docker manifest schema 1 is not supported: the image must be pushed again")]
    Schema1,
    /// `schemaVersion` is not 2.
    #[error("schemaVersion is {0}, expected 2")]
    SchemaVersion(u32),
    /// The media type outside (header or descriptor) and inside differ.
    #[error("served as {outside}, but the document says {inside}")]
    Conflict {
        /// What the header or descriptor says.
        outside: String,
        /// What the document itself says.
        inside: String,
    },
    /// It has the fields of a manifest and of an index: which one it is would depend on the
    /// reader (CVE-2021-41190).
    #[error("the document has both {0:?} and {1:?}")]
    Ambiguous(&'static str, &'static str),
    /// A manifest whose configuration is not an image configuration.
    #[error("the manifest is not of an image: its configuration is {0}")]
    NotAnImage(String),
    /// A layer of a kind that cannot be unpacked.
    #[error(
        "layer {digest} has the media type {media_type:?}, which is not a tar archive that gourd can read"
    )]
    Layer {
        /// Which layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
}

/// The fields that tell what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<MediaType>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Parses a manifest or an index.
///
/// `served_as` is the media type of the descriptor or of the response header, if there was one
/// that means anything. The digest is the caller's to check.
///
/// # Errors
/// See [`DocumentError`].
pub fn parse_document(
    served_as: Option<&MediaType>,
    bytes: &[u8],
) -> Result<Document, DocumentError> {
    if bytes.len() as u64 > MAX_DOCUMENT_SIZE {
        return Err(DocumentError::TooLarge {
            size: bytes.len() as u64,
        });
    }
    let outline: Outline = json("manifest", bytes)?;
    let media_type = agreed_media_type(served_as, &outline)?;
    match outline.schema_version {
        Some(2) => {}
        version => return Err(DocumentError::SchemaVersion(version.unwrap_or(0))),
    }
    let both = |a, b| Err(DocumentError::Ambiguous(a, b));
    if media_type.is_index() {
        if outline.layers.is_some() {
            return both("manifests", "layers");
        }
        if outline.config.is_some() {
            return both("manifests", "config");
        }
        return Ok(Document::Index(json("index", bytes)?));
    }
    if outline.manifests.is_some() {
        return both("layers", "manifests");
    }
    let manifest: Manifest = json("manifest", bytes)?;
    check_image(&manifest)?;
    Ok(Document::Manifest(Box::new(manifest)))
}

fn json<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, DocumentError> {
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Json { what, source })
}

/// The media type on which header, document and fields agree.
fn agreed_media_type(
    served_as: Option<&MediaType>,
    outline: &Outline,
) -> Result<MediaType, DocumentError> {
    if matches!(
        served_as.or(outline.media_type.as_ref()),
        Some(MediaType::DockerSchema1 | MediaType::DockerSchema1Signed)
    ) || (outline.fs_layers.is_some() && outline.schema_version == Some(1))
    {
        return Err(DocumentError::Schema1);
    }
    let known = |m: &&MediaType| m.is_index() || m.is_manifest();
    let outside = served_as.filter(known);
    if let Some(inside) = &outline.media_type {
        if !known(&inside) {
            return Err(DocumentError::MediaType(inside.to_string()));
        }
        if let Some(outside) = outside
            && outside != inside
        {
            return Err(DocumentError::Conflict {
                outside: outside.to_string(),
                inside: inside.to_string(),
            });
        }
        return Ok(inside.clone());
    }
    match outside {
        Some(outside) => Ok(outside.clone()),
        None if outline.manifests.is_some() => Ok(MediaType::OciIndex),
        None if outline.config.is_some() => Ok(MediaType::OciManifest),
        None => Err(DocumentError::MediaType(
            served_as.map(ToString::to_string).unwrap_or_default(),
        )),
    }
}

/// Artifacts share the manifest format; only images have a rootfs.
fn check_image(manifest: &Manifest) -> Result<(), DocumentError> {
    if !manifest.config.media_type.is_config() {
        return Err(DocumentError::NotAnImage(
            manifest.config.media_type.to_string(),
        ));
    }
    if manifest.config.size > MAX_DOCUMENT_SIZE {
        return Err(DocumentError::TooLarge {
            size: manifest.config.size,
        });
    }
    for layer in &manifest.layers {
        if layer.media_type.layer_compression().is_none() {
            return Err(DocumentError::Layer {
                digest: layer.digest,
                media_type: layer.media_type.to_string(),
            });
        }
    }
    Ok(())
}
