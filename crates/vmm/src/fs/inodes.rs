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

/// Numbers that a guest may know at a time: what a hash table of 2^20 places holds (7 of 8) before it doubles. With the second
/// table they are 150 bytes each, 136 MB; one that was opened is 64 bytes more.
const MOST: usize = (1 << 20) / 8 * 7;

/// Bytes of all their names, which lie beside (16 bytes more each): 73 each on average. All in all a guest can make its server hold 280 MB.
const MOST_NAMES: usize = 64 << 20;

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
    pub seen: Option<Box<super::open::Version>>,
}

impl Inode {
    /// It is by this name from now on; `names` counts.
    fn put(&mut self, parent: u64, name: &CStr, names: &mut usize) {
        self.parent = parent;
        if self.name.as_c_str() != name {
            *names = *names - self.name.count_bytes() + name.count_bytes();
            self.name = name.to_owned();
        }
    }

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
    /// Bytes of all names.
    names: usize,
    most: usize,
    most_names: usize,
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
            names: 0,
            most: MOST,
            most_names: MOST_NAMES,
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
            // The host may have given the number to something else since.
            let kind = FileType::from_raw_mode(stat.st_mode);
            if (stat.st_dev, stat.st_ino, kind) != (inode.key.dev, inode.key.ino, inode.kind) {
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
    /// `ENFILE`: the guest knows too many, or too much of names.
    pub fn look_up(
        &mut self,
        parent: u64,
        name: &CStr,
        stat: &Stat,
        fd: OwnedFd,
    ) -> Result<u64, Errno> {
        let folder = self.get(parent)?.folder();
        let key = key(folder, stat);
        let room = self.room(name);
        // A number of the host's may have gone to another file while nothing held the first one; its kind shows it.
        if let Some(&id) = self.by_key.get(&key)
            && let Some(inode) = self.by_id.get_mut(&id)
            && inode.kind == FileType::from_raw_mode(stat.st_mode)
        {
            if let Some(lookups) = &mut inode.lookups {
                if inode.name.as_c_str() != name {
                    room?;
                }
                *lookups = lookups.saturating_add(1);
                inode.put(parent, name, &mut self.names);
            }
            inode.used = true;
            if inode.fd.is_none() {
                inode.fd = Some(Arc::new(fd));
                self.opened(id);
            }
            return Ok(id);
        }
        room?;
        if self.by_id.len() >= self.most {
            return Err(Errno::NFILE);
        }
        Ok(self.add(folder, parent, name, stat, fd))
    }

    /// # Errors
    /// `ENFILE`: there is no room for one more such name.
    pub fn room(&self, name: &CStr) -> Result<(), Errno> {
        match self.names + name.count_bytes() <= self.most_names {
            true => Ok(()),
            false => Err(Errno::NFILE),
        }
    }

    /// `name` in `parent` is now what `stat` is of. There was [`Inodes::room`] for the name.
    pub fn moved(&mut self, parent: u64, name: &CStr, stat: &Stat) {
        let Ok(folder) = self.get(parent).map(Inode::folder) else {
            return;
        };
        let id = self.by_key.get(&key(folder, stat));
        if let Some(inode) = id.and_then(|id| self.by_id.get_mut(id))
            && inode.lookups.is_some()
        {
            inode.put(parent, name, &mut self.names);
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
            if let Some(inode) = self.by_id.remove(&id) {
                self.names -= inode.name.count_bytes();
            }
            self.give_back();
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
        self.names = self.by_id.values().map(|it| it.name.count_bytes()).sum();
        self.clock.clear();
        self.give_back();
    }

    /// Tables do not shrink by themselves. Halved when an eighth is used, so that it costs next to nothing for each that went.
    fn give_back(&mut self) {
        const SMALL: usize = 4096;
        let (len, most) = (self.by_id.len(), self.by_id.capacity());
        if most > SMALL && len < most / 8 {
            self.by_id.shrink_to(2 * len);
            self.by_key.shrink_to(2 * len);
        }
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
        self.names += name.count_bytes();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::path::Path;

    const FOLDER: u64 = ROOT_ID + 1;

    fn inodes(dir: &Path, most_open: usize) -> Inodes {
        Inodes::new([File::open(dir).unwrap().into()], most_open).unwrap()
    }

    /// Makes a file and looks it up, as if it were of some kind.
    fn known(inodes: &mut Inodes, dir: &Path, name: &CStr, kind: FileType) -> Result<u64, Errno> {
        let path = dir.join(name.to_str().unwrap());
        fs::write(&path, "").unwrap();
        let fd: OwnedFd = File::open(path).unwrap().into();
        let mut stat = rustix::fs::fstat(&fd).unwrap();
        stat.st_mode = stat.st_mode & !libc::S_IFMT | kind.as_raw_mode();
        inodes.look_up(FOLDER, name, &stat, fd)
    }

    #[test]
    fn what_is_opened_again_is_of_the_same_kind() {
        let dir = tempfile::tempdir().unwrap();
        let mut inodes = inodes(dir.path(), 1);
        for (name, kind, expect) in [
            (c"a", FileType::RegularFile, Ok(())),
            (c"b", FileType::Directory, Err(Errno::STALE)),
            (c"c", FileType::Fifo, Err(Errno::STALE)),
        ] {
            let id = known(&mut inodes, dir.path(), name, kind).unwrap();
            // The next one takes its descriptor.
            known(&mut inodes, dir.path(), c"next", FileType::RegularFile).unwrap();
            let next = known(&mut inodes, dir.path(), c"after", FileType::RegularFile).unwrap();
            assert!(inodes.get(id).unwrap().fd.is_none(), "{name:?}");
            assert_eq!(inodes.fd(id).map(drop), expect, "{name:?}");
            inodes.forget(next, 1);
        }
    }

    #[test]
    fn numbers_and_names_are_bounded_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut inodes = inodes(dir.path(), 8);
        (inodes.most, inodes.most_names) = (4, 20);
        let known =
            |inodes: &mut Inodes, name| known(inodes, dir.path(), name, FileType::RegularFile);
        let long = known(&mut inodes, c"ten-bytes-").unwrap();
        let other = known(&mut inodes, c"nine-byte").unwrap();
        assert_eq!(known(&mut inodes, c"ab"), Err(Errno::NFILE), "names");
        // Another name of one that is known counts instead of the first.
        let path = |name: &str| dir.path().join(name);
        fs::hard_link(path("nine-byte"), path("nn")).unwrap();
        let fd: OwnedFd = File::open(path("nn")).unwrap().into();
        let stat = rustix::fs::fstat(&fd).unwrap();
        assert_eq!(inodes.look_up(FOLDER, c"nn", &stat, fd), Err(Errno::NFILE));
        inodes.moved(FOLDER, c"nn", &stat);
        assert_eq!((inodes.names, inodes.room(c"eight-by")), (12, Ok(())));
        assert_eq!(inodes.room(c"nine-byte"), Err(Errno::NFILE));
        known(&mut inodes, c"c").unwrap();
        assert_eq!(known(&mut inodes, c"d"), Err(Errno::NFILE), "numbers");
        inodes.forget(other, 1);
        known(&mut inodes, c"d").unwrap();
        inodes.forget(long, 1);
        assert_eq!(inodes.names, 2);
        inodes.clear();
        assert_eq!((inodes.names, inodes.counts()), (0, (1, 0)));
    }

    /// What [`MOST`] says that they take.
    #[test]
    fn the_bound_is_in_bytes() {
        assert!(size_of::<(u64, Inode)>() <= 96);
        assert!(size_of::<(Key, u64)>() <= 32);
        assert!(size_of::<super::super::open::Version>() <= 48);
        let dir = tempfile::tempdir().unwrap();
        let mut inodes = inodes(dir.path(), 8);
        let fd = || OwnedFd::from(File::open(dir.path()).unwrap());
        let mut stat = rustix::fs::fstat(fd()).unwrap();
        let ids: Vec<_> = (0..20_000)
            .map(|ino| {
                stat.st_ino = ino;
                inodes.look_up(FOLDER, c"x", &stat, fd()).unwrap()
            })
            .collect();
        let before = inodes.by_id.capacity();
        for id in ids {
            inodes.forget(id, 1);
        }
        let after = (inodes.by_id.capacity(), inodes.by_key.capacity());
        assert!(
            before >= 20_000 && after.0.max(after.1) <= 8192,
            "{after:?}"
        );
    }
}
