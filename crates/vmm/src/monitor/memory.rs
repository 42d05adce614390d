//! Guest memory, and what lies where in the guest's physical address space.
//!
//! ```text
//!   0          0x500     0x7000    0x9000       0x20000       0x9fc00   0xe0000  1 MiB       3 GiB        4 GiB
//!   | RAM      | GDT     | zero    | page       | command     | (none)  | ACPI   | RAM       | I/O        | RAM
//!   |          |         | page    | tables     | line        |         | tables | kernel... | virtio APICs |
//! ```

use std::io;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};

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
/// The VM generation identifier, behind them, in a page that is nobody's.
pub const GENERATION: u64 = ACPI + ACPI_SIZE;
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

/// Bytes of the host's huge pages, at whose multiples a range of memory must begin to be made of them.
const HUGE_PAGE: usize = 2 << 20;

/// Makes guest memory: private, with the host's huge pages where it has some. What the guest touches first costs it an exit and
/// the host a page: with pages of 4 KiB that is most of a boot.
///
/// It is never unmapped: a machine's memory lives as long as its process.
pub fn make(size: u64) -> io::Result<Memory> {
    let mut regions = Vec::new();
    for (start, len) in ranges(size) {
        let region = GuestRegionMmap::new(map(len as usize)?, GuestAddress(start));
        regions.push(region.ok_or_else(|| io::Error::other("guest memory wraps around"))?);
    }
    Memory::from_regions(regions).map_err(io::Error::other)
}

/// Maps `len` bytes, whole pages, from a multiple of [`HUGE_PAGE`] on.
fn map(len: usize) -> io::Result<MmapRegion> {
    let (protection, flags) = (
        ProtFlags::READ | ProtFlags::WRITE,
        // More than the host has is the host's to refuse when it is touched.
        MapFlags::PRIVATE | MapFlags::NORESERVE,
    );
    let spare = len
        .checked_add(HUGE_PAGE)
        .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
    let whole = unsafe { mmap_anonymous(std::ptr::null_mut(), spare, protection, flags)? };
    let before = whole.align_offset(HUGE_PAGE);
    let start = whole.wrapping_byte_add(before);
    let after = HUGE_PAGE - before;
    // SAFETY: both ends lie in the mapping that was just made and that nobody else knows.
    unsafe {
        if before > 0 {
            munmap(whole, before)?;
        }
        if after > 0 {
            munmap(start.wrapping_byte_add(len), after)?;
        }
        // A host without huge pages refuses, and has none to give.
        let _ = madvise(start, len, Advice::LinuxHugepage);
        // The guest's secrets are in no core file of ours.
        madvise(start, len, Advice::LinuxDontDump)?;
    }
    // SAFETY: the range is mapped so, and stays for as long as the process lives.
    let region = unsafe {
        MmapRegion::build_raw(
            start.cast(),
            len,
            protection.bits() as i32,
            flags.bits() as i32,
        )
    };
    region.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend};

    use super::*;

    #[test]
    fn the_gap_is_left_out() {
        assert_eq!(ranges(128 << 20), [(0, 128 << 20)]);
        assert_eq!(ranges(3 << 30), [(0, 3 << 30)]);
        assert_eq!(ranges(5 << 30), [(0, 3 << 30), (4 << 30, 2 << 30)]);
    }

    /// Where a huge page of the guest begins, one of the host must.
    #[test]
    fn memory_is_writable_to_both_ends_and_aligned() {
        for size in [1 << 20, 5 << 20] {
            let mem = make(size).unwrap();
            let host = mem.get_host_address(GuestAddress(0)).unwrap();
            assert_eq!(host.align_offset(HUGE_PAGE), 0);
            for at in [0, size - 8] {
                mem.write_obj(0x0123_4567_89ab_cdefu64, GuestAddress(at))
                    .unwrap();
            }
            assert!(mem.write_obj(0u8, GuestAddress(size)).is_err());
        }
    }
}
