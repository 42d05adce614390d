//! Reads blobs: checked while they arrive, going on where a broken connection stopped.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::header::{ACCEPT_ENCODING, CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use oci::{Descriptor, DigestCheck, Reference, VerifyError};

use crate::Client;
use crate::client::is_worth_retrying;
use crate::error::Error;

/// How often a blob may be gone on with, whatever progress was made.
const MAX_RECONNECTS: u32 = 100;

/// A blob's bytes. It ends with `None` only if all came and are right; after an error there is
/// nothing more.
pub struct BlobStream(Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>);

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream").finish_non_exhaustive()
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl Client {
    /// Reads a blob from byte `offset` on.
    ///
    /// The size is checked always, the digest if `offset` is 0: with an offset the caller knows the bytes
    /// before it and checks, or uses [`Client::resume_blob`].
    ///
    /// # Errors
    /// At once if the blob cannot be had, in the stream if something breaks later: see [`Error`].
    pub async fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BlobStream, Error> {
        let check = match offset {
            0 => Check::Digest(DigestCheck::of(descriptor)),
            received => Check::Size { received },
        };
        self.read_blob(reference, descriptor, check).await
    }

    /// Reads the rest of a blob: `check` was made for `descriptor` and has seen what is there
    /// already. Size and digest of the whole are checked.
    ///
    /// # Errors
    /// As [`Client::blob`].
    pub async fn resume_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        check: DigestCheck,
    ) -> Result<BlobStream, Error> {
        self.read_blob(reference, descriptor, Check::Digest(check))
            .await
    }

    /// Reads a whole small blob, such as an image configuration, and checks it.
    ///
    /// # Errors
    /// As [`Client::blob`], and [`Error::Protocol`] if it has more than 4 MiB.
    pub async fn blob_bytes(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Bytes, Error> {
        if descriptor.size > oci::MAX_DOCUMENT_SIZE {
            return Err(Error::Protocol {
                host: crate::endpoint::host(reference).to_owned(),
                what: format!("{} has {} bytes", descriptor.digest, descriptor.size),
            });
        }
        let check = Check::Digest(DigestCheck::of(descriptor));
        let mut transfer = Transfer::new(self, reference, descriptor, check);
        transfer.open().await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = transfer.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    async fn read_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        check: Check,
    ) -> Result<BlobStream, Error> {
        let mut transfer = Transfer::new(self, reference, descriptor, check);
        if transfer.remaining() > 0 || descriptor.size == 0 {
            transfer.open().await?;
        }
        let stream = stream::try_unfold(transfer, |mut transfer| async move {
            let chunk = transfer.next().await?;
            Ok(chunk.map(|chunk| (chunk, transfer)))
        });
        Ok(BlobStream(Box::pin(stream)))
    }
}

/// What is checked while bytes arrive.
#[derive(Debug)]
enum Check {
    Digest(DigestCheck),
    Size { received: u64 },
}

/// A blob on its way.
struct Transfer {
    client: Client,
    reference: Reference,
    descriptor: Descriptor,
    check: Check,
    /// The open connection, if there is one.
    body: Option<Incoming>,
    host: String,
    /// Bytes at the start of the answer that are there already, when a server ignores ranges.
    skip: u64,
    failures: u32,
    reconnects: u32,
}

impl Transfer {
    fn new(client: &Client, reference: &Reference, descriptor: &Descriptor, check: Check) -> Self {
        Self {
            client: client.clone(),
            reference: reference.clone(),
            descriptor: descriptor.clone(),
            check,
            body: None,
            host: crate::endpoint::host(reference).to_owned(),
            skip: 0,
            failures: 0,
            reconnects: 0,
        }
    }

    fn received(&self) -> u64 {
        match &self.check {
            Check::Digest(check) => check.received(),
            Check::Size { received } => *received,
        }
    }

    fn remaining(&self) -> u64 {
        self.descriptor.size.saturating_sub(self.received())
    }

    fn verify_error(&self, source: VerifyError) -> Error {
        Error::Verify {
            host: self.host.clone(),
            repository: self.reference.repository().to_owned(),
            source,
        }
    }

    fn truncated(&self) -> Error {
        self.verify_error(VerifyError::Truncated {
            digest: self.descriptor.digest,
            expected: self.descriptor.size,
            got: self.received(),
        })
    }

    fn too_long(&self) -> Error {
        self.verify_error(VerifyError::TooLong {
            digest: self.descriptor.digest,
            expected: self.descriptor.size,
        })
    }

    /// Asks for what is missing.
    async fn open(&mut self) -> Result<(), Error> {
        let offset = self.received();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let digest = self.descriptor.digest.to_string();
        let path = ("blobs", digest.as_str());
        let label = format!("blob {digest}");
        let answer = self
            .client
            .get(&self.reference, path, &label, headers)
            .await?;
        self.host.clone_from(&answer.host);
        self.skip = match answer.status() {
            206 => {
                let range = answer.response.headers().get(CONTENT_RANGE);
                let range = range.and_then(|r| r.to_str().ok()).unwrap_or_default();
                if range_start(range) != Some(offset) {
                    return Err(Error::Protocol {
                        host: self.host.clone(),
                        what: format!("asked for bytes from {offset} on, it sent {range:?}"),
                    });
                }
                0
            }
            _ => offset,
        };
        self.body = Some(answer.response.into_body());
        Ok(())
    }

    /// The next bytes; `None` when all came and are right.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.remaining() == 0 {
                return self.finish().await.map(|()| None);
            }
            let Some(body) = &mut self.body else {
                if let Err(error) = self.open().await {
                    self.give_up_or_pause(error).await?;
                }
                continue;
            };
            let stall = self.client.timeouts().stall;
            let error = match tokio::time::timeout(stall, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    match self.accept(data)? {
                        Some(data) => return Ok(Some(data)),
                        None => continue,
                    }
                }
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, blob = %self.descriptor.digest, "a transfer broke");
                    self.truncated()
                }
                Ok(None) => self.truncated(),
                Err(_) => Error::Timeout {
                    host: self.host.clone(),
                    secs: stall.as_secs(),
                },
            };
            self.body = None;
            self.give_up_or_pause(error).await?;
        }
    }

    /// Takes in a piece, less what was there already.
    fn accept(&mut self, mut data: Bytes) -> Result<Option<Bytes>, Error> {
        let skipped = self.skip.min(data.len() as u64);
        self.skip -= skipped;
        // The minimum of a length is a length.
        let data = data.split_off(skipped as usize);
        if data.is_empty() {
            return Ok(None);
        }
        if data.len() as u64 > self.remaining() {
            return Err(self.too_long());
        }
        let updated = match &mut self.check {
            Check::Digest(check) => check.update(&data),
            Check::Size { received } => {
                *received += data.len() as u64;
                Ok(())
            }
        };
        updated.map_err(|e| self.verify_error(e))?;
        self.failures = 0;
        Ok(Some(data))
    }

    /// All bytes are there: nothing may follow, and the digest must be right.
    async fn finish(&mut self) -> Result<(), Error> {
        if let Some(mut body) = self.body.take() {
            let stall = self.client.timeouts().stall;
            while let Ok(Some(Ok(frame))) = tokio::time::timeout(stall, body.frame()).await {
                if frame.data_ref().is_some_and(|data| !data.is_empty()) {
                    return Err(self.too_long());
                }
            }
        }
        match &self.check {
            Check::Digest(check) => check.clone().finish().map_err(|e| self.verify_error(e)),
            Check::Size { .. } => Ok(()),
        }
    }

    /// Waits before the next try, or returns the error if there shall be none.
    async fn give_up_or_pause(&mut self, error: Error) -> Result<(), Error> {
        self.failures += 1;
        self.reconnects += 1;
        let is_truncated = matches!(
            error,
            Error::Verify {
                source: VerifyError::Truncated { .. },
                ..
            }
        );
        if self.reconnects > MAX_RECONNECTS || !(is_truncated || is_worth_retrying(&error)) {
            return Err(error);
        }
        match self.client.retry().pause(self.failures, None) {
            None => Err(error),
            Some(pause) => {
                tracing::debug!(%error, ?pause, "going on with a blob");
                tokio::time::sleep(pause).await;
                Ok(())
            }
        }
    }
}

/// The first byte in `bytes first-last/size`.
fn range_start(range: &str) -> Option<u64> {
    range
        .trim()
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}
