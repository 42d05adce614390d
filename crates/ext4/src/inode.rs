//! Inodes of 256 bytes.
//!
//! Source: `Documentation/filesystems/ext4/inodes.rst`.
//!
//! | offset | field | offset | field |
//! | --- | --- | --- | --- |
//! | 0x00 | `i_mode` (16) | 0x6c | `i_size_high` |
//! | 0x02 | `i_uid` (16) | 0x74 | `l_i_blocks_high` (16) |
//! | 0x04 | `i_size_lo` | 0x76 | `l_i_file_acl_high` (16) |
//! | 0x08 | `i_atime` | 0x78 | `l_i_uid_high` (16) |
//! | 0x0c | `i_ctime` | 0x7a | `l_i_gid_high` (16) |
//! | 0x10 | `i_mtime` | 0x7c | `l_i_checksum_lo` (16) |
//! | 0x18 | `i_gid` (16) | 0x80 | `i_extra_isize` (16) |
//! | 0x1a | `i_links_count` (16) | 0x82 | `i_checksum_hi` (16) |
//! | 0x1c | `i_blocks_lo` | 0x84 | `i_ctime_extra` |
//! | 0x20 | `i_flags` | 0x88 | `i_mtime_extra` |
//! | 0x24 | `l_i_version` | 0x8c | `i_atime_extra` |
//! | 0x28 | `i_block` (60 bytes) | 0x90 | `i_crtime` |
//! | 0x64 | `i_generation` | 0x94 | `i_crtime_extra` |
//! | 0x68 | `i_file_acl_lo` | | |
//!
//! Behind `i_projid` at 0x9c extended attributes follow from 0xa0.
//!
//! Zero on purpose: `i_dtime` (a live file), `i_generation` (only NFS asks), `i_version`, `i_projid`.

use crate::crc::crc32c;
use crate::layout::{BLOCK, INODE_SIZE};
use crate::le::{get16, get16_split, get32, get32_split, put16, put16_split, put32, put32_split};
use crate::tree::Timestamp;

pub(crate) const S_IFIFO: u16 = 0o010_000;
pub(crate) const S_IFCHR: u16 = 0o020_000;
pub(crate) const S_IFDIR: u16 = 0o040_000;
pub(crate) const S_IFBLK: u16 = 0o060_000;
pub(crate) const S_IFREG: u16 = 0o100_000;
pub(crate) const S_IFLNK: u16 = 0o120_000;
pub(crate) const S_IFSOCK: u16 = 0o140_000;
pub(crate) const S_IFMT: u16 = 0o170_000;

pub(crate) const EXT4_HUGE_FILE_FL: u32 = 0x4_0000;
pub(crate) const EXT4_INDEX_FL: u32 = 0x1000;
pub(crate) const EXT4_EXTENTS_FL: u32 = 0x8_0000;
pub(crate) const EXT4_EA_INODE_FL: u32 = 0x20_0000;
pub(crate) const EXT4_INLINE_DATA_FL: u32 = 0x1000_0000;
pub(crate) const EXT4_ENCRYPT_FL: u32 = 0x800;

pub(crate) const EXT4_LINK_MAX: u32 = 65_000;
const GOOD_OLD_SIZE: usize = 128;
/// What the fields behind the first 128 bytes take: `i_extra_isize` up to `i_projid`.
pub(crate) const EXTRA_ISIZE: u16 = 32;
/// Where extended attributes start.
pub(crate) const XATTR_START: usize = GOOD_OLD_SIZE + EXTRA_ISIZE as usize;

/// What the checksums of an inode and of its blocks start from; `generation` is zero in what
/// this crate writes.
pub(crate) fn inode_seed(fs_seed: u32, ino: u32, generation: u32) -> u32 {
    crc32c(
        crc32c(fs_seed, &ino.to_le_bytes()),
        &generation.to_le_bytes(),
    )
}

/// An inode about to be written.
#[derive(Debug)]
pub(crate) struct RawInode {
    /// With the type's bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) links: u16,
    /// Blocks of 4 KiB, those of the extent tree and of extended attributes included, and those of values that have
    /// inodes of their own.
    pub(crate) blocks: u64,
    pub(crate) flags: u32,
    /// Access, change and modification time.
    pub(crate) time: Timestamp,
    pub(crate) created: Timestamp,
    pub(crate) i_block: [u8; 60],
    /// The block with extended attributes, or zero.
    pub(crate) file_acl: u64,
    /// Of an inode that holds the value of an extended attribute: the value's checksum.
    pub(crate) value_sum: Option<u32>,
    /// The extended attributes behind the fixed fields.
    pub(crate) xattrs: [u8; INODE_SIZE - XATTR_START],
}

impl RawInode {
    /// An inode of that type and mode, without contents.
    pub(crate) fn new(mode: u16, time: Timestamp, created: Timestamp) -> Self {
        RawInode {
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            links: 1,
            blocks: 0,
            flags: 0,
            time: time.clamped(),
            created: created.clamped(),
            i_block: [0; 60],
            file_acl: 0,
            value_sum: None,
            xattrs: [0; INODE_SIZE - XATTR_START],
        }
    }

    /// Encodes the inode with its checksum.
    pub(crate) fn encode(&self, inode_seed: u32) -> [u8; INODE_SIZE] {
        let mut raw = [0; INODE_SIZE];
        let sectors = self.blocks * (BLOCK / 512);
        let (seconds, extra) = encode_time(self.time);
        let (created, created_extra) = encode_time(self.created);
        put16(&mut raw, 0x00, self.mode);
        put16_split(&mut raw, 0x02, 0x78, self.uid);
        put32_split(&mut raw, 0x04, 0x6c, self.size);
        for at in [0x08, 0x0c, 0x10] {
            put32(&mut raw, at, seconds);
        }
        put16_split(&mut raw, 0x18, 0x7a, self.gid);
        put16(&mut raw, 0x1a, self.links);
        put32(&mut raw, 0x1c, sectors as u32);
        put16(&mut raw, 0x74, (sectors >> 32) as u16);
        put32(&mut raw, 0x20, self.flags);
        raw[0x28..0x64].copy_from_slice(&self.i_block);
        put32(&mut raw, 0x68, self.file_acl as u32);
        put16(&mut raw, 0x76, (self.file_acl >> 32) as u16);
        put16(&mut raw, 0x80, EXTRA_ISIZE);
        for at in [0x84, 0x88, 0x8c] {
            put32(&mut raw, at, extra);
        }
        put32(&mut raw, 0x90, created);
        put32(&mut raw, 0x94, created_extra);
        if let Some(sum) = self.value_sum {
            // The checksum lies in the access time; the change time and the version are the number of users: one.
            put32(&mut raw, 0x08, sum);
            put32(&mut raw, 0x8c, 0);
            put32(&mut raw, 0x0c, 0);
            put32(&mut raw, 0x84, 0);
            put32(&mut raw, 0x24, 1);
        }
        raw[XATTR_START..].copy_from_slice(&self.xattrs);
        let sum = crc32c(inode_seed, &raw);
        put16_split(&mut raw, 0x7c, 0x82, sum);
        raw
    }
}

/// The low 32 bits of the seconds; above them two bits of epoch below the nanoseconds.
fn encode_time(time: Timestamp) -> (u32, u32) {
    let low = time.secs as u32;
    let epoch = (time.secs - i64::from(low as i32)) >> 32;
    (low, (epoch as u32 & 3) | time.nanos << 2)
}

fn decode_time(low: u32, extra: u32) -> Timestamp {
    Timestamp {
        secs: i64::from(low as i32) + (i64::from(extra & 3) << 32),
        nanos: extra >> 2,
    }
}

/// `i_block` of a device: 8 bits each in the old form, 12 and 20 in the new one. None when the
/// numbers are larger.
pub(crate) fn encode_device(major: u32, minor: u32) -> Option<[u8; 60]> {
    let mut i_block = [0; 60];
    if major < 256 && minor < 256 {
        put32(&mut i_block, 0, major << 8 | minor);
    } else if major < 1 << 12 && minor < 1 << 20 {
        let device = minor & 0xff | major << 8 | (minor & !0xff) << 12;
        put32(&mut i_block, 4, device);
    } else {
        return None;
    }
    Some(i_block)
}

/// Major and minor number of a device's `i_block`.
pub(crate) fn decode_device(i_block: &[u8; 60]) -> (u32, u32) {
    match get32(i_block, 0) {
        0 => {
            let device = get32(i_block, 4);
            (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00)
        }
        old => (old >> 8 & 0xff, old & 0xff),
    }
}

/// An inode that was read.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its number.
    pub ino: u32,
    /// Permission bits and type, as `stat` gives them.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Link count; 1 for a directory with more than 65000 links.
    pub links: u16,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Creation.
    pub crtime: Timestamp,
    /// `EXT4_*_FL`.
    pub flags: u32,
    /// Space taken, in bytes.
    pub allocated: u64,
    /// The block with extended attributes, or zero.
    pub file_acl: u64,
    pub(crate) i_block: [u8; 60],
    /// Start of the checksums of this inode's blocks.
    pub(crate) seed: u32,
    /// What lies behind the fixed fields.
    pub(crate) tail: Vec<u8>,
}

impl Inode {
    /// Parses an inode of at least 128 bytes. `block_size` is the unit of huge files' block count.
    pub(crate) fn parse(raw: &[u8], ino: u32, fs_seed: u32, block_size: u64) -> Self {
        let extra = extra_isize(raw);
        // a field behind the first 128 bytes is there if i_extra_isize reaches over it
        let field = |at: usize| {
            let there = at + 4 <= GOOD_OLD_SIZE + extra;
            if there { get32(raw, at) } else { 0 }
        };
        let flags = get32(raw, 0x20);
        let units = u64::from(get32(raw, 0x1c)) | u64::from(get16(raw, 0x74)) << 32;
        let unit = if flags & EXT4_HUGE_FILE_FL != 0 {
            block_size
        } else {
            512
        };
        let mut i_block = [0; 60];
        i_block.copy_from_slice(&raw[0x28..0x64]);
        Inode {
            ino,
            mode: get16(raw, 0),
            uid: get16_split(raw, 0x02, 0x78),
            gid: get16_split(raw, 0x18, 0x7a),
            size: get32_split(raw, 0x04, 0x6c),
            links: get16(raw, 0x1a),
            atime: decode_time(get32(raw, 0x08), field(0x8c)),
            ctime: decode_time(get32(raw, 0x0c), field(0x84)),
            mtime: decode_time(get32(raw, 0x10), field(0x88)),
            crtime: decode_time(field(0x90), field(0x94)),
            flags,
            allocated: units.saturating_mul(unit),
            file_acl: u64::from(get32(raw, 0x68)) | u64::from(get16(raw, 0x76)) << 32,
            i_block,
            seed: inode_seed(fs_seed, ino, get32(raw, 0x64)),
            tail: raw
                .get(GOOD_OLD_SIZE + extra..)
                .unwrap_or_default()
                .to_vec(),
        }
    }
}

fn extra_isize(raw: &[u8]) -> usize {
    if raw.len() < XATTR_START {
        return 0;
    }
    let extra = usize::from(get16(raw, 0x80));
    extra.min(raw.len() - GOOD_OLD_SIZE)
}

/// The stored and the computed checksum of an inode of at least 128 bytes. Without
/// `i_checksum_hi` only 16 bits count.
pub(crate) fn checksum(raw: &[u8], ino: u32, fs_seed: u32) -> (u32, u32) {
    let mut copy = raw.to_vec();
    put16(&mut copy, 0x7c, 0);
    let wide = extra_isize(raw) >= 4;
    if wide {
        put16(&mut copy, 0x82, 0);
    }
    let sum = crc32c(inode_seed(fs_seed, ino, get32(raw, 0x64)), &copy);
    if wide {
        (get16_split(raw, 0x7c, 0x82), sum)
    } else {
        (u32::from(get16(raw, 0x7c)), sum & 0xffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_five_centuries_come_back() {
        for secs in [
            Timestamp::MIN_SECS,
            -1,
            0,
            i64::from(i32::MAX),
            i64::from(i32::MAX) + 1,
            1 << 32,
            Timestamp::MAX_SECS,
        ] {
            let time = Timestamp {
                secs,
                nanos: 987_654_321,
            };
            let (low, extra) = encode_time(time);
            assert_eq!(decode_time(low, extra), time);
        }
    }

    #[test]
    fn device_numbers_come_back() {
        for (major, minor) in [(0, 0), (1, 3), (255, 255), (8, 256), (4095, 0xf_ffff)] {
            let i_block = encode_device(major, minor).unwrap();
            assert_eq!(decode_device(&i_block), (major, minor));
        }
        assert!(encode_device(4096, 0).is_none());
        assert!(encode_device(0, 1 << 20).is_none());
    }

    #[test]
    fn an_inode_comes_back() {
        let time = Timestamp {
            secs: 1 << 33,
            nanos: 5,
        };
        let mut raw = RawInode::new(S_IFREG | 0o4755, time, Timestamp::default());
        raw.uid = 0x1234_5678;
        raw.gid = 0x8765_4321;
        raw.size = 1 << 40;
        raw.blocks = 1 << 36;
        raw.file_acl = 1 << 40;
        let bytes = raw.encode(inode_seed(99, 12, 0));
        let inode = Inode::parse(&bytes, 12, 99, BLOCK);
        assert_eq!((inode.uid, inode.gid), (raw.uid, raw.gid));
        assert_eq!((inode.mode, inode.size), (raw.mode, raw.size));
        assert_eq!((inode.mtime, inode.atime), (time, time));
        assert_eq!((inode.allocated, inode.file_acl), (1 << 48, 1 << 40));
        let (stored, computed) = checksum(&bytes, 12, 99);
        assert_eq!(stored, computed);
    }
}
