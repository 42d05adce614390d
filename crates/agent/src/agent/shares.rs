//! Folders and files of the host: one file system of them all (virtio-fs), bound to where the container wants each.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use proto::agent::{BootRequest, Mount};
use rustix::fs::XattrFlags;
use rustix::mount::MountFlags;

use super::mounts::{FileSystem, Mounts};
use crate::failure::{Failed, Step};
use crate::{inroot, users};

/// What the host's server takes from the root of this VM: whose its user's files are here, as `UID:GID`.
const OWNER: &str = "trusted.gourd.owner";

/// Mounts the request's shared folders at `base`, if there are any. Devices among them are the host's, and no use here.
pub(super) fn mount(
    request: &BootRequest,
    base: &Path,
    root: &OwnedFd,
    mounts: &mut Mounts,
) -> Result<(), Failed> {
    if request.shares.is_empty() {
        return Ok(());
    }
    let virtiofs = FileSystem {
        kind: "virtiofs",
        source: Path::new(&request.shares),
        flags: MountFlags::NODEV,
        options: "",
    };
    mounts.add(base, &virtiofs)?;
    let (uid, gid) = owner(&request.user, root)?;
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let own = format!("{uid}:{gid}");
    let shares = std::fs::File::open(base).step("open", base.display())?;
    rustix::fs::fsetxattr(&shares, OWNER, own.as_bytes(), XattrFlags::empty())
        .step("say who owns", base.display())
}

/// Who the first process runs as. One that there is not is the process's to complain of.
fn owner(user: &str, root: &OwnedFd) -> Result<(u32, u32), Failed> {
    let load = |path: &str| inroot::load(root.as_fd(), Path::new(path)).step("read", path);
    let found = users::look_up(user, &load("/etc/passwd")?, &load("/etc/group")?);
    Ok(found.map_or((0, 0), |identity| (identity.uid, identity.gid)))
}

/// Binds a shared folder or file to its place in the container.
pub(super) fn bind(
    mount: &Mount,
    base: &Path,
    root: &OwnedFd,
    mounts: &mut Mounts,
) -> Result<(), Failed> {
    // A name with a slash would be somewhere else; the host gives none.
    let source = base.join(mount.source.replace('/', ""));
    let target = Path::new(&mount.target);
    let found = std::fs::symlink_metadata(&source).step("find", source.display())?;
    match found.is_dir() {
        true => mounts.bind_directory(root, &source, target, mount.read_only),
        false => mounts.bind_file(root, &source, target, mount.read_only),
    }
}
