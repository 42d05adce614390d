//! Extended attributes: those that are any user's, `user.*`. Others speak to the host's kernel (capabilities, access
//! control lists, labels), which takes no word of a guest.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, XattrFlags};
use rustix::io::Errno;

use super::abi::{ROOT_ID, Writer};
use super::server::{Answer, Outcome, Server};

/// Set on the root: whose the host user's files are in the guest, as `UID:GID`. The agent's way to say who the
/// container runs as; in a guest only its root may set what begins with `trusted.`.
const OWNER: &CStr = c"trusted.gourd.owner";

const USER: &[u8] = b"user.";

/// The kernel's limits (`linux/limits.h`): of a value, and of a list.
const MOST: usize = 64 * 1024;

impl Server {
    pub(super) fn set_xattr(&mut self, id: u64, name: &CStr, value: &[u8], flags: u32) -> Outcome {
        if id == ROOT_ID && name == OWNER {
            self.owners.guest = parse_owner(value).ok_or(Errno::INVAL)?;
            return Answer::done();
        }
        self.writable(id)?;
        let file = self.open_user(id, name)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        rustix::fs::fsetxattr(&file, name, value, flags)?;
        Answer::done()
    }

    pub(super) fn remove_xattr(&mut self, id: u64, name: &CStr) -> Outcome {
        self.writable(id)?;
        rustix::fs::fremovexattr(&self.open_user(id, name)?, name)?;
        Answer::done()
    }

    pub(super) fn get_xattr(&mut self, id: u64, name: &CStr, size: u32) -> Outcome {
        let file = self.open_user(id, name)?;
        let mut value = vec![0; MOST];
        let len = rustix::fs::fgetxattr(&file, name, &mut value[..])?;
        value.truncate(len);
        sized(value, size)
    }

    pub(super) fn list_xattrs(&mut self, id: u64, size: u32) -> Outcome {
        let file = match self.open_attributes(id) {
            Ok(file) => file,
            Err(Errno::OPNOTSUPP) => return sized(Vec::new(), size),
            Err(errno) => return Err(errno),
        };
        let mut names = vec![0; MOST];
        let len = rustix::fs::flistxattr(&file, &mut names[..])?;
        names.truncate(len);
        let mut kept = Vec::new();
        for name in names.split_inclusive(|byte| *byte == 0) {
            if name.starts_with(USER) {
                kept.extend(name);
            }
        }
        sized(kept, size)
    }

    fn open_user(&mut self, id: u64, name: &CStr) -> Result<OwnedFd, Errno> {
        match name.to_bytes().starts_with(USER) {
            true => self.open_attributes(id),
            false => Err(Errno::OPNOTSUPP),
        }
    }

    /// Only files and directories have attributes of users.
    fn open_attributes(&mut self, id: u64) -> Result<OwnedFd, Errno> {
        if id == ROOT_ID {
            return Err(Errno::OPNOTSUPP);
        }
        match self.inodes.get(id)?.kind {
            FileType::RegularFile | FileType::Directory => {}
            _ => return Err(Errno::OPNOTSUPP),
        }
        let fd = self.inodes.fd(id)?;
        self.reopen(&fd, OFlags::RDONLY)
    }
}

/// The answer to one who has `size` bytes of room; who has none asks how much is needed.
fn sized(value: Vec<u8>, size: u32) -> Outcome {
    match size as usize {
        0 => {
            let mut to = Writer::default();
            to.u32(value.len() as u32).u32(0);
            Ok(Answer::Bytes(to.0))
        }
        size if size < value.len() => Err(Errno::RANGE),
        _ => Ok(Answer::Bytes(value)),
    }
}

/// `UID:GID`, in decimal.
fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}
