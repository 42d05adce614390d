//! Attributes: reading and setting.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::abi::{ROOT_ID, SetAttr, Time, Writer, valid};
use super::attr::{attr_out, root_stat};
use super::inodes::Inodes;
use super::server::{Answer, Outcome, Server};

const SETUID_SETGID: u32 = libc::S_ISUID | libc::S_ISGID;

impl Server {
    pub(super) fn get_attr(&mut self, id: u64, fh: Option<u64>) -> Outcome {
        if id == ROOT_ID {
            let stat = root_stat(self.folders.len());
            return Ok(Answer::Bytes(attr_out(&stat, (0, 0))));
        }
        // An open file says what has become of it, whatever its name is now.
        let open = fh.and_then(|fh| self.handles.get(&fh)?.fd());
        let stat = match open {
            Some(fd) => rustix::fs::fstat(fd)?,
            None => rustix::fs::fstat(self.inodes.fd(id)?)?,
        };
        self.told(&stat)
    }

    fn told(&self, stat: &Stat) -> Outcome {
        Ok(Answer::Bytes(attr_out(stat, self.owners.shown(stat))))
    }

    pub(super) fn set_attr(&mut self, id: u64, set: SetAttr) -> Outcome {
        self.writable(id)?;
        let fd = self.inodes.fd(id)?;
        let has = |bit| set.valid & bit != 0;
        if has(valid::UID | valid::GID) {
            let stat = rustix::fs::fstat(&fd)?;
            let (uid, gid) = self.owners.shown(&stat);
            // The host's user can give nothing away. What changes nothing is fine: archives are unpacked by root.
            if has(valid::UID) && set.uid != uid || has(valid::GID) && set.gid != gid {
                return Err(Errno::PERM);
            }
        }
        // Before the mode, which may take the right to it.
        if has(valid::SIZE) {
            let held = match has(valid::FH) {
                true => self
                    .handles
                    .get(&set.fh)
                    .and_then(|open| open.file_to_write()),
                false => None,
            };
            match held {
                Some(file) => rustix::fs::ftruncate(file, set.size)?,
                None if self.inodes.get(id)?.kind != FileType::RegularFile => {
                    return Err(Errno::INVAL);
                }
                None => rustix::fs::ftruncate(self.reopen(&fd, OFlags::WRONLY)?, set.size)?,
            }
            if has(valid::KILL_SUIDGID) {
                self.kill_suid(&fd)?;
            }
        }
        if has(valid::MODE) {
            self.set_mode(&fd, set.mode)?;
        }
        if has(valid::ATIME | valid::MTIME) {
            let time = |set: bool, now: bool, time: Time| match (set, now) {
                (false, _) => (0, rustix::fs::UTIME_OMIT),
                (true, true) => (0, rustix::fs::UTIME_NOW),
                (true, false) => (time.seconds, time.nanoseconds.into()),
            };
            let spec = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
            let (atime, mtime) = (
                time(has(valid::ATIME), has(valid::ATIME_NOW), set.atime),
                time(has(valid::MTIME), has(valid::MTIME_NOW), set.mtime),
            );
            let times = Timestamps {
                last_access: spec(atime),
                last_modification: spec(mtime),
            };
            rustix::fs::utimensat(&fd, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        let stat = rustix::fs::fstat(&fd)?;
        self.told(&stat)
    }

    /// # Errors
    /// `EPERM`: setuid or setgid that was not there. To other users of the host it would be the user's who runs gourd.
    fn set_mode(&self, fd: &OwnedFd, mode: u32) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(fd)?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let fresh = mode & !stat.st_mode & SETUID_SETGID;
        if fresh != 0 && !directory {
            return Err(Errno::PERM);
        }
        let (proc, number) = self.place(fd);
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::chmodat(proc, number.as_c_str(), mode, AtFlags::empty())
    }

    /// What somebody else has written must not run with its owner's rights. The host's kernel sees to it when an
    /// ordinary user writes; this is for the others.
    pub(super) fn kill_suid(&self, fd: &OwnedFd) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(fd)?;
        let group = match stat.st_mode & libc::S_IXGRP {
            0 => 0,
            _ => libc::S_ISGID,
        };
        let killed = stat.st_mode & (libc::S_ISUID | group);
        if killed == 0 {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777 & !killed);
        let (proc, number) = self.place(fd);
        rustix::fs::chmodat(proc, number.as_c_str(), mode, AtFlags::empty())
    }

    pub(super) fn stat_fs(&mut self, id: u64) -> Outcome {
        let id = match id {
            ROOT_ID => Inodes::folder_id(0),
            id => id,
        };
        let found = rustix::fs::fstatfs(self.inodes.fd(id)?)?;
        let mut to = Writer::default();
        for count in [
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
        ] {
            to.u64(count);
        }
        to.u32(found.f_bsize as u32).u32(found.f_namelen as u32);
        to.u32(found.f_frsize as u32);
        to.0.resize(80, 0);
        Ok(Answer::Bytes(to.0))
    }
}
