//! Paths of the host whose links were followed once, when a person named them.
//!
//! Where such a path leads through a folder that a guest can write, the guest could put a link into it and wait for the next who
//! follows it. So nobody follows one again.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What `ELOOP` says of such a path.
pub const REPLACED: &str =
    "it, or a folder above it, was replaced by a link since the container was made";

/// What a person can do about it. A container of a gourd that kept links is made anew as well.
pub const REMEDY: &str =
    "put back what was there, or make the container anew with the path that you mean";

/// Names (`O_PATH`) what lies at an absolute path that has no links.
///
/// # Errors
/// `ELOOP`: it has one. Those of openat2(2).
pub fn open(path: &Path) -> Result<OwnedFd, Errno> {
    // Not O_NOFOLLOW: with it a link at the path's end would be named itself.
    rustix::fs::openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// The system's error of [`open`], in words that fit.
pub fn explain(errno: Errno) -> io::Error {
    match errno {
        Errno::LOOP => io::Error::other(REPLACED),
        errno => errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn no_link_is_followed_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("real/sub")).unwrap();
        fs::write(dir.join("real/file"), "").unwrap();
        symlink("real", dir.join("link")).unwrap();
        symlink("sub", dir.join("real/last")).unwrap();
        symlink("none", dir.join("dangling")).unwrap();
        for path in ["real", "real/sub", "real/sub/../file"] {
            let found = rustix::fs::fstat(open(&dir.join(path)).unwrap()).unwrap();
            let oracle = fs::metadata(dir.join(path)).unwrap();
            assert_eq!((found.st_dev, found.st_ino), (oracle.dev(), oracle.ino()));
        }
        for path in ["link", "link/sub", "real/last", "real/last/x", "dangling"] {
            let found = open(&dir.join(path)).map(drop);
            assert_eq!(found, Err(Errno::LOOP), "{path}");
        }
        assert_eq!(open(&dir.join("none")).map(drop), Err(Errno::NOENT));
        let own = open(Path::new("/proc/self/cwd")).map(drop);
        assert_eq!(own, Err(Errno::LOOP), "the kernel's own links, too");
    }
}
