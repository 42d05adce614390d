//! The superblock's own checks, and where everything lies.

use super::{Place, Report};
use crate::layout::has_super;
use crate::le::{get16, get32};
use crate::read::{self, Source};
use crate::superblock::{
    self, EXT4_FEATURE_INCOMPAT_META_BG, EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER, INCOMPAT_READABLE,
    SUPERBLOCK_SIZE, Superblock,
};

const COMPAT_RESIZE_INODE: u32 = 0x10;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const COMPAT_ORPHAN_FILE: u32 = 0x1000;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_FLEX_BG: u32 = 0x200;
const INCOMPAT_EA_INODE: u32 = 0x400;
const RO_COMPAT_GDT_CSUM: u32 = 0x10;
const RO_COMPAT_QUOTA: u32 = 0x100;
const RO_COMPAT_ORPHAN_PRESENT: u32 = 0x1_0000;
/// sparse_super, large_file, btree_dir, huge_file, gdt_csum, dir_nlink, extra_isize, quota, metadata_csum, readonly,
/// project, verity, orphan_present. Not `bigalloc`, under which a bit is more than a block, nor snapshots and replicas.
const RO_COMPAT_KNOWN: u32 = 0x1
    | 0x2
    | 0x4
    | 0x8
    | 0x10
    | 0x20
    | 0x40
    | 0x100
    | 0x400
    | 0x1000
    | 0x2000
    | 0x8000
    | 0x1_0000;

const VALID_FS: u16 = 1;
const ERROR_FS: u16 = 2;

/// A superblock that makes sense, and its raw bytes.
#[derive(Debug)]
pub(crate) struct Geometry {
    pub(crate) superblock: Superblock,
    pub(crate) raw: [u8; SUPERBLOCK_SIZE],
    pub(crate) groups: u64,
}

impl Geometry {
    /// None when the superblock is too wrong to go on; the report says why.
    pub(crate) fn new<S: Source>(
        source: &S,
        raw: &[u8; SUPERBLOCK_SIZE],
        superblock: Superblock,
        report: &mut Report,
    ) -> read::Result<Option<Self>> {
        let sb = &superblock;
        let unknown = sb.incompat & !(INCOMPAT_READABLE | INCOMPAT_EA_INODE);
        if unknown != 0 {
            return Err(read::Error::Features { features: unknown });
        }
        let unknown = sb.ro_compat & !RO_COMPAT_KNOWN;
        if unknown != 0 {
            return Err(read::Error::ReadOnlyFeatures { features: unknown });
        }
        let mut wrong = |problem| report.add(Place::Superblock, problem);
        if sb.has_checksums() {
            let (stored, computed) = superblock::checksum(raw);
            if stored != computed {
                wrong(format!(
                    "its checksum is {stored:#x}, should be {computed:#x}"
                ));
            }
        }
        let data_blocks = sb.blocks.saturating_sub(sb.first_data_block.into());
        let groups = data_blocks.div_ceil(sb.blocks_per_group.into());
        let inodes = groups.checked_mul(sb.inodes_per_group.into());
        if inodes != Some(sb.inodes.into()) {
            wrong(format!(
                "s_inodes_count is {}, should be {groups} groups of {}",
                sb.inodes, sb.inodes_per_group
            ));
            return Ok(None);
        }
        let expected = sb.blocks.saturating_mul(sb.block_size.into());
        let actual = read::size(source)?;
        if actual < expected {
            wrong(format!(
                "the file system has {expected} bytes, but is cut off at {actual}"
            ));
            return Ok(None);
        }
        if (sb.block_size == 1024) != (sb.first_data_block == 1) {
            wrong(format!("s_first_data_block is {}", sb.first_data_block));
            return Ok(None);
        }
        let table_bytes = u64::from(sb.inodes_per_group) * u64::from(sb.inode_size);
        if !table_bytes.is_multiple_of(sb.block_size.into()) {
            wrong(format!(
                "s_inodes_per_group is {}, no whole blocks",
                sb.inodes_per_group
            ));
            return Ok(None);
        }
        if get32(raw, 0x24) != sb.blocks_per_group {
            wrong(format!(
                "s_clusters_per_group is {}, should be {}",
                get32(raw, 0x24),
                sb.blocks_per_group
            ));
        }
        if !sb.blocks_per_group.is_multiple_of(8) || !sb.inodes_per_group.is_multiple_of(8) {
            wrong("groups have no whole bytes of bitmaps".to_owned());
            return Ok(None);
        }
        let first_ino = match get32(raw, 0x4c) {
            0 => 11,
            _ => get32(raw, 0x54),
        };
        if first_ino > sb.inodes {
            wrong(format!("s_first_ino is {first_ino}"));
            return Ok(None);
        }
        for (field, at) in [("s_min_extra_isize", 0x15c), ("s_want_extra_isize", 0x15e)] {
            let value = get16(raw, at);
            let most = sb.inode_size.saturating_sub(128);
            if sb.inode_size > 128 && (value > most || !value.is_multiple_of(4)) {
                wrong(format!("{field} is {value}"));
            }
        }
        if get32(raw, 0x1c) != get32(raw, 0x18) {
            wrong(format!("s_log_cluster_size is {}", get32(raw, 0x1c)));
        }
        if u64::from(get32(raw, 0x08)) > sb.blocks {
            wrong(format!("s_r_blocks_count is {}", get32(raw, 0x08)));
        }
        let geometry = Self {
            raw: *raw,
            groups,
            superblock,
        };
        if geometry.has_meta_bg()
            && u64::from(geometry.superblock.first_meta_bg) > geometry.descriptor_blocks()
        {
            let first = geometry.superblock.first_meta_bg;
            report.add(Place::Superblock, format!("s_first_meta_bg is {first}"));
            return Ok(None);
        }
        geometry.note(report);
        Ok(Some(geometry))
    }

    fn note(&self, report: &mut Report) {
        let sb = &self.superblock;
        let state = get16(&self.raw, 0x3a);
        if sb.needs_recovery() {
            report.needs_recovery = true;
            let note = "the journal waits to be replayed: whoever mounts it next does that";
            report.notes.push(note.to_owned());
        } else if state & VALID_FS == 0 {
            report.notes.push("it was not unmounted".to_owned());
        }
        if state & ERROR_FS != 0 {
            report.notes.push("a kernel found errors in it".to_owned());
        }
        if sb.ro_compat & RO_COMPAT_ORPHAN_PRESENT != 0 {
            let note = "files that were deleted while open wait to be freed";
            report.notes.push(note.to_owned());
        }
        report.label.clone_from(&sb.label);
        report.block_size = sb.block_size;
        report.blocks = sb.blocks;
        report.inodes = sb.inodes;
    }

    fn has_meta_bg(&self) -> bool {
        self.superblock.incompat & EXT4_FEATURE_INCOMPAT_META_BG != 0
    }

    pub(crate) fn has_extents(&self) -> bool {
        self.superblock.incompat & INCOMPAT_EXTENTS != 0
    }

    pub(crate) fn has_ea_inodes(&self) -> bool {
        self.superblock.incompat & INCOMPAT_EA_INODE != 0
    }

    pub(crate) fn has_flex_bg(&self) -> bool {
        self.superblock.incompat & INCOMPAT_FLEX_BG != 0
    }

    /// crc16 sums of descriptors alone.
    pub(crate) fn has_gdt_csum(&self) -> bool {
        self.superblock.ro_compat & RO_COMPAT_GDT_CSUM != 0 && !self.superblock.has_checksums()
    }

    /// Descriptors have flags and counts of unused inodes that mean something.
    pub(crate) fn has_group_flags(&self) -> bool {
        self.has_gdt_csum() || self.superblock.has_checksums()
    }

    pub(crate) fn has_resize_inode(&self) -> bool {
        self.superblock.compat & COMPAT_RESIZE_INODE != 0
    }

    /// Inodes without a name by design: of quotas and of orphans; zero: none.
    pub(crate) fn hidden_inodes(&self) -> [u32; 4] {
        let when = |feature: bool, at| if feature { get32(&self.raw, at) } else { 0 };
        let quota = self.superblock.ro_compat & RO_COMPAT_QUOTA != 0;
        let orphans = self.superblock.compat & COMPAT_ORPHAN_FILE != 0;
        [
            when(quota, 0x240),
            when(quota, 0x244),
            when(quota, 0x26c),
            when(orphans, 0x280),
        ]
    }

    pub(crate) fn first_ino(&self) -> u32 {
        match get32(&self.raw, 0x4c) {
            0 => 11,
            _ => get32(&self.raw, 0x54),
        }
    }

    pub(crate) fn block_size(&self) -> u64 {
        self.superblock.block_size.into()
    }

    /// The first block of a group, and how many it has.
    pub(crate) fn span(&self, group: u64) -> (u64, u64) {
        let per_group = u64::from(self.superblock.blocks_per_group);
        let start = u64::from(self.superblock.first_data_block) + group * per_group;
        (start, per_group.min(self.superblock.blocks - start))
    }

    /// Blocks of an inode table.
    pub(crate) fn table_blocks(&self) -> u64 {
        let bytes =
            u64::from(self.superblock.inodes_per_group) * u64::from(self.superblock.inode_size);
        bytes / self.block_size()
    }

    pub(crate) fn descriptors_per_block(&self) -> u64 {
        self.block_size() / u64::from(self.superblock.desc_size)
    }

    fn descriptor_blocks(&self) -> u64 {
        self.groups.div_ceil(self.descriptors_per_block())
    }

    fn has_super(&self, group: u64) -> bool {
        if self.superblock.compat & COMPAT_SPARSE_SUPER2 != 0 {
            let backups = [get32(&self.raw, 0x24c), get32(&self.raw, 0x250)];
            return group == 0 || backups.iter().any(|backup| u64::from(*backup) == group);
        }
        let sparse = self.superblock.ro_compat & EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER != 0;
        !sparse || has_super(group)
    }

    /// Where the block with a group's descriptor lies.
    pub(crate) fn descriptor_block(&self, group: u64) -> u64 {
        let meta_group = group / self.descriptors_per_block();
        if !self.has_meta_bg() || meta_group < u64::from(self.superblock.first_meta_bg) {
            return u64::from(self.superblock.first_data_block) + 1 + meta_group;
        }
        let first = meta_group * self.descriptors_per_block();
        self.span(first).0 + u64::from(self.has_super(first))
    }

    /// How many blocks at the start of a group are the superblock, descriptors, and those kept for more descriptors.
    pub(crate) fn reserved(&self, group: u64) -> u64 {
        let copy = self.has_super(group);
        let per_block = self.descriptors_per_block();
        let old = if self.has_meta_bg() {
            u64::from(self.superblock.first_meta_bg).min(self.descriptor_blocks())
        } else {
            self.descriptor_blocks()
        };
        let mut count = 0;
        if copy {
            count += 1 + old;
            if self.has_resize_inode() {
                count += u64::from(get16(&self.raw, 0xce)); // s_reserved_gdt_blocks
            }
        }
        let within = group % per_block;
        if self.has_meta_bg()
            && group / per_block >= u64::from(self.superblock.first_meta_bg)
            && (within <= 1 || within == per_block - 1)
        {
            count += 1;
        }
        count
    }
}
