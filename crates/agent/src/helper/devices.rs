//! Every device of the VM in the container's /dev, for a privileged container (as Docker: what is there when it starts).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::failure::{Failed, Step};
use crate::inroot;

/// What the container has of its own (runc's `GetDevices` leaves out the same).
const OWN: [&[u8]; 6] = [b"console", b"fd", b"mqueue", b"ptmx", b"pts", b"shm"];

/// Makes a node for each of the VM's devices that the container has none for.
pub(super) fn all(root: &OwnedFd) -> Result<(), Failed> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Both directories of each step, by the path below /dev.
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let (ours, theirs) = (Path::new("/dev").join(&path), Path::new("/dev").join(&path));
        let from = rustix::fs::open(&ours, flags, Mode::empty()).step("open", ours.display())?;
        let to =
            inroot::directory(root.as_fd(), &theirs).step("make directory", theirs.display())?;
        for entry in Dir::read_from(&from).step("list", ours.display())? {
            let entry = entry.step("list", ours.display())?;
            let name = entry.file_name().to_bytes();
            let top = path.as_os_str().is_empty();
            if matches!(name, b"." | b"..") || (top && OWN.contains(&name)) {
                continue;
            }
            let name = OsStr::from_bytes(name);
            let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)
                .step("stat", ours.join(name).display())?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => todo.push(path.join(name)),
                kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                    copy(to.as_fd(), name, kind, &stat)
                        .step("make device", theirs.join(name).display())?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn copy(to: BorrowedFd<'_>, name: &OsStr, kind: FileType, stat: &Stat) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev) {
        Err(Errno::EXIST) => return Ok(()),
        result => result?,
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    // The mask of this process took bits away.
    rustix::fs::chmodat(to, name, mode, AtFlags::empty())
}
