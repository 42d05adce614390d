//! Finds disks by their virtio-blk serial.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::time::Timespec;

use crate::failure::{Failed, Step};

/// Where the kernel lists disks.
const BLOCK: &str = "/sys/block";

/// How long a disk may take to appear. The host attaches all of them before the VM runs, so this is for drivers that
/// probe late.
const PATIENCE: Duration = Duration::from_secs(10);

/// The multicast group of the kernel's own events.
const KERNEL_EVENTS: u32 = 1;

/// The device node of the disk with this serial; waits for the kernel's events until it is there.
pub(super) fn find(serial: &str) -> Result<PathBuf, Failed> {
    let block = Path::new(BLOCK);
    if let Some(found) = guess(block, serial) {
        return Ok(found);
    }
    let look = || scan(block, serial).step("find disk", serial);
    if let Some(found) = look()? {
        return Ok(found);
    }
    let events = listen().step("listen for", "disks")?;
    let deadline = Instant::now() + PATIENCE;
    // It may have come between the look and the listening, so each wait comes after a look.
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if !next_block_event(&events, deadline).step("listen for", "disks")? {
            return Err(Failed::invalid(
                "find disk",
                serial,
                "no disk with this serial",
            ));
        }
    }
}

/// Whether the host has made a disk read-only.
pub(super) fn is_read_only(device: &Path) -> Result<bool, Failed> {
    Ok(attribute(device, "ro")? != 0)
}

/// A disk's bytes.
pub(super) fn size(device: &Path) -> Result<u64, Failed> {
    // Of 512 bytes, whatever the disk's own are.
    Ok(attribute(device, "size")?.saturating_mul(512))
}

/// A number of `/sys/block/NAME`.
fn attribute(device: &Path, name: &str) -> Result<u64, Failed> {
    let path = Path::new(BLOCK)
        .join(device.file_name().unwrap_or_default())
        .join(name);
    let text = std::fs::read_to_string(&path).step("read", path.display())?;
    let number = text.trim().parse();
    number.map_err(|_| Failed::invalid("read", path.display(), "it is no number"))
}

/// The blocks of the ext4 file system on a disk, as its superblock has them
/// (`Documentation/filesystems/ext4/super.rst`). The kernel has found that it is one.
pub(super) fn ext4_blocks(device: &Path) -> Result<u64, Failed> {
    let mut superblock = [0; 1024];
    let disk = std::fs::File::open(device).step("open", device.display())?;
    std::os::unix::fs::FileExt::read_exact_at(&disk, &mut superblock, 1024)
        .step("read", device.display())?;
    let word = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&superblock[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    // INCOMPAT_64BIT
    let high = if word(0x60) & 0x80 != 0 {
        word(0x150)
    } else {
        0
    };
    Ok(u64::from(high) << 32 | u64::from(word(0x04)))
}

/// Tries the names that virtio disks get, in order and without listing `block`; up to the first that is not there.
fn guess(block: &Path, serial: &str) -> Option<PathBuf> {
    for letter in 'a'..='z' {
        let name = format!("vd{letter}");
        if serial_of(&block.join(&name))? == serial {
            return Some(Path::new("/dev").join(name));
        }
    }
    None
}

/// The serial of a disk; `None` when it is not a virtio disk, or gone.
fn serial_of(disk: &Path) -> Option<String> {
    let mut serial = std::fs::read_to_string(disk.join("serial")).ok()?;
    serial.truncate(serial.trim_end_matches(['\n', '\0', ' ']).len());
    Some(serial)
}

/// The disk below `block` whose `serial` attribute says `serial`.
fn scan(block: &Path, serial: &str) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(block)? {
        let entry = entry?;
        if serial_of(&entry.path()).is_some_and(|found| found == serial) {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

fn listen() -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(KOBJECT_UEVENT),
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL_EVENTS))?;
    Ok(socket)
}

/// Waits for an event of a block device; false when the deadline came first.
fn next_block_event(events: &OwnedFd, deadline: Instant) -> rustix::io::Result<bool> {
    let mut message = [0; 8192];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut sockets = [PollFd::new(events, PollFlags::IN)];
        match poll(&mut sockets, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        match rustix::net::recv(events, &mut message, RecvFlags::empty()) {
            Ok((length, _)) if is_block(&message[..length]) => return Ok(true),
            // Events were lost: one of them may have been ours.
            Err(rustix::io::Errno::NOBUFS) => return Ok(true),
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether an event (`ACTION@DEVPATH`, then `KEY=VALUE`s, each with a NUL at its end) is about a block device.
fn is_block(message: &[u8]) -> bool {
    message
        .split(|&byte| byte == 0)
        .any(|field| field == b"SUBSYSTEM=block")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_told_apart_by_serial() {
        let block = tempfile::tempdir().unwrap();
        let disk = |name: &str, serial: &str| {
            let directory = block.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join("serial"), serial).unwrap();
        };
        disk("vda", "image");
        disk("vdb", "upper\n");
        std::fs::create_dir(block.path().join("loop0")).unwrap();
        let find = |serial| scan(block.path(), serial).unwrap();
        assert_eq!(find("image"), Some("/dev/vda".into()));
        assert_eq!(find("upper"), Some("/dev/vdb".into()));
        assert_eq!(find("upp"), None);
    }

    #[test]
    fn events_of_block_devices() {
        assert!(is_block(b"add@/devices/vda\0ACTION=add\0SUBSYSTEM=block\0"));
        assert!(!is_block(b"add@/devices/x\0SUBSYSTEM=blocks\0"));
        assert!(!is_block(b""));
    }
}
