//! The superblock: 1024 bytes at offset 1024 of the disk, and copies at the start of some groups.
//!
//! Source: `Documentation/filesystems/ext4/super.rst`, which lists every offset used here.
//!
//! Zero on purpose: reserved blocks unless asked for (a container's disk needs no reserve for root), their owner,
//! mount counts and check intervals (nobody wants a start that waits for a check), everything about
//! RAID, quota, encryption, snapshots and past errors.

use crate::crc::crc32c;
use crate::dirhash::DX_HASH_HALF_MD4;
use crate::inode::EXTRA_ISIZE;
use crate::layout::{
    BLOCKS_PER_GROUP, DESC_SIZE, EXT4_GOOD_OLD_FIRST_INO, EXT4_JOURNAL_INO, INODE_SIZE,
    LOG_GROUPS_PER_FLEX,
};
use crate::le::{get16, get32, get32_split, put16, put32, put32_split};
use crate::tree::Timestamp;

pub(crate) const SUPERBLOCK_OFFSET: u64 = 1024;
pub(crate) const SUPERBLOCK_SIZE: usize = 1024;
const EXT4_SUPER_MAGIC: u16 = 0xef53;
const CHECKSUM_AT: usize = 0x3fc;

const EXT4_FEATURE_COMPAT_HAS_JOURNAL: u32 = 0x4;
const EXT4_FEATURE_COMPAT_EXT_ATTR: u32 = 0x8;
const EXT4_FEATURE_COMPAT_DIR_INDEX: u32 = 0x20;

const EXT4_FEATURE_INCOMPAT_FILETYPE: u32 = 0x2;
pub(crate) const EXT4_FEATURE_INCOMPAT_RECOVER: u32 = 0x4;
pub(crate) const EXT4_FEATURE_INCOMPAT_META_BG: u32 = 0x10;
const EXT4_FEATURE_INCOMPAT_EXTENTS: u32 = 0x40;
pub(crate) const EXT4_FEATURE_INCOMPAT_64BIT: u32 = 0x80;
const EXT4_FEATURE_INCOMPAT_FLEX_BG: u32 = 0x200;
const EXT4_FEATURE_INCOMPAT_EA_INODE: u32 = 0x400;
pub(crate) const EXT4_FEATURE_INCOMPAT_CSUM_SEED: u32 = 0x2000;
const EXT4_FEATURE_INCOMPAT_LARGEDIR: u32 = 0x4000;
/// What a reader must know to read at all. `RECOVER` is among them: the caller decides about it.
pub(crate) const INCOMPAT_READABLE: u32 = EXT4_FEATURE_INCOMPAT_FILETYPE
    | EXT4_FEATURE_INCOMPAT_RECOVER
    | EXT4_FEATURE_INCOMPAT_META_BG
    | EXT4_FEATURE_INCOMPAT_EXTENTS
    | EXT4_FEATURE_INCOMPAT_64BIT
    | EXT4_FEATURE_INCOMPAT_FLEX_BG
    | EXT4_FEATURE_INCOMPAT_EA_INODE
    | EXT4_FEATURE_INCOMPAT_CSUM_SEED
    | EXT4_FEATURE_INCOMPAT_LARGEDIR;

pub(crate) const EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const EXT4_FEATURE_RO_COMPAT_LARGE_FILE: u32 = 0x2;
const EXT4_FEATURE_RO_COMPAT_HUGE_FILE: u32 = 0x8;
const EXT4_FEATURE_RO_COMPAT_DIR_NLINK: u32 = 0x20;
const EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE: u32 = 0x40;
pub(crate) const EXT4_FEATURE_RO_COMPAT_METADATA_CSUM: u32 = 0x400;

const EXT4_VALID_FS: u16 = 1;
const EXT4_ERRORS_CONTINUE: u16 = 1;
const EXT4_DYNAMIC_REV: u32 = 1;
const EXT2_FLAGS_UNSIGNED_HASH: u32 = 2;
const EXT4_DEFM_XATTR_USER: u32 = 0x4;
const EXT4_DEFM_ACL: u32 = 0x8;
const EXT4_CRC32C_CHKSUM: u8 = 1;
const EXT3_JNL_BACKUP_BLOCKS: u8 = 1;

/// The fields of a file system that differ from one to the next.
#[derive(Clone, Debug)]
pub(crate) struct NewSuperblock {
    pub(crate) inodes_per_group: u32,
    pub(crate) groups: u64,
    pub(crate) blocks: u64,
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u32,
    /// Blocks that hold metadata of the file system itself, the journal included.
    pub(crate) overhead: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) label: [u8; 16],
    pub(crate) created: Timestamp,
    /// The journal's `i_block` and size, kept here in case its inode is lost.
    pub(crate) journal: Option<([u8; 60], u64)>,
    /// Whether values of extended attributes have inodes of their own.
    pub(crate) ea_inode: bool,
}

impl NewSuperblock {
    /// What all checksums start from.
    pub(crate) fn seed(&self) -> u32 {
        checksum_seed(&self.uuid)
    }

    /// Encodes the copy that stands in `group`.
    pub(crate) fn encode(&self, group: u64) -> [u8; SUPERBLOCK_SIZE] {
        let mut raw = [0; SUPERBLOCK_SIZE];
        let raw = &mut raw;
        put32(raw, 0x00, self.inodes_per_group * self.groups as u32);
        put32_split(raw, 0x04, 0x150, self.blocks);
        put32_split(raw, 0x0c, 0x158, self.free_blocks);
        put32(raw, 0x10, self.free_inodes);
        put32(raw, 0x18, 2); // s_log_block_size: 4 KiB
        put32(raw, 0x1c, 2); // s_log_cluster_size, the same
        put32(raw, 0x20, BLOCKS_PER_GROUP as u32);
        put32(raw, 0x24, BLOCKS_PER_GROUP as u32);
        put32(raw, 0x28, self.inodes_per_group);
        put16(raw, 0x36, u16::MAX); // s_max_mnt_count: never
        put16(raw, 0x38, EXT4_SUPER_MAGIC);
        put16(raw, 0x3a, EXT4_VALID_FS);
        put16(raw, 0x3c, EXT4_ERRORS_CONTINUE);
        put32(raw, 0x4c, EXT4_DYNAMIC_REV);
        put32(raw, 0x54, EXT4_GOOD_OLD_FIRST_INO);
        put16(raw, 0x58, INODE_SIZE as u16);
        put16(raw, 0x5a, group as u16); // s_block_group_nr: 16 bits, informative
        self.encode_features(raw);
        raw[0x68..0x78].copy_from_slice(&self.uuid);
        raw[0x78..0x88].copy_from_slice(&self.label);
        for (i, word) in hash_seed(&self.uuid).iter().enumerate() {
            put32(raw, 0xec + i * 4, *word);
        }
        raw[0xfc] = DX_HASH_HALF_MD4;
        put16(raw, 0xfe, DESC_SIZE as u16);
        put32(raw, 0x100, EXT4_DEFM_XATTR_USER | EXT4_DEFM_ACL);
        put16(raw, 0x15c, EXTRA_ISIZE);
        put16(raw, 0x15e, EXTRA_ISIZE);
        put32(raw, 0x160, EXT2_FLAGS_UNSIGNED_HASH);
        raw[0x174] = LOG_GROUPS_PER_FLEX;
        raw[0x175] = EXT4_CRC32C_CHKSUM;
        put32(raw, 0x248, u32::try_from(self.overhead).unwrap_or(0)); // zero: not known
        self.encode_times(raw);
        self.encode_journal(raw);
        let sum = crc32c(!0, &raw[..CHECKSUM_AT]);
        put32(raw, CHECKSUM_AT, sum);
        *raw
    }

    fn encode_features(&self, raw: &mut [u8; SUPERBLOCK_SIZE]) {
        let journal = match self.journal {
            Some(_) => EXT4_FEATURE_COMPAT_HAS_JOURNAL,
            None => 0,
        };
        put32(
            raw,
            0x5c,
            journal | EXT4_FEATURE_COMPAT_EXT_ATTR | EXT4_FEATURE_COMPAT_DIR_INDEX,
        );
        let ea_inode = match self.ea_inode {
            true => EXT4_FEATURE_INCOMPAT_EA_INODE,
            false => 0,
        };
        put32(
            raw,
            0x60,
            ea_inode
                | EXT4_FEATURE_INCOMPAT_FILETYPE
                | EXT4_FEATURE_INCOMPAT_META_BG
                | EXT4_FEATURE_INCOMPAT_EXTENTS
                | EXT4_FEATURE_INCOMPAT_64BIT
                | EXT4_FEATURE_INCOMPAT_FLEX_BG,
        );
        put32(
            raw,
            0x64,
            EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER
                | EXT4_FEATURE_RO_COMPAT_LARGE_FILE
                | EXT4_FEATURE_RO_COMPAT_HUGE_FILE
                | EXT4_FEATURE_RO_COMPAT_DIR_NLINK
                | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE
                | EXT4_FEATURE_RO_COMPAT_METADATA_CSUM,
        );
    }

    /// 40 bits each, unsigned.
    fn encode_times(&self, raw: &mut [u8; SUPERBLOCK_SIZE]) {
        let secs = self.created.secs.clamp(0, (1 << 40) - 1);
        // s_wtime, s_lastcheck, s_mkfs_time
        for (low, high) in [(0x30, 0x274), (0x40, 0x277), (0x108, 0x276)] {
            put32(raw, low, secs as u32);
            raw[high] = (secs >> 32) as u8;
        }
    }

    fn encode_journal(&self, raw: &mut [u8; SUPERBLOCK_SIZE]) {
        if let Some((i_block, size)) = &self.journal {
            encode_journal(raw, i_block, *size);
        }
    }
}

fn encode_journal(raw: &mut [u8; SUPERBLOCK_SIZE], i_block: &[u8; 60], size: u64) {
    put32(raw, 0xe0, EXT4_JOURNAL_INO);
    raw[0xfd] = EXT3_JNL_BACKUP_BLOCKS;
    raw[0x10c..0x10c + 60].copy_from_slice(i_block);
    put32_split(raw, 0x10c + 64, 0x10c + 60, size);
}

/// The same superblock with so many blocks for root alone.
pub(crate) fn with_reserved(mut raw: [u8; SUPERBLOCK_SIZE], blocks: u64) -> [u8; SUPERBLOCK_SIZE] {
    put32_split(&mut raw, 0x08, 0x154, blocks);
    let sum = crc32c(!0, &raw[..CHECKSUM_AT]);
    put32(&mut raw, CHECKSUM_AT, sum);
    raw
}

/// What changes in a superblock when its file system grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grown {
    pub(crate) inodes: u32,
    pub(crate) blocks: u64,
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u32,
    /// More blocks of metadata than before.
    pub(crate) more_overhead: u64,
    /// A journal that it did not have before: `i_block` and size.
    pub(crate) journal: Option<([u8; 60], u64)>,
}

impl Grown {
    /// The copy of a superblock that stands in `group`.
    pub(crate) fn encode(&self, old: &[u8; SUPERBLOCK_SIZE], group: u64) -> [u8; SUPERBLOCK_SIZE] {
        let mut raw = *old;
        put32(&mut raw, 0x00, self.inodes);
        put32_split(&mut raw, 0x04, 0x150, self.blocks);
        put32_split(&mut raw, 0x0c, 0x158, self.free_blocks);
        put32(&mut raw, 0x10, self.free_inodes);
        put16(&mut raw, 0x5a, group as u16);
        // Zero: not known.
        let overhead = match u64::from(get32(old, 0x248)) {
            0 => 0,
            known => u32::try_from(known + self.more_overhead).unwrap_or(0),
        };
        put32(&mut raw, 0x248, overhead);
        if let Some((i_block, size)) = &self.journal {
            let compat = get32(old, 0x5c) | EXT4_FEATURE_COMPAT_HAS_JOURNAL;
            put32(&mut raw, 0x5c, compat);
            encode_journal(&mut raw, i_block, *size);
        }
        let sum = crc32c(!0, &raw[..CHECKSUM_AT]);
        put32(&mut raw, CHECKSUM_AT, sum);
        raw
    }
}

/// What the checksums of a file system start from.
pub(crate) fn checksum_seed(uuid: &[u8; 16]) -> u32 {
    crc32c(!0, uuid)
}

/// The seed of the directories' hashes. It is as random as the identifier is; nothing else is
/// asked of it than to differ between file systems.
pub(crate) fn hash_seed(uuid: &[u8; 16]) -> [u32; 4] {
    let (words, _) = uuid.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}

/// A superblock that was read and whose fields make sense on their own.
#[derive(Clone, Debug)]
pub struct Superblock {
    /// All inodes.
    pub inodes: u32,
    /// All blocks.
    pub blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Inodes that are free.
    pub free_inodes: u32,
    /// Bytes of a block: a power of two, 1024 to 65536.
    pub block_size: u32,
    /// Blocks of a group.
    pub blocks_per_group: u32,
    /// Inodes of a group.
    pub inodes_per_group: u32,
    /// Bytes of an inode: a power of two, at least 128.
    pub inode_size: u16,
    /// `s_feature_compat`.
    pub compat: u32,
    /// `s_feature_incompat`.
    pub incompat: u32,
    /// `s_feature_ro_compat`.
    pub ro_compat: u32,
    /// Identifier.
    pub uuid: [u8; 16],
    /// Label, up to its first zero byte.
    pub label: Vec<u8>,
    /// Whether the last writer unmounted it and found no errors.
    pub clean: bool,
    pub(crate) first_data_block: u32,
    pub(crate) first_meta_bg: u32,
    pub(crate) desc_size: u16,
    pub(crate) seed: u32,
}

impl Superblock {
    /// Whether a journal waits to be replayed.
    pub fn needs_recovery(&self) -> bool {
        self.incompat & EXT4_FEATURE_INCOMPAT_RECOVER != 0
    }

    pub(crate) fn has_journal(&self) -> bool {
        self.compat & EXT4_FEATURE_COMPAT_HAS_JOURNAL != 0
    }

    pub(crate) fn has_checksums(&self) -> bool {
        self.ro_compat & EXT4_FEATURE_RO_COMPAT_METADATA_CSUM != 0
    }

    /// Parses a superblock; the error names the field that makes no sense and its value.
    pub(crate) fn parse(raw: &[u8; SUPERBLOCK_SIZE]) -> Result<Self, (&'static str, u64)> {
        let check = |field, value: u64, ok: bool| if ok { Ok(value) } else { Err((field, value)) };
        let magic = get16(raw, 0x38);
        check("s_magic", u64::from(magic), magic == EXT4_SUPER_MAGIC)?;
        let log_block_size = get32(raw, 0x18);
        check(
            "s_log_block_size",
            log_block_size.into(),
            log_block_size <= 6,
        )?;
        let block_size = 1024u32 << log_block_size;
        let incompat = get32(raw, 0x60);
        let wide = incompat & EXT4_FEATURE_INCOMPAT_64BIT != 0;
        let whole = |low, high| {
            if wide {
                get32_split(raw, low, high)
            } else {
                get32(raw, low).into()
            }
        };

        let (inode_size, first) = match get32(raw, 0x4c) {
            0 => (128, 11),
            _ => (get16(raw, 0x58), get32(raw, 0x54)),
        };
        let fits = inode_size.is_power_of_two()
            && inode_size >= 128
            && u32::from(inode_size) <= block_size;
        check("s_inode_size", inode_size.into(), fits)?;
        check("s_first_ino", first.into(), first >= 11)?;
        let desc_size = if wide { get16(raw, 0xfe) } else { 32 };
        let fits = desc_size.is_power_of_two() && (32..=1024).contains(&desc_size);
        check(
            "s_desc_size",
            desc_size.into(),
            fits && (!wide || desc_size >= 64),
        )?;
        let blocks_per_group = get32(raw, 0x20);
        let fits = blocks_per_group > 0 && blocks_per_group <= 8 * block_size;
        check("s_blocks_per_group", blocks_per_group.into(), fits)?;
        let inodes_per_group = get32(raw, 0x28);
        let fits = inodes_per_group > 0 && inodes_per_group <= 8 * block_size;
        check("s_inodes_per_group", inodes_per_group.into(), fits)?;
        let first_data_block = get32(raw, 0x14);
        check(
            "s_first_data_block",
            first_data_block.into(),
            first_data_block <= 1,
        )?;
        let blocks = whole(0x04, 0x150);
        let fits = blocks > u64::from(first_data_block) && blocks < 1 << 48;
        check("s_blocks_count", blocks, fits)?;

        let mut uuid = [0; 16];
        uuid.copy_from_slice(&raw[0x68..0x78]);
        let seed = if incompat & EXT4_FEATURE_INCOMPAT_CSUM_SEED != 0 {
            get32(raw, 0x270)
        } else {
            checksum_seed(&uuid)
        };
        let label = raw[0x78..0x88].iter().take_while(|byte| **byte != 0);
        Ok(Superblock {
            inodes: get32(raw, 0x00),
            blocks,
            free_blocks: whole(0x0c, 0x158),
            free_inodes: get32(raw, 0x10),
            block_size,
            blocks_per_group,
            inodes_per_group,
            inode_size,
            compat: get32(raw, 0x5c),
            incompat,
            ro_compat: get32(raw, 0x64),
            uuid,
            label: label.copied().collect(),
            clean: get16(raw, 0x3a) == EXT4_VALID_FS,
            first_data_block,
            first_meta_bg: get32(raw, 0x104),
            desc_size,
            seed,
        })
    }
}

/// The stored and the computed checksum.
pub(crate) fn checksum(raw: &[u8; SUPERBLOCK_SIZE]) -> (u32, u32) {
    (get32(raw, CHECKSUM_AT), crc32c(!0, &raw[..CHECKSUM_AT]))
}
