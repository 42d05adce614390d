//! Removes a directory with all that is below, of a container that may be changing it at the same time.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::listing::Listing;
use super::pack::open;

/// A directory that is being emptied.
struct Level {
    directory: OwnedFd,
    /// In the directory above.
    name: CString,
}

/// Removes `name` from `parent`, whatever it is. What is mounted somewhere is busy, and so is what holds it: nothing on
/// another file system is removed.
pub(super) fn all(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        result => return gone(result),
    }
    let name =
        CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name)).map_err(|_| Errno::INVAL)?;
    let device = rustix::fs::fstat(parent)?.st_dev;
    let enter = |directory: BorrowedFd<'_>, name: CString| {
        let directory = open(directory, &name, OFlags::DIRECTORY)?;
        if rustix::fs::fstat(&directory)?.st_dev != device {
            return Err(Errno::BUSY);
        }
        Ok(Level { directory, name })
    };
    let mut levels = vec![enter(parent, name)?];
    while let Some(level) = levels.last() {
        // From the start each time: what was listed is gone by then.
        rustix::fs::seek(&level.directory, rustix::fs::SeekFrom::Start(0))?;
        let mut names = Listing::some(level.directory.as_fd())?;
        let mut below = None;
        let empty = names.peek().is_none();
        while let Some((name, _)) = names.peek() {
            match rustix::fs::unlinkat(&level.directory, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {
                    below = Some(enter(level.directory.as_fd(), name.to_owned())?);
                    break;
                }
                result => gone(result)?,
            }
            names.advance();
        }
        if let Some(below) = below {
            levels.push(below);
        } else if empty && let Some(done) = levels.pop() {
            let above = levels
                .last()
                .map_or(parent, |level| level.directory.as_fd());
            gone(rustix::fs::unlinkat(above, &done.name, AtFlags::REMOVEDIR))?;
        }
    }
    Ok(())
}

fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}
