//! Disks of volumes: mounted once each, settled, and bound to where the container wants them.
//!
//! A volume is an ext4 file system whose root is what the container sees. Before its first writer's container starts, the
//! image's files at the mount's target are copied into it, if it has none: Docker's habit.
//!
//! That copy may be cut short by the VM's death at any moment. ext4 commits what happens to one file system in the order in
//! which it happens, so that two attributes are enough:
//!
//! ```text
//! the volume's root    trusted.gourd.filling   set before the first file, removed after the last one is on the disk.
//!                                              Who finds it removes all files: no container has had them yet
//! the container's disk trusted.gourd.volumes   set when all of its volumes are filled, before its first process starts:
//!                                              one that is emptied later is not filled again
//! ```

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use proto::agent::{BootRequest, Mount, mount};
use rustix::fs::{AtFlags, OFlags, XattrFlags};
use rustix::io::Errno;

use super::boot::ext4_on;
use super::disks;
use super::mounts::Mounts;
use crate::failure::{Failed, Step};
use crate::{inroot, sys, transfer};

const FILLING: &str = "trusted.gourd.filling";
const FILLED: &str = "trusted.gourd.volumes";

/// Made by mke2fs and e2fsck; programs that want an empty directory stumble over it.
const LOST_FOUND: &str = "lost+found";

/// Where the volumes' disks are mounted in the VM, by serial.
#[derive(Debug, Default)]
pub(super) struct Volumes(BTreeMap<String, PathBuf>);

impl Volumes {
    /// Mounts the disks of the request's volumes below `base`, and fills those that are to be filled. `root` is the
    /// container's, with nothing mounted in it yet; `own` is the disk that is the container's own.
    pub(super) fn mount(
        request: &BootRequest,
        base: &Path,
        root: &OwnedFd,
        own: &Path,
        mounts: &mut Mounts,
    ) -> Result<Self, Failed> {
        let mut volumes = Self::default();
        let is_disk = |mount: &&Mount| mount.kind() == mount::Kind::Disk;
        if !request.mounts.iter().any(|mount| is_disk(&mount)) {
            return Ok(volumes);
        }
        let own = directory(own)?;
        let decided = is_marked(&own, FILLED)?;
        for mount in request.mounts.iter().filter(is_disk) {
            if volumes.0.contains_key(&mount.source) {
                continue;
            }
            let target = base.join(&mount.source);
            if let Some(volume) = attach(&mount.source, &target, mounts)? {
                let same = |other: &&Mount| is_disk(other) && other.source == mount.source;
                let mut all = request.mounts.iter().filter(same);
                let fill = all.find(|mount| mount.fill);
                settle(&volume, root, fill.filter(|_| !decided))?;
            }
            volumes.0.insert(mount.source.clone(), target);
        }
        if !decided && !request.maintenance && request.mounts.iter().any(|mount| mount.fill) {
            mark(&own, FILLED)?;
        }
        Ok(volumes)
    }

    /// Binds a volume to its place in the container.
    pub(super) fn bind(
        &self,
        mount: &Mount,
        root: &OwnedFd,
        mounts: &mut Mounts,
    ) -> Result<(), Failed> {
        let Some(source) = self.0.get(&mount.source) else {
            let why = "it was not mounted";
            return Err(Failed::invalid("find volume", &mount.source, why));
        };
        mounts.bind_directory(root, source, Path::new(&mount.target), mount.read_only)
    }
}

/// Mounts a volume's disk. `None` when the host has made it read-only; otherwise it is as large as its disk now, and
/// this is its root.
pub(super) fn attach(
    serial: &str,
    target: &Path,
    mounts: &mut Mounts,
) -> Result<Option<OwnedFd>, Failed> {
    let device = disks::find(serial)?;
    let read_only = disks::is_read_only(&device)?;
    mounts.add(target, &ext4_on(&device, read_only))?;
    if read_only {
        return Ok(None);
    }
    let root = directory(target)?;
    let size = disks::size(&device)?;
    let block = u64::try_from(rustix::fs::fstatfs(&root).step("stat", serial)?.f_bsize);
    let blocks = size / block.ok().filter(|size| *size > 0).unwrap_or(4096);
    if disks::ext4_blocks(&device)? < blocks {
        sys::ext4_resize(root.as_fd(), blocks).step("grow the file system of", serial)?;
    }
    Ok(Some(root))
}

/// Takes away what a fill that was cut short has left, then fills the volume if it has no files and `fill` says with what.
pub(super) fn settle(volume: &OwnedFd, root: &OwnedFd, fill: Option<&Mount>) -> Result<(), Failed> {
    let what = "the volume";
    let half = is_marked(volume, FILLING)?;
    if half {
        transfer::clear(volume.as_fd())?;
    } else if !is_empty(volume)? {
        return Ok(());
    }
    match rustix::fs::unlinkat(volume, LOST_FOUND, AtFlags::REMOVEDIR) {
        // With something in it, it is somebody's.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR) => {}
        Err(errno) => return Err(Failed::os("remove", LOST_FOUND, errno)),
    }
    if let Some(mount) = fill {
        let target = Path::new(&mount.target);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match inroot::open(root.as_fd(), target, flags, 0) {
            Ok(source) => {
                mark(volume, FILLING)?;
                let filled = transfer::copy_tree(&source, volume.as_fd(), mount.keep_root)
                    .and_then(|()| rustix::fs::syncfs(volume).step("write out", what));
                // A volume that is too small is empty again, so that nobody reads half of it.
                if filled.is_ok() || transfer::clear(volume.as_fd()).is_ok() {
                    let unmarked = unmark(volume, FILLING);
                    return filled.and(unmarked);
                }
                return filled;
            }
            // The image has nothing there; the mount will say if what it has is no directory.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(Failed::os("open", target.display(), errno)),
        }
    }
    if half {
        rustix::fs::syncfs(volume).step("write out", what)?;
        unmark(volume, FILLING)?;
    }
    Ok(())
}

fn directory(path: &Path) -> Result<OwnedFd, Failed> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).step("open", path.display())
}

/// Whether there is nothing in it; `lost+found` is nothing.
fn is_empty(directory: &OwnedFd) -> Result<bool, Failed> {
    let entries = rustix::fs::Dir::read_from(directory).step("list", "the volume")?;
    for entry in entries {
        let entry = entry.step("list", "the volume")?;
        let name = entry.file_name().to_bytes();
        if ![&b"."[..], b"..", LOST_FOUND.as_bytes()].contains(&name) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_marked(file: &OwnedFd, name: &str) -> Result<bool, Failed> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(file, name, &mut value[..]) {
        Ok(_) | Err(Errno::RANGE) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(errno) => Err(Failed::os("read attribute", name, errno)),
    }
}

fn mark(file: &OwnedFd, name: &str) -> Result<(), Failed> {
    rustix::fs::fsetxattr(file, name, b"1", XattrFlags::empty()).step("set attribute", name)
}

fn unmark(file: &OwnedFd, name: &str) -> Result<(), Failed> {
    rustix::fs::fremovexattr(file, name).step("remove attribute", name)
}
