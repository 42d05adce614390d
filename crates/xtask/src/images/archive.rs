//! An image of one layer as an OCI archive: a tar of an OCI layout (OCI image specification 1.1, image-layout.md).

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image of one layer.
pub struct Image<'a> {
    /// Its reference, for whoever loads the archive.
    pub name: &'a str,
    /// A tar, not compressed.
    pub layer: Vec<u8>,
    /// What runs when nothing is named.
    pub command: &'a [&'a str],
}

impl Image<'_> {
    /// Writes the archive; a reader never sees half of it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let dir = path.parent().context("a path with a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let new = path.with_extension(format!("tar.{}", std::process::id()));
        fs::write(&new, self.archive()?).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, path).with_context(|| format!("move to {}", path.display()))
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let layer = gzip(&self.layer)?;
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": self.command,
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&self.layer)] },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
        }))?;
        let mut entry = descriptor(MANIFEST, &manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": self.name });
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [entry],
        }))?;

        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = super::header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
            tar.append_data(&mut header, name, bytes)
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add("index.json", &index)?;
        for blob in [&manifest, &config, &layer] {
            let name = digest(blob).replacen(':', "/", 1);
            add(&format!("blobs/{name}"), blob)?;
        }
        Ok(tar.into_inner()?)
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// `-n`: no name and no time, so that the same layer gives the same bytes.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("gzip")
        .arg("-nc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start gzip")?;
    let mut stdin = child.stdin.take().context("a pipe to gzip")?;
    let out = std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.write_all(bytes));
        let out = child.wait_with_output();
        writer.join().ok();
        out
    })?;
    ensure!(out.status.success(), "gzip: {}", out.status);
    Ok(out.stdout)
}
