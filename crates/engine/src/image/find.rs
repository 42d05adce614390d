//! From a name to an image that is here, or a pull.

use oci::{Digest, ImageConfig, Platform, Reference};
use store::images::{self, Record};
use store::lock::Lock;
use store::{Root, content, refs, rootfs};

use super::keep::Complete;
use super::lease::Lease;
use crate::container::Pull;
use crate::{Engine, Error, PullEvent, blocking};

/// An image that is here and stays for as long as this is held.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) record: Record,
    pub(crate) config: ImageConfig,
    /// As people write it.
    pub(crate) reference: String,
    /// Nobody forgets the image, nor collects what it is made of.
    pub(crate) held: (Lock, Lease),
}

impl Engine {
    /// The image of a name, pulled when it must be. One of another platform that is here is what the name means, unless a platform
    /// was asked for.
    pub(crate) async fn resolve(
        &self,
        name: &str,
        (platform, asked): (&Platform, bool),
        pull: Pull,
        progress: &dyn Fn(PullEvent),
    ) -> Result<Resolved, Error> {
        let lease = self.content_lease().await?;
        let names = self.names().await?;
        let here = match pull {
            Pull::Always => None,
            Pull::Missing | Pull::Never => match find(&self.root, name) {
                Err(Error::NoSuchImage(_)) if pull == Pull::Missing => None,
                Ok((record, _))
                    if pull == Pull::Missing && asked && !platform.accepts(&record.platform) =>
                {
                    None
                }
                other => Some(other?),
            },
        };
        let (record, reference, names) = match here {
            Some((record, Some(reference))) => (record, reference.familiar(), names),
            Some((record, None)) => (record, name.to_owned(), names),
            None => {
                let reference = parse(name)?;
                // A pull takes its time.
                drop(names);
                let (record, names) = self.fetch(&reference, platform, progress).await?;
                (record, reference.familiar(), names)
            }
        };
        let config = config(&self.root, &record)?;
        let (record, names) = self.with_rootfs(record, names, &config).await?;
        Ok(Resolved {
            record,
            config,
            reference,
            held: (names, lease),
        })
    }

    /// Makes the rootfs image anew when it is gone, or when an older writer made it.
    async fn with_rootfs(
        &self,
        record: Record,
        names: Lock,
        config: &ImageConfig,
    ) -> Result<(Record, Lock), Error> {
        let key = rootfs::key(&config.rootfs.diff_ids);
        if record.rootfs == key && rootfs::path(&self.root, &key).is_file() {
            return Ok((record, names));
        }
        drop(names);
        let (root, config) = (self.root.clone(), config.clone());
        blocking(move || Complete::again(&root, record, config)?.keep(&root)).await
    }
}

/// A name that a registry would understand.
pub(super) fn parse(name: &str) -> Result<Reference, Error> {
    match name.parse() {
        Ok(reference) => Ok(reference),
        // It was not found among the images.
        Err(oci::ReferenceError::ImageId(_)) => Err(Error::NoSuchImage(name.to_owned())),
        Err(source) => Err(Error::Reference {
            text: name.to_owned(),
            source,
        }),
    }
}

/// A reference for an image that is here: one that a digest is part of says itself what it names.
pub(super) fn parse_new(name: &str) -> Result<Reference, Error> {
    let reference: Reference = name.parse().map_err(|source| Error::Reference {
        text: name.to_owned(),
        source,
    })?;
    if reference.digest().is_some() {
        let reason = format!("{name:?} has a digest: an image gets names and tags");
        return Err(Error::invalid("image reference", reason));
    }
    Ok(reference)
}

/// The configuration of an image that is here.
pub(super) fn config(root: &Root, record: &Record) -> Result<ImageConfig, Error> {
    let bytes = content::read(root, &record.config.digest)?;
    ImageConfig::parse(&bytes).map_err(|source| Error::Config {
        image: record.id.to_string(),
        source,
    })
}

/// The image of a reference, of an id, or of the beginning of one; with the reference that led to it.
pub(crate) fn find(root: &Root, name: &str) -> Result<(Record, Option<Reference>), Error> {
    let parsed = name.parse::<Reference>();
    if let Ok(reference) = &parsed
        && let Some((image, reference)) = by_reference(root, reference)?
    {
        return match images::get(root, &image)? {
            Some(record) => Ok((record, Some(reference))),
            None => Err(Error::NoSuchImage(name.to_owned())),
        };
    }
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if hex.is_empty() || !hex.bytes().all(is_hex) {
        if let Err(source) = parsed {
            let text = name.to_owned();
            return Err(Error::Reference { text, source });
        }
        return Err(Error::NoSuchImage(name.to_owned()));
    }
    let mut matches: Vec<Digest> = images::ids(root)?
        .into_iter()
        .filter(|id| id.hex().starts_with(hex))
        .collect();
    match matches.len() {
        1 => images::get(root, &matches.remove(0))?
            .map(|record| (record, None))
            .ok_or_else(|| Error::NoSuchImage(name.to_owned())),
        0 => Err(Error::NoSuchImage(name.to_owned())),
        count => Err(Error::AmbiguousImage {
            prefix: name.to_owned(),
            count,
        }),
    }
}

/// A digest also finds what was pulled by tag from the same repository.
fn by_reference(root: &Root, wanted: &Reference) -> Result<Option<(Digest, Reference)>, Error> {
    if let Some(entry) = refs::get(root, wanted)? {
        return Ok(Some((entry.image, entry.reference)));
    }
    let Some(digest) = wanted.digest() else {
        return Ok(None);
    };
    let same = |entry: &refs::Entry| {
        entry.target == Some(digest) && entry.reference.name() == wanted.name()
    };
    let found = refs::list(root)?.into_iter().find(same);
    Ok(found.map(|entry| (entry.image, wanted.clone())))
}
