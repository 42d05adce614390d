//! An image to measure with: its layers on disk, in a store, and as others want them.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use oci::{Descriptor, Digest, Hasher, MediaType};
use store::Root;
use store::content::Ingest;
use store::rootfs::{self, Layer, Options};
use testkit::image::Image;

use super::samples::{self, Packing};

/// Bytes that are decompressed at once.
const CHUNK: usize = 256 << 10;

/// Layers on disk, and in a store.
pub struct Sample {
    pub dir: tempfile::TempDir,
    pub root: Root,
    pub blobs: Vec<PathBuf>,
    pub layers: Vec<Layer>,
    pub options: Options,
}

impl Sample {
    /// Of layers that are packed alike; `cache` is where its folder is.
    pub fn new(cache: &Path, blobs: Vec<PathBuf>, packing: Packing) -> Result<Self> {
        // Beside the cache: /tmp may be memory.
        let dir = tempfile::tempdir_in(cache).context("make a folder")?;
        let root = Root::open(&dir.path().join("root"))?;
        let media_type = match packing {
            Packing::Gzip => MediaType::OciLayerGzip,
            Packing::Zstd => MediaType::OciLayerZstd,
        };
        let mut layers = Vec::new();
        for path in &blobs {
            let mut file = File::open(path)?;
            let (digest, size) = Digest::of_reader(&mut file)?;
            let blob = Descriptor::new(media_type.clone(), digest, size);
            let mut ingest = Ingest::begin(&root, Some(&blob))?;
            each_chunk(&mut File::open(path)?, |chunk| Ok(ingest.write(chunk)?))?;
            ingest.finish()?;
            let mut hasher = Hasher::new();
            each_chunk(&mut decompressor(path)?, |chunk| {
                hasher.update(chunk);
                Ok(())
            })?;
            let diff_id = hasher.finish();
            layers.push(Layer { blob, diff_id });
        }
        Ok(Self {
            dir,
            root,
            blobs,
            layers,
            options: Options::default(),
        })
    }

    /// As an OCI layout, under the tag `x`.
    pub fn layout(&self, dir: &Path) -> Result<()> {
        let config = serde_json::json!({
            "architecture": oci::Platform::host().architecture,
            "os": "linux",
            "config": {},
            "rootfs": {
                "type": "layers",
                "diff_ids": self.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>(),
            },
        });
        let config = serde_json::to_vec(&config)?;
        let descriptors: Vec<_> = self.layers.iter().map(|layer| layer.blob.clone()).collect();
        let manifest = oci::Manifest::new(
            Descriptor::of(MediaType::OciConfig, &config),
            descriptors.clone(),
        );
        let bytes = serde_json::to_vec(&manifest)?;
        let mut image = Image {
            manifest: Descriptor::of(MediaType::OciManifest, &bytes),
            config: manifest.config.clone(),
            layers: descriptors,
            diff_ids: Vec::new(),
            blobs: Default::default(),
        };
        image.blobs.insert(image.config.digest, config);
        image.blobs.insert(image.manifest.digest, bytes);
        for (layer, path) in self.layers.iter().zip(&self.blobs) {
            image.blobs.insert(layer.blob.digest, fs::read(path)?);
        }
        testkit::image::write_layout(dir, &[("x", &image)])
    }
}

/// What umoci takes for the image `x` of a layout.
pub fn unpack(cache: &Path, layout: &Path) -> Result<Duration> {
    let dir = tempfile::tempdir_in(cache)?;
    let mut command = Command::new("umoci");
    command.arg("unpack");
    if !rustix::process::geteuid().is_root() {
        command.arg("--rootless");
    }
    command
        .arg("--image")
        .arg(format!("{}:x", layout.display()));
    samples::run(command.arg(dir.path().join("bundle")))
}

/// What is in a packed layer.
pub fn decompressor(path: &Path) -> Result<impl Read> {
    let file = BufReader::with_capacity(CHUNK, File::open(path)?);
    Ok(rootfs::decompress(file)?)
}

/// Hands out what a reader gives, piece by piece.
pub fn each_chunk(reader: &mut impl Read, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            length => take(&buffer[..length])?,
        }
    }
}
