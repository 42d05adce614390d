//! Extended attributes of an open file or directory. Those of the overlay itself stay out, both ways. Access control
//! lists go with a copy inside of the VM; they are not read for archives that leave it: their bytes mean one thing here and
//! another on a disk, and Docker leaves them out, too.

use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::entry::Attribute;

/// What the overlay keeps its own notes in.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// What file systems keep in attributes: access control lists.
const SYSTEM: &[u8] = b"system.";

/// Bytes of all names, and of a value: the kernel's limits (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MOST: usize = 64 << 10;

/// The access control lists: that of a file, and what new files in a directory get.
pub(super) const LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Reads them all but for access control lists. A file system without any has none.
pub(super) fn read(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<Attribute>> {
    read_some(file, |name| !name.starts_with(SYSTEM))
}

/// Reads them all.
pub(super) fn read_with_lists(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<Attribute>> {
    let is_list = |name: &[u8]| LISTS.iter().any(|list| list.as_bytes() == name);
    read_some(file, |name| !name.starts_with(SYSTEM) || is_list(name))
}

fn read_some(
    file: BorrowedFd<'_>,
    wanted: impl Fn(&[u8]) -> bool,
) -> rustix::io::Result<Vec<Attribute>> {
    let mut attributes = Vec::new();
    // Most files have none, or few.
    let mut names = Vec::with_capacity(256);
    match list(file, &mut names) {
        Ok(()) => {}
        Err(Errno::NOTSUP) => return Ok(attributes),
        Err(errno) => return Err(errno),
    }
    for name in names.split(|&byte| byte == 0) {
        if name.is_empty() || name.starts_with(OVERLAY) || !wanted(name) {
            continue;
        }
        match get(file, name) {
            Ok(value) => attributes.push((name.to_vec(), value)),
            // Removed in the meantime, or listed without being there.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

fn list(file: BorrowedFd<'_>, names: &mut Vec<u8>) -> rustix::io::Result<()> {
    loop {
        names.clear();
        match rustix::fs::flistxattr(file, rustix::buffer::spare_capacity(names)) {
            Err(Errno::RANGE) if names.capacity() < MOST => names.reserve(MOST),
            result => return result.map(drop),
        }
    }
}

/// One attribute's value.
pub(super) fn get(file: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
    let mut value = Vec::with_capacity(256);
    loop {
        match rustix::fs::fgetxattr(file, name, rustix::buffer::spare_capacity(&mut value)) {
            Err(Errno::RANGE) if value.capacity() < MOST => value.reserve(MOST),
            result => return result.map(|_| value),
        }
    }
}

/// Sets one. Says nothing when this file system or this name can't be, as Docker does.
pub(super) fn set(file: BorrowedFd<'_>, (name, value): &Attribute) -> rustix::io::Result<()> {
    if name.starts_with(OVERLAY) {
        return Ok(());
    }
    match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        result => result,
    }
}

/// Removes one. Says nothing when it is not there, or cannot be there.
pub(super) fn remove(file: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    match rustix::fs::fremovexattr(file, name) {
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        result => result,
    }
}
