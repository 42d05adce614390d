//! Loading Linux: kernel, initramfs, command line and boot parameters (Documentation/arch/x86/boot.rst).
//!
//! `vmlinux` and `bzImage` are both entered by the 64-bit boot protocol: `vmlinux` at its ELF entry, `bzImage` 0x200 bytes
//! after where its protected-mode part was put. The kernel's file is the host's, not the guest's, and trusted as such; a
//! broken one is an error here or a guest that does not boot.

use std::fs::File;
use std::io::{self, Read, Seek};

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use thiserror::Error;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::memory::{
    ACPI, ACPI_SIZE, COMMAND_LINE, COMMAND_LINE_MAX, GAP_START, HIGH_START, LOW_END, ZERO_PAGE,
    ranges,
};
use crate::vsock::Memory;

/// Why a guest cannot be loaded.
#[derive(Debug, Error)]
pub enum BootError {
    /// The file is no kernel, or one that is too large.
    #[error("load the kernel")]
    Kernel(#[source] linux_loader::loader::Error),
    /// A file can't be read.
    #[error("read {0}")]
    Read(&'static str, #[source] io::Error),
    /// Something has no room in guest memory.
    #[error("{what} of {bytes} bytes has no room in guest memory")]
    Room {
        /// What.
        what: &'static str,
        /// Its size.
        bytes: u64,
    },
    /// The kernel is too old for the 64-bit boot protocol, or was built without it.
    #[error("the bzImage has no 64-bit entry")]
    No64BitEntry,
}

/// What is loaded.
pub struct Files<'a> {
    /// `vmlinux` or `bzImage`.
    pub kernel: &'a mut File,
    /// A cpio archive.
    pub initramfs: Option<&'a mut File>,
    /// Without a NUL.
    pub command_line: &'a str,
}

/// `boot_params` as bytes.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct ZeroPage(boot_params);

// SAFETY: the kernel's `struct boot_params` is packed: integers and arrays of them, every byte pattern valid, no padding.
unsafe impl ByteValued for ZeroPage {}

/// Loads all; returns the address at which the boot processor starts.
pub fn load(mem: &Memory, size: u64, files: Files<'_>) -> Result<GuestAddress, BootError> {
    let high = Some(GuestAddress(HIGH_START));
    let mut magic = [0; 4];
    files
        .kernel
        .read_exact(&mut magic)
        .map_err(|error| BootError::Read("the kernel", error))?;
    let (loaded, entry, mut header);
    if magic == *b"\x7fELF" {
        loaded = Elf::load(mem, None, files.kernel, high).map_err(BootError::Kernel)?;
        entry = loaded.kernel_load;
        header = setup_header {
            boot_flag: 0xaa55,
            header: u32::from_le_bytes(*b"HdrS"),
            kernel_alignment: 0x100_0000,
            ..Default::default()
        };
    } else {
        const XLF_KERNEL_64: u16 = 1;
        loaded = BzImage::load(mem, None, files.kernel, high).map_err(BootError::Kernel)?;
        header = loaded.setup_header.unwrap_or_default();
        if header.version < 0x20c || header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(BootError::No64BitEntry);
        }
        entry = GuestAddress(loaded.kernel_load.0 + 0x200);
    }
    // "Some other boot loader".
    header.type_of_loader = 0xff;
    // A bzImage unpacks itself to where it prefers to be, over so many bytes.
    let kernel_end = loaded.kernel_end.max(
        header
            .pref_address
            .saturating_add(u64::from(header.init_size)),
    );
    if let Some(initramfs) = files.initramfs {
        let (at, len) = load_initramfs(mem, size, kernel_end, initramfs)?;
        header.ramdisk_image = at;
        header.ramdisk_size = len;
    }
    header.cmd_line_ptr = COMMAND_LINE as u32;
    header.cmdline_size = files.command_line.len() as u32;
    put_command_line(mem, files.command_line)?;
    put_zero_page(mem, size, header)?;
    Ok(entry)
}

/// At the end of the memory that 32 bits reach, so that the kernel is free to unpack itself.
fn load_initramfs(
    mem: &Memory,
    size: u64,
    kernel_end: u64,
    file: &mut File,
) -> Result<(u32, u32), BootError> {
    let read = |error| BootError::Read("the initramfs", error);
    let len = file.seek(io::SeekFrom::End(0)).map_err(read)?;
    file.rewind().map_err(read)?;
    let top = size.min(GAP_START);
    let start = top.checked_sub(len).map(|start| start & !0xfff);
    let room = BootError::Room {
        what: "an initramfs",
        bytes: len,
    };
    let Some(start) = start.filter(|&start| start >= kernel_end) else {
        return Err(room);
    };
    mem.read_exact_volatile_from(GuestAddress(start), file, len as usize)
        .map_err(|error| read(io::Error::other(error)))?;
    Ok((start as u32, len as u32))
}

fn put_command_line(mem: &Memory, line: &str) -> Result<(), BootError> {
    let room = || BootError::Room {
        what: "a command line",
        bytes: line.len() as u64,
    };
    if line.len() >= COMMAND_LINE_MAX {
        return Err(room());
    }
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(0);
    let at = GuestAddress(COMMAND_LINE);
    mem.write_slice(&bytes, at).map_err(|_| room())
}

fn put_zero_page(mem: &Memory, size: u64, header: setup_header) -> Result<(), BootError> {
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: ACPI,
        ..Default::default()
    };
    for (index, (start, end, kind)) in e820(size).into_iter().enumerate() {
        params.e820_table[index] = boot_e820_entry {
            addr: start,
            size: end - start,
            r#type: kind,
        };
        params.e820_entries = index as u8 + 1;
    }
    mem.write_obj(ZeroPage(params), GuestAddress(ZERO_PAGE))
        .map_err(|_| BootError::Room {
            what: "the boot parameters",
            bytes: 4096,
        })
}

/// What is RAM and what is not: start, end, type (1 RAM, 2 reserved, 3 ACPI tables).
fn e820(size: u64) -> Vec<(u64, u64, u32)> {
    const RAM: u32 = 1;
    const RESERVED: u32 = 2;
    const ACPI_TABLES: u32 = 3;
    let mut map = vec![
        (0, LOW_END, RAM),
        (LOW_END, ACPI, RESERVED),
        (ACPI, ACPI + ACPI_SIZE, ACPI_TABLES),
        (ACPI + ACPI_SIZE, HIGH_START, RESERVED),
    ];
    for (start, len) in ranges(size) {
        map.push((start.max(HIGH_START), start + len, RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_has_no_holes_and_no_overlaps() {
        for size in [96 << 20, 3 << 30, 5u64 << 30] {
            let map = e820(size);
            let below_gap = map.iter().filter(|entry| entry.0 < GAP_START);
            let mut next = 0;
            for &(start, end, _) in below_gap {
                assert_eq!(start, next);
                next = end;
            }
            let ram: u64 = map.iter().filter(|e| e.2 == 1).map(|e| e.1 - e.0).sum();
            assert_eq!(ram, size - (HIGH_START - LOW_END));
            let at = super::super::memory::GENERATION;
            let reserved = |e: &(u64, u64, u32)| e.0 <= at && at + 4096 <= e.1 && e.2 == 2;
            assert!(map.iter().any(reserved), "the generation's page");
        }
    }

    #[test]
    fn no_kernel_is_an_error() {
        let mem = super::super::memory::make(16 << 20).unwrap();
        for bytes in [&b""[..], b"\x7fELF", b"no kernel at all", &[0; 4096]] {
            let mut file = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut file, bytes).unwrap();
            file.rewind().unwrap();
            let files = Files {
                kernel: &mut file,
                initramfs: None,
                command_line: "",
            };
            assert!(load(&mem, 16 << 20, files).is_err());
        }
    }
}
