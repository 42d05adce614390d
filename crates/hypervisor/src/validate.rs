//! Names what is wrong with a bill of materials before anything starts.
//!
//! Pure but for one question to the file system: do the files that the VM is made of exist, and as what?

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::config::{
    BootLoader, Console, ConsoleOutput, Disk, DriverKind, Network, Share, VmConfig,
};
use crate::resolved;

/// The most virtual processors: more need an interrupt remapping unit, which no driver offers.
pub const MAX_VCPUS: u32 = 255;

/// The least memory in bytes. Measured: Debian's cloud kernel 6.1 with an initramfs of 2 MB panics for lack of memory
/// with 64 MiB and boots with 72; init, its modules and a shell want some more.
pub const MIN_MEMORY: u64 = 96 << 20;

/// The most memory in bytes: 1 TiB less the 4 GiB around the PCI hole, what 40 physical address bits reach.
pub const MAX_MEMORY: u64 = (1 << 40) - (4 << 30);

/// Bytes of a kernel command line without its NUL (x86's `COMMAND_LINE_SIZE` is 2048).
pub(crate) const MAX_COMMAND_LINE: usize = 2047;

/// Bytes of a virtio-blk serial number: VIRTIO 1.2, 5.2.6.1.
const MAX_SERIAL: usize = 20;

/// Bytes of a virtio-fs tag: VIRTIO 1.2, 5.11.4.
const MAX_TAG: usize = 36;

/// Disks and networks each take a PCI slot of one bus with 32, less the fixed devices.
const MAX_DISKS: usize = 20;

/// As many as our own monitor has.
const MAX_NETWORKS: usize = 8;

/// Slots that are left beside the fixed devices, for disks and networks.
const MAX_SLOTS: usize = 24;

/// As [`MAX_NETWORKS`].
const MAX_SHARES: usize = 2;

/// Folders of one share: each is a descriptor that its server inherits, and a name in its description.
const MAX_FOLDERS: usize = 64;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; {remedy}")]
pub struct ConfigError {
    /// The field, as in `disks[1].id`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

/// Everything that is wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Says what is wrong with `config` when `driver` is to run it: all of it, in the order of the fields.
pub fn validate(config: &VmConfig, driver: DriverKind) -> Result<(), ConfigErrors> {
    let mut check = Check {
        driver,
        errors: Vec::new(),
    };
    check.machine(config);
    check.boot(&config.boot);
    check.disks("disks", &config.disks);
    check.networks(&config.networks, config.disks.len());
    check.shares(&config.shares);
    if let Some(vsock) = &config.vsock
        && !(3..u32::MAX).contains(&vsock.cid)
    {
        check.wrong(
            "vsock.cid",
            format!("{} is reserved", vsock.cid),
            "use 3 to 4294967294",
        );
    }
    check.consoles(&config.consoles);
    check.wired(config);
    if check.errors.is_empty() {
        Ok(())
    } else {
        Err(ConfigErrors(check.errors))
    }
}

struct Check {
    driver: DriverKind,
    errors: Vec<ConfigError>,
}

impl Check {
    fn wrong(
        &mut self,
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.errors.push(ConfigError {
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// The driver can't do this.
    fn lacks(&mut self, field: impl Into<String>, component: &str) {
        let problem = format!("the driver {} has no {component}", self.driver);
        self.wrong(field, problem, "leave it out");
    }

    fn machine(&mut self, config: &VmConfig) {
        self.name("id", &config.id, 64);
        if !(1..=MAX_VCPUS).contains(&config.vcpus) {
            self.wrong(
                "vcpus",
                format!("{} virtual processors", config.vcpus),
                format!("use 1 to {MAX_VCPUS}"),
            );
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&config.memory) {
            let (problem, remedy) = if config.memory < MIN_MEMORY {
                ("is less than what boots", MIN_MEMORY)
            } else {
                ("is more than a VM can address", MAX_MEMORY)
            };
            let word = if remedy == MIN_MEMORY {
                "least"
            } else {
                "most"
            };
            self.wrong(
                "memory",
                format!("{} bytes {problem}", config.memory),
                format!("use at {word} {} MiB", remedy >> 20),
            );
        } else if !config.memory.is_multiple_of(1 << 20) {
            self.wrong(
                "memory",
                format!("{} bytes are no whole number of MiB", config.memory),
                format!("use {} MiB", config.memory.div_ceil(1 << 20)),
            );
        }
    }

    fn boot(&mut self, boot: &BootLoader) {
        match boot {
            BootLoader::Linux {
                kernel,
                initramfs,
                command_line,
            } => {
                self.file("boot.linux.kernel", kernel);
                if let Some(initramfs) = initramfs {
                    self.file("boot.linux.initramfs", initramfs);
                }
                let field = "boot.linux.command_line";
                if command_line.len() > MAX_COMMAND_LINE {
                    self.wrong(
                        field,
                        format!("{} bytes", command_line.len()),
                        format!("use at most {MAX_COMMAND_LINE}"),
                    );
                }
                if command_line.contains(['\0', '\n']) {
                    self.wrong(field, "holds a line break or a NUL", "use spaces");
                }
            }
            BootLoader::Efi { .. } => {
                if self.driver != DriverKind::Vz {
                    let problem = format!("the driver {} has no EFI firmware", self.driver);
                    self.wrong("boot.efi", problem, "boot a Linux kernel directly");
                }
            }
        }
    }

    fn disks(&mut self, list: &str, disks: &[Disk]) {
        if disks.len() > MAX_DISKS {
            self.wrong(
                list,
                format!("{} disks", disks.len()),
                format!("use at most {MAX_DISKS}"),
            );
        }
        let mut ids = BTreeSet::new();
        for (index, disk) in disks.iter().enumerate() {
            let field = format!("{list}[{index}]");
            self.name(&format!("{field}.id"), &disk.id, MAX_SERIAL);
            self.unique(&mut ids, format!("{field}.id"), &disk.id);
            self.disk_image(&format!("{field}.path"), &disk.path);
        }
    }

    fn networks(&mut self, networks: &[Network], disks: usize) {
        if networks.len() > MAX_NETWORKS {
            self.wrong(
                "networks",
                format!("{} network devices", networks.len()),
                format!("use at most {MAX_NETWORKS}"),
            );
        }
        if networks.len() <= MAX_NETWORKS && networks.len() + disks > MAX_SLOTS {
            self.wrong(
                "networks",
                format!("{} network devices beside {disks} disks", networks.len()),
                format!("use at most {MAX_SLOTS} of both"),
            );
        }
        let mut ids = BTreeSet::new();
        for (index, network) in networks.iter().enumerate() {
            let field = format!("networks[{index}]");
            self.name(&format!("{field}.id"), &network.id, 64);
            self.unique(&mut ids, format!("{field}.id"), &network.id);
            if network.mac[0] & 1 != 0 {
                self.wrong(
                    format!("{field}.mac"),
                    "is a multicast address",
                    "clear the lowest bit of the first byte",
                );
            }
            if network.mtu < 1280 {
                self.wrong(
                    format!("{field}.mtu"),
                    format!("{} bytes", network.mtu),
                    "use 1280 to 65535 (IPv6 needs 1280)",
                );
            }
        }
    }

    fn shares(&mut self, shares: &[Share]) {
        if shares.len() > MAX_SHARES {
            self.wrong(
                "shares",
                format!("{} file systems of shared folders", shares.len()),
                format!("use at most {MAX_SHARES}: each can show many folders"),
            );
        }
        let mut tags = BTreeSet::new();
        for (index, share) in shares.iter().enumerate() {
            let field = format!("shares[{index}]");
            self.name(&format!("{field}.tag"), &share.tag, MAX_TAG);
            self.unique(&mut tags, format!("{field}.tag"), &share.tag);
            if share.folders.len() > MAX_FOLDERS {
                self.wrong(
                    format!("{field}.folders"),
                    format!("{} folders", share.folders.len()),
                    format!("use at most {MAX_FOLDERS}"),
                );
            }
            let mut names = BTreeSet::new();
            for (index, folder) in share.folders.iter().enumerate() {
                let field = format!("{field}.folders[{index}]");
                self.name(&format!("{field}.name"), &folder.name, 64);
                if [".", ".."].contains(&folder.name.as_str()) {
                    let problem = format!("{:?} means a directory itself", folder.name);
                    self.wrong(format!("{field}.name"), problem, "use another name");
                }
                self.unique(&mut names, format!("{field}.name"), &folder.name);
                self.shared(format!("{field}.path"), &folder.path);
            }
        }
    }

    /// A folder or file that is shared, seen as the driver will: without following a link.
    fn shared(&mut self, field: String, path: &Path) {
        let found = resolved::open(path).and_then(rustix::fs::fstat);
        match found.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Directory | FileType::RegularFile) => {}
            Ok(_) => self.wrong(
                field,
                format!("{} is neither a folder nor a file", path.display()),
                "share the folder that holds it",
            ),
            Err(Errno::LOOP) => {
                let problem = format!("{}: {}", path.display(), resolved::REPLACED);
                self.wrong(field, problem, resolved::REMEDY);
            }
            Err(errno) => self.absent(field, path, &errno.into()),
        }
    }

    fn consoles(&mut self, consoles: &[Console]) {
        for (index, console) in consoles.iter().enumerate() {
            let field = format!("consoles[{index}]");
            if index >= 4 {
                self.wrong(&field, "a fifth serial port", "use at most four");
            }
            if let ConsoleOutput::Log(path) = &console.output {
                let folder = match path.parent() {
                    Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                    Some(parent) => parent,
                    None => Path::new("/"),
                };
                if !folder.is_dir() {
                    self.wrong(
                        format!("{field}.output"),
                        format!("{} is no folder", folder.display()),
                        "make it first",
                    );
                }
            }
        }
    }

    /// Refuses what the driver has not got.
    fn wired(&mut self, config: &VmConfig) {
        if self.driver == DriverKind::Kvm {
            self.own_monitor(config);
        } else if self.driver != DriverKind::Qemu {
            self.wrong(
                "driver",
                format!("this build has no driver {}", self.driver),
                "use the driver qemu",
            );
            return;
        }
        if self.driver == DriverKind::Qemu && !config.shares.is_empty() && config.vsock.is_none() {
            self.wrong(
                "shares",
                "the driver qemu has shared folders from the process of the vsock device",
                "add a vsock device",
            );
        }
        if config.graphics.is_some() {
            self.lacks("graphics", "display");
        }
        if config.audio.is_some() {
            self.lacks("audio", "sound card");
        }
        if config.usb.is_some() {
            self.lacks("usb", "USB controller");
        }
        if config.translation.is_some() {
            self.lacks("translation", "translation of foreign programs");
        }
    }

    /// Refuses what gourd's own monitor has not got.
    fn own_monitor(&mut self, config: &VmConfig) {
        let most = vmm::machine::MAX_VCPUS;
        if config.vcpus > most && config.vcpus <= MAX_VCPUS {
            let problem = format!("the driver kvm has no {} processors", config.vcpus);
            self.wrong("vcpus", problem, format!("use at most {most}"));
        }
        let others = usize::from(config.vsock.is_some())
            + usize::from(config.entropy)
            + usize::from(config.balloon.is_some());
        let most = vmm::machine::MAX_DEVICES
            .saturating_sub(others + config.networks.len() + config.shares.len());
        if config.disks.len() > most {
            let problem = format!(
                "the driver kvm has no room for {} disks",
                config.disks.len()
            );
            self.wrong("disks", problem, format!("use at most {most}"));
        }
        if config.consoles.len() > 2 {
            let problem = "the driver kvm has two serial ports";
            self.wrong("consoles", problem, "use at most two");
        }
        if config.virtualization && !crate::probe::host_nests() {
            self.wrong(
                "virtualization",
                "the host's KVM does not nest",
                "load kvm_amd or kvm_intel with nested=1, or leave it out",
            );
        }
    }

    /// Names go into arguments of monitors and into the guest: letters that need no quoting anywhere.
    fn name(&mut self, field: &str, name: &str, most: usize) {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > most {
            self.wrong(
                field,
                format!("{name:?} has {} bytes", name.len()),
                format!("use 1 to {most}"),
            );
        } else if !name.bytes().all(fine) {
            self.wrong(
                field,
                format!("{name:?} holds other letters than a-z A-Z 0-9 . _ -"),
                "use only those",
            );
        }
    }

    fn unique<'a>(&mut self, seen: &mut BTreeSet<&'a str>, field: String, name: &'a str) {
        if !seen.insert(name) {
            self.wrong(
                field,
                format!("{name:?} is used twice"),
                "give each its own",
            );
        }
    }

    fn file(&mut self, field: &str, path: &Path) {
        match std::fs::metadata(path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => self.wrong(
                field,
                format!("{} is no file", path.display()),
                "name a regular file",
            ),
            Err(error) => self.absent(field, path, &error),
        }
    }

    fn disk_image(&mut self, field: &str, path: &Path) {
        use std::os::unix::fs::FileTypeExt;
        match std::fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => {}
            Ok(found) if found.is_file() && found.len() == 0 => self.wrong(
                field,
                format!("{} is empty", path.display()),
                "give the image its size first",
            ),
            Ok(found) if found.is_file() && found.len() % 512 != 0 => self.wrong(
                field,
                format!(
                    "{} has {} bytes, no whole number of sectors",
                    path.display(),
                    found.len()
                ),
                "grow it to a multiple of 512",
            ),
            Ok(found) if found.is_file() => {}
            Ok(_) => self.wrong(
                field,
                format!("{} is neither a file nor a block device", path.display()),
                "name a raw disk image",
            ),
            Err(error) => self.absent(field, path, &error),
        }
    }

    fn absent(&mut self, field: impl Into<String>, path: &Path, error: &std::io::Error) {
        let problem = format!("{}: {}", path.display(), error.kind());
        self.wrong(field, problem, "name one that exists and can be read");
    }
}

#[cfg(test)]
mod tests;
