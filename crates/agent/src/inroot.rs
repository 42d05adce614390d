//! Paths inside a container's root, whose links are hostile: every look-up is the kernel's own (`openat2` with
//! `RESOLVE_IN_ROOT`), so that neither `..` nor a link leaves the root.

use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// No passwd is as long as this.
const LONGEST: u64 = 16 << 20;

/// Opens `path`, absolute or not, as if `root` were the root directory.
pub(crate) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: u32) -> Result<OwnedFd> {
    rustix::fs::openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::from_raw_mode(mode),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Links to nowhere that lead to each other.
const MOST_LINKS: u32 = 40;

/// Opens the directory `path`, making it and its parents where they are missing (mode 0755). A link whose target is missing
/// gets the target.
pub(crate) fn directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    directory_within(root, path, Some(MOST_LINKS))
}

/// As [`directory`], but a link whose target is missing is an error (`EEXIST`): for archives, whose links make nothing.
pub(crate) fn directory_of_archive(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    directory_within(root, path, None)
}

/// `links`: how many links to nowhere may be followed yet; none at all where there is no number.
fn directory_within(root: BorrowedFd<'_>, path: &Path, links: Option<u32>) -> Result<OwnedFd> {
    const FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
    match open(root, path, FLAGS, 0) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let mut walked = PathBuf::from("/");
    let mut current = open(root, &walked, FLAGS, 0)?;
    for component in path.components() {
        let name = match component {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            Component::ParentDir => Path::new(".."),
            Component::Normal(name) => Path::new(name),
        };
        walked.push(name);
        current = match open(root, &walked, FLAGS, 0) {
            Err(Errno::NOENT) => {
                let made = rustix::fs::mkdirat(&current, name, Mode::from_raw_mode(0o755));
                match (made, links) {
                    (Err(Errno::EXIST), Some(0)) => return Err(Errno::LOOP),
                    (Err(Errno::EXIST), Some(links)) => {
                        let target = rustix::fs::readlinkat(&current, name, Vec::new())?;
                        let parent = walked.parent().unwrap_or(Path::new("/"));
                        let target = parent.join(std::ffi::OsStr::from_bytes(target.as_bytes()));
                        directory_within(root, &target, Some(links - 1))?;
                    }
                    (made, _) => made?,
                }
                open(root, &walked, FLAGS, 0)?
            }
            result => result?,
        };
    }
    Ok(current)
}

/// Opens the file `path` for a mount on top of it, making it (empty, 0644) and its parents where they are missing. A link
/// whose target is missing gets the target.
pub(crate) fn file(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    match open(root, path, OFlags::PATH, 0) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let in_parent = directory(root, parent)?;
    let name = path.file_name().ok_or(Errno::ISDIR)?;
    if let Ok(target) = rustix::fs::readlinkat(&in_parent, name, Vec::new()) {
        let target = parent.join(std::ffi::OsStr::from_bytes(target.as_bytes()));
        directory(root, target.parent().unwrap_or(Path::new("/")))?;
    }
    open(
        root,
        path,
        OFlags::CREATE | OFlags::WRONLY | OFlags::NOCTTY,
        0o644,
    )?;
    open(root, path, OFlags::PATH, 0)
}

/// Reads a file of the image that should be small; more than [`LONGEST`] is cut. A missing one is empty; a FIFO does not
/// block, a device is not read.
pub(crate) fn load(root: BorrowedFd<'_>, path: &Path) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match open(root, path, flags, 0) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mode = rustix::fs::fstat(&fd)?.st_mode;
    let mut bytes = Vec::new();
    if FileType::from_raw_mode(mode) == FileType::RegularFile {
        std::fs::File::from(fd)
            .take(LONGEST)
            .read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Where an open descriptor's file lies in this mount namespace: a path without links, good for `mount` and `umount`.
pub(crate) fn real_path(fd: BorrowedFd<'_>) -> std::io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let root = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(
            root.path(),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        (root, fd)
    }

    fn check(
        path: &str,
        expect: &str,
        open: fn(BorrowedFd<'_>, &Path) -> Result<OwnedFd>,
        set_up: impl FnOnce(&Path),
    ) {
        let (dir, fd) = root();
        set_up(dir.path());
        let found = open(fd.as_fd(), Path::new(path)).unwrap();
        let real = real_path(found.as_fd()).unwrap();
        let base = std::fs::canonicalize(dir.path()).unwrap();
        assert_eq!(real.strip_prefix(base).unwrap(), Path::new(expect));
    }

    #[test]
    fn directories_stay_beneath_the_root() {
        check("/a/b/c", "a/b/c", directory, |_| {});
        check("/../../a", "a", directory, |_| {});
        check("/out/x", "etc/x", directory, |root| {
            std::fs::create_dir(root.join("etc")).unwrap();
            symlink("/../../etc", root.join("out")).unwrap();
        });
    }

    #[test]
    fn directories_are_made_where_their_links_point() {
        check("/srv", "var/target", directory, |root| {
            symlink("../../var/target", root.join("srv")).unwrap();
        });
        check("/a/b/c", "d/x/c", directory, |root| {
            std::fs::create_dir_all(root.join("d/e")).unwrap();
            symlink("d/e", root.join("a")).unwrap();
            symlink("../x", root.join("d/e/b")).unwrap();
        });
        let (dir, fd) = root();
        symlink("two", dir.path().join("one")).unwrap();
        symlink("one", dir.path().join("two")).unwrap();
        let found = directory(fd.as_fd(), Path::new("/one"));
        assert_eq!(found.unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn files_are_made_where_their_links_point() {
        check("/etc/hosts", "etc/hosts", file, |_| {});
        check("/etc/resolv.conf", "run/systemd/stub.conf", file, |root| {
            std::fs::create_dir(root.join("etc")).unwrap();
            symlink("../run/systemd/stub.conf", root.join("etc/resolv.conf")).unwrap();
        });
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let (dir, fd) = root();
        std::fs::write(dir.path().join("a"), "").unwrap();
        let found = directory(fd.as_fd(), Path::new("/a/b"));
        assert_eq!(found.unwrap_err(), Errno::NOTDIR);
    }
}
