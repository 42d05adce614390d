//! Attributes, as the guest is told them, and for how long it may believe them.
//!
//! There is no way to tell a guest that something has changed, so what it believes it believes for a while:
//!
//! - A **file** (link, …) for one tick of its clock: long enough for the request that follows a look-up in the same system
//!   call, and too short for anybody to edit it meanwhile. So an edit of the host is seen by the next call.
//! - A **directory** for a quarter of a second, for the steps of a path: without it every component of every path would be
//!   two requests. What is *in* a directory is never believed; only that it is the same directory still.
//!
//! Nothing is believed about what was not found.

use std::time::Duration;

use rustix::fs::{FileType, Stat};

use super::abi::Writer;

const FILE: Duration = Duration::from_millis(1);
const DIRECTORY: Duration = Duration::from_millis(250);

/// Who nobody is (`/proc/sys/fs/overflowuid`).
pub const NOBODY: u32 = 65534;

/// Whose files are whose: those of the user (and the groups) who runs this are the container's; all others are nobody's.
#[derive(Debug)]
pub struct Owners {
    uid: u32,
    gids: Vec<u32>,
    /// User and group in the guest.
    pub guest: (u32, u32),
}

impl Owners {
    /// As this process runs; in the guest they are root's until it says otherwise.
    pub fn of_this_process() -> Result<Owners, rustix::io::Errno> {
        let mut gids: Vec<u32> = rustix::process::getgroups()?
            .into_iter()
            .map(|gid| gid.as_raw())
            .collect();
        gids.push(rustix::process::getegid().as_raw());
        Ok(Owners {
            uid: rustix::process::geteuid().as_raw(),
            gids,
            guest: (0, 0),
        })
    }

    /// User and group that the guest sees.
    pub fn shown(&self, stat: &Stat) -> (u32, u32) {
        let uid = match stat.st_uid == self.uid {
            true => self.guest.0,
            false => NOBODY,
        };
        let gid = match self.gids.contains(&stat.st_gid) {
            true => self.guest.1,
            false => NOBODY,
        };
        (uid, gid)
    }
}

/// How long the guest may believe what it was told.
pub fn validity(stat: &Stat) -> Duration {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => DIRECTORY,
        _ => FILE,
    }
}

/// `struct fuse_attr`.
pub fn put_attr(to: &mut Writer, stat: &Stat, owner: (u32, u32)) {
    to.u64(stat.st_ino);
    to.u64(stat.st_size.cast_unsigned());
    to.u64(stat.st_blocks.cast_unsigned());
    for seconds in [stat.st_atime, stat.st_mtime, stat.st_ctime] {
        to.u64(seconds as u64);
    }
    for nanoseconds in [stat.st_atime_nsec, stat.st_mtime_nsec, stat.st_ctime_nsec] {
        to.u32(nanoseconds as u32);
    }
    to.u32(stat.st_mode)
        .u32(u32::try_from(stat.st_nlink).unwrap_or(u32::MAX))
        .u32(owner.0)
        .u32(owner.1)
        .u32(guest_device(stat.st_rdev))
        .u32(stat.st_blksize as u32)
        .u32(0);
}

/// A device's number as the guest's kernel packs it (`new_encode_dev`).
fn guest_device(dev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// `struct fuse_attr_out`.
pub fn attr_out(stat: &Stat, owner: (u32, u32)) -> Vec<u8> {
    let valid = validity(stat);
    let mut to = Writer::default();
    to.u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0);
    put_attr(&mut to, stat, owner);
    to.0
}

/// `struct fuse_entry_out`.
pub fn put_entry(to: &mut Writer, id: u64, stat: &Stat, owner: (u32, u32)) {
    let valid = validity(stat);
    to.u64(id).u64(0);
    to.u64(valid.as_secs()).u64(valid.as_secs());
    to.u32(valid.subsec_nanos()).u32(valid.subsec_nanos());
    put_attr(to, stat, owner);
}

/// The root of a device: a directory that is no directory of the host.
pub fn root_stat(folders: usize) -> Stat {
    // SAFETY: a plain old structure of numbers.
    let mut stat: Stat = unsafe { std::mem::zeroed() };
    stat.st_ino = super::abi::ROOT_ID;
    stat.st_mode = libc::S_IFDIR | 0o555;
    stat.st_nlink = 2 + folders as u64;
    stat.st_blksize = 4096;
    stat
}
