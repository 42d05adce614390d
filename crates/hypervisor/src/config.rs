//! The bill of materials: what a VM is made of.
//!
//! Every component of every driver has its place here, so that a configuration can be written down once and taken to
//! another host. What a driver lacks is refused by [`validate`](crate::validate()), never ignored.
//! Sizes are bytes. Paths are absolute or relative to the supervisor's working directory.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What makes a VM run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// Gourd's own machine monitor on Linux's KVM.
    Kvm,
    /// QEMU, with KVM or by translation (TCG).
    Qemu,
    /// Apple's Virtualization.framework.
    Vz,
}

/// What a datagram of a network's link is, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A frame.
    Plain,
    /// Frames in a row, each behind its length.
    Packed,
    /// A frame behind its `struct virtio_net_hdr_v1`.
    Offload,
}

impl DriverKind {
    /// What a datagram of a link is. QEMU reads what it takes for a stream, and works on all the frames that it has read in one turn of its loop; our
    /// own device passes on what the guest's says about checksums.
    pub fn framing(self) -> Framing {
        match self {
            DriverKind::Kvm => Framing::Offload,
            DriverKind::Qemu => Framing::Packed,
            DriverKind::Vz => Framing::Plain,
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DriverKind::Kvm => "kvm",
            DriverKind::Qemu => "qemu",
            DriverKind::Vz => "vz",
        })
    }
}

/// A VM's bill of materials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// Names the VM in logs and process lists: 1 to 64 of `a-z A-Z 0-9 . _ -`.
    pub id: String,
    /// Virtual processors, 1 to [`MAX_VCPUS`](crate::MAX_VCPUS).
    pub vcpus: u32,
    /// Guest memory in bytes: a multiple of 1 MiB, at least [`MIN_MEMORY`](crate::MIN_MEMORY).
    pub memory: u64,
    /// What runs first.
    pub boot: BootLoader,
    /// Block devices, in the order in which the guest sees them (`vda`, `vdb`, …).
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Network devices, in the order in which the guest sees them.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// File systems of shared folders.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// The socket device between host and guest.
    #[serde(default)]
    pub vsock: Option<Vsock>,
    /// Serial ports (16550), the first one is the guest's `ttyS0`: they work from the kernel's first line on.
    #[serde(default)]
    pub consoles: Vec<Console>,
    /// A source of random numbers (virtio-rng), fed by the host's kernel.
    #[serde(default)]
    pub entropy: bool,
    /// Gives guest memory back to the host.
    #[serde(default)]
    pub balloon: Option<Balloon>,
    /// A power button (ACPI), which [`Vm::stop`](crate::Vm::stop) presses. Without it, stopping is pulling the plug.
    #[serde(default)]
    pub power_button: bool,
    /// A display.
    #[serde(default)]
    pub graphics: Option<Graphics>,
    /// A sound card.
    #[serde(default)]
    pub audio: Option<Audio>,
    /// A USB controller and what is plugged into it.
    #[serde(default)]
    pub usb: Option<Usb>,
    /// Runs programs of another architecture in the guest.
    #[serde(default)]
    pub translation: Option<Translation>,
    /// The guest may run VMs of its own: its processors have VMX or SVM.
    #[serde(default)]
    pub virtualization: bool,
}

/// What runs first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BootLoader {
    /// A Linux kernel, loaded straight into memory.
    Linux {
        /// `vmlinux` (ELF with a PVH note) or `bzImage`.
        kernel: PathBuf,
        /// The initial root file system, a cpio archive.
        #[serde(default)]
        initramfs: Option<PathBuf>,
        /// The kernel's command line, at most 2,047 bytes, no line break and no NUL.
        #[serde(default)]
        command_line: String,
    },
    /// EFI firmware, which finds a boot loader on the first bootable disk.
    Efi {
        /// The file that keeps the firmware's variables; made when it is missing.
        variables: PathBuf,
    },
}

/// A block device (virtio-blk) backed by a raw file or a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The device's serial number, by which the guest finds it (`/sys/block/*/serial`): 1 to 20 of
    /// `a-z A-Z 0-9 . _ -` (20 bytes: VIRTIO 1.2, 5.2.6.1), unique in the VM.
    pub id: String,
    /// The raw image.
    pub path: PathBuf,
    /// The host refuses writes; the file is opened for reading only.
    #[serde(default)]
    pub read_only: bool,
    /// What the guest discards becomes a hole in the file.
    #[serde(default)]
    pub discard: bool,
    /// Nobody wants the disk after the VM: the guest's flushes are answered and not passed on to the host's disk.
    #[serde(default)]
    pub volatile: bool,
}

/// A network device (virtio-net) whose Ethernet frames run over a socket of datagrams, a frame each: see
/// [`StartOptions::links`](crate::StartOptions::links).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Names the device for attaching and detaching; unique in the VM.
    pub id: String,
    /// The device's address.
    pub mac: [u8; 6],
    /// The largest packet in bytes, 1280 to 65535.
    pub mtu: u16,
}

/// A file system of folders of the host (virtio-fs). Its root directory is a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The name that the guest mounts: 1 to 36 bytes (VIRTIO 1.2, 5.11.4), unique in the VM.
    pub tag: String,
    /// What it shows.
    pub folders: Vec<Folder>,
}

/// A folder of the host, or a single file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// Its name in the file system's root directory: 1 to 64 of `a-z A-Z 0-9 . _ -`, unique there.
    pub name: String,
    /// Where it is. A link there is followed, once, when the VM starts.
    pub path: PathBuf,
    /// The host refuses writes, whatever the guest does.
    #[serde(default)]
    pub read_only: bool,
}

/// The socket device between host and guest (virtio-vsock).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's context identifier, 3 to 2³²-2. Nothing on the host sees it: two VMs may have the same.
    pub cid: u32,
}

impl Default for Vsock {
    fn default() -> Self {
        Vsock { cid: 3 }
    }
}

/// A serial port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// Where its bytes go.
    pub output: ConsoleOutput,
}

/// Where a console's bytes go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleOutput {
    /// Appended to a file, made with mode 0600 when it is missing. There is no input.
    Log(PathBuf),
    /// A stream both ways, taken once with [`Vm::console`](crate::Vm::console). Read it: under the driver kvm what nobody has read
    /// beyond some 64 KiB is lost, under QEMU the guest waits.
    Stream,
}

/// A device that gives guest memory back to the host (virtio-balloon).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// The guest reports pages that it freed, and the host takes them back without being asked.
    #[serde(default)]
    pub free_page_reporting: bool,
}

/// A display (virtio-gpu).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graphics {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// A sound card (virtio-snd).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audio {
    /// The guest may play.
    #[serde(default)]
    pub output: bool,
    /// The guest may record.
    #[serde(default)]
    pub input: bool,
}

/// A USB controller (xHCI) and what is plugged into it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usb {
    /// A keyboard.
    #[serde(default)]
    pub keyboard: bool,
    /// A pointer with absolute coordinates.
    #[serde(default)]
    pub tablet: bool,
    /// Sticks: raw images, as for [`Disk`].
    #[serde(default)]
    pub storage: Vec<Disk>,
}

/// Runs programs of another architecture in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Translation {
    /// x86-64 programs on an ARM guest, by Apple's Rosetta.
    Rosetta,
    /// Programs of any architecture, by qemu-user and binfmt_misc, which the guest's root brings along.
    QemuUser,
}
