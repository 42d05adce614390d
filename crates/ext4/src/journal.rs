//! An empty journal: one superblock, the rest is never written.
//!
//! Source: `Documentation/filesystems/ext4/journal.rst`, "Super Block". All fields are big-endian.
//!
//! | offset | field |
//! | --- | --- |
//! | 0x00 | `h_magic` |
//! | 0x04 | `h_blocktype`: 4, superblock version 2 |
//! | 0x0c | `s_blocksize` |
//! | 0x10 | `s_maxlen`: blocks |
//! | 0x14 | `s_first`: the first block of the log |
//! | 0x18 | `s_sequence`: of the first transaction |
//! | 0x1c | `s_start`: zero, nothing to replay |
//! | 0x30 | `s_uuid` |
//! | 0x40 | `s_nr_users` |
//!
//! Feature words stay zero: the kernel sets 64-bit block numbers and checksums at the first mount.

use crate::layout::{BLOCK, BLOCK_SIZE, Block, ZERO_BLOCK};

const JBD2_MAGIC_NUMBER: u32 = 0xc03b_3998;
const JBD2_SUPERBLOCK_V2: u32 = 4;
/// Fewer blocks the kernel refuses.
pub(crate) const JBD2_MIN_JOURNAL_BLOCKS: u64 = 1024;

const MIB: u64 = 1 << 20;

/// The size for a disk of `size` bytes, in bytes; none on a disk that it would fill.
///
/// Small, because a journal wraps: sooner or later all of it is on the host's disk too.
pub(crate) fn default_size(size: u64) -> Option<u64> {
    match size / MIB {
        0..16 => None,
        16..128 => Some(4 * MIB),
        128..1024 => Some(16 * MIB),
        1024..8192 => Some(32 * MIB),
        _ => Some(64 * MIB),
    }
}

/// The journal's first block.
pub(crate) fn superblock(blocks: u32, uuid: &[u8; 16]) -> Block {
    let mut block = ZERO_BLOCK;
    let fields = [
        (0x00, JBD2_MAGIC_NUMBER),
        (0x04, JBD2_SUPERBLOCK_V2),
        (0x0c, BLOCK_SIZE as u32),
        (0x10, blocks),
        (0x14, 1),
        (0x18, 1),
        (0x40, 1),
    ];
    for (at, value) in fields {
        block[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    block[0x30..0x40].copy_from_slice(uuid);
    block
}

/// The smallest journal in bytes.
pub(crate) const MINIMUM: u64 = JBD2_MIN_JOURNAL_BLOCKS * BLOCK;
