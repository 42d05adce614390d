//! Makes small images: layers from lists of entries, written as an OCI layout or archive.
//!
//! The tar writer here shares no code with gourd's reader. Everything is deterministic: the same
//! builder gives the same digests.

mod tar;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use oci::{Descriptor, Digest, Index, Manifest, MediaType};
use serde_json::json;

pub use tar::{Entry, Layer};

/// How layers are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// A plain tar archive.
    Plain,
    /// gzip.
    #[default]
    Gzip,
    /// zstd.
    Zstd,
}

/// Builds an image with one manifest.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    layers: Vec<(Vec<u8>, Packing)>,
    packing: Packing,
    architecture: String,
    os: String,
    env: Vec<String>,
    cmd: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    extra: serde_json::Map<String, serde_json::Value>,
}

/// An image's parts, by digest.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest's descriptor.
    pub manifest: Descriptor,
    /// The image configuration's descriptor.
    pub config: Descriptor,
    /// The layers' descriptors, the lowest first.
    pub layers: Vec<Descriptor>,
    /// The digests of the unpacked layers.
    pub diff_ids: Vec<Digest>,
    /// Every blob: the above.
    pub blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// An image for Linux on the host's architecture, without layers, gzip for those to come.
    pub fn new() -> Self {
        let host = oci::Platform::host();
        Self {
            layers: Vec::new(),
            packing: Packing::default(),
            architecture: host.architecture,
            os: host.os,
            env: Vec::new(),
            cmd: None,
            entrypoint: None,
            user: None,
            working_dir: None,
            extra: serde_json::Map::new(),
        }
    }

    /// The image of Debian's `busybox-static`: `/bin/busybox` and a link for each applet, a root
    /// user, `sh` as the command.
    ///
    /// # Errors
    /// If `/bin/busybox` is missing or is not statically linked.
    pub fn busybox() -> Result<Self> {
        let path = "/bin/busybox";
        let program = fs::read(path)
            .with_context(|| format!("{path} is needed: install the package busybox-static"))?;
        ensure!(
            !has_interpreter(&program),
            "{path} is not static: install busybox-static"
        );
        let list = Command::new(path).arg("--list").output()?;
        ensure!(list.status.success(), "busybox --list failed");
        let mut layer = Layer::new();
        for dir in [
            "bin", "dev", "etc", "proc", "root", "sys", "usr", "usr/bin", "var",
        ] {
            layer = layer.dir(dir);
        }
        layer = layer
            .entry(Entry::dir("tmp").mode(0o1777))
            .entry(Entry::file("bin/busybox", program).mode(0o755))
            .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
            .file("etc/group", "root:x:0:\n");
        for applet in String::from_utf8(list.stdout)?.lines() {
            if applet != "busybox" {
                layer = layer.symlink(&format!("bin/{applet}"), "busybox");
            }
        }
        Ok(Self::new()
            .layer(layer)
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .cmd(["sh"]))
    }

    /// The packing of the layers that are added after this.
    pub fn packing(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }

    /// Adds a layer on top.
    pub fn layer(self, layer: Layer) -> Self {
        self.layer_tar(layer.finish())
    }

    /// Adds a layer that is already a tar archive.
    pub fn layer_tar(mut self, tar: Vec<u8>) -> Self {
        self.layers.push((tar, self.packing));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Sets the command.
    pub fn cmd<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.cmd = Some(words.map(str::to_owned).to_vec());
        self
    }

    /// Sets the entrypoint.
    pub fn entrypoint<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.entrypoint = Some(words.map(str::to_owned).to_vec());
        self
    }

    /// Sets the user.
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Sets the working directory.
    pub fn working_dir(mut self, dir: &str) -> Self {
        self.working_dir = Some(dir.to_owned());
        self
    }

    /// Sets the architecture: `amd64`, `arm64`, …
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.to_owned();
        self
    }

    /// Sets any other field of the configuration's `config` object, such as `StopSignal`.
    pub fn config_field(mut self, name: &str, value: serde_json::Value) -> Self {
        self.extra.insert(name.to_owned(), value);
        self
    }

    /// The finished image.
    ///
    /// # Errors
    /// If compression fails.
    pub fn build(&self) -> Result<Image> {
        let mut blobs = BTreeMap::new();
        let mut put = |media_type: MediaType, bytes: Vec<u8>| {
            let descriptor = Descriptor::of(media_type, &bytes);
            blobs.insert(descriptor.digest, bytes);
            descriptor
        };
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for (tar, packing) in &self.layers {
            diff_ids.push(Digest::of(tar));
            let (media_type, bytes) = pack(tar, *packing)?;
            layers.push(put(media_type, bytes));
        }
        let mut config = self.extra.clone();
        config.insert("Env".into(), json!(self.env));
        let mut set = |name: &str, value: serde_json::Value| {
            if !value.is_null() {
                config.insert(name.into(), value);
            }
        };
        set("Cmd", json!(self.cmd));
        set("Entrypoint", json!(self.entrypoint));
        set("User", json!(self.user));
        set("WorkingDir", json!(self.working_dir));
        let config = json!({
            "architecture": self.architecture,
            "os": self.os,
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = put(MediaType::OciConfig, serde_json::to_vec(&config)?);
        let manifest = Manifest::new(config.clone(), layers.clone());
        let mut manifest = put(MediaType::OciManifest, serde_json::to_vec(&manifest)?);
        manifest.platform = Some(oci::Platform::new(&self.os, &self.architecture));
        Ok(Image {
            manifest,
            config,
            layers,
            diff_ids,
            blobs,
        })
    }

    /// Writes an OCI layout with one image under `tag` into the directory `dir`.
    ///
    /// # Errors
    /// If something cannot be written.
    pub fn write_layout(&self, dir: &Path, tag: &str) -> Result<Image> {
        let image = self.build()?;
        write_layout(dir, &[(tag, &image)])?;
        Ok(image)
    }

    /// Writes an OCI archive, which is a tar archive of a layout, to the file `path`.
    ///
    /// # Errors
    /// If something cannot be written.
    pub fn write_archive(&self, path: &Path, tag: &str) -> Result<Image> {
        let image = self.build()?;
        let mut tar = Layer::new().dir("blobs").dir("blobs/sha256");
        for (name, bytes) in layout_files(&[(tag, &image)])? {
            tar = tar.file(&name, bytes);
        }
        fs::write(path, tar.finish())?;
        Ok(image)
    }
}

/// Whether a 64-bit ELF program has a `PT_INTERP` program header, as dynamic ones have.
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: &[u8] = &[3, 0, 0, 0];
    let number = |at: usize, len: usize| {
        let bytes = elf.get(at..at + len).unwrap_or_default();
        bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
    };
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|i| {
        let at = start + i * size;
        elf.get(at..at + 4) == Some(PT_INTERP)
    })
}

fn pack(tar: &[u8], packing: Packing) -> Result<(MediaType, Vec<u8>)> {
    Ok(match packing {
        Packing::Plain => (MediaType::OciLayer, tar.to_vec()),
        Packing::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(tar)?;
            (MediaType::OciLayerGzip, gzip.finish()?)
        }
        Packing::Zstd => (MediaType::OciLayerZstd, zstd::encode_all(tar, 1)?),
    })
}

/// Writes an OCI layout with several images, each under a tag, into the directory `dir`.
///
/// # Errors
/// If something cannot be written.
pub fn write_layout(dir: &Path, images: &[(&str, &Image)]) -> Result<()> {
    fs::create_dir_all(dir.join("blobs/sha256"))?;
    for (name, bytes) in layout_files(images)? {
        fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}

fn layout_files(images: &[(&str, &Image)]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut manifests = Vec::new();
    for (tag, image) in images {
        let mut manifest = image.manifest.clone();
        let name = "org.opencontainers.image.ref.name".to_owned();
        manifest.annotations.insert(name, (*tag).to_owned());
        manifests.push(manifest);
        for (digest, bytes) in &image.blobs {
            files.push((format!("blobs/sha256/{}", digest.hex()), bytes.clone()));
        }
    }
    files.sort();
    files.dedup_by(|a, b| a.0 == b.0);
    let index = serde_json::to_vec(&Index::new(manifests))?;
    files.push(("index.json".into(), index));
    let version = br#"{"imageLayoutVersion":"1.0.0"}"#;
    files.push(("oci-layout".into(), version.to_vec()));
    Ok(files)
}
