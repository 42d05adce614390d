//! What a container changed against its image, from the overlay's upper directory.
//!
//! Two ways to walk, and each directory says which one holds below it:
//!
//! - **upper**: a plain directory of the upper disk lists what changed in it, and whiteouts (character devices 0:0) for
//!   what was removed (`Documentation/filesystems/overlayfs.rst`);
//! - **merged**: a directory that replaced one of the image (`trusted.overlay.opaque`) or was renamed
//!   (`trusted.overlay.redirect`) says nothing about the image's directory at its place: what the container sees is
//!   compared with that one by one.
//!
//! Which entries count is Docker's rule: a directory that was copied up with its metadata as they were counts as changed
//! when something in it did; a file whose metadata, attributes and contents are the image's does not count.

use std::cmp::Ordering;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::listing::Listing;
use super::pack::{open, shown};
use super::{compare, xattrs};
use crate::failure::{Failed, Step};

/// Paths that the boot makes where the image lacks them, to mount on.
const MOUNT_POINTS: [&[u8]; 6] = [
    b"/dev",
    b"/proc",
    b"/sys",
    b"/etc/hosts",
    b"/etc/hostname",
    b"/etc/resolv.conf",
];

/// Directories that the boot makes for those: they count with something else in them only.
const THEIR_PARENTS: [&[u8]; 1] = [b"/etc"];

/// How something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Changed,
}

/// Where to find what changed.
pub(super) enum Object<'a> {
    Directory(BorrowedFd<'a>, &'a Stat),
    Other(BorrowedFd<'a>, &'a CStr),
}

/// Who is told, each directory before what is in it, in the order of the names' bytes. Paths are absolute.
pub(super) trait Sink {
    fn put(&mut self, change: Change, path: &[u8], object: Object<'_>) -> Result<(), Failed>;
    fn deleted(&mut self, path: &[u8]) -> Result<(), Failed>;
}

/// The three roots.
pub(super) struct Roots {
    pub(super) upper: OwnedFd,
    pub(super) lower: OwnedFd,
    pub(super) merged: OwnedFd,
}

/// A directory that is being walked.
struct Level {
    way: Way,
    /// The image's directory at this place, if there is one.
    lower: Option<OwnedFd>,
    names: Listing,
    /// Bytes of its path.
    path: usize,
    /// How it counts as soon as something in it does.
    pending: Option<(Change, Stat)>,
}

enum Way {
    Upper {
        upper: OwnedFd,
        merged: OwnedFd,
    },
    /// With the names that the image has here: what is not in `merged` is gone.
    Merged {
        merged: OwnedFd,
        old: Listing,
    },
}

impl Level {
    fn new(
        way: Way,
        lower: Option<OwnedFd>,
        path: &[u8],
        pending: Option<(Change, Stat)>,
    ) -> Result<Self, Failed> {
        let (Way::Upper { upper: here, .. } | Way::Merged { merged: here, .. }) = &way;
        let names = Listing::all(here.as_fd()).step("list", shown(path))?;
        Ok(Self {
            way,
            lower,
            names,
            path: path.len(),
            pending,
        })
    }

    /// Where what the container sees here can be read.
    fn here(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Upper { upper, .. } => upper.as_fd(),
            Way::Merged { merged, .. } => merged.as_fd(),
        }
    }

    /// The next name, and whether only the image has it.
    fn next(&mut self) -> Option<(CString, bool)> {
        let Way::Merged { old, .. } = &mut self.way else {
            let name = self.names.peek()?.0.to_owned();
            self.names.advance();
            return Some((name, false));
        };
        let order = match (self.names.peek(), old.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((new, _)), Some((old, _))) => new.cmp(old),
        };
        let from = match order {
            Ordering::Greater => &mut *old,
            _ => &mut self.names,
        };
        let name = from.peek()?.0.to_owned();
        from.advance();
        if order == Ordering::Equal {
            old.advance();
        }
        Some((name, order == Ordering::Greater))
    }
}

/// Walks everything.
pub(super) fn walk(roots: Roots, sink: &mut impl Sink) -> Result<(), Failed> {
    let way = Way::Upper {
        upper: roots.upper,
        merged: roots.merged,
    };
    let mut walk = Walk {
        levels: vec![Level::new(way, Some(roots.lower), b"", None)?],
        path: Vec::new(),
        sink,
    };
    while let Some(level) = walk.levels.last_mut() {
        walk.path.truncate(level.path);
        let Some((name, gone)) = level.next() else {
            walk.levels.pop();
            continue;
        };
        walk.path.push(b'/');
        walk.path.extend_from_slice(name.to_bytes());
        if gone {
            walk.deleted()?;
        } else {
            walk.visit(&name)?;
        }
    }
    Ok(())
}

struct Walk<'a, S> {
    levels: Vec<Level>,
    /// Of what is visited.
    path: Vec<u8>,
    sink: &'a mut S,
}

impl<S: Sink> Walk<'_, S> {
    fn visit(&mut self, name: &CStr) -> Result<(), Failed> {
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        let Some(stat) = look(level.here(), name).step("stat", shown(&self.path))? else {
            return Ok(());
        };
        let old = match &level.lower {
            Some(lower) => look(lower.as_fd(), name).step("stat", shown(&self.path))?,
            None => None,
        };
        if matches!(level.way, Way::Upper { .. }) && is_whiteout(&stat) {
            return if old.is_some() {
                self.deleted()
            } else {
                Ok(())
            };
        }
        if old.is_none() && MOUNT_POINTS.contains(&self.path.as_slice()) {
            return Ok(());
        }
        if is_directory(&stat) {
            return self.directory(name, old.as_ref());
        }
        let change = match (&old, &level.lower) {
            (Some(old), Some(lower)) => {
                let (new, old) = ((level.here(), &stat), (lower.as_fd(), old));
                if compare::is_same(name, new, old).step("compare", shown(&self.path))? {
                    return Ok(());
                }
                Change::Changed
            }
            _ => Change::Added,
        };
        self.count_parents()?;
        if let Some(level) = self.levels.last() {
            self.sink
                .put(change, &self.path, Object::Other(level.here(), name))?;
        }
        Ok(())
    }

    fn directory(&mut self, name: &CStr, old: Option<&Stat>) -> Result<(), Failed> {
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        let enter = |parent: BorrowedFd<'_>| match open(parent, name, OFlags::DIRECTORY) {
            // The container is changing it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            result => result.map(Some).step("open", shown(&self.path)),
        };
        let lower = match &level.lower {
            Some(lower) if old.is_some_and(is_directory) => enter(lower.as_fd())?,
            _ => None,
        };
        let Some(here) = enter(level.here())? else {
            return Ok(());
        };
        let stat = rustix::fs::fstat(&here).step("stat", shown(&self.path))?;
        let is_as_it_was = match &lower {
            Some(lower) => {
                compare::is_same_directory(&here, lower).step("compare", shown(&self.path))?
            }
            None => false,
        };
        let change = match old {
            None => Change::Added,
            Some(_) => Change::Changed,
        };
        let waits =
            is_as_it_was || (old.is_none() && THEIR_PARENTS.contains(&self.path.as_slice()));
        let merged = match &level.way {
            Way::Merged { .. } => None,
            Way::Upper { merged, .. } => Some(enter(merged.as_fd())?),
        };
        let way = match merged {
            // Gone in the meantime.
            Some(None) => return Ok(()),
            Some(Some(merged)) => {
                if replaces(&here, lower.is_some()).step("read attributes of", shown(&self.path))? {
                    self.merged(merged, lower.as_ref())?
                } else {
                    Way::Upper {
                        upper: here,
                        merged,
                    }
                }
            }
            None => self.merged(here, lower.as_ref())?,
        };
        let pending = waits.then_some((change, stat));
        let level = Level::new(way, lower, &self.path, pending)?;
        if !waits {
            self.count_parents()?;
            self.sink
                .put(change, &self.path, Object::Directory(level.here(), &stat))?;
        }
        self.levels.push(level);
        Ok(())
    }

    fn merged(&self, merged: OwnedFd, lower: Option<&OwnedFd>) -> Result<Way, Failed> {
        let old = match lower {
            Some(lower) => Listing::all(lower.as_fd()).step("list", shown(&self.path))?,
            None => Listing::default(),
        };
        Ok(Way::Merged { merged, old })
    }

    fn deleted(&mut self) -> Result<(), Failed> {
        self.count_parents()?;
        self.sink.deleted(&self.path)
    }

    /// Tells of the directories above that count because of what is in them.
    fn count_parents(&mut self) -> Result<(), Failed> {
        for level in &mut self.levels {
            if let Some((change, stat)) = level.pending.take() {
                let directory = Object::Directory(level.here(), &stat);
                self.sink.put(change, &self.path[..level.path], directory)?;
            }
        }
        Ok(())
    }
}

fn look(directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        result => result.map(Some),
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory of the upper disk does not say all about the image's directory at its place.
fn replaces(upper: &OwnedFd, image_has_one: bool) -> rustix::io::Result<bool> {
    let attribute = |name: &[u8]| match xattrs::get(upper.as_fd(), name) {
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        result => result.map(Some),
    };
    if attribute(b"trusted.overlay.redirect")?.is_some() {
        return Ok(true);
    }
    // The kernel marks new directories as well.
    Ok(image_has_one && attribute(b"trusted.overlay.opaque")?.is_some_and(|value| value == b"y"))
}
