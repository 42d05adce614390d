//! `rootfs/<chain id>-w<writer>/rootfs.ext4`: an image's layers merged into one read-only file system.

use std::path::PathBuf;

use crate::Root;
use crate::lock::{self, Lock, Mode};

/// The rootfs image of a key. It may not exist yet.
#[must_use]
pub fn path(root: &Root, key: &str) -> PathBuf {
    root.rootfs().join(key).join("rootfs.ext4")
}

/// A shared lease: the image stays for as long as a copy of it is held.
///
/// # Errors
/// [`lock::Error::Gone`] when there is no such rootfs image.
pub fn lease(root: &Root, key: &str) -> Result<Lock, lock::Error> {
    let dir = root.rootfs().join(key);
    let lease = Lock::acquire(&dir, Mode::Shared)?;
    if path(root, key).is_file() {
        Ok(lease)
    } else {
        Err(lock::Error::Gone(dir))
    }
}
