//! Open files: opening, creating, closing, and whether the guest may keep the pages that it has of a file.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::abi::{self, ROOT_ID, Writer};
use super::names::{find, permissions};
use super::server::{Answer, Outcome, Server};

/// A file that changed so short ago may change again without a change of its times: they are as coarse as the host's
/// ticks.
const SETTLED_NS: i128 = 100_000_000;

/// Something that the guest has open.
#[derive(Debug)]
pub enum Handle {
    /// A file, whether it may be written, and its number.
    File(OwnedFd, bool, u64),
    /// A directory of the host, and the offset that the next listing starts from.
    Directory(OwnedFd, u64),
    /// The list of shared folders.
    Root,
}

impl Handle {
    /// Its descriptor, if there is one.
    pub fn fd(&self) -> Option<&OwnedFd> {
        match self {
            Handle::File(fd, ..) | Handle::Directory(fd, _) => Some(fd),
            Handle::Root => None,
        }
    }

    /// A file that was opened for writing.
    pub fn file_to_write(&self) -> Option<&OwnedFd> {
        match self {
            Handle::File(fd, true, _) => Some(fd),
            _ => None,
        }
    }
}

/// A file's contents, as far as its attributes tell one from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    size: i64,
    mtime: i128,
    ctime: i128,
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

impl Version {
    fn of(stat: &Stat) -> Version {
        Version {
            size: stat.st_size,
            mtime: nanoseconds(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }

    /// A change from now on will show.
    fn is_settled(&self) -> bool {
        // The C library's clock: rustix's own would ask for more system calls than this thread has.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_nanos().cast_signed());
        now - self.mtime.max(self.ctime) >= SETTLED_NS
    }
}

/// What a file is opened with on the host, and whether to change it.
fn flags(asked: u32) -> Result<(OFlags, bool), Errno> {
    let asked = OFlags::from_bits_retain(asked);
    let access = asked & OFlags::RWMODE;
    let kept = OFlags::TRUNC | OFlags::APPEND | OFlags::SYNC | OFlags::DSYNC;
    if access == OFlags::RWMODE {
        return Err(Errno::INVAL);
    }
    let writes = access != OFlags::RDONLY || asked.contains(OFlags::TRUNC);
    Ok((access | asked & kept, writes))
}

/// Whether something that is there is opened for a guest.
///
/// # Errors
/// As open(2) on a directory and on a link that is not followed. `ENXIO`: the guest has FIFOs, sockets and devices of its own
/// for these nodes; the host's are none of its business.
fn openable(kind: FileType) -> Result<(), Errno> {
    match kind {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR),
        FileType::Symlink => Err(Errno::LOOP),
        _ => Err(Errno::NXIO),
    }
}

/// A file that was not there, open. Never what is there: opening a FIFO wakes who waits for its other end.
///
/// # Errors
/// `EEXIST`. Those of `openat2`.
fn make_file(dir: &OwnedFd, name: &CStr, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        dir,
        name,
        flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        permissions(mode),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
    )
}

impl Server {
    pub(super) fn open(&mut self, id: u64, asked: u32, open_flags: u32) -> Outcome {
        if id == ROOT_ID {
            return Err(Errno::ISDIR);
        }
        let (flags, writes) = flags(asked)?;
        if writes {
            self.writable(id)?;
        }
        openable(self.inodes.get(id)?.kind)?;
        self.room()?;
        let named = self.inodes.fd(id)?;
        let fd = self.reopen(&named, flags)?;
        if flags.contains(OFlags::TRUNC) && open_flags & abi::OPEN_KILL_SUIDGID != 0 {
            self.kill_suid(&fd)?;
        }
        let mut to = Writer::default();
        self.put_opened(&mut to, id, fd, flags)?;
        Ok(Answer::Bytes(to.0))
    }

    pub(super) fn create(
        &mut self,
        parent: u64,
        name: &CStr,
        asked: (u32, u32),
        mode: u32,
    ) -> Outcome {
        self.writable(parent)?;
        let (flags, _) = flags(asked.0)?;
        self.room()?;
        let dir = self.inodes.fd(parent)?;
        let exclusive = OFlags::from_bits_retain(asked.0).contains(OFlags::EXCL);
        let mut races = 8;
        let (named, fd) = loop {
            match make_file(&dir, name, flags, mode) {
                Ok(fd) => break (self.reopen(&fd, OFlags::PATH)?, fd),
                Err(Errno::EXIST) if !exclusive => {}
                Err(errno) => return Err(errno),
            }
            let (named, stat) = match find(&dir, name) {
                // It went in between: nobody hears of a file that is not there when it is to be made.
                Err(Errno::NOENT) if races > 0 => {
                    races -= 1;
                    continue;
                }
                found => found?,
            };
            openable(FileType::from_raw_mode(stat.st_mode))?;
            let fd = self.reopen(&named, flags)?;
            break (named, fd);
        };
        if flags.contains(OFlags::TRUNC) && asked.1 & abi::OPEN_KILL_SUIDGID != 0 {
            self.kill_suid(&fd)?;
        }
        let stat = rustix::fs::fstat(&fd)?;
        let mut to = Writer::default();
        let id = self.put_found(&mut to, parent, name, (named, &stat))?;
        self.put_opened(&mut to, id, fd, flags)?;
        Ok(Answer::Bytes(to.0))
    }

    /// `struct fuse_open_out`.
    fn put_opened(
        &mut self,
        to: &mut Writer,
        id: u64,
        fd: OwnedFd,
        flags: OFlags,
    ) -> Result<(), Errno> {
        let version = Version::of(&rustix::fs::fstat(&fd)?);
        let inode = self.inodes.get_mut(id)?;
        // What the guest has read before may be used again if nothing has changed since, and could not have without
        // showing.
        let keep = inode.seen.as_deref() == Some(&version);
        inode.seen = version.is_settled().then(|| Box::new(version));
        inode.handles = inode.handles.saturating_add(1);
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY;
        let fh = self.add(Handle::File(fd, writes, id));
        to.u64(fh)
            .u32(if keep { abi::KEEP_CACHE } else { 0 })
            .u32(0);
        Ok(())
    }

    pub(super) fn open_dir(&mut self, id: u64) -> Outcome {
        self.room()?;
        let handle = match id {
            ROOT_ID => Handle::Root,
            id => {
                if self.inodes.get(id)?.kind != FileType::Directory {
                    return Err(Errno::NOTDIR);
                }
                let fd = self.inodes.fd(id)?;
                Handle::Directory(self.reopen(&fd, OFlags::RDONLY | OFlags::DIRECTORY)?, 0)
            }
        };
        let mut to = Writer::default();
        to.u64(self.add(handle)).u64(0);
        Ok(Answer::Bytes(to.0))
    }

    /// # Errors
    /// `ENFILE`: the guest has too much open.
    fn room(&self) -> Result<(), Errno> {
        match self.handles.len() < self.most_handles {
            true => Ok(()),
            false => Err(Errno::NFILE),
        }
    }

    fn add(&mut self, handle: Handle) -> u64 {
        let fh = self.next_handle;
        self.next_handle += 1;
        self.handles.insert(fh, handle);
        fh
    }

    pub(super) fn release(&mut self, fh: u64) -> Outcome {
        if let Some(Handle::File(_, _, id)) = self.handles.remove(&fh)
            && let Ok(inode) = self.inodes.get_mut(id)
        {
            inode.handles = inode.handles.saturating_sub(1);
        }
        Answer::done()
    }

    /// A descriptor of it is closed in the guest. What a network file system has to say about it is said now; others have
    /// nothing to say, and then the guest asks no more.
    pub(super) fn flush(&mut self, fh: u64) -> Outcome {
        if !self.flushes {
            return Err(Errno::NOSYS);
        }
        let fd = rustix::io::fcntl_dupfd_cloexec(self.file(fh)?, 3)?;
        // SAFETY: the descriptor was just made, and nobody else has it.
        let closed = unsafe { libc::close(std::os::fd::IntoRawFd::into_raw_fd(fd)) };
        match closed {
            0 => Answer::done(),
            _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }

    /// An open file that may be changed. That its folder may be was asked when it was opened.
    ///
    /// # Errors
    /// `EBADF`: it was opened for reading only, or is no file.
    pub(super) fn file_to_write(&self, fh: u64) -> Result<&OwnedFd, Errno> {
        let open = self.handles.get(&fh);
        open.and_then(Handle::file_to_write).ok_or(Errno::BADF)
    }

    /// An open file.
    pub(super) fn file(&self, fh: u64) -> Result<&OwnedFd, Errno> {
        match self.handles.get(&fh) {
            Some(Handle::File(fd, ..)) => Ok(fd),
            _ => Err(Errno::BADF),
        }
    }
}
