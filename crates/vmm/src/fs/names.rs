//! Names: looking up, making, removing, renaming.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, Stat};
use rustix::io::Errno;

use super::abi::{ROOT_ID, Writer};
use super::attr::put_entry;
use super::inodes::{Inodes, open_name};
use super::server::{Answer, Outcome, Server};

/// Permission bits that a guest may give to what it makes. Not setuid and setgid: to other users of the host they would
/// be the user's who runs gourd.
const PERMISSIONS: u32 = 0o1777;

impl Server {
    pub(super) fn look_up(&mut self, parent: u64, name: &CStr) -> Outcome {
        let mut to = Writer::default();
        if parent == ROOT_ID {
            let mut folders = self.folders.iter();
            let folder = folders.position(|folder| folder.name.as_c_str() == name);
            let id = Inodes::folder_id(folder.ok_or(Errno::NOENT)?);
            let stat = rustix::fs::fstat(self.inodes.fd(id)?)?;
            put_entry(&mut to, id, &stat, self.owners.shown(&stat));
            return Ok(Answer::Bytes(to.0));
        }
        let dir = self.inodes.fd(parent)?;
        let (fd, stat) = find(&dir, name)?;
        self.put_found(&mut to, parent, name, (fd, &stat))?;
        Ok(Answer::Bytes(to.0))
    }

    /// What was found becomes known to the guest.
    pub(super) fn put_found(
        &mut self,
        to: &mut Writer,
        parent: u64,
        name: &CStr,
        found: (OwnedFd, &Stat),
    ) -> Result<u64, Errno> {
        let (fd, stat) = found;
        let id = self.inodes.look_up(parent, name, stat, fd)?;
        put_entry(to, id, stat, self.owners.shown(stat));
        Ok(id)
    }

    pub(super) fn make_symlink(&mut self, parent: u64, name: &CStr, target: &CStr) -> Outcome {
        self.writable(parent)?;
        let dir = self.inodes.fd(parent)?;
        rustix::fs::symlinkat(target, &dir, name)?;
        self.look_up(parent, name)
    }

    /// A file, FIFO or socket. A device's node would be one of the host's.
    pub(super) fn make_node(&mut self, parent: u64, name: &CStr, mode: u32) -> Outcome {
        self.writable(parent)?;
        let kind = FileType::from_raw_mode(mode);
        match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => {}
            _ => return Err(Errno::PERM),
        }
        let dir = self.inodes.fd(parent)?;
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        rustix::fs::mknodat(&dir, name, kind, mode, 0)?;
        self.look_up(parent, name)
    }

    pub(super) fn make_dir(&mut self, parent: u64, name: &CStr, mode: u32) -> Outcome {
        self.writable(parent)?;
        let dir = self.inodes.fd(parent)?;
        rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode & PERMISSIONS))?;
        self.look_up(parent, name)
    }

    pub(super) fn unlink(&mut self, parent: u64, name: &CStr, directory: bool) -> Outcome {
        self.writable(parent)?;
        let dir = self.inodes.fd(parent)?;
        let flags = match directory {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        rustix::fs::unlinkat(&dir, name, flags)?;
        Answer::done()
    }

    pub(super) fn rename(&mut self, from: (u64, &CStr), to: (u64, &CStr), flags: u32) -> Outcome {
        let folder = self.writable(from.0)?;
        if self.writable(to.0)? != folder {
            return Err(Errno::XDEV);
        }
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        // An overlay's whiteout is a device.
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        self.inodes.room(to.1)?;
        let (from_dir, to_dir) = (self.inodes.fd(from.0)?, self.inodes.fd(to.0)?);
        rustix::fs::renameat_with(&from_dir, from.1, &to_dir, to.1, flags)?;
        if let Ok((_, stat)) = find(&to_dir, to.1) {
            self.inodes.moved(to.0, to.1, &stat);
        }
        if flags.contains(RenameFlags::EXCHANGE)
            && let Ok((_, stat)) = find(&from_dir, from.1)
        {
            self.inodes.moved(from.0, from.1, &stat);
        }
        Answer::done()
    }

    pub(super) fn link(&mut self, from: u64, parent: u64, name: &CStr) -> Outcome {
        let folder = self.writable(parent)?;
        if self.writable(from)? != folder {
            return Err(Errno::XDEV);
        }
        let (from, dir) = (self.inodes.fd(from)?, self.inodes.fd(parent)?);
        let (proc, number) = self.place(&from);
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(proc, number.as_c_str(), &dir, name, flags)?;
        self.look_up(parent, name)
    }

    pub(super) fn read_link(&mut self, id: u64) -> Outcome {
        if id == ROOT_ID || self.inodes.get(id)?.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let fd = self.inodes.fd(id)?;
        let target = rustix::fs::readlinkat(&fd, c"", Vec::new())?;
        Ok(Answer::Bytes(target.into_bytes()))
    }
}

/// One name of a directory.
pub(super) fn find(dir: &OwnedFd, name: &CStr) -> Result<(OwnedFd, Stat), Errno> {
    use std::os::fd::AsFd;
    let fd = open_name(dir.as_fd(), name)?;
    let stat = rustix::fs::fstat(&fd)?;
    Ok((fd, stat))
}

/// What a file may be made with.
pub(super) fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & PERMISSIONS)
}
