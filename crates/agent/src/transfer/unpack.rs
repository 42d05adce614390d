//! Unpacks an archive into a directory of the container, by Docker's rules: directories merge, everything else replaces
//! what is there, links on the way are followed inside the root.

use std::collections::HashMap;
use std::collections::hash_map::Entry::Vacant;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use super::archive::Archive;
use super::entry::{Entry, Kind};
use super::pack::shown;
use super::{paths, remove, xattrs};
use crate::failure::{Failed, Step};
use crate::inroot;

/// What the caller wants.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Options {
    /// Refuse to put a directory over something else and something else over a directory.
    pub(super) keep_type: bool,
    /// Owners are the archive's; otherwise root.
    pub(super) keep_owner: bool,
    /// Access control lists are the archive's, and none where it has none; otherwise what directories give to new files.
    pub(super) keep_lists: bool,
}

/// Unpacks all of `archive` into `directory`, and writes it to the disks.
pub(super) fn unpack(
    root: BorrowedFd<'_>,
    directory: &Path,
    archive: &mut Archive,
    options: Options,
) -> Result<(), Failed> {
    let mut unpacker = Unpacker {
        root,
        directory,
        options,
        parent: None,
        times: Times::default(),
        file_systems: HashMap::new(),
    };
    while let Some(entry) = archive.next()? {
        unpacker.place(&entry, archive)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    directory: &'a Path,
    options: Options,
    /// Where the last member went.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    times: Times,
    /// By device, a directory of each that was written to.
    file_systems: HashMap<u64, OwnedFd>,
}

impl Unpacker<'_> {
    fn place(&mut self, entry: &Entry, archive: &mut Archive) -> Result<(), Failed> {
        let path = inside(&entry.path)?;
        let (parent, name) = split(&path);
        if name.is_empty() {
            // The directory itself stays as it is.
            return Ok(());
        }
        let parent = self.parent(parent)?;
        let parent = parent.as_fd();
        match &entry.kind {
            Kind::Directory => {
                self.directory(parent, name, entry, &path)?;
            }
            Kind::File { size, extents } => {
                let file = self.create(parent, name, &path)?;
                if extents.is_some() {
                    rustix::fs::ftruncate(&file, *size).step("enlarge", shown(&path))?;
                }
                archive.write_to(file.as_fd(), entry)?;
                self.describe(file.as_fd(), entry, &path)?;
                rustix::fs::futimens(&file, &times(entry.modified))
                    .step("set times of", shown(&path))?;
            }
            Kind::HardLink(target) => self.hard_link(parent, name, target, &path)?,
            _ => self.special(parent, name, entry, &path)?,
        }
        Ok(())
    }

    /// Opens the directory `path` of the archive, making what is missing.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Failed> {
        if let Some((known, fd)) = &self.parent
            && known == path
        {
            return Ok(Rc::clone(fd));
        }
        let full = self.full(path);
        let fd = inroot::directory_of_archive(self.root, &full)
            .step("make directory", full.display())?;
        let stat = rustix::fs::fstat(&fd).step("stat", full.display())?;
        if let Vacant(vacant) = self.file_systems.entry(stat.st_dev) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let open = rustix::fs::openat(&fd, c".", flags, Mode::empty());
            vacant.insert(open.step("open", full.display())?);
        }
        let fd = Rc::new(fd);
        self.parent = Some((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    fn full(&self, path: &[u8]) -> PathBuf {
        self.directory.join(OsStr::from_bytes(path))
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        path: &[u8],
    ) -> Result<(), Failed> {
        let make = || rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700));
        match make() {
            Err(Errno::EXIST) => {
                let stat = self.stat(parent, name, path)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    if self.options.keep_type {
                        let what = "cannot overwrite non-directory with directory";
                        return Err(self.refused(path, what));
                    }
                    self.remove(parent, name, path)?;
                    make().step("make directory", shown(path))?;
                }
            }
            result => result.step("make directory", shown(path))?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty());
        let directory = directory.step("open", shown(path))?;
        self.describe(directory.as_fd(), entry, path)?;
        self.times.push(path, entry.modified);
        Ok(())
    }

    /// Makes a new file, in place of what is there.
    fn create(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
    ) -> Result<OwnedFd, Failed> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
        self.replacing(parent, name, path, "create", create)
    }

    fn hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        target: &[u8],
        path: &[u8],
    ) -> Result<(), Failed> {
        let target = inside(target)?;
        let (directory, last) = split(&target);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = inroot::open(self.root, &self.full(directory), flags, 0)
            .step("find", shown(&target))?;
        let same = |stat: &Stat| (stat.st_dev, stat.st_ino);
        let there = rustix::fs::statat(&directory, last, AtFlags::SYMLINK_NOFOLLOW)
            .step("find", shown(&target))?;
        let here = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        if here.is_ok_and(|here| same(&here) == same(&there)) {
            return Ok(());
        }
        let link = || rustix::fs::linkat(&directory, last, parent, name, AtFlags::empty());
        self.replacing(parent, name, path, "link", link)
    }

    fn special(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        path: &[u8],
    ) -> Result<(), Failed> {
        let node = |kind, (major, minor)| {
            let (mode, device) = (
                Mode::from_raw_mode(0o600),
                rustix::fs::makedev(major, minor),
            );
            rustix::fs::mknodat(parent, name, kind, mode, device)
        };
        self.replacing(parent, name, path, "make", || match &entry.kind {
            Kind::SymbolicLink(target) => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), parent, name)
            }
            Kind::CharacterDevice { major, minor } => {
                node(FileType::CharacterDevice, (*major, *minor))
            }
            Kind::BlockDevice { major, minor } => node(FileType::BlockDevice, (*major, *minor)),
            _ => node(FileType::Fifo, (0, 0)),
        })?;
        let (uid, gid) = self.owner(entry);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)
            .step("change owner of", shown(path))?;
        if !matches!(entry.kind, Kind::SymbolicLink(_)) {
            rustix::fs::chmodat(
                parent,
                name,
                Mode::from_raw_mode(entry.mode),
                AtFlags::empty(),
            )
            .step("change mode of", shown(path))?;
        }
        rustix::fs::utimensat(parent, name, &times(entry.modified), flags)
            .step("set times of", shown(path))
    }

    /// Does `make`, after what is in its way was removed.
    fn replacing<T>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        step: &str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Failed> {
        match make() {
            Err(Errno::EXIST) => {}
            result => return result.step(step, shown(path)),
        }
        let stat = self.stat(parent, name, path)?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if self.options.keep_type && directory {
            let what = "cannot overwrite directory with non-directory";
            return Err(self.refused(path, what));
        }
        self.remove(parent, name, path)?;
        make().step(step, shown(path))
    }

    fn stat(&self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<Stat, Failed> {
        rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).step("stat", shown(path))
    }

    fn remove(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<(), Failed> {
        // It may have been a parent.
        self.parent = None;
        remove::all(parent, name).step("remove", shown(path))
    }

    fn refused(&self, path: &[u8], what: &str) -> Failed {
        Failed::invalid("unpack", self.full(path).display(), what)
    }

    /// Owner, attributes, mode, in the order in which none takes another away again.
    fn describe(&self, file: BorrowedFd<'_>, entry: &Entry, path: &[u8]) -> Result<(), Failed> {
        let (uid, gid) = self.owner(entry);
        rustix::fs::fchown(file, Some(uid), Some(gid)).step("change owner of", shown(path))?;
        if self.options.keep_lists {
            // What the directory gave to a new file.
            xattrs::remove(file, xattrs::LISTS[0])
                .and_then(|()| match entry.kind {
                    Kind::Directory => xattrs::remove(file, xattrs::LISTS[1]),
                    _ => Ok(()),
                })
                .step("remove attributes of", shown(path))?;
        }
        for attribute in &entry.attributes {
            xattrs::set(file, attribute).step("set attributes of", shown(path))?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))
            .step("change mode of", shown(path))
    }

    fn owner(&self, entry: &Entry) -> (Uid, Gid) {
        if self.options.keep_owner {
            (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))
        } else {
            (Uid::ROOT, Gid::ROOT)
        }
    }

    fn finish(self) -> Result<(), Failed> {
        for (path, modified) in self.times.iter() {
            let full = self.full(path);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            // A later member, or the container, may have put something else there.
            let Ok(directory) = inroot::open(self.root, &full, flags, 0) else {
                continue;
            };
            rustix::fs::futimens(directory, &times(modified))
                .step("set times of", full.display())?;
        }
        for directory in self.file_systems.values() {
            rustix::fs::syncfs(directory).step("write out", self.directory.display())?;
        }
        Ok(())
    }
}

/// Times of directories, which each file in them would change again: set when everything is there.
#[derive(Default)]
struct Times {
    paths: Vec<u8>,
    /// Where each path ends, and its time.
    ends: Vec<(usize, (i64, u32))>,
}

impl Times {
    fn push(&mut self, path: &[u8], modified: (i64, u32)) {
        self.paths.extend_from_slice(path);
        self.ends.push((self.paths.len(), modified));
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], (i64, u32))> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(end, _)| *end));
        starts
            .zip(&self.ends)
            .map(|(start, &(end, modified))| (&self.paths[start..end], modified))
    }
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds.into(),
        },
    }
}

/// A member's path, cleaned; absolute ones begin at the directory.
fn inside(path: &[u8]) -> Result<Vec<u8>, Failed> {
    let start = path.iter().position(|&byte| byte != b'/');
    let relative = start
        .and_then(|start| path.get(start..))
        .unwrap_or_default();
    paths::clean(relative)
        .ok_or_else(|| Failed::invalid("unpack", shown(path), "it leads out of the directory"))
}

fn split(path: &[u8]) -> (&[u8], &OsStr) {
    let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    (parent, OsStr::from_bytes(name))
}
