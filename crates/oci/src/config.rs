//! The image configuration, diff IDs and chain IDs (OCI image specification, "Image
//! Configuration").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::manifest::null_as_default;
use crate::{Digest, Hasher, MAX_DOCUMENT_SIZE, Manifest, Platform};

/// An image configuration. Unknown fields are ignored; keep the bytes, whose digest is the
/// image's identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Platform fields, on the top level of the document.
    #[serde(flatten)]
    pub platform: Platform,
    /// Defaults of a container.
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: ContainerConfig,
    /// The layers' content.
    pub rootfs: RootFs,
    /// How each layer came about.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub history: Vec<History>,
}

/// Defaults for a container of the image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// `user`, `uid`, `user:group`, `uid:gid` and so on; empty is root.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// `port/protocol`, documentation only.
    #[serde(
        deserialize_with = "keys",
        serialize_with = "as_keys",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub exposed_ports: Vec<String>,
    /// `NAME=value`.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// The program and first arguments.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub entrypoint: Vec<String>,
    /// Arguments after the entrypoint, or the whole command without one.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cmd: Vec<String>,
    /// Folders that hold data.
    #[serde(
        deserialize_with = "keys",
        serialize_with = "as_keys",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub volumes: Vec<String>,
    /// Where the program starts; empty is `/`.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Free-form notes.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to end, such as `SIGQUIT`; `SIGTERM` if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How to see whether the program is well (Docker's, no part of the specification).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Whatever else there is, such as Docker's `OnBuild`: kept when an image is made of this one.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// A check of a container's health, as Docker writes it. Times in nanoseconds; 0 is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`; `["CMD", …]`; `["CMD-SHELL", line]`; nothing: as the image below.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// A check that takes longer has failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Failures do not count before the container has run for so long.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks before the first success, within the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// So many failures in a row make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A JSON object whose keys are the set.
fn keys<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let map: Option<BTreeMap<String, serde::de::IgnoredAny>> = Option::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

fn as_keys<S: serde::Serializer>(keys: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Empty {}
    serializer.collect_map(keys.iter().map(|key| (key, Empty {})))
}

/// The layers' content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The digest of each layer's unpacked tar archive, the lowest first.
    #[serde(deserialize_with = "null_as_default")]
    pub diff_ids: Vec<Digest>,
}

/// How a layer came about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub empty_layer: bool,
}

/// Why an image configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Larger than [`MAX_DOCUMENT_SIZE`].
    #[error("the image configuration has {size} bytes, more than the {limit} allowed", limit = MAX_DOCUMENT_SIZE)]
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("the image configuration is not valid")]
    Json(#[source] serde_json::Error),
    /// `rootfs.type` is not `layers`.
    #[error("rootfs.type is {0:?}, expected \"layers\"")]
    RootFsType(String),
    /// The manifest and the configuration disagree.
    #[error("the manifest has {layers} layers, but the image configuration {diff_ids} diff IDs")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Diff IDs in the configuration.
        diff_ids: usize,
    },
    /// The image is for something else.
    #[error("the image is for {image}, not for {wanted}")]
    WrongPlatform {
        /// What the image is for.
        image: Box<Platform>,
        /// What was asked for.
        wanted: Box<Platform>,
    },
}

impl ImageConfig {
    /// Parses an image configuration.
    ///
    /// # Errors
    /// [`ConfigError::TooLarge`], [`ConfigError::Json`], [`ConfigError::RootFsType`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() as u64 > MAX_DOCUMENT_SIZE {
            return Err(ConfigError::TooLarge {
                size: bytes.len() as u64,
            });
        }
        let config: Self = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
        if config.rootfs.kind != "layers" {
            return Err(ConfigError::RootFsType(config.rootfs.kind));
        }
        Ok(config)
    }

    /// Checks that the configuration goes with the manifest and runs on `wanted`.
    ///
    /// # Errors
    /// [`ConfigError::LayerCount`], [`ConfigError::WrongPlatform`].
    pub fn check(&self, manifest: &Manifest, wanted: &Platform) -> Result<(), ConfigError> {
        let (layers, diff_ids) = (manifest.layers.len(), self.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(ConfigError::LayerCount { layers, diff_ids });
        }
        if !wanted.accepts(&self.platform) {
            return Err(ConfigError::WrongPlatform {
                image: Box::new(self.platform.clone()),
                wanted: Box::new(wanted.clone()),
            });
        }
        Ok(())
    }

    /// The chain ID of the whole image: what its root file system is. `None` without layers.
    pub fn chain_id(&self) -> Option<Digest> {
        chain_id(&self.rootfs.diff_ids)
    }
}

/// The chain ID of layers applied on top of each other, the lowest first; `None` without layers.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    chain_ids(diff_ids).last()
}

/// The chain ID of every prefix of the layers, the lowest first.
pub fn chain_ids(diff_ids: &[Digest]) -> impl Iterator<Item = Digest> + '_ {
    diff_ids
        .iter()
        .scan(None, |below: &mut Option<Digest>, diff_id| {
            let chain = match *below {
                None => *diff_id,
                Some(below) => {
                    let mut hasher = Hasher::new();
                    hasher.update(format!("{below} {diff_id}").as_bytes());
                    hasher.finish()
                }
            };
            *below = Some(chain);
            Some(chain)
        })
}
