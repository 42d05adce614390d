//! The lease on all images: shared for whoever brings in or uses some, exclusive for whoever removes.

use std::sync::mpsc;
use std::time::Duration;

use store::lock::{Holder, Lock, Mode};
use store::{Root, content};

use crate::{Engine, Error, blocking};

/// How long others may hold the images: a creation does for milliseconds, a pull for minutes.
const PATIENCE: Duration = Duration::from_secs(2);

impl Engine {
    /// A shared lease on all images.
    pub(super) async fn content_lease(&self) -> Result<Lock, Error> {
        // Nearly always: no thread for it.
        if let Some(lease) = content::try_lease(&self.root, Mode::Shared)? {
            return Ok(lease);
        }
        let root = self.root.clone();
        blocking(move || content::lease(&root, Mode::Shared)).await
    }
}

/// The lease on all images for removing some; an error that names who keeps it from us for long.
pub(super) fn exclusive(root: &Root) -> Result<Lock, Error> {
    if let Some(lease) = content::try_lease(root, Mode::Exclusive)? {
        return Ok(lease);
    }
    let (sender, receiver) = mpsc::channel();
    let waiting = root.clone();
    // It may wait for longer than we do; then it gives the lease back as soon as it has it.
    std::thread::Builder::new()
        .name("lease".to_owned())
        .spawn(move || drop(sender.send(content::lease(&waiting, Mode::Exclusive))))
        .map_err(|source| Error::Spawn {
            operation: "start",
            program: "a thread".to_owned(),
            source,
        })?;
    if let Ok(lease) = receiver.recv_timeout(PATIENCE) {
        return Ok(lease?);
    }
    let holders = content::holders(root);
    let name = |holder: &Holder| format!("process {} ({})", holder.pid, holder.command);
    Err(Error::ImagesInUse {
        holders: holders.iter().map(name).collect(),
    })
}
