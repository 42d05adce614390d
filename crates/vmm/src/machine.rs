//! What a supervisor tells `gourd-vmm machine`: the machine to make, and which inherited descriptors it is made of.
//!
//! One packet of JSON, the first on the control socket, before any [`Msg`](crate::control::Msg). It holds no path:
//! everything comes as a descriptor's number in the process's table. Sizes are bytes.

use serde::{Deserialize, Serialize};

/// The largest description, in bytes: what one packet holds for sure.
pub const MAX_LEN: usize = 32 * 1024;

/// The most virtio devices: each has an interrupt line of its own, and the I/O APIC has 24.
pub const MAX_DEVICES: usize = 17;

/// The most virtual processors: one byte of APIC identifier, 255 of which means all.
pub const MAX_VCPUS: u32 = 254;

/// Number of an inherited descriptor.
pub type Fd = i32;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// `/dev/kvm`, open for reading and writing.
    pub kvm: Fd,
    /// Virtual processors.
    pub vcpus: u32,
    /// Guest memory: a multiple of 1 MiB.
    pub memory: u64,
    /// `vmlinux` or `bzImage`, open for reading.
    pub kernel: Fd,
    /// A cpio archive, open for reading.
    pub initramfs: Option<Fd>,
    /// The kernel's command line.
    pub command_line: String,
    /// Block devices, in the guest's order.
    pub disks: Vec<Disk>,
    /// Network devices, in the guest's order.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// File system devices of shared folders.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// The guest's CID.
    pub vsock: Option<u32>,
    /// Serial ports, `ttyS0` first.
    pub consoles: Vec<Console>,
    /// A source of random numbers.
    pub entropy: bool,
    /// A balloon, with or without reporting of free pages.
    pub balloon: Option<Balloon>,
    /// An ACPI power button.
    pub power_button: bool,
    /// The guest's processors have SVM or VMX.
    pub virtualization: bool,
}

/// Bytes that a read-only disk is best read in: Linux reads twice as much ahead of, and around, what is asked for. What is read-only
/// are programs and their libraries, and the fewer requests it takes to read one, the sooner it runs.
pub const OPTIMAL_READ: u32 = 1 << 20;

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The raw image, open as `read_only` says.
    pub fd: Fd,
    /// Serial number, up to 20 bytes.
    pub id: String,
    /// The guest may not write.
    pub read_only: bool,
    /// What the guest discards becomes a hole.
    pub discard: bool,
    /// Flushes are answered and not passed on.
    pub volatile: bool,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// A connected unix socket of datagrams: one is a frame.
    pub fd: Fd,
    /// The device's address.
    pub mac: [u8; 6],
    /// Bytes of the largest packet.
    pub mtu: u16,
}

/// A file system device (virtio-fs).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// What the guest mounts it by, up to 36 bytes.
    pub tag: String,
    /// What is in its root directory.
    pub folders: Vec<Folder>,
}

/// A folder or file of the host in a file system device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// It, open in any way.
    pub fd: Fd,
    /// Its name in the device's root directory.
    pub name: String,
    /// Nothing changes it by this way.
    pub read_only: bool,
}

/// A serial port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Console {
    /// A file that is appended to, and starts anew when it holds 4 MiB.
    Log(Fd),
    /// A connected stream socket, both ways. What nobody reads is lost beyond some 64 KiB; the guest never waits.
    Stream(Fd),
}

/// A balloon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// The guest reports pages that it freed.
    pub free_page_reporting: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let machine = Machine {
            kvm: 3,
            vcpus: 2,
            memory: 128 << 20,
            kernel: 4,
            initramfs: Some(5),
            command_line: "quiet \"x\"".into(),
            disks: vec![Disk {
                fd: 6,
                id: "rootfs".into(),
                read_only: true,
                discard: false,
                volatile: false,
            }],
            networks: vec![Network {
                fd: 9,
                mac: [2, 0, 0, 0, 0, 1],
                mtu: 65520,
            }],
            shares: vec![Share {
                tag: "shares".into(),
                folders: vec![Folder {
                    fd: 10,
                    name: "0".into(),
                    read_only: true,
                }],
            }],
            vsock: Some(3),
            consoles: vec![Console::Log(7), Console::Stream(8)],
            entropy: true,
            balloon: Some(Balloon::default()),
            power_button: true,
            virtualization: false,
        };
        let text = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
    }
}
