//! A layer on its way from a registry into the store.
//!
//! One task asks for what is missing, a thread writes and hashes what comes; between them is a queue that is short, so that a
//! slow disk slows the network down and not the memory fills. What came stays when it breaks off, or when we are killed.

use oci::{Descriptor, Reference};
use registry::{Client, Piece};
use store::content::{self, Claim, Partial};
use store::{Root, fault};
use tokio::sync::{mpsc, watch};

use super::PullEvent;
use crate::{Error, blocking};

/// Pieces that wait to be written, each of some hundred KiB at most.
const QUEUE: usize = 16;

/// Fetches a layer, unless it is here or somebody else is just bringing it.
pub(super) async fn layer(
    root: &Root,
    client: &Client,
    reference: &Reference,
    layer: &Descriptor,
    progress: &dyn Fn(PullEvent),
) -> Result<(), Error> {
    let download = Download {
        root,
        client,
        reference,
        layer,
        progress,
    };
    let failed = match download.attempt().await {
        Ok(()) => return Ok(()),
        Err(failed) => failed,
    };
    // The bytes are wrong, and may be not the registry's own: those from before a crash of the host, or a mirror's.
    let is_wrong = matches!(&failed.error, Error::Content(content::Error::Digest { .. }));
    if is_wrong && (client.distrust_mirrors(reference)? || failed.resumed) {
        tracing::warn!(layer = %layer.digest, "what came of a layer is wrong: fetching it anew");
        return download.attempt().await.map_err(|failed| failed.error);
    }
    Err(failed.error)
}

struct Download<'a> {
    root: &'a Root,
    client: &'a Client,
    reference: &'a Reference,
    layer: &'a Descriptor,
    progress: &'a dyn Fn(PullEvent),
}

struct Failed {
    error: Error,
    /// Some bytes had been there before.
    resumed: bool,
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            resumed: false,
        }
    }
}

impl Download<'_> {
    async fn attempt(&self) -> Result<(), Failed> {
        let digest = self.layer.digest.to_string();
        let (root, claimed) = (self.root.clone(), self.layer.digest);
        // Somebody else may be bringing it: then it need not come twice.
        let claim = blocking(move || Claim::acquire(&root, &claimed)).await?;
        if content::has(self.root, self.layer) {
            (self.progress)(PullEvent::LayerExists { digest });
            return Ok(());
        }
        fault::point("pull.layer-claimed");
        let (root, size) = (self.root.clone(), self.layer.size);
        let partial = blocking(move || Partial::open(&root, claim, size)).await?;
        let resumed = partial.received();
        if resumed > 0 {
            (self.progress)(PullEvent::LayerResumes {
                digest: digest.clone(),
                done: resumed,
                total: size,
            });
        }
        let fetched = self.fetch(partial).await;
        fetched.map_err(|error| Failed {
            error,
            resumed: resumed > 0,
        })?;
        (self.progress)(PullEvent::LayerDone { digest });
        Ok(())
    }

    /// Fetches and writes side by side.
    async fn fetch(&self, partial: Partial) -> Result<(), Error> {
        let missing = partial.missing();
        let (pieces, receiver) = mpsc::channel(QUEUE);
        let (came, mut coming) = watch::channel(0);
        let fetch = async move {
            let fetch = self
                .client
                .fetch(self.reference, self.layer, &missing, &pieces);
            tokio::pin!(fetch);
            loop {
                tokio::select! {
                    fetched = &mut fetch => return fetched,
                    Ok(()) = coming.changed() => (self.progress)(PullEvent::LayerProgress {
                        digest: self.layer.digest.to_string(),
                        done: *coming.borrow_and_update(),
                        total: self.layer.size,
                    }),
                }
            }
        };
        let write = blocking(move || write(partial, receiver, &came));
        let (fetched, written) = tokio::join!(fetch, write);
        // When it cannot be written, that is why nothing more was fetched.
        let whole = written?;
        fetched?;
        match whole {
            Ok(()) => Ok(()),
            Err(found) => Err(content::Error::Size {
                digest: self.layer.digest,
                expected: self.layer.size,
                found,
            }
            .into()),
        }
    }
}

/// Writes what comes; with the last byte the blob gets its name. Otherwise says how many there are.
fn write(
    mut partial: Partial,
    mut pieces: mpsc::Receiver<Piece>,
    came: &watch::Sender<u64>,
) -> Result<Result<(), u64>, content::Error> {
    while let Some(piece) = pieces.blocking_recv() {
        partial.write(piece.offset, &piece.bytes)?;
        came.send_replace(partial.received());
    }
    if !partial.missing().is_empty() {
        return Ok(Err(partial.received()));
    }
    fault::point("pull.layer-came");
    partial.finish()?;
    fault::point("pull.layer-named");
    Ok(Ok(()))
}

#[cfg(test)]
mod tests;
