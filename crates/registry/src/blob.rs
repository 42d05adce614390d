//! Reads blobs: checked while they arrive, going on where a broken connection stopped.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use oci::{Descriptor, DigestCheck, Reference};

use crate::Client;
use crate::error::Error;
use crate::transfer::Transfer;

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
        let sites = self.sites(reference).await?;
        let transfer = match offset {
            0 => Transfer::whole(self, sites, descriptor, DigestCheck::of(descriptor)),
            offset => Transfer::part(self, sites, descriptor, offset..descriptor.size),
        };
        read(transfer).await
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
        let sites = self.sites(reference).await?;
        read(Transfer::whole(self, sites, descriptor, check)).await
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
                host: reference.registry().to_owned(),
                what: format!("{} has {} bytes", descriptor.digest, descriptor.size),
            });
        }
        let read = async || {
            let sites = self.sites(reference).await?;
            let check = DigestCheck::of(descriptor);
            let mut transfer = Transfer::whole(self, sites, descriptor, check);
            transfer.open().await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = transfer.next().await? {
                bytes.extend_from_slice(&chunk);
            }
            Ok::<Bytes, Error>(bytes.into())
        };
        match read().await {
            // It may be a mirror that lies.
            Err(Error::Verify { .. }) if self.distrust_mirrors(reference)? => read().await,
            other => other,
        }
    }
}

async fn read(mut transfer: Transfer) -> Result<BlobStream, Error> {
    if !transfer.is_done() || transfer.is_empty() {
        transfer.open().await?;
    }
    let stream = stream::try_unfold(transfer, |mut transfer| async move {
        let chunk = transfer.next().await?;
        Ok(chunk.map(|chunk| (chunk, transfer)))
    });
    Ok(BlobStream(Box::pin(stream)))
}
