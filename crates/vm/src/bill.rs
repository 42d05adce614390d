//! From a container's spec to the VM's bill of materials; [`requests`]: to what its guest is told.

use std::ops::RangeInclusive;

use hypervisor::config::{
    Balloon, BootLoader, Console, ConsoleOutput, Disk, Folder, Network, Share, VmConfig, Vsock,
};
use proto::agent::{Mount, mount};
use proto::supervisor::Failure;
use store::container::{BindMount, Container, RootfsMode, Spec};
use store::kernels;
use store::locate::{self, Programs};

use crate::args::Volume;
use crate::{failure, network};

mod requests;

pub use requests::*;

const MIB: u64 = 1024 * 1024;

/// Guest memory that is not the container's: the kernel, its page tables and buffers, init and agent.
const RESERVE: u64 = 96 * MIB;

/// Bytes for the caches of a maintenance VM: no more than the container has, but for the smallest.
const MAINTENANCE_MEMORY: RangeInclusive<u64> = 128 * MIB..=512 * MIB;

/// The serial of the image's disk.
const IMAGE_DISK: &str = "rootfs";

/// The serial of the container's own disk.
const UPPER_DISK: &str = "upper";

/// The tag of the host's shared folders.
const SHARE: &str = "gourd";

/// The kernel's command line. `quiet`: a line on the serial port costs a millisecond. `panic=-1`: a panic resets at
/// once, which ends the VM. `random.trust_cpu=on`: nothing waits for entropy. `rcu_expedited`: unmounting, namespaces and
/// control groups wait for RCU's grace periods, which then end at once instead of at the next ticks; it costs interrupts
/// on a handful of processors. `cgroup.memory`: the kernel's own memory and that of sockets is not counted to the container, which the
/// VM's size bounds as it is; counting costs something at every allocation.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 random.trust_cpu=on rcupdate.rcu_expedited=1 \
    cgroup.memory=nokmem,nosocket";

/// The VM of a container. `processors` are those of one that asks for no number.
///
/// # Errors
/// A kernel that is missing, an initramfs that can't be made.
pub fn vm_config(
    container: &Container,
    volumes: &[Volume],
    programs: &Programs,
    processors: u32,
) -> Result<VmConfig, Failure> {
    let (root, spec) = (container.root(), container.spec());
    let kernel = kernels::resolve(root, &spec.vm.kernel)
        .map_err(|error| failure::from_error("find the kernel", &spec.vm.kernel, &error))?;
    let init = programs
        .find(locate::INIT)
        .map_err(|error| failure::from_error("find the guest's init", "", &error))?;
    let initramfs = kernels::initramfs(&kernel, &init)
        .map_err(|error| failure::from_error("make the initramfs", &kernel.name, &error))?;
    let mut command_line = COMMAND_LINE.to_owned();
    for argument in &spec.vm.kernel_args {
        command_line.push(' ');
        command_line.push_str(argument);
    }
    Ok(VmConfig {
        id: spec.id.clone(),
        vcpus: match spec.vm.cpus {
            0 => processors,
            cpus => cpus,
        },
        memory: memory(spec.vm.memory),
        boot: BootLoader::Linux {
            kernel: kernel.file,
            initramfs: Some(initramfs),
            command_line,
        },
        disks: disks(container, volumes),
        networks: networks(spec),
        shares: shares(spec),
        vsock: Some(Vsock::default()),
        consoles: vec![Console {
            output: ConsoleOutput::Log(container.console_log()),
        }],
        entropy: true,
        balloon: Some(Balloon {
            free_page_reporting: true,
        }),
        power_button: true,
        graphics: None,
        audio: None,
        usb: None,
        translation: None,
        virtualization: spec.vm.virtualization,
    })
}

/// The VM in which the files of a container that is stopped are read and written. It needs no more than one processor
/// and some memory for the page cache.
///
/// # Errors
/// As [`vm_config`].
pub fn maintenance_config(
    container: &Container,
    volumes: &[Volume],
    programs: &Programs,
) -> Result<VmConfig, Failure> {
    Ok(VmConfig {
        vcpus: 1,
        networks: Vec::new(),
        shares: Vec::new(),
        memory: maintenance_memory(container.spec().vm.memory),
        virtualization: false,
        ..vm_config(container, volumes, programs, 1)?
    })
}

fn maintenance_memory(own: u64) -> u64 {
    memory(own.clamp(*MAINTENANCE_MEMORY.start(), *MAINTENANCE_MEMORY.end()))
}

/// One part in 64 pays for the kernel's struct page of each page.
fn memory(wanted: u64) -> u64 {
    let memory = wanted.saturating_add(wanted / 64).saturating_add(RESERVE);
    memory.checked_next_multiple_of(MIB).unwrap_or(u64::MAX)
}

/// The spec's volumes, as a run has them.
pub fn all_volumes(spec: &Spec) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = Vec::new();
    for mount in &spec.mounts {
        let name = &mount.volume;
        match volumes.iter_mut().find(|volume| volume.name == *name) {
            Some(volume) => volume.read_only &= mount.read_only,
            None => volumes.push(Volume {
                name: name.clone(),
                read_only: mount.read_only,
            }),
        }
    }
    volumes
}

/// Names may be longer than a serial: its place among the VM's volumes is in it.
fn volume_disk(volumes: &[Volume], name: &str) -> Option<String> {
    let place = volumes.iter().position(|volume| volume.name == name)?;
    Some(format!("volume-{place}"))
}

fn volume_disks(container: &Container, volumes: &[Volume]) -> Vec<Disk> {
    let spec = container.spec();
    let goes = |name: &str| {
        let mut own = spec.mounts.iter().filter(|mount| mount.anonymous);
        spec.remove && own.any(|mount| mount.volume == name)
    };
    let disk = |(place, volume): (usize, &Volume)| Disk {
        id: format!("volume-{place}"),
        path: store::volume::disk_path(container.root(), &volume.name),
        read_only: volume.read_only,
        discard: !volume.read_only,
        volatile: goes(&volume.name),
    };
    volumes.iter().enumerate().map(disk).collect()
}

fn disks(container: &Container, volumes: &[Volume]) -> Vec<Disk> {
    let mut disks = root_disks(container);
    disks.extend(volume_disks(container, volumes));
    disks
}

fn root_disks(container: &Container) -> Vec<Disk> {
    let spec = container.spec();
    let upper = Disk {
        id: UPPER_DISK.to_owned(),
        path: container.upper(),
        read_only: false,
        discard: true,
        // It goes with the container: a host that dies takes both.
        volatile: spec.remove,
    };
    match spec.vm.rootfs {
        RootfsMode::Volume => Vec::new(),
        RootfsMode::Clone => vec![upper],
        RootfsMode::Overlay => vec![
            Disk {
                id: IMAGE_DISK.to_owned(),
                path: store::rootfs::path(container.root(), &spec.image.rootfs),
                read_only: true,
                discard: false,
                volatile: false,
            },
            upper,
        ],
    }
}

/// One file system for all that the host shares, in which each has its place for a name.
fn shares(spec: &Spec) -> Vec<Share> {
    if spec.binds.is_empty() {
        return Vec::new();
    }
    let folder = |(place, bind): (usize, &BindMount)| Folder {
        name: place.to_string(),
        path: bind.source.clone(),
        read_only: bind.read_only,
    };
    vec![Share {
        tag: SHARE.to_owned(),
        folders: spec.binds.iter().enumerate().map(folder).collect(),
    }]
}

fn share_mounts(spec: &Spec) -> impl Iterator<Item = Mount> {
    spec.binds.iter().enumerate().map(|(place, bind)| Mount {
        kind: mount::Kind::Share.into(),
        source: place.to_string(),
        target: bind.target.clone(),
        read_only: bind.read_only,
        ..Mount::default()
    })
}

/// The container's network devices: as many as it has networks.
fn networks(spec: &Spec) -> Vec<Network> {
    let device = |(endpoint, card): (&store::container::Endpoint, u8)| Network {
        id: endpoint.network.clone(),
        mac: network::mac(&spec.id, card),
        mtu: network::MTU,
    };
    spec.networks.iter().zip(0..).map(device).collect()
}

#[cfg(test)]
mod tests;
