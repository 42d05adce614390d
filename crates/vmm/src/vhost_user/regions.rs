//! Guest memory as the front-end describes it (`SET_MEM_TABLE`), mapped here.

use std::fs::File;

use thiserror::Error;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

use crate::vsock::Memory;

/// Why guest memory could not be mapped.
#[derive(Debug, Error)]
pub enum RegionsError {
    /// A region cannot be mapped.
    #[error("guest memory region of {size} bytes at {guest_addr:#x}")]
    Map {
        /// Guest physical address.
        guest_addr: u64,
        /// Bytes.
        size: u64,
        /// The cause.
        #[source]
        source: vm_memory::mmap::MmapRegionError,
    },
    /// A region reaches over the end of its file: touching what is behind that would end the process.
    #[error("guest memory region of {size} bytes at {guest_addr:#x} is longer than its file")]
    Short {
        /// Guest physical address.
        guest_addr: u64,
        /// Bytes.
        size: u64,
    },
    /// A region's file can't be measured.
    #[error("file of the guest memory region at {guest_addr:#x}")]
    File {
        /// Guest physical address.
        guest_addr: u64,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A region reaches over the end of the address space.
    #[error("guest memory region of {size} bytes at {guest_addr:#x} wraps around")]
    Wraps {
        /// Guest physical address.
        guest_addr: u64,
        /// Bytes.
        size: u64,
    },
    /// Regions overlap, or there are none.
    #[error("guest memory regions")]
    Collection(#[source] vm_memory::GuestRegionCollectionError),
}

/// Where a region lies in the front-end's address space.
struct Translation {
    user_addr: u64,
    size: u64,
    guest_addr: u64,
}

/// Guest memory, and the front-end's view of it.
pub struct Regions {
    /// The memory.
    pub mem: Memory,
    translations: Vec<Translation>,
}

impl Regions {
    /// Maps the regions, each from its own file.
    pub fn map(
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
    ) -> Result<Regions, RegionsError> {
        let mut mapped = Vec::new();
        let mut translations = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            let (guest_addr, size) = (region.guest_phys_addr, region.memory_size);
            let wraps = RegionsError::Wraps { guest_addr, size };
            let metadata = file
                .metadata()
                .map_err(|source| RegionsError::File { guest_addr, source })?;
            let end = region.mmap_offset.checked_add(size);
            if end.is_none_or(|end| end > metadata.len()) {
                return Err(RegionsError::Short { guest_addr, size });
            }
            let mapping =
                MmapRegion::from_file(FileOffset::new(file, region.mmap_offset), size as usize)
                    .map_err(|source| RegionsError::Map {
                        guest_addr,
                        size,
                        source,
                    })?;
            mapped.push(GuestRegionMmap::new(mapping, GuestAddress(guest_addr)).ok_or(wraps)?);
            translations.push(Translation {
                user_addr: region.user_addr,
                size,
                guest_addr,
            });
        }
        let mem = Memory::from_regions(mapped).map_err(RegionsError::Collection)?;
        Ok(Regions { mem, translations })
    }

    /// The guest's address for one of the front-end's (ring addresses come as those).
    pub fn guest_addr(&self, user_addr: u64) -> Option<GuestAddress> {
        self.translations.iter().find_map(|region| {
            let offset = user_addr.checked_sub(region.user_addr)?;
            (offset < region.size).then(|| GuestAddress(region.guest_addr + offset))
        })
    }
}
