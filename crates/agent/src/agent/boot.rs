//! `Boot`: from bare disks to a root file system that a process can be started in.
//!
//! ```text
//! /run/gourd/image     the rootfs image, ext4, read-only
//! /run/gourd/upper     the upper disk, ext4: upper/ and work/ of the overlay
//! /run/gourd/rootfs    the overlay of both: the container's root, with /dev, /sys, tmpfs and disks on it. Without an
//!                      image disk it is the upper disk itself
//! /run/gourd/volumes   the disks of volumes, by serial; bound to their places in the root
//! /run/gourd/shares    the host's shared folders and files (virtio-fs), by name; bound to their places in the root
//! /run/gourd/etc       hosts, resolv.conf, hostname: bound over the container's
//! /run/gourd/sockets   unix sockets that lead to the host, by number: bound over the container's
//! ```
//!
//! What belongs to a namespace of the container (/proc, /dev/mqueue, its control groups) is mounted by
//! `helper::namespaces`.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::agent::{BootRequest, Mount, RootFs, mount};
use rustix::fs::{FileType, Mode};
use rustix::mount::MountFlags;

use super::disks;
use super::mounts::{FileSystem, Mounts, make_read_only, open_root};
use super::shares;
use super::sockets::{self, Door};
use super::volumes::{self, Volumes};
use crate::cgroup::Cgroup;
use crate::failure::{Failed, Step};
use crate::{clock, sys};

const BASE: &str = "/run/gourd";

/// /dev/shm where the request does not say; Docker's.
const SHM_SIZE: u64 = 64 << 20;

/// How the overlay behaves, rather than what the kernel was configured to think:
/// - `redirect_dir=on`: a directory of the image can be renamed, instead of failing with EXDEV.
/// - `metacopy=off`: a changed owner copies the file, so that a file in the upper disk never lacks its contents.
/// - `index=off`: the upper disk does not remember which file system was below it, and can outlive a rewritten image; a
///   hard link of the image is parted by its first write, as everywhere in containers.
/// - `xino=on`: one device number for the whole root, and inode numbers that survive the copy up.
const OVERLAY: &str = "redirect_dir=on,metacopy=off,index=off,xino=on";

const RESTRICTED: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// A container that is ready for its first process.
#[derive(Debug)]
pub(super) struct Booted {
    /// The root in the VM's mount namespace.
    pub(super) rootfs: PathBuf,
    /// Where the image and the changes against it lie; `None` when the root is a disk of its own.
    pub(super) overlay: Option<Overlay>,
    pub(super) cgroup: Cgroup,
    /// To be served.
    pub(super) doors: Vec<Door>,
}

/// What the container's root is put together from.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) image: PathBuf,
    pub(super) upper: PathBuf,
}

/// Does what the request says. What was mounted until a failure stays in `mounts`.
pub(super) fn boot(request: &BootRequest, mounts: &mut Mounts) -> Result<Booted, Failed> {
    if request.wall_clock_ns != 0 {
        clock::set_wall_clock(request.wall_clock_ns).step("set", "the wall clock")?;
    }
    sys::loopback_up().step("bring up", "lo")?;
    super::network::set_up(&request.networks)?;
    let rootfs = Path::new(BASE).join("rootfs");
    let disks = request.rootfs.clone().unwrap_or_default();
    if request.bare {
        return bare(rootfs, &disks, mounts);
    }
    let overlay = if disks.image_disk.is_empty() {
        // A copy of the image that the container has to itself.
        writable(&rootfs, &disks, mounts)?;
        None
    } else {
        Some(overlay(&rootfs, &disks, mounts)?)
    };
    let cgroup = Cgroup::set_up(request.memory_limit, request.pids_limit)?;
    if request.nano_cpus != 0 {
        cgroup.limit_cpus(request.nano_cpus)?;
    }
    let root = open_root(&rootfs)?;
    let base = Path::new(BASE);
    let own = match &overlay {
        Some(_) => &base.join("upper"),
        None => &rootfs,
    };
    // While nothing hides what the image has at their places.
    let volumes = Volumes::mount(request, &base.join("volumes"), &root, own, mounts)?;
    devices(&root, request.shm_size, mounts)?;
    let sys = FileSystem {
        kind: "sysfs",
        source: Path::new("sysfs"),
        flags: RESTRICTED | MountFlags::RDONLY,
        options: "",
    };
    mounts.add_inside(&root, Path::new("/sys"), &sys)?;
    // Mount points that the first process's helper needs; a read-only root could not get them later.
    for path in ["/proc", "/dev/mqueue"] {
        crate::inroot::directory(root.as_fd(), Path::new(path)).step("make directory", path)?;
    }
    shares::mount(request, &base.join("shares"), &root, mounts)?;
    for mount in &request.mounts {
        extra(&root, mount, &volumes, mounts)?;
    }
    names(&root, request, mounts)?;
    let doors = sockets::open(request, &base.join("sockets"), &root, mounts)?;
    if request.read_only_rootfs {
        make_read_only(&rootfs)?;
    }
    Ok(Booted {
        rootfs,
        overlay,
        cgroup,
        doors,
    })
}

/// A volume is the root, and nothing else is wanted than its files.
fn bare(rootfs: PathBuf, disks: &RootFs, mounts: &mut Mounts) -> Result<Booted, Failed> {
    if let Some(volume) = volumes::attach(&disks.upper_disk, &rootfs, mounts)? {
        volumes::settle(&volume, &volume, None)?;
    }
    Ok(Booted {
        rootfs,
        overlay: None,
        cgroup: Cgroup::set_up(0, 0)?,
        doors: Vec::new(),
    })
}

fn overlay(rootfs: &Path, disks: &RootFs, mounts: &mut Mounts) -> Result<Overlay, Failed> {
    let base = Path::new(BASE);
    let (image, upper) = (base.join("image"), base.join("upper"));
    let device = disks::find(&disks.image_disk)?;
    mounts.add(&image, &ext4_on(&device, true))?;
    writable(&upper, disks, mounts)?;
    let (changes, work) = (upper.join("upper"), upper.join("work"));
    first_use(&image, &changes)?;
    make_directory(&work)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},{OVERLAY}",
        image.display(),
        changes.display(),
        work.display()
    );
    let overlay = FileSystem {
        kind: "overlay",
        source: Path::new("overlay"),
        flags: MountFlags::empty(),
        options: &options,
    };
    mounts.add(rootfs, &overlay)?;
    Ok(Overlay {
        image,
        upper: changes,
    })
}

/// Makes the overlay's upper directory. The container's "/" takes owner and mode from it, so it takes them from the
/// image.
fn first_use(image: &Path, changes: &Path) -> Result<(), Failed> {
    if changes.is_dir() {
        return Ok(());
    }
    let from = std::fs::metadata(image).step("stat", image.display())?;
    make_directory(changes)?;
    let made = std::fs::metadata(changes).step("stat", changes.display())?;
    if (made.uid(), made.gid()) != (from.uid(), from.gid()) {
        std::os::unix::fs::chown(changes, Some(from.uid()), Some(from.gid()))
            .step("change owner of", changes.display())?;
    }
    let mode = from.mode() & 0o7777;
    if made.mode() & 0o7777 != mode {
        std::fs::set_permissions(changes, std::fs::Permissions::from_mode(mode))
            .step("change mode of", changes.display())?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), Failed> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Failed::os("make directory", path.display(), error))
        }
        _ => Ok(()),
    }
}

/// Mounts the upper disk.
fn writable(target: &Path, disks: &RootFs, mounts: &mut Mounts) -> Result<(), Failed> {
    let device = disks::find(&disks.upper_disk)?;
    let mut ext4 = ext4_on(&device, false);
    let options = format!("{},{}", ext4.options, disks.upper_options);
    if !disks.upper_options.is_empty() {
        ext4.options = &options;
    }
    mounts.add(target, &ext4)
}

pub(super) fn ext4_on(device: &Path, read_only: bool) -> FileSystem<'_> {
    FileSystem {
        kind: "ext4",
        source: device,
        flags: if read_only {
            MountFlags::RDONLY
        } else {
            MountFlags::empty()
        },
        // What the guest frees, the host's sparse file gives back. No thread that reads every group's bitmap after the mount,
        // in case somebody asks for much room at once.
        options: if read_only {
            ""
        } else {
            "discard,no_prefetch_block_bitmaps"
        },
    }
}

/// /dev: a tmpfs with the nodes that every program expects (runtime-spec, "Default Devices"), and its own terminals.
fn devices(root: &OwnedFd, shm_size: u64, mounts: &mut Mounts) -> Result<(), Failed> {
    let tmpfs = |options| FileSystem {
        kind: "tmpfs",
        source: Path::new("tmpfs"),
        flags: MountFlags::NOSUID,
        options,
    };
    let dev = Path::new("/dev");
    mounts.add_inside(root, dev, &tmpfs("mode=755,size=65536k"))?;
    let fd = crate::inroot::directory(root.as_fd(), dev).step("open", "/dev")?;
    // The nodes' modes are what they are, whatever the agent was started with.
    rustix::process::umask(Mode::empty());
    for (name, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ] {
        let (mode, device) = (
            Mode::from_raw_mode(0o666),
            rustix::fs::makedev(major, minor),
        );
        rustix::fs::mknodat(&fd, name, FileType::CharacterDevice, mode, device)
            .step("make device", name)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
    ] {
        rustix::fs::symlinkat(target, &fd, name).step("make link", name)?;
    }
    let terminals = FileSystem {
        kind: "devpts",
        source: Path::new("devpts"),
        flags: MountFlags::NOSUID | MountFlags::NOEXEC,
        options: "newinstance,ptmxmode=0666,mode=0620,gid=5",
    };
    mounts.add_inside(root, Path::new("/dev/pts"), &terminals)?;
    let size = if shm_size == 0 { SHM_SIZE } else { shm_size };
    let options = format!("mode=1777,size={size}");
    let mut shm = tmpfs(&options);
    shm.flags = RESTRICTED;
    mounts.add_inside(root, Path::new("/dev/shm"), &shm)
}

/// One of the request's own mounts.
fn extra(
    root: &OwnedFd,
    mount: &Mount,
    volumes: &Volumes,
    mounts: &mut Mounts,
) -> Result<(), Failed> {
    let target = Path::new(&mount.target);
    match mount.kind() {
        mount::Kind::Disk => volumes.bind(mount, root, mounts),
        mount::Kind::Share => shares::bind(mount, &Path::new(BASE).join("shares"), root, mounts),
        mount::Kind::Tmpfs => {
            let (mut flags, data) = tmpfs_options(&mount.options);
            if mount.read_only {
                flags |= MountFlags::RDONLY;
            }
            let tmpfs = FileSystem {
                kind: "tmpfs",
                source: Path::new("tmpfs"),
                flags,
                options: &data,
            };
            mounts.add_inside(root, target, &tmpfs)
        }
    }
}

/// Parts mount(8)'s options into flags and what tmpfs itself reads. Docker's flags where nothing is said.
fn tmpfs_options(options: &str) -> (MountFlags, String) {
    let mut flags = RESTRICTED;
    let mut data = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" => flags -= MountFlags::RDONLY,
            "suid" => flags -= MountFlags::NOSUID,
            "nosuid" => flags |= MountFlags::NOSUID,
            "dev" => flags -= MountFlags::NODEV,
            "nodev" => flags |= MountFlags::NODEV,
            "exec" => flags -= MountFlags::NOEXEC,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

/// /etc/hosts, /etc/resolv.conf and /etc/hostname, over whatever the image has there.
fn names(root: &OwnedFd, request: &BootRequest, mounts: &mut Mounts) -> Result<(), Failed> {
    let hostname = match request.hostname.as_str() {
        "" => Vec::new(),
        name => format!("{name}\n").into_bytes(),
    };
    let directory = Path::new(BASE).join("etc");
    for (name, contents) in [
        ("hosts", &request.hosts[..]),
        ("resolv.conf", &request.resolv_conf),
        ("hostname", &hostname),
    ] {
        if contents.is_empty() {
            continue;
        }
        std::fs::create_dir_all(&directory).step("make directory", directory.display())?;
        let file = directory.join(name);
        std::fs::write(&file, contents).step("write", file.display())?;
        mounts.bind_file(root, &file, &Path::new("/etc").join(name), false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_tmpfs() {
        let check = |options, flags, data: &str| {
            assert_eq!(
                tmpfs_options(options),
                (flags, data.to_owned()),
                "{options}"
            );
        };
        check("", RESTRICTED, "");
        check("size=64m,mode=1777", RESTRICTED, "size=64m,mode=1777");
        check("rw,exec,,dev,size=1k", MountFlags::NOSUID, "size=1k");
        check("ro", RESTRICTED | MountFlags::RDONLY, "");
    }
}
