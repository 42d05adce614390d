//! From a reference and a platform to a manifest.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use oci::{
    Descriptor, Digest, DigestCheck, Document, DocumentError, MAX_DOCUMENT_SIZE, Manifest,
    MediaType, Platform, Reference, VerifyError, parse_document,
};

use crate::Client;
use crate::client::Failed;
use crate::endpoint::Site;
use crate::error::Error;

/// How deep indexes may be nested.
const MAX_NESTING: usize = 4;

/// What a manifest may be.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

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
        for site in self.sites(reference).await? {
            match self.resolve_at(&site, reference, platform).await {
                Err(error) if site.endpoint.is_mirror => self.mirror_failed(&site, &error),
                other => return other,
            }
        }
        // The last one is no mirror.
        Err(Error::Protocol {
            host: reference.registry().to_owned(),
            what: "there is nobody to ask".to_owned(),
        })
    }

    async fn resolve_at(
        &self,
        site: &Site,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Resolved, Error> {
        let what = reference.tag_or_digest();
        let (served_as, bytes) = self.get_manifest(site, &what, None).await?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = reference.digest().filter(|expected| *expected != digest) {
            let got = digest;
            return Err(Error::Verify {
                host: site.host(),
                repository: site.repository.clone(),
                source: VerifyError::Mismatch { expected, got },
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
            if chosen.size > MAX_DOCUMENT_SIZE {
                return Err(bad(DocumentError::TooLarge { size: chosen.size }));
            }
            let check = DigestCheck::of(&chosen);
            let what = chosen.digest.to_string();
            (_, bytes) = self.get_manifest(site, &what, Some(check)).await?;
            document = parse_document(Some(&chosen.media_type), &bytes).map_err(bad)?;
            descriptor = chosen;
        }
        Err(Error::Protocol {
            host: site.host(),
            what: format!("indexes are nested more than {MAX_NESTING} deep"),
        })
    }

    /// Gets a manifest or index as it is, and the media type it was served as.
    async fn get_manifest(
        &self,
        site: &Site,
        what: &str,
        check: Option<DigestCheck>,
    ) -> Result<(Option<MediaType>, Bytes), Error> {
        let label = label(what);
        let mut failures = 0;
        loop {
            let path = ("manifests", what);
            let answer = self.get(site, path, &label, accept()).await?;
            let host = answer.host.clone();
            let served_as = answer.header(CONTENT_TYPE.as_str());
            let served_as = served_as.and_then(|value| value.split(';').next());
            let served_as = served_as.map(|value| MediaType::from(value.trim()));
            let promised = answer.header("docker-content-digest");
            let promised: Option<Digest> = promised.and_then(|digest| digest.parse().ok());
            let body = answer
                .body(MAX_DOCUMENT_SIZE as usize, self.timeouts())
                .await;
            let body = match body {
                Ok(Some(body)) => body,
                Ok(None) => {
                    let what = format!("the manifest has more than {MAX_DOCUMENT_SIZE} bytes");
                    return Err(Error::Protocol { host, what });
                }
                Err(error) => {
                    failures += 1;
                    self.pause(Failed::from(error), failures).await?;
                    continue;
                }
            };
            // Without a digest of our own, the registry's is better than none.
            let promised = promised.map(|digest| DigestCheck::new(digest, body.len() as u64));
            let check = check.or(promised).map(|check| verify(check, &body));
            if let Some(Err(source)) = check {
                return Err(Error::Verify {
                    host,
                    repository: site.repository.clone(),
                    source,
                });
            }
            return Ok((served_as, body));
        }
    }
}

/// The header that says what may come.
pub(crate) fn accept() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(ACCEPTED))])
}

/// What to call a manifest that is not there.
pub(crate) fn label(what: &str) -> String {
    match what.contains(':') {
        true => format!("manifest {what}"),
        false => format!("tag {what}"),
    }
}

fn verify(mut check: DigestCheck, body: &[u8]) -> Result<(), VerifyError> {
    check.update(body)?;
    check.finish()
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
