//! From a reference and a platform to a manifest.

use bytes::Bytes;
use oci::{
    Descriptor, Digest, DigestCheck, Document, DocumentError, Manifest, MediaType, Platform,
    Reference, parse_document,
};

use crate::Client;
use crate::error::Error;

/// How deep indexes may be nested.
const MAX_NESTING: usize = 4;

/// What a reference stands for on one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// The index that the reference names, if it names one, and its bytes.
    pub index: Option<(Descriptor, Bytes)>,
    /// The manifest and its bytes, whose digest is right.
    pub manifest: (Descriptor, Bytes),
    /// The same manifest, parsed.
    pub parsed: Manifest,
}

impl Client {
    /// Finds the manifest of `reference` for `platform`.
    ///
    /// If the reference names a manifest directly, its platform is in the image configuration: get
    /// that with [`Client::blob_bytes`] and ask `ImageConfig::check`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Resolved, Error> {
        let what = reference.tag_or_digest();
        let (served_as, bytes) = self.get_manifest(reference, &what, None).await?;
        let host = || crate::endpoint::host(reference).to_owned();
        let digest = Digest::of(&bytes);
        if let Some(expected) = reference.digest().filter(|expected| *expected != digest) {
            let got = digest;
            return Err(Error::Verify {
                host: host(),
                repository: reference.repository().to_owned(),
                source: oci::VerifyError::Mismatch { expected, got },
            });
        }
        let bad = |source| Error::BadManifest {
            reference: reference.to_string(),
            source,
        };
        let mut document = parse_document(served_as.as_ref(), &bytes).map_err(bad)?;
        let mut descriptor = Descriptor::of(media_type(&document, served_as), &bytes);
        let mut bytes = bytes;
        let mut outermost = None;
        for _ in 0..MAX_NESTING {
            let index = match document {
                Document::Manifest(parsed) => {
                    return Ok(Resolved {
                        index: outermost,
                        manifest: (descriptor, bytes),
                        parsed: *parsed,
                    });
                }
                Document::Index(index) => index,
            };
            let chosen = index.select(platform)?.clone();
            outermost = outermost.or(Some((descriptor, bytes)));
            if chosen.size > oci::MAX_DOCUMENT_SIZE {
                return Err(bad(DocumentError::TooLarge { size: chosen.size }));
            }
            let check = DigestCheck::of(&chosen);
            let what = chosen.digest.to_string();
            (_, bytes) = self.get_manifest(reference, &what, Some(check)).await?;
            document = parse_document(Some(&chosen.media_type), &bytes).map_err(bad)?;
            descriptor = chosen;
        }
        Err(Error::Protocol {
            host: host(),
            what: format!("indexes are nested more than {MAX_NESTING} deep"),
        })
    }
}

/// What a document is, for its descriptor.
fn media_type(document: &Document, served_as: Option<MediaType>) -> MediaType {
    let (inside, default) = match document {
        Document::Manifest(m) => (m.media_type.clone(), MediaType::OciManifest),
        Document::Index(i) => (i.media_type.clone(), MediaType::OciIndex),
    };
    let served_as = served_as.filter(|m| m.is_index() || m.is_manifest());
    inside.or(served_as).unwrap_or(default)
}
