//! Guest memory, and what lies where in the guest's physical address space.
//!
//! ```text
//!   0          0x500     0x7000    0x9000       0x20000       0x9fc00   0xe0000  1 MiB       3 GiB        4 GiB
//!   | RAM      | GDT     | zero    | page       | command     | (none)  | ACPI   | RAM       | I/O        | RAM
//!   |          |         | page    | tables     | line        |         | tables | kernel... | virtio APICs |
//! ```

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

use crate::vsock::Memory;

/// The boot processor's descriptor table.
pub const GDT: u64 = 0x500;
/// Linux's boot parameters.
pub const ZERO_PAGE: u64 = 0x7000;
/// Four pages: the first 1 GiB as it is.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line, up to [`COMMAND_LINE_MAX`] bytes with its NUL.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// x86's `COMMAND_LINE_SIZE`.
pub const COMMAND_LINE_MAX: usize = 2048;
/// Where RAM below 1 MiB ends: the BIOS's data would begin.
pub const LOW_END: u64 = 0x9_fc00;
/// ACPI's tables, where firmware has them: in the area that is searched for the first one.
pub const ACPI: u64 = 0xe_0000;
/// The room for them.
pub const ACPI_SIZE: u64 = 0x1_0000;
/// Where RAM goes on, and the kernel may lie.
pub const HIGH_START: u64 = 0x10_0000;
/// Where RAM stops for memory-mapped I/O.
pub const GAP_START: u64 = 3 << 30;
/// Where RAM goes on after it.
pub const GAP_END: u64 = 4 << 30;
/// The virtio slots, one page each.
pub const VIRTIO: u64 = 0xd000_0000;
/// The I/O APIC's registers: KVM's.
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs' registers: KVM's.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Pages that Intel's processors without "unrestricted guest" need.
pub const TSS: usize = 0xfffb_d000;

/// The pieces of RAM: guest address and bytes.
pub fn ranges(size: u64) -> Vec<(u64, u64)> {
    if size <= GAP_START {
        return vec![(0, size)];
    }
    vec![(0, GAP_START), (GAP_END, size - GAP_START)]
}

/// Makes guest memory: one memory file, mapped shared, so that other processes can be given it and its pages can go back
/// to the host.
pub fn make(size: u64) -> io::Result<Memory> {
    let file = memfd_create("guest", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, size)?;
    let file = File::from(file);
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, len) in ranges(size) {
        let part = FileOffset::new(file.try_clone()?, offset);
        let mapping = MmapRegion::from_file(part, len as usize).map_err(io::Error::other)?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(start));
        regions.push(region.ok_or_else(|| io::Error::other("guest memory wraps around"))?);
        offset += len;
    }
    Memory::from_regions(regions).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_left_out() {
        assert_eq!(ranges(128 << 20), [(0, 128 << 20)]);
        assert_eq!(ranges(3 << 30), [(0, 3 << 30)]);
        assert_eq!(ranges(5 << 30), [(0, 3 << 30), (4 << 30, 2 << 30)]);
    }
}
