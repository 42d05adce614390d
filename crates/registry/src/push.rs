//! Pushing (OCI distribution specification, "Push"): blobs, then the manifests that name them.
//!
//! A blob that is there already, or in another repository of the registry from which it may be mounted, is not sent. A small one
//! goes in one request; a large one in several, each of which may break: the registry is asked how much it has, and gets the
//! rest.

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderValue, Method, Uri};
use oci::{Descriptor, Digest, MediaType, Reference, VerifyError};
use tokio::sync::watch;

use crate::Client;
use crate::auth::encode;
use crate::body::{Part, Payload, Source, Unread};
use crate::client::{Failed, is_worth_retrying};
use crate::endpoint::Site;
use crate::error::Error;
use crate::resolve;
use crate::transport::{Answer, Call};

/// From how many repositories a blob is tried to be mounted.
const MAX_MOUNTS: usize = 3;

/// How often an upload may be gone on with, whatever progress was made.
const MAX_RECONNECTS: u32 = 100;

/// Statuses of an answer to something that was sent; registries differ.
const TAKEN: [u16; 4] = [200, 201, 202, 204];

/// How a blob got where it was pushed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Exists,
    /// It was in this repository of the same registry.
    Mounted(String),
    /// It was sent.
    Sent,
}

/// Where an upload is noted, so that another command can go on with it when this one is killed. The address may be a secret: who has
/// it may send.
pub trait Upload {
    /// What was noted last.
    fn noted(&self) -> Option<String>;

    /// The registry wants what comes next there; `None` when nothing more comes.
    fn note(&self, address: Option<&str>);
}

/// Nothing is noted.
struct Unnoted;

impl Upload for Unnoted {
    fn noted(&self) -> Option<String> {
        None
    }

    fn note(&self, _: Option<&str>) {}
}

impl Client {
    /// Whether a repository has a blob.
    ///
    /// # Errors
    /// See [`Error`]; that it has none is no error.
    pub async fn has_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<bool, Error> {
        let site = self.writable(reference).await?;
        self.has(&site, "blobs", &descriptor.digest).await
    }

    /// Whether a repository has a manifest or index.
    ///
    /// # Errors
    /// As [`Client::has_blob`].
    pub async fn has_manifest(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let site = self.writable(reference).await?;
        self.has(&site, "manifests", digest).await
    }

    async fn writable(&self, reference: &Reference) -> Result<Site, Error> {
        let mut site = self.site(reference).await?;
        site.writes = true;
        Ok(site)
    }

    async fn has(&self, site: &Site, kind: &str, digest: &Digest) -> Result<bool, Error> {
        let digest = digest.to_string();
        let mut call = Call::new(Method::HEAD, site.url(kind, &digest)?);
        if kind == "manifests" {
            call.headers = resolve::accept();
        }
        match self.request(site, &call, &digest, &[200]).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a blob into a repository. `mounts` are repositories of the same registry that may have it; `source` reads it;
    /// `sent` is told how many bytes were sent.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Source`] when it cannot be read.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mounts: &[String],
        source: Source,
        sent: &dyn Fn(u64),
    ) -> Result<Pushed, Error> {
        self.push_noted_blob(reference, descriptor, mounts, source, sent, &Unnoted)
            .await
    }

    /// As [`Client::push_blob`], but goes on with an upload that `upload` has noted, as far as the registry still has it.
    ///
    /// # Errors
    /// As [`Client::push_blob`].
    pub async fn push_noted_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mounts: &[String],
        source: Source,
        sent: &dyn Fn(u64),
        upload: &dyn Upload,
    ) -> Result<Pushed, Error> {
        let site = self.writable(reference).await?;
        if self.has(&site, "blobs", &descriptor.digest).await? {
            upload.note(None);
            return Ok(Pushed::Exists);
        }
        let (session, offset) = match self.known(&site, descriptor, upload).await {
            Some(known) => known,
            None => match self.mount(&site, descriptor, mounts).await? {
                Ok(from) => return Ok(Pushed::Mounted(from)),
                Err(session) => (session, 0),
            },
        };
        let (sender, mut receiver) = watch::channel(0);
        let sending = Sending {
            client: self,
            site: &site,
            descriptor,
            source,
            sent: sender,
            unread: Unread::default(),
            upload,
            location: session,
            offset,
            in_parts: offset > 0 || descriptor.size > self.upload_size(),
            failures: 0,
            reconnects: 0,
        };
        let work = sending.run();
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done.map(|()| Pushed::Sent),
                Ok(()) = receiver.changed() => sent(*receiver.borrow_and_update()),
            }
        }
    }

    /// An upload that an earlier command began, and how much the registry has of it.
    async fn known(
        &self,
        site: &Site,
        descriptor: &Descriptor,
        upload: &dyn Upload,
    ) -> Option<(Uri, u64)> {
        let location = self.transport().noted(&upload.noted()?)?;
        let call = Call::get(location.clone());
        let asked = self.request(site, &call, "the upload", &[200, 202, 204]);
        match asked.await {
            Ok(answer) => {
                let offset = received(&answer).unwrap_or(0).min(descriptor.size);
                tracing::debug!(offset, "going on with an earlier command's upload");
                Some((
                    self.transport().location(&answer).unwrap_or(location),
                    offset,
                ))
            }
            Err(error) => {
                tracing::debug!(%error, "an earlier command's upload is lost");
                upload.note(None);
                None
            }
        }
    }

    /// The repository from which it was mounted, or where to send it.
    async fn mount(
        &self,
        site: &Site,
        descriptor: &Descriptor,
        mounts: &[String],
    ) -> Result<Result<String, Uri>, Error> {
        let digest = encode(&descriptor.digest.to_string());
        for from in mounts.iter().take(MAX_MOUNTS) {
            let what = format!("?mount={digest}&from={}", encode(from));
            let call = Call::new(Method::POST, site.url("blobs/uploads", &what)?);
            match self.request(site, &call, "the upload", &[201, 202]).await {
                Ok(answer) if answer.status() == 201 => return Ok(Ok(from.clone())),
                // It did not find it, and takes it as the beginning of an upload.
                Ok(answer) => return Ok(Err(self.transport().location(&answer)?)),
                // Not to be read there, or no mounts here at all.
                Err(error) => tracing::debug!(%error, from, "no mount"),
            }
        }
        self.begin(site).await.map(Err)
    }

    /// Begins an upload; where to send it.
    async fn begin(&self, site: &Site) -> Result<Uri, Error> {
        let call = Call::new(Method::POST, site.url("blobs/uploads", "")?);
        let answer = self.request(site, &call, "the repository", &[202]).await?;
        self.transport().location(&answer)
    }

    /// Puts a manifest or index, and gives it the reference's tag, or none if the reference has a digest.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Verify`] when the registry says that it is another one.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let site = self.writable(reference).await?;
        let what = reference.tag_or_digest();
        let mut call = Call::new(Method::PUT, site.url("manifests", &what)?);
        let digest = Digest::of(&bytes);
        call.payload = Payload::Bytes(bytes);
        let kind = HeaderValue::from_str(media_type.as_str());
        call.headers
            .extend(kind.ok().map(|kind| (CONTENT_TYPE, kind)));
        let label = resolve::label(&what);
        let answer = self.request(&site, &call, &label, &[200, 201]).await?;
        let kept = answer.header("docker-content-digest");
        match kept.and_then(|kept| kept.parse().ok()) {
            Some(got) if got != digest => Err(Error::Verify {
                host: answer.host,
                repository: site.repository,
                source: VerifyError::Mismatch {
                    expected: digest,
                    got,
                },
            }),
            _ => Ok(()),
        }
    }
}

/// A blob on its way to a registry.
struct Sending<'a> {
    client: &'a Client,
    site: &'a Site,
    descriptor: &'a Descriptor,
    source: Source,
    sent: watch::Sender<u64>,
    unread: Unread,
    upload: &'a dyn Upload,
    /// Where the registry wants what comes next.
    location: Uri,
    /// Bytes that it has.
    offset: u64,
    /// It is not sent in one request.
    in_parts: bool,
    failures: u32,
    reconnects: u32,
}

impl Sending<'_> {
    async fn run(mut self) -> Result<(), Error> {
        loop {
            let before = self.offset;
            self.upload.note(Some(&self.location.to_string()));
            match self.step().await {
                Ok(true) => {
                    self.upload.note(None);
                    return Ok(());
                }
                Ok(false) => self.failures = 0,
                Err(failed) => {
                    let gone_on = self.go_on(failed).await;
                    // What is refused for good would be refused again.
                    let is_over = match &gone_on {
                        Ok(is_there) => *is_there,
                        Err(error) => !is_worth_retrying(error),
                    };
                    if is_over {
                        self.upload.note(None);
                    }
                    if gone_on? {
                        return Ok(());
                    }
                    if self.offset > before {
                        self.failures = 0;
                    }
                }
            }
        }
    }

    /// One request; true when the registry has all of the blob.
    async fn step(&mut self) -> Result<bool, Failed> {
        let size = self.descriptor.size;
        if !self.in_parts || self.offset == size {
            let mut call = Call::new(Method::PUT, self.with_digest()?);
            call.payload = self.part(self.offset..size);
            self.send(call).await?;
            return Ok(true);
        }
        let end = size.min(self.offset + self.client.upload_size());
        let mut call = Call::new(Method::PATCH, self.location.clone());
        let range = format!("{}-{}", self.offset, end - 1);
        let range = HeaderValue::from_str(&range);
        call.headers
            .extend(range.ok().map(|range| (CONTENT_RANGE, range)));
        call.payload = self.part(self.offset..end);
        let answer = self.send(call).await?;
        self.location = self.client.transport().location(&answer)?;
        self.offset = received(&answer).unwrap_or(end).min(size);
        Ok(false)
    }

    fn part(&self, range: std::ops::Range<u64>) -> Payload {
        match range.is_empty() {
            true => Payload::Empty,
            false => Payload::Part(Part {
                source: self.source.clone(),
                range,
                sent: self.sent.clone(),
                unread: self.unread.clone(),
            }),
        }
    }

    fn with_digest(&self) -> Result<Uri, Error> {
        let separator = if self.location.query().is_some() {
            '&'
        } else {
            '?'
        };
        let digest = encode(&self.descriptor.digest.to_string());
        let uri = format!("{}{separator}digest={digest}", self.location);
        uri.parse().map_err(|_| Error::Protocol {
            host: self.site.host(),
            what: "it names a place for an upload that is no address".to_owned(),
        })
    }

    async fn send(&self, mut call: Call) -> Result<Answer, Failed> {
        let octets = HeaderValue::from_static("application/octet-stream");
        call.headers.insert(CONTENT_TYPE, octets);
        let label = "the upload";
        let answered = self.client.attempt(self.site, &call, label, &TAKEN).await;
        match self.unread.take() {
            // The connection was given up for it.
            Some(source) if answered.is_err() => Err(Failed::from(Error::Source {
                digest: self.descriptor.digest,
                source,
            })),
            _ => answered,
        }
    }

    /// After a failure: waits, and asks how much arrived; an upload that is lost begins anew. True when all of it is there.
    async fn go_on(&mut self, failed: Failed) -> Result<bool, Error> {
        self.failures += 1;
        self.reconnects += 1;
        let is_lost = matches!(failed.error, Error::NotFound { .. } | Error::Range { .. });
        if self.reconnects > MAX_RECONNECTS
            || self.failures >= self.client.retry().attempts
            || !(is_lost || is_worth_retrying(&failed.error))
        {
            return Err(failed.error);
        }
        if !is_lost {
            match self.client.retry().pause(self.failures, failed.asked) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(failed.error),
            }
        }
        // What has come so far may be in the middle of a part.
        self.in_parts = true;
        let call = Call::get(self.location.clone());
        let asked = self
            .client
            .request(self.site, &call, "the upload", &[200, 202, 204])
            .await;
        match asked {
            Ok(answer) => {
                if answer.response.headers().contains_key("location") {
                    self.location = self.client.transport().location(&answer)?;
                }
                self.offset = received(&answer).unwrap_or(0).min(self.descriptor.size);
                tracing::debug!(offset = self.offset, "going on with an upload");
            }
            Err(error) => {
                tracing::debug!(%error, "beginning an upload anew");
                // The last request may have come through, though its answer did not.
                let digest = &self.descriptor.digest;
                if self.client.has(self.site, "blobs", digest).await? {
                    return Ok(true);
                }
                self.location = self.client.begin(self.site).await?;
                self.offset = 0;
            }
        }
        Ok(false)
    }
}

/// How many bytes an upload has: `Range: 0-<last>`. `0-0` is what registries say of none.
fn received(answer: &Answer) -> Option<u64> {
    let range = answer.header(RANGE.as_str())?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (_, last) = range.split_once('-')?;
    match last.trim().parse::<u64>().ok()? {
        0 => Some(0),
        last => last.checked_add(1),
    }
}
