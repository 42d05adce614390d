//! The two locks on images.
//!
//! - Of what they are made of: shared for whoever brings in or reads some, a pull's for minutes; exclusive for whoever collects.
//! - Of their records and references: held for moments, see [`store::images`].
//!
//! So images are removed while others come. What they were made of goes when the last of those has come.

use std::time::Duration;

use store::lock::{Holder, Lock, Mode};
use store::{Root, content, gc, images};

use crate::{Engine, Error, blocking};

/// How long others may hold the images' records.
const PATIENCE: Duration = Duration::from_secs(5);

/// A shared lease on what images are made of. Whoever gives the last one back collects, if somebody wanted that meanwhile.
#[derive(Debug)]
pub(crate) struct Lease {
    root: Root,
    lock: Option<Lock>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.lock.take());
        if let Err(error) = gc::collect_due(&self.root) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot collect what belongs to no image");
        }
    }
}

impl Engine {
    /// A lease on what images are made of.
    pub(super) async fn content_lease(&self) -> Result<Lease, Error> {
        // Nearly always: no thread for it.
        let lock = match content::try_lease(&self.root, Mode::Shared)? {
            Some(lock) => lock,
            None => {
                let root = self.root.clone();
                blocking(move || content::lease(&root, Mode::Shared)).await?
            }
        };
        Ok(Lease {
            root: self.root.clone(),
            lock: Some(lock),
        })
    }

    /// What is found now stays until this is given back.
    pub(super) async fn names(&self) -> Result<Lock, Error> {
        if let Some(names) = images::try_hold(&self.root, Mode::Shared)? {
            return Ok(names);
        }
        let root = self.root.clone();
        blocking(move || images::hold(&root, Mode::Shared)).await
    }
}

/// For removing records and references; an error that names who keeps it from us for long.
pub(super) fn exclusive(root: &Root) -> Result<Lock, Error> {
    if let Some(names) = images::hold_within(root, Mode::Exclusive, PATIENCE)? {
        return Ok(names);
    }
    let holders = images::holders(root);
    let name = |holder: &Holder| format!("process {} ({})", holder.pid, holder.command);
    Err(Error::ImagesInUse {
        holders: holders.iter().map(name).collect(),
    })
}

/// Collects, when nobody brings in or reads anything. When somebody does, nothing is done here: that one collects at its end.
pub(super) fn alone<T>(
    root: &Root,
    work: impl FnOnce(&Lock) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let exclusive = match content::try_lease(root, Mode::Exclusive)? {
        None => {
            if let Err(error) = gc::ask(root) {
                // Whoever removes next collects.
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "cannot ask for a collection");
            }
            content::try_lease(root, Mode::Exclusive)?
        }
        some => some,
    };
    exclusive
        .map(|exclusive| under(root, exclusive, work))
        .transpose()
}

/// Works under an exclusive lease, gives it back, and collects what others have asked for meanwhile.
pub(super) fn under<T>(
    root: &Root,
    exclusive: Lock,
    work: impl FnOnce(&Lock) -> Result<T, Error>,
) -> Result<T, Error> {
    let done = work(&exclusive);
    drop(exclusive);
    gc::collect_due(root)?;
    done
}
