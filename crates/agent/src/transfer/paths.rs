//! Paths of the container as people write them: cleaned, and looked up inside the root.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proto::agent::PathStat;
use proto::agent::failure::Kind;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Failed, Step};
use crate::inroot;

/// The root that paths are looked up in, and a way to learn where a look-up led.
pub(super) struct Root {
    root: OwnedFd,
    /// The VM's `/proc/self/fd`: the container's /proc knows nothing of this process.
    descriptors: OwnedFd,
}

/// A path, cleaned as Docker does: made absolute, `.` and `..` taken out by the letter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) path: PathBuf,
    /// The last name; "." for the root and for a path that ended in "/.".
    pub(super) name: Vec<u8>,
    /// A slash at the end, or "/.": it has to be a directory, and a link is followed.
    pub(super) directory: bool,
}

impl Wanted {
    pub(super) fn parse(path: &str) -> Self {
        let bytes = path.as_bytes();
        let clean = Path::new("/").join(OsStr::from_bytes(&clean(bytes).unwrap_or_default()));
        let dot = bytes == b"." || bytes.ends_with(b"/.");
        let name = match clean.file_name() {
            Some(name) if !dot => name.as_bytes().to_vec(),
            _ => b".".to_vec(),
        };
        Self {
            directory: dot || bytes.ends_with(b"/"),
            name,
            path: clean,
        }
    }
}

/// Takes `.`, `..` and empty components out of a path by the letter; no slash at the ends. `..` at the root stays there;
/// `None` when a relative path leads above where it begins.
pub(super) fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let absolute = path.starts_with(b"/");
    let mut clean: Vec<&[u8]> = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if clean.pop().is_none() && !absolute {
                    return None;
                }
            }
            name => clean.push(name),
        }
    }
    Some(clean.join(&b'/'))
}

impl Root {
    pub(super) fn new(root: OwnedFd, descriptors: OwnedFd) -> Self {
        Self { root, descriptors }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the directory that holds what is wanted, and says under which name. The last link is followed when that was
    /// asked for.
    pub(super) fn parent(
        &self,
        wanted: &Wanted,
        follow: bool,
    ) -> Result<(OwnedFd, CString), Failed> {
        let mut path = wanted.path.clone();
        if follow || wanted.directory {
            let flags = if wanted.directory {
                OFlags::PATH | OFlags::DIRECTORY
            } else {
                OFlags::PATH
            };
            let found = self.find(&path, flags)?;
            path = self.real_path(&found).step("find", path.display())?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                let name = CString::new(name.as_bytes())
                    .map_err(|_| Failed::os("find", path.display(), Errno::INVAL))?;
                Ok((self.find(parent, flags)?, name))
            }
            _ => Ok((self.find(&path, flags)?, CString::from(c"."))),
        }
    }

    /// What lies at a path, for Docker's archive HEAD.
    pub(super) fn stat(&self, path: &str) -> Result<PathStat, Failed> {
        let wanted = Wanted::parse(path);
        let (parent, name) = self.parent(&wanted, false)?;
        let stat = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| missing(&wanted.path, errno))?;
        let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let target = link
            .then(|| inroot::open(self.as_fd(), &wanted.path, OFlags::PATH, 0).ok())
            .flatten()
            .and_then(|target| self.real_path(&target).ok());
        let name = wanted.path.file_name().unwrap_or(OsStr::new("/"));
        Ok(PathStat {
            name: name.to_string_lossy().into_owned(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode,
            modified_s: stat.st_mtime,
            modified_ns: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            link_target: target.map_or(String::new(), |target| {
                target.to_string_lossy().into_owned()
            }),
        })
    }

    /// Where the directory `path` really is; links are followed.
    pub(super) fn directory(&self, path: &str) -> Result<PathBuf, Failed> {
        let wanted = Wanted::parse(path);
        let found = match self.find(&wanted.path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(failed) if failed.is(Errno::NOTDIR) => return Err(failed.of_kind(Kind::Invalid)),
            result => result?,
        };
        self.real_path(&found).step("find", path)
    }

    fn find(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Failed> {
        inroot::open(self.as_fd(), path, flags, 0).map_err(|errno| missing(path, errno))
    }

    /// The path of an open file in the root, without links.
    fn real_path(&self, file: &OwnedFd) -> rustix::io::Result<PathBuf> {
        let link = |fd: BorrowedFd<'_>| {
            let name = fd.as_raw_fd().to_string();
            let path = rustix::fs::readlinkat(&self.descriptors, name, Vec::new())?;
            Ok::<_, Errno>(PathBuf::from(OsStr::from_bytes(path.as_bytes())))
        };
        let (path, root) = (link(file.as_fd())?, link(self.as_fd())?);
        let inside = path.strip_prefix(&root).map_err(|_| Errno::XDEV)?;
        Ok(Path::new("/").join(inside))
    }
}

/// Opens the directory where this process's descriptors have their names.
pub(super) fn descriptors() -> Result<OwnedFd, Failed> {
    const PATH: &str = "/proc/self/fd";
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(PATH, flags, Mode::empty()).step("open", PATH)
}

/// A look-up that failed, of the kind that callers ask for.
pub(super) fn missing(path: &Path, errno: Errno) -> Failed {
    let failed = Failed::os("find", path.display(), errno);
    match errno {
        Errno::NOENT | Errno::NOTDIR => failed.of_kind(Kind::NotFound),
        Errno::LOOP | Errno::NAMETOOLONG => failed.of_kind(Kind::Invalid),
        _ => failed,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_cleaned() {
        let check = |path: &str, expect: Option<&str>| {
            assert_eq!(
                clean(path.as_bytes()),
                expect.map(|path| path.as_bytes().to_vec())
            );
        };
        check("a/./b//c/", Some("a/b/c"));
        check("a/../b", Some("b"));
        check("./", Some(""));
        check("/../../x", Some("x"));
        check("../x", None);
        check("a/../../x", None);
    }

    #[test]
    fn what_is_wanted() {
        let check = |text: &str, path: &str, name: &[u8], directory| {
            let (path, name) = (path.into(), name.to_vec());
            let expect = Wanted {
                path,
                name,
                directory,
            };
            assert_eq!(Wanted::parse(text), expect, "{text}");
        };
        check("/etc/passwd", "/etc/passwd", b"passwd", false);
        check("etc/", "/etc", b"etc", true);
        check("/etc/.", "/etc", b".", true);
        check("/", "/", b".", true);
        check("", "/", b".", false);
        check("/a/../..", "/", b".", false);
    }

    #[test]
    fn links_stay_in_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        std::fs::create_dir(path.join("etc")).unwrap();
        std::fs::write(path.join("etc/file"), "12345").unwrap();
        symlink("../../../etc/file", path.join("up")).unwrap();
        symlink("/etc", path.join("abs")).unwrap();
        symlink("nowhere", path.join("broken")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let root = Root::new(open, descriptors().unwrap());
        let check = |path: &str, name: &str, size: Option<u64>, target: &str| {
            let stat = root.stat(path).unwrap();
            assert_eq!(
                (stat.name.as_str(), stat.link_target.as_str()),
                (name, target),
                "{path}"
            );
            if let Some(size) = size {
                assert_eq!(stat.size, size);
            }
        };
        check("/etc/file", "file", Some(5), "");
        check("abs/file", "file", Some(5), "");
        check("/up", "up", None, "/etc/file");
        check("/abs", "abs", None, "/etc");
        check("/abs/", "abs", None, "");
        check("/broken", "broken", None, "");
        check("/loop", "loop", None, "");
        check("/", "/", None, "");
        check("/..", "/", None, "");
        let kind = |path| proto::agent::Failure::from(root.stat(path).unwrap_err()).kind();
        assert_eq!(kind("/nope"), Kind::NotFound);
        assert_eq!(kind("/etc/file/"), Kind::NotFound);
        assert_eq!(kind("/loop/x"), Kind::Invalid);
        let (parent, name) = root.parent(&Wanted::parse("/up"), true).unwrap();
        assert_eq!(name.as_c_str(), c"file");
        assert_eq!(root.real_path(&parent).unwrap(), Path::new("/etc"));
    }
}
