//! The files and directories that the guest knows by number.
//!
//! An inode is held by a descriptor (`O_PATH`), as long as there are not too many: then those that were not used for the
//! longest time are closed, and opened again when they are wanted, from the nearest parent that is open, name by name.
//! What is found then must be the same file, or the guest hears `ESTALE` and looks it up anew.
//!
//! Every step is one name in one open directory, and no link is followed: nothing outside of a shared folder can be
//! reached, whatever the guest or a process of the host renames meanwhile.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::abi::ROOT_ID;

/// Numbers that a guest may know at a time: about 200 bytes each.
const MOST: usize = 1 << 20;

/// Directories between a shared folder and anything in it.
const DEPTH: usize = 1024;

/// Which file it is. The same file in two shared folders is two: one of them may be read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    folder: u32,
    dev: u64,
    ino: u64,
}

/// A file or directory.
#[derive(Debug)]
pub struct Inode {
    key: Key,
    /// What it is.
    pub kind: FileType,
    /// Look-ups that the guest has not forgotten. `None`: it stays, forgotten or not.
    lookups: Option<u64>,
    parent: u64,
    name: CString,
    fd: Option<Arc<OwnedFd>>,
    /// Used since the clock's hand passed.
    used: bool,
    /// How often the guest has it open: its descriptor stays, with or without a name.
    pub handles: u32,
    /// When the guest's cached pages were last known to be the file's: see [`super::open`].
    pub seen: Option<super::open::Version>,
}

impl Inode {
    /// The shared folder that it is in.
    pub fn folder(&self) -> usize {
        self.key.folder as usize
    }
}

/// All that the guest knows.
#[derive(Debug)]
pub struct Inodes {
    by_id: HashMap<u64, Inode>,
    by_key: HashMap<Key, u64>,
    next: u64,
    /// Those with a descriptor that may be closed, in the clock's order.
    clock: VecDeque<u64>,
    /// The most of them.
    most_open: usize,
}

/// Opens one name of a directory without following it.
pub fn open_name(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        dir,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
    )
}

impl Inodes {
    /// Nothing but the shared folders themselves, whose numbers are 2 and on.
    pub fn new(
        folders: impl IntoIterator<Item = OwnedFd>,
        most_open: usize,
    ) -> Result<Inodes, Errno> {
        let mut inodes = Inodes {
            by_id: HashMap::new(),
            by_key: HashMap::new(),
            next: ROOT_ID + 1,
            clock: VecDeque::new(),
            most_open: most_open.max(1),
        };
        for (folder, fd) in folders.into_iter().enumerate() {
            let stat = rustix::fs::fstat(&fd)?;
            let id = inodes.add(folder, ROOT_ID, c"", &stat, fd);
            if let Some(inode) = inodes.by_id.get_mut(&id) {
                inode.lookups = None;
            }
            inodes.clock.clear();
        }
        Ok(inodes)
    }

    /// The number of a shared folder.
    pub fn folder_id(folder: usize) -> u64 {
        ROOT_ID + 1 + folder as u64
    }

    /// What a number stands for.
    ///
    /// # Errors
    /// `ESTALE`: nothing.
    pub fn get(&self, id: u64) -> Result<&Inode, Errno> {
        self.by_id.get(&id).ok_or(Errno::STALE)
    }

    /// As [`Inodes::get`].
    pub fn get_mut(&mut self, id: u64) -> Result<&mut Inode, Errno> {
        self.by_id.get_mut(&id).ok_or(Errno::STALE)
    }

    /// How many numbers are known, and how many of them are open and may be closed.
    pub fn counts(&self) -> (usize, usize) {
        (self.by_id.len(), self.clock.len())
    }

    /// A descriptor (`O_PATH`) of what a number stands for.
    ///
    /// # Errors
    /// `ESTALE`: it is no longer where it was. Those of `openat2`.
    pub fn fd(&mut self, id: u64) -> Result<Arc<OwnedFd>, Errno> {
        // From it up to the nearest that is open.
        let mut way = Vec::new();
        let mut at = id;
        let mut fd = loop {
            let inode = self.get_mut(at)?;
            inode.used = true;
            if let Some(fd) = &inode.fd {
                break fd.clone();
            }
            if way.len() == DEPTH {
                return Err(Errno::STALE);
            }
            way.push(at);
            at = inode.parent;
        };
        while let Some(id) = way.pop() {
            let inode = self.get(id)?;
            let opened = match open_name(fd.as_fd(), &inode.name) {
                Err(Errno::NOENT | Errno::NOTDIR) => return Err(Errno::STALE),
                opened => opened?,
            };
            let stat = rustix::fs::fstat(&opened)?;
            if (stat.st_dev, stat.st_ino) != (inode.key.dev, inode.key.ino) {
                return Err(Errno::STALE);
            }
            fd = Arc::new(opened);
            self.get_mut(id)?.fd = Some(fd.clone());
            self.opened(id);
        }
        Ok(fd)
    }

    /// The guest has looked up what `name` in `parent` is, and it is `fd`. Its number.
    ///
    /// # Errors
    /// `ENFILE`: the guest knows too many.
    pub fn look_up(
        &mut self,
        parent: u64,
        name: &CStr,
        stat: &Stat,
        fd: OwnedFd,
    ) -> Result<u64, Errno> {
        let folder = self.get(parent)?.folder();
        let key = key(folder, stat);
        // A number of the host's may have gone to another file while nothing held the first one; its kind shows it.
        if let Some(&id) = self.by_key.get(&key)
            && let Some(inode) = self.by_id.get_mut(&id)
            && inode.kind == FileType::from_raw_mode(stat.st_mode)
        {
            if let Some(lookups) = &mut inode.lookups {
                *lookups = lookups.saturating_add(1);
                inode.parent = parent;
                if inode.name.as_c_str() != name {
                    inode.name = name.to_owned();
                }
            }
            inode.used = true;
            if inode.fd.is_none() {
                inode.fd = Some(Arc::new(fd));
                self.opened(id);
            }
            return Ok(id);
        }
        if self.by_id.len() >= MOST {
            return Err(Errno::NFILE);
        }
        Ok(self.add(folder, parent, name, stat, fd))
    }

    /// `name` in `parent` is now what `fd` is.
    pub fn moved(&mut self, parent: u64, name: &CStr, stat: &Stat) {
        let Ok(folder) = self.get(parent).map(Inode::folder) else {
            return;
        };
        let id = self.by_key.get(&key(folder, stat));
        if let Some(inode) = id.and_then(|id| self.by_id.get_mut(id))
            && inode.lookups.is_some()
        {
            inode.parent = parent;
            inode.name = name.to_owned();
        }
    }

    /// The guest forgets so many look-ups of a number.
    pub fn forget(&mut self, id: u64, count: u64) {
        let Some(inode) = self.by_id.get_mut(&id) else {
            return;
        };
        let Some(lookups) = &mut inode.lookups else {
            return;
        };
        *lookups = lookups.saturating_sub(count);
        if *lookups == 0 {
            let (open, key) = (inode.fd.is_some(), inode.key);
            if self.by_key.get(&key) == Some(&id) {
                self.by_key.remove(&key);
            }
            self.by_id.remove(&id);
            // Its place in the clock goes when the hand comes by; a clock of places that are nobody's is made anew.
            if open && self.clock.len() > 2 * self.most_open.min(self.by_id.len() + 64) {
                let Inodes { clock, by_id, .. } = self;
                clock.retain(|id| by_id.get(id).is_some_and(|inode| inode.fd.is_some()));
            }
        }
    }

    /// The guest knows nothing any more.
    pub fn clear(&mut self) {
        self.by_id.retain(|_, inode| inode.lookups.is_none());
        self.by_key.retain(|_, id| self.by_id.contains_key(id));
        self.clock.clear();
    }

    fn add(&mut self, folder: usize, parent: u64, name: &CStr, stat: &Stat, fd: OwnedFd) -> u64 {
        let id = self.next;
        self.next += 1;
        let key = key(folder, stat);
        let inode = Inode {
            key,
            kind: FileType::from_raw_mode(stat.st_mode),
            lookups: Some(1),
            parent,
            name: name.to_owned(),
            fd: Some(Arc::new(fd)),
            used: false,
            handles: 0,
            seen: None,
        };
        self.by_id.insert(id, inode);
        self.by_key.insert(key, id);
        self.opened(id);
        id
    }

    /// One more has a descriptor: the clock's hand goes on until there are not too many, twice around at most.
    fn opened(&mut self, id: u64) {
        self.clock.push_back(id);
        let mut steps = 2 * self.clock.len();
        while self.clock.len() > self.most_open && steps > 0 {
            steps -= 1;
            let Some(id) = self.clock.pop_front() else {
                return;
            };
            if let Some(inode) = self.by_id.get_mut(&id) {
                if inode.used || inode.handles > 0 {
                    inode.used = false;
                    self.clock.push_back(id);
                } else {
                    inode.fd = None;
                }
            }
        }
    }
}

fn key(folder: usize, stat: &Stat) -> Key {
    Key {
        folder: folder as u32,
        dev: stat.st_dev,
        ino: stat.st_ino,
    }
}
