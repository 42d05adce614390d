//! Copies a directory of the image into a volume, and empties one.
//!
//! The two halves of a transfer, joined by a socket: a fork of the agent packs, the agent unpacks.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use prost::Message;
use proto::agent::Failure;
use rustix::fs::{Mode, SeekFrom, Timespec, Timestamps};
use rustix::process::{Resource, WaitId, WaitIdOptions};

use super::archive::Archive;
use super::listing::Listing;
use super::pack::Packer;
use super::pipe::{Input, Output};
use super::{remove, unpack, xattrs};
use crate::failure::{Failed, Step};
use crate::rlimits;
use crate::sys::{self, Birth};

/// Trees may be deep, and each level of one keeps a directory open.
const FILES: u64 = 1 << 20;

/// Copies everything below `source` into `target`, with owners, modes, times, attributes, access control lists,
/// holes and hard links; then makes
/// `target` itself look like `source`, unless `keep_root`. It is on the disk when this returns. For a process with one
/// thread.
pub(crate) fn copy_tree(
    source: &OwnedFd,
    target: BorrowedFd<'_>,
    keep_root: bool,
) -> Result<(), Failed> {
    let (ours, theirs) = UnixStream::pair().step("make", "a socket for a copy")?;
    let (mut words, mut said) = UnixStream::pair().step("make", "a socket for a copy")?;
    let pack = || {
        let sent = rlimits::set(Resource::Nofile, FILES, FILES)
            .step("set limit", "RLIMIT_NOFILE")
            .and_then(|()| send(source, theirs.as_fd()));
        match sent {
            Ok(()) => crate::SUCCESS,
            Err(failed) => {
                let failure = Failure::from(failed).encode_to_vec();
                // A parent that does not hear it sees the archive's early end.
                let _ = said.write_all(&failure);
                crate::FAILURE
            }
        }
    };
    let (_, child) = sys::fork(&Birth::default(), pack).step("start", "a copy")?;
    drop((theirs, said));
    let received = receive(ours.as_fd(), source, target, keep_root);
    // The child has a copy of our end: closing ours would not tell it that nobody reads any more.
    let _ = ours.shutdown(std::net::Shutdown::Both);
    let wait = || rustix::process::waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED);
    rustix::io::retry_on_intr(wait).step("wait for", "a copy")?;
    let mut failure = Vec::new();
    words
        .read_to_end(&mut failure)
        .step("hear from", "a copy")?;
    match (received, Failure::decode(&*failure)) {
        (Ok(()), _) if failure.is_empty() => Ok(()),
        (Err(failed), _) if failure.is_empty() => Err(failed),
        // It could not go on because we did not: ours is the reason.
        (Err(failed), Ok(failure)) if failure.errno == libc::EPIPE => Err(failed),
        (_, Ok(failure)) => Err(failure.into()),
        (received, Err(_)) => received,
    }
}

/// Packs everything below `source`.
fn send(source: &OwnedFd, to: BorrowedFd<'_>) -> Result<(), Failed> {
    let to = rustix::io::fcntl_dupfd_cloexec(to, 3).step("duplicate", "a socket")?;
    let top = rustix::io::fcntl_dupfd_cloexec(source, 3).step("duplicate", "the source")?;
    let mut packer = Packer::new(Output::new(to)).with_lists();
    packer.below(top, b"")?;
    packer.finish().map(drop)
}

fn receive(
    from: BorrowedFd<'_>,
    source: &OwnedFd,
    target: BorrowedFd<'_>,
    keep_root: bool,
) -> Result<(), Failed> {
    let from = rustix::io::fcntl_dupfd_cloexec(from, 3).step("duplicate", "a socket")?;
    let mut archive = Archive::new(Input::new(from));
    let options = unpack::Options {
        keep_type: false,
        keep_owner: true,
        keep_lists: true,
    };
    unpack::unpack(target, Path::new("/"), &mut archive, options)?;
    archive.finish()?;
    let what = "the volume's root";
    let stat = rustix::fs::fstat(source).step("stat", "the source")?;
    if !keep_root {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(stat.st_uid),
            rustix::fs::Gid::from_raw(stat.st_gid),
        );
        rustix::fs::fchown(target, Some(uid), Some(gid)).step("change owner of", what)?;
        let attributes = xattrs::read_with_lists(source.as_fd());
        for attribute in attributes.step("read attributes of", "the source")? {
            xattrs::set(target, &attribute).step("set attributes of", what)?;
        }
        rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))
            .step("change mode of", what)?;
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
    };
    rustix::fs::futimens(target, &times).step("set times of", what)
}

/// Removes everything in a directory.
pub(crate) fn clear(directory: BorrowedFd<'_>) -> Result<(), Failed> {
    let what = "a volume that was half filled";
    loop {
        // From the start each time: what was listed is gone by then.
        rustix::fs::seek(directory, SeekFrom::Start(0)).step("list", what)?;
        let mut names = Listing::some(directory).step("list", what)?;
        if names.peek().is_none() {
            return Ok(());
        }
        while let Some((name, _)) = names.peek() {
            remove::all(directory, OsStr::from_bytes(name.to_bytes())).step("empty", what)?;
            names.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    /// Oracle: `find -printf` of both trees.
    #[test]
    fn a_tree_comes_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for path in [&from, &to, &from.join("deep"), &from.join("deep/er")] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::write(from.join("deep/file"), vec![7; 300_000]).unwrap();
        std::fs::hard_link(from.join("deep/file"), from.join("again")).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        let sparse = std::fs::File::create(from.join("sparse")).unwrap();
        sparse.set_len(5 << 20).unwrap();
        std::fs::set_permissions(&from, std::fs::Permissions::from_mode(0o2751)).unwrap();
        let mode = std::fs::Permissions::from_mode(0o4711);
        std::fs::set_permissions(from.join("deep/file"), mode).unwrap();

        let (source, target) = (open(&from), open(&to));
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let source = &source;
            scope.spawn(move || send(source, theirs.as_fd()).unwrap());
            receive(ours.as_fd(), source, target.as_fd(), false).unwrap();
        });
        let list = |path: &Path| {
            let format = "%P %y %m %U %G %T@ %n %s %l\n";
            let out = std::process::Command::new("find")
                .arg(path)
                .args(["!", "-type", "d", "-printf", format])
                .args(["-o", "-printf", "%P %y %m %U %G %T@\n"])
                .output()
                .unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(list(&from), list(&to));
        assert_eq!(std::fs::metadata(to.join("sparse")).unwrap().blocks(), 0);
        clear(target.as_fd()).unwrap();
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
    }
}
