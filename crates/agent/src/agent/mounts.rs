//! File systems that the agent has mounted, in order, so that they come off in reverse.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount};

use crate::failure::{Failed, Step};
use crate::inroot;

/// What is mounted now.
#[derive(Debug, Default)]
pub(super) struct Mounts(Vec<Mounted>);

#[derive(Debug)]
struct Mounted {
    target: PathBuf,
    /// Whether there is something to write out, on a disk below.
    lasting: bool,
}

/// A file system to mount.
pub(super) struct FileSystem<'a> {
    pub(super) kind: &'a str,
    /// Device node, or a word where there is none.
    pub(super) source: &'a Path,
    pub(super) flags: MountFlags,
    pub(super) options: &'a str,
}

impl Mounts {
    /// Mounts on a directory of the VM, which is made.
    pub(super) fn add(&mut self, target: &Path, what: &FileSystem<'_>) -> Result<(), Failed> {
        std::fs::create_dir_all(target).step("make directory", target.display())?;
        self.mount(target.to_owned(), what)
    }

    /// Mounts on a directory of the container, which is made.
    pub(super) fn add_inside(
        &mut self,
        root: &OwnedFd,
        target: &Path,
        what: &FileSystem<'_>,
    ) -> Result<(), Failed> {
        let directory =
            inroot::directory(root.as_fd(), target).step("make directory", target.display())?;
        let real = inroot::real_path(directory.as_fd()).step("find", target.display())?;
        self.mount(real, what)
    }

    fn mount(&mut self, target: PathBuf, what: &FileSystem<'_>) -> Result<(), Failed> {
        let step = format!("mount {} ({})", what.kind, what.source.display());
        let options = CString::new(what.options)
            .map_err(|_| Failed::invalid(&step, target.display(), "a NUL byte in the options"))?;
        mount(what.source, &target, what.kind, what.flags, &*options)
            .step(&step, target.display())?;
        let lasting = matches!(what.kind, "ext4" | "overlay" | "virtiofs");
        self.0.push(Mounted { target, lasting });
        Ok(())
    }

    /// Puts a file of the VM over a file of the container, which is made.
    pub(super) fn bind_file(
        &mut self,
        root: &OwnedFd,
        source: &Path,
        target: &Path,
        read_only: bool,
    ) -> Result<(), Failed> {
        let file = inroot::file(root.as_fd(), target).step("make file", target.display())?;
        let real = inroot::real_path(file.as_fd()).step("find", target.display())?;
        mount_bind(source, &real).step("bind", target.display())?;
        self.0.push(Mounted {
            target: real.clone(),
            lasting: false,
        });
        if read_only {
            make_read_only(&real)?;
        }
        Ok(())
    }

    /// Puts a directory of the VM over a directory of the container, which is made.
    pub(super) fn bind_directory(
        &mut self,
        root: &OwnedFd,
        source: &Path,
        target: &Path,
        read_only: bool,
    ) -> Result<(), Failed> {
        let directory =
            inroot::directory(root.as_fd(), target).step("make directory", target.display())?;
        let real = inroot::real_path(directory.as_fd()).step("find", target.display())?;
        mount_bind(source, &real).step("bind", target.display())?;
        self.0.push(Mounted {
            target: real.clone(),
            lasting: true,
        });
        if read_only {
            make_read_only(&real)?;
        }
        Ok(())
    }

    /// Takes everything off, the last first. Goes on after a failure, and returns the first: what is busy is detached, so
    /// that the kernel writes it out as soon as it can. What lives in memory only is detached at once.
    pub(super) fn remove_all(&mut self) -> Result<(), Failed> {
        let mut first = Ok(());
        while let Some(Mounted { target, lasting }) = self.0.pop() {
            let lazily = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
            let flags = if lasting {
                UnmountFlags::NOFOLLOW
            } else {
                lazily
            };
            let Err(errno) = rustix::mount::unmount(&target, flags) else {
                continue;
            };
            if first.is_ok() {
                first = Err(Failed::os("unmount", target.display(), errno));
            }
            // The failure is told already.
            let _ = rustix::mount::unmount(&target, lazily);
        }
        first
    }
}

/// Makes the mount at `target` read-only; what is mounted below stays as it is.
pub(super) fn make_read_only(target: &Path) -> Result<(), Failed> {
    mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "")
        .step("make read-only", target.display())
}

/// Opens a directory to look paths up in.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd, Failed> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).step("open", path.display())
}
