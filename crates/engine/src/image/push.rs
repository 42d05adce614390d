//! Pushing: layers side by side, then the configuration, then the manifest that names them; with all manifests of an index
//! here or there, the index too.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci::{
    Descriptor, Digest, Document, DocumentError, Index, Manifest, Reference, parse_document,
};
use registry::{Client, ClientOptions, Pushed, Source, Upload};
use store::content::UploadNote;
use store::images::{self, Record};
use store::lock::Mode;
use store::{Root, content, fault, refs};

use super::save::is_bare;
use super::{find, keep, note};
use crate::container::platform;
use crate::{Engine, Error};

/// Layers that go at once.
const AT_ONCE: usize = 3;

/// What to push.
#[derive(Debug, Clone, Default)]
pub struct PushRequest {
    /// A reference with a tag; without one it is `latest`, or all with `all_tags`.
    pub name: String,
    /// Everything that is here of the repository.
    pub all_tags: bool,
    /// The manifest for this platform only, without the index.
    pub platform: Option<String>,
}

/// What a push has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// It goes into this repository, in its full form.
    Repository {
        /// `docker.io/library/debian`
        name: String,
    },
    /// The index names manifests that are neither here nor there: the one that is here is pushed alone.
    OnePlatform {
        /// `sha256:…` of the index.
        index: String,
        /// `sha256:…` of the manifest.
        manifest: String,
    },
    /// The repository has a layer.
    LayerExists {
        /// `sha256:…`
        digest: String,
    },
    /// Another repository of the registry had it.
    LayerMounted {
        /// `sha256:…`
        digest: String,
        /// That repository.
        from: String,
    },
    /// It may not be given to others: it stays where its own addresses say.
    LayerSkipped {
        /// `sha256:…`
        digest: String,
    },
    /// So much of a layer was sent.
    LayerProgress {
        /// `sha256:…`
        digest: String,
        /// Bytes.
        done: u64,
        /// Bytes.
        total: u64,
    },
    /// A layer is there.
    LayerDone {
        /// `sha256:…`
        digest: String,
    },
    /// A tag is there, and all that belongs to it.
    Done(PushedImage),
}

/// A tag that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedImage {
    /// In its full form, with host and tag.
    pub reference: String,
    /// The tag alone.
    pub tag: String,
    /// `sha256:…` of the manifest or index.
    pub digest: String,
    /// Bytes of the manifest or index.
    pub size: u64,
}

/// A push of one tag.
struct Push<'a> {
    root: &'a Root,
    client: &'a Client,
    reference: &'a Reference,
    /// Repositories of the same registry that have a layer.
    mounts: BTreeMap<Digest, Vec<String>>,
    progress: &'a dyn Fn(PushEvent),
}

/// A manifest that is here with all that it names.
struct Here {
    descriptor: Descriptor,
    bytes: Bytes,
    parsed: Manifest,
}

impl Engine {
    /// Pushes images. Their digests there are those here.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when nothing here is called so; [`crate::ErrorKind`] says what else.
    pub async fn push(
        &self,
        request: &PushRequest,
        progress: &dyn Fn(PushEvent),
    ) -> Result<Vec<PushedImage>, Error> {
        let reference = find::parse(&request.name)?;
        let wanted = request.platform.as_deref().map(|name| platform(Some(name)));
        let wanted = wanted.transpose()?;
        let _lease = self.content_lease().await?;
        let entries = choose(&self.root, request, &reference)?;
        let name = reference.name();
        progress(PushEvent::Repository { name });
        let client = Client::new(ClientOptions::default());
        let mut pushed = Vec::new();
        for entry in entries {
            let gone = || Error::NoSuchImage(request.name.clone());
            let record = images::get(&self.root, &entry.image)?.ok_or_else(gone)?;
            if let Some(wanted) = &wanted
                && !wanted.accepts(&record.platform)
            {
                return Err(Error::Platform {
                    image: entry.reference.familiar(),
                    found: record.platform.to_string(),
                    wanted: wanted.to_string(),
                });
            }
            let push = Push {
                root: &self.root,
                client: &client,
                reference: &entry.reference,
                mounts: mounts(&self.root, &entry.reference)?,
                progress,
            };
            let image = push.run(&record, wanted.is_some()).await?;
            progress(PushEvent::Done(image.clone()));
            pushed.push(image);
        }
        Ok(pushed)
    }
}

/// A killed push's uploads are gone on with by the next one. A note that cannot be kept costs that only.
struct Noted(UploadNote);

impl Upload for Noted {
    fn noted(&self) -> Option<String> {
        self.0.read()
    }

    fn note(&self, address: Option<&str>) {
        if let Err(error) = self.0.write(address) {
            tracing::debug!(%error, "an upload is not noted");
        }
        fault::point("push.noted");
    }
}

/// The tags that are meant.
fn choose(
    root: &Root,
    request: &PushRequest,
    reference: &Reference,
) -> Result<Vec<refs::Entry>, Error> {
    let refused = |reason: String| Err(Error::invalid("image reference", reason));
    if reference.digest().is_some() {
        return refused(format!(
            "{:?} has a digest: tags are pushed, and digests follow",
            request.name
        ));
    }
    let entries: Vec<_> = match request.all_tags {
        true if !is_bare(&request.name) => {
            return refused(format!("{:?} has a tag, but all are wanted", request.name));
        }
        true => refs::list(root)?
            .into_iter()
            .filter(|entry| {
                entry.reference.name() == reference.name() && entry.reference.digest().is_none()
            })
            .collect(),
        false => refs::get(root, reference)?.into_iter().collect(),
    };
    match entries.is_empty() {
        true => Err(Error::NoSuchImage(request.name.clone())),
        false => Ok(entries),
    }
}

/// Repositories of the same registry from or to which layers went before.
fn mounts(root: &Root, target: &Reference) -> Result<BTreeMap<Digest, Vec<String>>, Error> {
    let mut mounts: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for entry in refs::list(root)? {
        let other = &entry.reference;
        if other.registry() != target.registry()
            || other.repository() == target.repository()
            || entry.target.is_none()
        {
            continue;
        }
        let Some(record) = images::get(root, &entry.image)? else {
            continue;
        };
        for blob in record.layers.iter().chain([&record.config]) {
            let repositories = mounts.entry(blob.digest).or_default();
            if !repositories.iter().any(|one| one == other.repository()) {
                repositories.push(other.repository().to_owned());
            }
        }
    }
    Ok(mounts)
}

impl Push<'_> {
    async fn run(&self, record: &Record, alone: bool) -> Result<PushedImage, Error> {
        let own = self.here(&record.manifest)?;
        let index = match &record.index {
            Some(index) if !alone => self.index(index, &own).await?,
            _ => None,
        };
        let tag = self.reference.tag().unwrap_or_default().to_owned();
        let (target, size) = match index {
            Some((index, bytes, manifests)) => {
                for manifest in &manifests {
                    self.contents(&manifest.parsed).await?;
                    let by_digest = self.reference.with_digest(manifest.descriptor.digest);
                    self.document(&by_digest, &manifest.descriptor, &manifest.bytes)
                        .await?;
                }
                self.document(self.reference, &index, &bytes).await?;
                (index.digest, index.size)
            }
            None => {
                self.contents(&own.parsed).await?;
                self.document(self.reference, &own.descriptor, &own.bytes)
                    .await?;
                (own.descriptor.digest, own.descriptor.size)
            }
        };
        fault::point("push.tagged");
        let names = images::hold(self.root, Mode::Shared)?;
        // It may have been removed, or moved, meanwhile.
        let entry = refs::get(self.root, self.reference)?;
        if entry.is_some_and(|entry| entry.image == record.id) {
            keep::tag(self.root, self.reference, record.id, Some(target), &names)?;
        }
        drop(names);
        note::moved(self.root, "push", self.reference, &record.id);
        Ok(PushedImage {
            reference: self.reference.to_string(),
            tag,
            digest: target.to_string(),
            size,
        })
    }

    /// A manifest that is here, and must be whole.
    fn here(&self, descriptor: &Descriptor) -> Result<Here, Error> {
        let digest = descriptor.digest;
        let bytes = content::read(self.root, &digest)?;
        let document = parse_document(Some(&descriptor.media_type), &bytes)
            .map_err(|source| Error::Document { digest, source })?;
        let Document::Manifest(parsed) = document else {
            let source = DocumentError::MediaType(descriptor.media_type.to_string());
            return Err(Error::Document { digest, source });
        };
        for blob in parsed.layers.iter().chain([&parsed.config]) {
            if !content::has(self.root, blob) {
                return Err(content::Error::Missing(blob.digest).into());
            }
        }
        Ok(Here {
            descriptor: descriptor.clone(),
            bytes: bytes.into(),
            parsed: *parsed,
        })
    }

    /// The index, and the manifests of it that are here, if all the others are there.
    async fn index(
        &self,
        descriptor: &Descriptor,
        own: &Here,
    ) -> Result<Option<(Descriptor, Bytes, Vec<Here>)>, Error> {
        let digest = descriptor.digest;
        let bytes = content::read(self.root, &digest)?;
        let document = parse_document(Some(&descriptor.media_type), &bytes)
            .map_err(|source| Error::Document { digest, source })?;
        let manifests = match document {
            Document::Index(Index { manifests, .. }) => manifests,
            Document::Manifest(_) => Vec::new(),
        };
        let mut here = Vec::new();
        for manifest in &manifests {
            if let Ok(found) = self.here(manifest) {
                here.push(found);
            } else if !self
                .client
                .has_manifest(self.reference, &manifest.digest)
                .await?
            {
                (self.progress)(PushEvent::OnePlatform {
                    index: digest.to_string(),
                    manifest: own.descriptor.digest.to_string(),
                });
                return Ok(None);
            }
        }
        Ok(Some((descriptor.clone(), bytes.into(), here)))
    }

    /// Layers and configuration of a manifest.
    async fn contents(&self, manifest: &Manifest) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        let layers = manifest.layers.iter();
        let layers: Vec<_> = layers.filter(|layer| seen.insert(layer.digest)).collect();
        stream::iter(layers)
            .map(|layer| self.layer(layer))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        self.blob(&manifest.config, &|_| {}).await?;
        fault::point("push.contents-there");
        Ok(())
    }

    async fn layer(&self, layer: &Descriptor) -> Result<(), Error> {
        let digest = layer.digest.to_string();
        if layer.media_type.is_foreign() && !layer.urls.is_empty() {
            (self.progress)(PushEvent::LayerSkipped { digest });
            return Ok(());
        }
        let sent = |done| {
            (self.progress)(PushEvent::LayerProgress {
                digest: digest.clone(),
                done,
                total: layer.size,
            });
        };
        let pushed = self.blob(layer, &sent).await?;
        let digest = digest.clone();
        (self.progress)(match pushed {
            Pushed::Exists => PushEvent::LayerExists { digest },
            Pushed::Mounted(from) => PushEvent::LayerMounted { digest, from },
            Pushed::Sent => PushEvent::LayerDone { digest },
        });
        Ok(())
    }

    async fn blob(&self, blob: &Descriptor, sent: &dyn Fn(u64)) -> Result<Pushed, Error> {
        let file = Arc::new(content::open(self.root, &blob.digest)?);
        let source: Source = Arc::new(move |offset, length| {
            let mut buffer = vec![0; length];
            file.read_exact_at(&mut buffer, offset)?;
            Ok(buffer.into())
        });
        let note = UploadNote::new(self.root, &blob.digest, &self.reference.name());
        let mounts = self.mounts.get(&blob.digest);
        let mounts = mounts.map_or(&[][..], Vec::as_slice);
        let pushed = self
            .client
            .push_noted_blob(self.reference, blob, mounts, source, sent, &Noted(note))
            .await?;
        Ok(pushed)
    }

    async fn document(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        self.client
            .push_manifest(reference, &descriptor.media_type, bytes.clone())
            .await?;
        Ok(())
    }
}
