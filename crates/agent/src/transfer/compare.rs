//! Whether a file that was copied up from the image is as it was.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::pack::open;
use super::xattrs;

/// Bytes that are compared at once.
const CHUNK: usize = 64 << 10;

/// Whether `name` is the same in two directories; neither is a directory itself. `Stat`s are of the two.
pub(super) fn is_same(
    name: &CStr,
    (new_in, new): (BorrowedFd<'_>, &Stat),
    (old_in, old): (BorrowedFd<'_>, &Stat),
) -> rustix::io::Result<bool> {
    let numbers = |stat: &Stat| {
        let time = (stat.st_mtime, stat.st_mtime_nsec);
        (owner(stat), stat.st_size, time, stat.st_rdev)
    };
    if numbers(new) != numbers(old) {
        return Ok(false);
    }
    match FileType::from_raw_mode(new.st_mode) {
        FileType::Symlink => {
            let target = |directory| rustix::fs::readlinkat(directory, name, Vec::new());
            Ok(target(new_in)? == target(old_in)?)
        }
        FileType::RegularFile => {
            let enter = |directory| open(directory, name, OFlags::NONBLOCK | OFlags::NOCTTY);
            let (new, old) = (enter(new_in)?, enter(old_in)?);
            Ok(attributes(&new)? == attributes(&old)? && same_contents(&new, &old)?)
        }
        _ => Ok(true),
    }
}

/// Whether two directories have the same owner, mode and attributes: the times of one follow from what is in it.
pub(super) fn is_same_directory(new: &OwnedFd, old: &OwnedFd) -> rustix::io::Result<bool> {
    let (new_stat, old_stat) = (rustix::fs::fstat(new)?, rustix::fs::fstat(old)?);
    Ok(owner(&new_stat) == owner(&old_stat) && attributes(new)? == attributes(old)?)
}

fn owner(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

fn attributes(file: &OwnedFd) -> rustix::io::Result<Vec<super::entry::Attribute>> {
    xattrs::read(file.as_fd())
}

fn same_contents(new: &OwnedFd, old: &OwnedFd) -> rustix::io::Result<bool> {
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        let count = fill(new, &mut a, at)?;
        if fill(old, &mut b, at)? != count || a[..count] != b[..count] {
            return Ok(false);
        }
        if count < CHUNK {
            return Ok(true);
        }
        at += count as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &OwnedFd, buffer: &mut [u8], at: u64) -> rustix::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}
