//! Unpacks a container's archive on this host. The archive is the guest's word: it is hostile.
//!
//! Nothing is written outside the destination: names are taken apart, `..` is refused, and each directory on the way is
//! opened from the one before it without following links. Links are made as they are and never followed. Files belong to
//! whoever runs this; set-user-ID and set-group-ID come only with the owners.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci::tar::{Archive, DataExtent, Entry, EntryKind};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, fchmod, fchown,
    linkat, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::Error;

/// Links of this kind have no owner of their own elsewhere.
const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

/// What a directory is opened with: nothing is read from it.
const DIRECTORY: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory on the way to the file that is unpacked.
struct Level {
    name: Vec<u8>,
    fd: OwnedFd,
    /// Set when we leave it: what is put into it changes its times, and its mode may forbid that.
    mode: Option<(Mode, Timespec)>,
}

/// Unpacks archives in one directory.
pub(super) struct Unpacker {
    root: OwnedFd,
    path: PathBuf,
    levels: Vec<Level>,
    /// The first name of every entry, instead of its own.
    rename: Option<Vec<u8>>,
    keep_owner: bool,
    buffer: Vec<u8>,
    /// Devices that only root can make.
    skipped: u64,
}

impl Unpacker {
    pub(super) fn new(
        directory: &Path,
        rename: Option<&OsStr>,
        keep_owner: bool,
    ) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|errno| Error::host("open", directory)(errno.into()))?;
        Ok(Self {
            root,
            path: directory.to_owned(),
            levels: Vec::new(),
            rename: rename.map(|name| name.as_bytes().to_vec()),
            keep_owner,
            buffer: vec![0; 128 << 10],
            skipped: 0,
        })
    }

    /// Unpacks all of it: how many devices were left out.
    pub(super) fn unpack(mut self, reader: impl Read) -> Result<u64, Error> {
        let mut archive = Archive::new(reader);
        while let Some(entry) = archive.next_entry()? {
            self.place(&entry, &mut archive)?;
        }
        archive.drain()?;
        self.leave(0)?;
        Ok(self.skipped)
    }

    fn place(&mut self, entry: &Entry, archive: &mut Archive<impl Read>) -> Result<(), Error> {
        let parts = self.parts(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            // The directory itself stays as it is.
            return Ok(());
        };
        self.enter(parents)?;
        match &entry.kind {
            EntryKind::Directory => self.directory(name, entry),
            EntryKind::File { len, extents } => {
                self.file(name, entry, *len, extents.as_deref(), archive)
            }
            EntryKind::HardLink(target) => self.hard_link(name, target, &entry.path),
            EntryKind::Symlink(target) => {
                self.clear(name, &entry.path)?;
                let target = OsStr::from_bytes(target);
                self.done("link", name, symlinkat(target, self.parent(), os(name)))?;
                self.describe_special(name, entry)
            }
            EntryKind::Fifo => self.special(name, entry, FileType::Fifo, 0),
            EntryKind::CharDevice { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.special(name, entry, FileType::CharacterDevice, device)
            }
            EntryKind::BlockDevice { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.special(name, entry, FileType::BlockDevice, device)
            }
        }
    }

    /// The parts of an entry's name, with the first one renamed.
    fn parts(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let mut parts = path
            .split(|byte| *byte == b'/')
            .skip_while(|part| part.is_empty());
        let first = parts.next().unwrap_or_default();
        let first = self.rename.as_deref().unwrap_or(first);
        let mut clean = Vec::new();
        for part in std::iter::once(first).chain(parts) {
            match part {
                b"" | b"." => {}
                b".." => {
                    return Err(Error::Escape {
                        path: String::from_utf8_lossy(path).into_owned(),
                    });
                }
                name => clean.push(name.to_vec()),
            }
        }
        Ok(clean)
    }

    fn parent(&self) -> BorrowedFd<'_> {
        self.levels
            .last()
            .map_or(self.root.as_fd(), |level| level.fd.as_fd())
    }

    /// Where a name in the directory that we are in lies, for messages.
    fn path_of(&self, name: &[u8]) -> PathBuf {
        let mut path = self.path.clone();
        path.extend(self.levels.iter().map(|level| os(&level.name)));
        path.push(os(name));
        path
    }

    fn done<T>(
        &self,
        operation: &'static str,
        name: &[u8],
        result: rustix::io::Result<T>,
    ) -> Result<T, Error> {
        result.map_err(|errno| Error::host(operation, &self.path_of(name))(errno.into()))
    }

    /// Goes to a directory of the archive, making what is missing on the way.
    fn enter(&mut self, parents: &[Vec<u8>]) -> Result<(), Error> {
        let common = self
            .levels
            .iter()
            .zip(parents)
            .take_while(|(level, name)| level.name == **name)
            .count();
        self.leave(common)?;
        for name in &parents[common..] {
            match mkdirat(self.parent(), os(name), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => self.done("make", name, Err(errno))?,
            }
            self.push(name, None)?;
        }
        Ok(())
    }

    fn push(&mut self, name: &[u8], mode: Option<(Mode, Timespec)>) -> Result<(), Error> {
        let opened = openat(self.parent(), os(name), DIRECTORY, Mode::empty());
        let fd = match opened {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(Error::DirectoryOverOther {
                    path: self.path_of(name),
                });
            }
            other => self.done("open", name, other)?,
        };
        self.levels.push(Level {
            name: name.to_vec(),
            fd,
            mode,
        });
        Ok(())
    }

    /// Goes up, and describes what is left.
    fn leave(&mut self, depth: usize) -> Result<(), Error> {
        while self.levels.len() > depth {
            let Some(level) = self.levels.pop() else {
                break;
            };
            if let Some((mode, modified)) = level.mode {
                let name = os(&level.name);
                // By name: a descriptor that reads nothing can't be changed. It was a directory of ours a moment ago.
                let result = rustix::fs::chmodat(self.parent(), name, mode, AtFlags::empty())
                    .and_then(|()| utimensat(self.parent(), name, &times(modified), NOFOLLOW));
                self.done("set mode and times of", &level.name, result)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, name: &[u8], entry: &Entry) -> Result<(), Error> {
        match mkdirat(self.parent(), os(name), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => self.done("make", name, Err(errno))?,
        }
        self.push(name, Some((self.mode(entry), modified(entry))))?;
        if self.keep_owner {
            let result = rustix::fs::chownat(
                self.levels
                    .last()
                    .map_or(self.root.as_fd(), |level| level.fd.as_fd()),
                c"",
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
                AtFlags::EMPTY_PATH,
            );
            self.permitted(name, result)?;
        }
        Ok(())
    }

    /// Makes room for something that is no directory.
    fn clear(&self, name: &[u8], path: &[u8]) -> Result<(), Error> {
        match unlinkat(self.parent(), os(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // Linux says EISDIR, POSIX EPERM.
            Err(Errno::ISDIR | Errno::PERM)
                if statat(self.parent(), os(name), NOFOLLOW)
                    .is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_dir()) =>
            {
                Err(Error::OtherOverDirectory {
                    path: self.path_of(name),
                    name: String::from_utf8_lossy(path).into_owned(),
                })
            }
            Err(errno) => self.done("replace", name, Err(errno)),
        }
    }

    fn file(
        &mut self,
        name: &[u8],
        entry: &Entry,
        length: u64,
        extents: Option<&[DataExtent]>,
        archive: &mut Archive<impl Read>,
    ) -> Result<(), Error> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(self.parent(), os(name), flags, Mode::RUSR | Mode::WUSR);
        let opened = match open() {
            Err(Errno::EXIST) => {
                self.clear(name, &entry.path)?;
                open()
            }
            other => other,
        };
        let mut file = File::from(self.done("create", name, opened)?);
        match extents {
            None => self.content(&mut file, name, length, archive)?,
            Some(extents) => {
                file.set_len(length)
                    .map_err(Error::host("enlarge", &self.path_of(name)))?;
                for extent in extents {
                    file.seek(SeekFrom::Start(extent.offset))
                        .map_err(Error::host("seek in", &self.path_of(name)))?;
                    self.content(&mut file, name, extent.len, archive)?;
                }
            }
        }
        if self.keep_owner {
            let result = fchown(
                &file,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            );
            self.permitted(name, result)?;
        }
        self.done("set mode of", name, fchmod(&file, self.mode(entry)))?;
        let result = rustix::fs::futimens(&file, &times(modified(entry)));
        self.done("set times of", name, result)
    }

    fn content(
        &mut self,
        file: &mut File,
        name: &[u8],
        length: u64,
        archive: &mut Archive<impl Read>,
    ) -> Result<(), Error> {
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            let read = match archive.data().read(&mut self.buffer[..most]) {
                Ok(read) => read,
                Err(error) => {
                    return Err(match archive.take_failure() {
                        Some(failure) => failure.into(),
                        None => Error::Stream(error),
                    });
                }
            };
            if read == 0 {
                return Err(Error::Stream(std::io::ErrorKind::UnexpectedEof.into()));
            }
            if let Err(error) = file.write_all(&self.buffer[..read]) {
                return Err(Error::host("write", &self.path_of(name))(error));
            }
            left -= read as u64;
        }
        Ok(())
    }

    fn hard_link(&mut self, name: &[u8], target: &[u8], path: &[u8]) -> Result<(), Error> {
        let parts = self.parts(target)?;
        let Some((last, parents)) = parts.split_last() else {
            return Err(Error::Escape {
                path: String::from_utf8_lossy(target).into_owned(),
            });
        };
        let mut directory: Option<OwnedFd> = None;
        for part in parents {
            let from = directory.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let opened = openat(from, os(part), DIRECTORY, Mode::empty());
            directory = Some(self.done("find the target of", name, opened)?);
        }
        self.clear(name, path)?;
        let from = directory.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
        let result = linkat(from, os(last), self.parent(), os(name), AtFlags::empty());
        self.done("link", name, result)
    }

    fn special(
        &mut self,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<(), Error> {
        self.clear(name, &entry.path)?;
        let mode = self.mode(entry);
        match mknodat(self.parent(), os(name), kind, mode, device) {
            Err(Errno::PERM) if kind != FileType::Fifo => {
                tracing::warn!(path = %self.path_of(name).display(), "a device is not copied: only root makes them");
                self.skipped += 1;
                return Ok(());
            }
            other => self.done("make", name, other)?,
        }
        let result = rustix::fs::chmodat(self.parent(), os(name), mode, AtFlags::empty());
        self.done("set mode of", name, result)?;
        self.describe_special(name, entry)
    }

    /// Owner and times of what can't be opened.
    fn describe_special(&self, name: &[u8], entry: &Entry) -> Result<(), Error> {
        if self.keep_owner {
            let result = rustix::fs::chownat(
                self.parent(),
                os(name),
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
                NOFOLLOW,
            );
            self.permitted(name, result)?;
        }
        let result = utimensat(self.parent(), os(name), &times(modified(entry)), NOFOLLOW);
        self.done("set times of", name, result)
    }

    /// Owners are kept where that is permitted.
    fn permitted(&self, name: &[u8], result: rustix::io::Result<()>) -> Result<(), Error> {
        match result {
            Err(Errno::PERM) => Ok(()),
            other => self.done("set owner of", name, other),
        }
    }

    fn mode(&self, entry: &Entry) -> Mode {
        let kept = if self.keep_owner { 0o7777 } else { 0o1777 };
        Mode::from_raw_mode(u32::from(entry.mode) & kept)
    }
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn modified(entry: &Entry) -> Timespec {
    Timespec {
        tv_sec: entry.mtime.secs,
        tv_nsec: entry.mtime.nanos.into(),
    }
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: modified,
    }
}
