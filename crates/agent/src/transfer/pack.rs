//! Writes files into an archive: one by one, or a directory with everything below.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, fstatfs};
use rustix::io::Errno;

use super::entry::{Attribute, Entry, Extent, Kind};
use super::listing::Listing;
use super::pipe::Output;
use super::xattrs;
use crate::failure::{Failed, Step};

/// Files with more holes than this are sent with zeros in them.
const MOST_EXTENTS: usize = 1 << 16;

/// File systems whose contents are the kernel's talk (`linux/magic.h`): a tree that is packed ends there.
const KERNELS_OWN: [u32; 11] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0x4249_4e4d, // binfmt_misc
];

/// Writes members.
pub(super) struct Packer {
    output: Output,
    /// Where files with several names were written first, by device and inode, and how many names are left.
    links: HashMap<(u64, u64), (Vec<u8>, u64)>,
    headers: Vec<u8>,
    /// Of the archive: not written.
    left_out: Option<&'static [u8]>,
    /// Access control lists go along.
    with_lists: bool,
}

/// A directory that is being packed.
struct Level {
    directory: OwnedFd,
    names: Listing,
    /// Bytes of its path in the archive.
    path: usize,
}

impl Packer {
    pub(super) fn new(output: Output) -> Self {
        Self {
            output,
            links: HashMap::new(),
            headers: Vec::new(),
            left_out: None,
            with_lists: false,
        }
    }

    /// Takes access control lists along: the archive is unpacked by this kernel.
    pub(super) fn with_lists(self) -> Self {
        Self {
            with_lists: true,
            ..self
        }
    }

    fn attributes(&self, file: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Attribute>, Failed> {
        let attributes = match self.with_lists {
            true => xattrs::read_with_lists(file),
            false => xattrs::read(file),
        };
        attributes.step("read attributes of", shown(path))
    }

    /// Leaves `path` out.
    pub(super) fn leave_out(&mut self, path: &'static [u8]) {
        self.left_out = Some(path);
    }

    /// Writes the end of the archive; returns how many bytes it has.
    pub(super) fn finish(mut self) -> Result<u64, Failed> {
        self.output.zeros(2 * super::entry::BLOCK as u64)?;
        self.output.finish()
    }

    /// Writes what `name` in `directory` is as `path`, and everything below. Fails when it is not there; what goes away
    /// meanwhile is left out.
    pub(super) fn tree(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
    ) -> Result<(), Failed> {
        match self.object(directory, name, FileType::Unknown, path)? {
            Added::Directory(directory) => self.below(directory, path),
            Added::Other => Ok(()),
            Added::Gone => Err(Failed::os("pack", shown(path), Errno::NOENT)),
        }
    }

    /// Writes everything below `top`, an open directory whose path in the archive is `path`; empty for the root.
    pub(super) fn below(&mut self, top: OwnedFd, path: &[u8]) -> Result<(), Failed> {
        let mut path = path.to_vec();
        let mut levels = vec![Level::new(top, &path)?];
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path);
            let Some((name, kind)) = level.names.peek() else {
                level.names = Listing::some(level.directory.as_fd()).step("list", shown(&path))?;
                if level.names.peek().is_none() {
                    levels.pop();
                }
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            if self.left_out == Some(path.as_slice()) {
                level.names.advance();
                continue;
            }
            let added = self.object(level.directory.as_fd(), name, kind, &path)?;
            level.names.advance();
            if let Added::Directory(directory) = added
                && !is_kernels_own(&directory)
            {
                levels.push(Level::new(directory, &path)?);
            }
        }
        Ok(())
    }

    /// Writes one object, without what is below.
    pub(super) fn object(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        kind: FileType,
        path: &[u8],
    ) -> Result<Added, Failed> {
        let added = match kind {
            FileType::Directory | FileType::RegularFile => {
                let flags = match kind {
                    FileType::Directory => OFlags::DIRECTORY,
                    _ => OFlags::NONBLOCK | OFlags::NOCTTY,
                };
                match open(directory, name, flags) {
                    Ok(file) => {
                        let stat = rustix::fs::fstat(&file).step("stat", shown(path))?;
                        match FileType::from_raw_mode(stat.st_mode) {
                            FileType::Directory => {
                                self.directory(file.as_fd(), &stat, path)?;
                                return Ok(Added::Directory(file));
                            }
                            FileType::RegularFile => self.file(&file, &stat, path).map(|()| None),
                            // Something else by now.
                            _ => return Ok(Added::Gone),
                        }
                    }
                    Err(errno) => Ok(Some(errno)),
                }
            }
            _ => match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                    kind @ (FileType::Directory | FileType::RegularFile) => {
                        return self.object(directory, name, kind, path);
                    }
                    _ => self.special(directory, name, &stat, path).map(|()| None),
                },
                Err(errno) => Ok(Some(errno)),
            },
        }?;
        match added {
            None => Ok(Added::Other),
            // Removed or replaced since it was listed.
            Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => Ok(Added::Gone),
            Some(errno) => Err(Failed::os("open", shown(path), errno)),
        }
    }

    /// Writes an open directory, without what is in it.
    pub(super) fn directory(
        &mut self,
        directory: BorrowedFd<'_>,
        stat: &Stat,
        path: &[u8],
    ) -> Result<(), Failed> {
        let mut entry = described(stat, path, Kind::Directory);
        entry.attributes = self.attributes(directory, path)?;
        self.put(&entry)
    }

    /// Writes an empty file that stands for something else.
    pub(super) fn mark(&mut self, path: Vec<u8>) -> Result<(), Failed> {
        self.put(&Entry::empty_file(path))
    }

    fn file(&mut self, file: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<(), Failed> {
        if self.linked(stat, path)? {
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let extents = extents(file.as_fd(), stat, size).step("find holes of", shown(path))?;
        let mut entry = described(stat, path, Kind::File { size, extents });
        entry.attributes = self.attributes(file.as_fd(), path)?;
        self.put(&entry)?;
        let all = [Extent {
            offset: 0,
            length: size,
        }];
        let Kind::File { extents, .. } = &entry.kind else {
            return Ok(());
        };
        for extent in extents.as_deref().unwrap_or(&all) {
            self.output
                .copy(file.as_fd(), extent.offset, extent.length)
                .step("read", shown(path))??;
        }
        self.output.pad(entry.stored())
    }

    fn special(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        path: &[u8],
    ) -> Result<(), Failed> {
        let device = || {
            let device = stat.st_rdev;
            (rustix::fs::major(device), rustix::fs::minor(device))
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(directory, name, Vec::new()) {
                    // Gone, or something else by now.
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    result => result.step("read link", shown(path))?,
                };
                Kind::SymbolicLink(target.into_bytes())
            }
            FileType::CharacterDevice => {
                let (major, minor) = device();
                Kind::CharacterDevice { major, minor }
            }
            FileType::BlockDevice => {
                let (major, minor) = device();
                Kind::BlockDevice { major, minor }
            }
            FileType::Fifo => Kind::Fifo,
            // A socket is nothing without who listens: tar has no type for it.
            _ => return Ok(()),
        };
        if self.linked(stat, path)? {
            return Ok(());
        }
        self.put(&described(stat, path, kind))
    }

    /// Writes a link when another name of the same file was written already.
    fn linked(&mut self, stat: &Stat, path: &[u8]) -> Result<bool, Failed> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let key = (stat.st_dev, stat.st_ino);
        let Some((first, left)) = self.links.get_mut(&key) else {
            let left = stat.st_nlink - 1;
            self.links.insert(key, (path.to_vec(), left));
            return Ok(false);
        };
        let entry = described(stat, path, Kind::HardLink(first.clone()));
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.links.remove(&key);
        }
        self.put(&entry)?;
        Ok(true)
    }

    fn put(&mut self, entry: &Entry) -> Result<(), Failed> {
        self.headers.clear();
        entry.encode(&mut self.headers);
        self.output.put(&self.headers)
    }
}

/// What became of an object.
pub(super) enum Added {
    /// It is written, and here it is.
    Directory(OwnedFd),
    Other,
    /// It is no longer there.
    Gone,
}

impl Level {
    fn new(directory: OwnedFd, path: &[u8]) -> Result<Self, Failed> {
        let names = Listing::some(directory.as_fd()).step("list", shown(path))?;
        Ok(Self {
            directory,
            names,
            path: path.len(),
        })
    }
}

/// Opens what is to be read, never what a link points to. Access times stay as they are.
pub(super) fn open(
    directory: BorrowedFd<'_>,
    name: &CStr,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Not ours, and we are not root (in tests).
        Err(Errno::PERM) => rustix::fs::openat(directory, name, flags, Mode::empty()),
        result => result,
    }
}

fn is_kernels_own(directory: &OwnedFd) -> bool {
    fstatfs(directory).is_ok_and(|system| {
        u32::try_from(system.f_type).is_ok_and(|kind| KERNELS_OWN.contains(&kind))
    })
}

fn described(stat: &Stat, path: &[u8], kind: Kind) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        attributes: Vec::new(),
    }
}

/// What of a file is no hole; `None` when there are no holes, or too many of them.
fn extents(
    file: BorrowedFd<'_>,
    stat: &Stat,
    size: u64,
) -> rustix::io::Result<Option<Vec<Extent>>> {
    const UNIT: u64 = 512;
    if u64::try_from(stat.st_blocks).unwrap_or(0) >= size.div_ceil(UNIT) {
        return Ok(None);
    }
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let offset = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(offset) if offset < size => offset,
            // A hole up to the end.
            Ok(_) | Err(Errno::NXIO) => break,
            // A file system that knows nothing of holes.
            Err(Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(offset))?.min(size);
        if at <= offset || extents.len() == MOST_EXTENTS {
            return Ok(None);
        }
        let length = at - offset;
        extents.push(Extent { offset, length });
    }
    if extents.iter().map(|extent| extent.length).sum::<u64>() == size {
        return Ok(None);
    }
    if at < size || extents.is_empty() {
        // Readers want to hear where the file ends.
        let length = 0;
        extents.push(Extent {
            offset: size,
            length,
        });
    }
    Ok(Some(extents))
}

/// A path of the archive, for people.
pub(super) fn shown(path: &[u8]) -> impl std::fmt::Display + '_ {
    String::from_utf8_lossy(path)
}
