//! Saving: an OCI layout in a tar, with the `manifest.json` that Docker reads.
//!
//! The bytes are those that the store has, so that what is loaded again has the same ids. Documents come first, then each
//! blob once, in the order in which the images name them; the archive depends on nothing but the images and their names.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Read, Write};

use oci::{Descriptor, Digest, Hasher, Index, Reference};
use serde::Serialize;
use store::images::Record;
use store::{Root, content, fault, refs};
use tokio::sync::mpsc;

use super::archive::Error as ArchiveError;
use super::load::{CONTAINERD_NAME, REF_NAME};
use super::{PullEvent, find, note};
use crate::{Engine, Error, blocking};

/// Bytes that are copied at once.
const CHUNK: usize = 256 << 10;

/// An entry of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image, and what it is called in the archive.
#[derive(Debug)]
struct Chosen {
    record: Record,
    references: Vec<Reference>,
}

impl Engine {
    /// Writes images into one archive that `docker load`, `skopeo` and [`Engine::load`] read. A name without a tag means
    /// all tags of it, an id an image without its names.
    ///
    /// # Errors
    /// No such image; a blob that rotted; [`crate::ArchiveError::Write`].
    pub async fn save(
        &self,
        names: &[String],
        sink: impl Write + Send + 'static,
        progress: &dyn Fn(PullEvent),
    ) -> Result<(), Error> {
        let lease = self.content_lease().await?;
        let chosen = choose(&self.root, names)?;
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let root = self.root.clone();
        let work = blocking(move || {
            let _lease = lease;
            write(&root, &chosen, sink, &|event| drop(sender.send(event)))?;
            for image in &chosen {
                note::image(&root, "save", &image.record.id, &image.name());
            }
            Ok::<_, Error>(())
        });
        let report = async {
            while let Some(event) = receiver.recv().await {
                progress(event);
            }
        };
        let (written, ()) = tokio::join!(work, report);
        written
    }
}

impl Chosen {
    fn name(&self) -> String {
        match self.references.first() {
            Some(reference) => reference.familiar(),
            None => self.record.id.to_string(),
        }
    }
}

/// The images that are meant, each once, with all the names that were asked for.
fn choose(root: &Root, names: &[String]) -> Result<Vec<Chosen>, Error> {
    let mut chosen: Vec<Chosen> = Vec::new();
    let mut take = |record: Record, reference: Option<Reference>| {
        let known = chosen.iter().position(|one| one.record.id == record.id);
        let at = known.unwrap_or_else(|| {
            chosen.push(Chosen {
                record,
                references: Vec::new(),
            });
            chosen.len() - 1
        });
        let references = &mut chosen[at].references;
        references.extend(reference.filter(|one| !references.contains(one)));
    };
    for name in names {
        let mut tagged = Vec::new();
        if is_bare(name)
            && let Ok(wanted) = name.parse::<Reference>()
        {
            tagged = refs::list(root)?;
            tagged.retain(|entry| {
                entry.reference.name() == wanted.name() && entry.reference.digest().is_none()
            });
        }
        if tagged.is_empty() {
            let (record, reference) = find::find(root, name)?;
            take(record, reference.filter(|one| one.digest().is_none()));
        }
        for entry in tagged {
            let reference = entry.reference.familiar();
            let (record, _) = find::find(root, &reference)?;
            take(record, Some(entry.reference));
        }
    }
    Ok(chosen)
}

/// Neither tag nor digest: Docker takes all tags then.
pub(super) fn is_bare(name: &str) -> bool {
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    !name[path..].contains([':', '@'])
}

fn write(
    root: &Root,
    chosen: &[Chosen],
    sink: impl Write,
    progress: &dyn Fn(PullEvent),
) -> Result<(), Error> {
    let mut tar = tar::Builder::new(BufWriter::with_capacity(CHUNK, sink));
    let (index, manifest) = (index(chosen), docker_manifest(chosen));
    let document = |value: Result<Vec<u8>, serde_json::Error>, name: &'static str| {
        value.map_err(|source| ArchiveError::Document { name, source })
    };
    for (name, bytes) in [
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        (
            "index.json",
            document(serde_json::to_vec(&index), "index.json")?,
        ),
        (
            "manifest.json",
            document(serde_json::to_vec(&manifest), "manifest.json")?,
        ),
    ] {
        add(&mut tar, name, bytes.len() as u64, &mut bytes.as_slice())?;
    }
    for name in ["blobs/", "blobs/sha256/"] {
        add(&mut tar, name, 0, &mut io::empty())?;
    }
    fault::point("save.documents-written");
    for (descriptor, is_layer) in blobs(chosen) {
        let show: &dyn Fn(PullEvent) = if is_layer { progress } else { &|_| {} };
        add_blob(root, &mut tar, &descriptor, show)?;
    }
    let sink = tar.into_inner().map_err(ArchiveError::Write)?;
    let flushed = sink.into_inner().map_err(io::IntoInnerError::into_error);
    flushed
        .and_then(|mut sink| sink.flush())
        .map_err(ArchiveError::Write)?;
    fault::point("save.written");
    Ok(())
}

/// Every blob once; true for layers.
fn blobs(chosen: &[Chosen]) -> Vec<(Descriptor, bool)> {
    let mut seen = std::collections::BTreeSet::new();
    let mut blobs = Vec::new();
    for Chosen { record, .. } in chosen {
        let documents = [&record.manifest, &record.config].map(|blob| (blob, false));
        let layers = record.layers.iter().map(|layer| (layer, true));
        for (blob, is_layer) in documents.into_iter().chain(layers) {
            if seen.insert(blob.digest) {
                blobs.push((blob.clone(), is_layer));
            }
        }
    }
    blobs
}

/// An entry for each reference, as containerd and Docker write them; one without names for an image without any.
fn index(chosen: &[Chosen]) -> Index {
    let mut manifests = Vec::new();
    for image in chosen {
        let mut plain = image.record.manifest.clone();
        plain.platform = Some(image.record.platform.clone());
        plain.annotations.clear();
        if image.references.is_empty() {
            manifests.push(plain.clone());
        }
        for reference in &image.references {
            let mut named = plain.clone();
            named.annotations = BTreeMap::from([
                (CONTAINERD_NAME.to_owned(), reference.to_string()),
                (REF_NAME.to_owned(), reference.tag_or_digest()),
            ]);
            manifests.push(named);
        }
    }
    Index::new(manifests)
}

fn docker_manifest(chosen: &[Chosen]) -> Vec<Saved> {
    let saved = |image: &Chosen| {
        let tags: Vec<String> = image.references.iter().map(Reference::familiar).collect();
        Saved {
            config: path(&image.record.config.digest),
            repo_tags: Some(tags).filter(|tags| !tags.is_empty()),
            layers: image
                .record
                .layers
                .iter()
                .map(|layer| path(&layer.digest))
                .collect(),
        }
    };
    chosen.iter().map(saved).collect()
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn add(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    from: &mut dyn Read,
) -> Result<(), ArchiveError> {
    let mut header = tar::Header::new_gnu();
    let (kind, mode) = match name.ends_with('/') {
        true => (tar::EntryType::Directory, 0o755),
        false => (tar::EntryType::Regular, 0o644),
    };
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, from)
        .map_err(ArchiveError::Write)
}

/// Copies a blob and checks it on the way: a rotten one must not spread.
fn add_blob(
    root: &Root,
    tar: &mut tar::Builder<impl Write>,
    descriptor: &Descriptor,
    progress: &dyn Fn(PullEvent),
) -> Result<(), Error> {
    let (expected, size) = (descriptor.digest, descriptor.size);
    if !content::has(root, descriptor) {
        return Err(content::Error::Missing(expected).into());
    }
    let mut checked = Checked {
        file: content::open(root, &expected)?.take(size),
        hasher: Hasher::new(),
        shown: 0,
        progress: &|done| {
            progress(PullEvent::LayerProgress {
                digest: expected.to_string(),
                done,
                total: size,
            });
        },
        failed: None,
    };
    let added = add(tar, &path(&expected), size, &mut checked);
    if let Some(source) = checked.failed {
        let path = content::path(root, &expected);
        return Err(store::file::Error::new("read", &path, source).into());
    }
    added?;
    let found = checked.hasher.finish();
    if found != expected {
        return Err(content::Error::Digest { expected, found }.into());
    }
    progress(PullEvent::LayerDone {
        digest: expected.to_string(),
    });
    Ok(())
}

/// Hashes what is read. An error of its own is kept apart from those of the archive.
struct Checked<'p, R> {
    file: R,
    hasher: Hasher,
    shown: u64,
    progress: &'p dyn Fn(u64),
    failed: Option<io::Error>,
}

impl<R: Read> Read for Checked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Ok(length) => {
                self.hasher.update(&buffer[..length]);
                if self.hasher.len() - self.shown >= CHUNK as u64 || length == 0 {
                    self.shown = self.hasher.len();
                    (self.progress)(self.shown);
                }
                Ok(length)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_names_mean_all_tags() {
        let check = |name: &str, expect: bool| assert_eq!(is_bare(name), expect, "{name}");
        check("busybox", true);
        check("localhost:5000/a", true);
        check("busybox:1", false);
        check("a/b@sha256:00", false);
    }
}
