//! Loading archives.

use std::io::Read;
use std::path::Path;

use oci::{
    ConfigError, Descriptor, Digest, Document, Index, Manifest, Platform, Reference, parse_document,
};
use serde::Deserialize;
use store::{Root, content, fault};
use tokio::sync::mpsc;

use super::archive::{Archive, Error as ArchiveError};
use super::import::clear;
use super::keep::{self, Complete};
use super::{LoadedImage, PullEvent, note};
use crate::{Engine, Error, blocking};

/// What containerd and Docker write: the whole reference.
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What the specification says: a tag, or whatever the writer thinks a reference is.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Indexes in indexes.
const NESTING: usize = 4;

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image of the archive, and what it is to be called.
struct Found {
    complete: Complete,
    references: Vec<Reference>,
}

impl Found {
    fn named(complete: Complete, entry: &Descriptor) -> Self {
        Self {
            complete,
            references: reference(entry).into_iter().collect(),
        }
    }
}

impl Engine {
    /// Loads the images of an archive: a tar of an OCI layout or of `docker save`, plain or packed.
    ///
    /// # Errors
    /// [`crate::ErrorKind`] says what kind.
    pub async fn load(
        &self,
        source: impl Read + Send + 'static,
        progress: &dyn Fn(PullEvent),
    ) -> Result<Vec<LoadedImage>, Error> {
        self.load_by(progress, move |root, fresh, progress| {
            Archive::read(root, source, fresh, progress)
        })
        .await
    }

    /// Loads the images of a folder with an OCI layout.
    ///
    /// # Errors
    /// [`crate::ErrorKind`] says what kind.
    pub async fn load_folder(
        &self,
        folder: &Path,
        progress: &dyn Fn(PullEvent),
    ) -> Result<Vec<LoadedImage>, Error> {
        let folder = folder.to_owned();
        self.load_by(progress, move |root, fresh, progress| {
            Archive::read_folder(root, &folder, fresh, progress)
        })
        .await
    }

    async fn load_by<R>(
        &self,
        progress: &dyn Fn(PullEvent),
        read: R,
    ) -> Result<Vec<LoadedImage>, Error>
    where
        R: Send + 'static,
        R: for<'f> FnOnce(
            &Root,
            &'f mut Vec<Digest>,
            &'f dyn Fn(PullEvent),
        ) -> Result<Archive<'f>, Error>,
    {
        let lease = self.content_lease().await?;
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let root = self.root.clone();
        let work = blocking(move || {
            let mut fresh = Vec::new();
            let show = |event| drop(sender.send(event));
            let loaded =
                read(&root, &mut fresh, &show).and_then(|archive| load(&root, &archive, &show));
            drop(lease);
            clear(&root, &fresh);
            loaded
        });
        let report = async {
            while let Some(event) = receiver.recv().await {
                progress(event);
            }
        };
        let (loaded, ()) = tokio::join!(work, report);
        loaded
    }
}

fn load(
    root: &Root,
    archive: &Archive<'_>,
    progress: &dyn Fn(PullEvent),
) -> Result<Vec<LoadedImage>, Error> {
    fault::point("load.came");
    let platform = Platform::host();
    // An archive of both kinds is an OCI layout with a `manifest.json` for older readers.
    let found = if let Some(index) = &archive.index {
        from_layout(root, index, &platform)?
    } else if let Some(manifest) = &archive.manifest {
        from_docker(root, archive, manifest, &platform)?
    } else {
        return Err(ArchiveError::NoImages.into());
    };
    let mut loaded = Vec::new();
    for image in found {
        loaded.extend(finish(root, &image, progress)?);
    }
    Ok(loaded)
}

fn finish(
    root: &Root,
    image: &Found,
    progress: &dyn Fn(PullEvent),
) -> Result<Vec<LoadedImage>, Error> {
    for layer in &image.complete.parsed.layers {
        if !content::has(root, layer) {
            return Err(content::Error::Missing(layer.digest).into());
        }
    }
    let layers = image.complete.to_merge(root);
    if layers > 0 {
        progress(PullEvent::Merging { layers });
    }
    let (record, names) = image.complete.keep(root)?;
    let id = record.id.to_string();
    let mut unchanged = true;
    fault::point("load.kept");
    let mut loaded = Vec::new();
    for reference in &image.references {
        unchanged &= keep::tag(root, reference, record.id, None, &names)?;
        fault::point("load.tagged");
        note::image(root, "load", &record.id, &reference.familiar());
        loaded.push(LoadedImage {
            reference: Some(reference.familiar()),
            id: id.clone(),
        });
    }
    progress(PullEvent::Done {
        id: id.clone(),
        unchanged: unchanged && layers == 0,
    });
    if loaded.is_empty() {
        note::image(root, "load", &record.id, &id);
        loaded.push(LoadedImage {
            reference: None,
            id,
        });
    }
    Ok(loaded)
}

fn from_layout(root: &Root, index: &[u8], platform: &Platform) -> Result<Vec<Found>, Error> {
    let index: Index = serde_json::from_slice(index).map_err(|source| ArchiveError::Document {
        name: "index.json",
        source,
    })?;
    let mut found = Vec::new();
    let mut others = Vec::new();
    let mut refused = None;
    for entry in &index.manifests {
        if !entry.media_type.is_manifest() && !entry.media_type.is_index() {
            continue;
        }
        match open(root, entry, platform) {
            Ok(complete) => found.push(Found::named(complete, entry)),
            // A layout may hold one image for several platforms side by side, and signatures beside it.
            Err(error) if is_no_image(&error) => refused = refused.or(Some(error)),
            Err(error) => match theirs(&error) {
                Some(platform) => others.push((entry, platform, error)),
                None => return Err(error),
            },
        }
    }
    // What is for other machines alone is kept as it is: what was pulled for them, or is to be pushed from here.
    if found.is_empty() {
        for (entry, platform, error) in others {
            match open(root, entry, &platform) {
                Ok(complete) => found.push(Found::named(complete, entry)),
                Err(_) => return Err(error),
            }
        }
    }
    match refused {
        Some(error) if found.is_empty() => Err(error),
        _ if found.is_empty() => Err(ArchiveError::Empty.into()),
        _ => Ok(found),
    }
}

/// Whether what was opened is a document of another kind: a signature, an attestation.
fn is_no_image(error: &Error) -> bool {
    use oci::DocumentError::{Layer, NotAnImage};
    matches!(
        error,
        Error::Document {
            source: NotAnImage(_) | Layer { .. },
            ..
        }
    )
}

/// The platform that an image is for, where it was refused for that.
fn theirs(error: &Error) -> Option<Platform> {
    match error {
        Error::NoPlatform { source, .. } => source.offered.first().cloned(),
        Error::Config {
            source: ConfigError::WrongPlatform { image, .. },
            ..
        } => Some((**image).clone()),
        _ => None,
    }
}

/// From an entry of a layout's index to an image for the platform.
fn open(root: &Root, entry: &Descriptor, platform: &Platform) -> Result<Complete, Error> {
    let mut descriptor = entry.clone();
    let mut outermost = None;
    for _ in 0..NESTING {
        let digest = descriptor.digest;
        let bytes = content::read(root, &digest)?;
        let document = parse_document(Some(&descriptor.media_type), &bytes)
            .map_err(|source| Error::Document { digest, source })?;
        match document {
            Document::Manifest(manifest) => {
                let image = entry.digest.to_string();
                let manifest = *manifest;
                return Complete::new(root, outermost, descriptor, manifest, platform, &image);
            }
            Document::Index(index) => {
                let chosen = index.select(platform).map_err(|source| Error::NoPlatform {
                    image: entry.digest.to_string(),
                    source: Box::new(source),
                })?;
                let chosen = chosen.clone();
                outermost = outermost.or(Some(descriptor));
                descriptor = chosen;
            }
        }
    }
    let reason = format!("{} nests indexes more than {NESTING} deep", entry.digest);
    Err(Error::invalid("archive", reason))
}

/// What a layout calls an entry. A lone `latest` is a tag of nothing.
fn reference(entry: &Descriptor) -> Option<Reference> {
    let name = entry
        .annotations
        .get(CONTAINERD_NAME)
        .or_else(|| entry.annotations.get(REF_NAME))?;
    if name == "latest" {
        return None;
    }
    match name.parse() {
        Ok(reference) => Some(reference),
        Err(error) => {
            tracing::warn!(%error, "the archive's name for an image is no reference");
            None
        }
    }
}

fn from_docker(
    root: &Root,
    archive: &Archive<'_>,
    manifest: &[u8],
    platform: &Platform,
) -> Result<Vec<Found>, Error> {
    let saved: Vec<Saved> =
        serde_json::from_slice(manifest).map_err(|source| ArchiveError::Document {
            name: "manifest.json",
            source,
        })?;
    if saved.is_empty() {
        return Err(ArchiveError::Empty.into());
    }
    saved
        .iter()
        .map(|saved| {
            let layers = saved.layers.iter().map(|path| archive.layer(path));
            let manifest = Manifest::new(
                archive.config(&saved.config)?,
                layers.collect::<Result<_, _>>()?,
            );
            let bytes = serde_json::to_vec(&manifest).map_err(|source| ArchiveError::Document {
                name: "manifest.json",
                source,
            })?;
            let digest = content::put(root, &bytes)?;
            let descriptor =
                Descriptor::new(oci::MediaType::OciManifest, digest, bytes.len() as u64);
            let names = saved.repo_tags.iter().flatten();
            let references = names
                .map(|name| {
                    name.parse().map_err(|source| Error::Reference {
                        text: name.clone(),
                        source,
                    })
                })
                .collect::<Result<_, _>>()?;
            let open = |platform: &Platform| {
                let (descriptor, manifest) = (descriptor.clone(), manifest.clone());
                Complete::new(root, None, descriptor, manifest, platform, &saved.config)
            };
            let complete = open(platform).or_else(|error| match theirs(&error) {
                Some(platform) => open(&platform),
                None => Err(error),
            })?;
            Ok(Found {
                complete,
                references,
            })
        })
        .collect()
}
