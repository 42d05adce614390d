//! Group descriptors, and the blocks that are metadata by their place.

use super::Place;
use super::state::{Checker, Group};
use crate::group::{self, EXT4_BG_BLOCK_UNINIT, EXT4_BG_INODE_UNINIT};
use crate::le::{get16, get16_split, get32, get32_split};
use crate::read::{self, Source};

impl<S: Source> Checker<'_, S> {
    /// Parses all descriptors, claims what they and the geometry say.
    pub(super) fn groups(&mut self) -> read::Result<()> {
        let size = usize::from(self.geometry.superblock.desc_size);
        let per_block = self.geometry.descriptors_per_block();
        let mut block = (0, Vec::new());
        for number in 0..self.geometry.groups {
            let at = self.geometry.descriptor_block(number);
            if block.0 != at {
                // The superblock and the descriptors lie before all else; a short last group has none.
                if !self.inside(at, 1) {
                    self.wrong(Place::Group(number), "its descriptor lies behind the end");
                    return Ok(());
                }
                block = (at, self.block(at)?);
            }
            let within = (number % per_block) as usize * size;
            let raw = &block.1[within..within + size];
            let group = self.descriptor(number, raw);
            self.groups.push(group);
            let (start, blocks) = self.geometry.span(number);
            let reserved = self.geometry.reserved(number).min(blocks);
            self.claim(Place::Group(number), start, reserved);
        }
        for number in 0..self.groups.len() {
            self.claim_tables(number);
        }
        Ok(())
    }

    fn descriptor(&mut self, number: u64, raw: &[u8]) -> Group {
        let place = Place::Group(number);
        let sb = &self.geometry.superblock;
        let sums = if sb.has_checksums() {
            group::checksum(raw, number as u32, sb.seed)
        } else if self.geometry.has_gdt_csum() {
            gdt_csum(raw, number as u32, &sb.uuid)
        } else {
            (0, 0)
        };
        if sums.0 != sums.1 {
            let (stored, computed) = sums;
            self.wrong(
                place,
                format!("the checksum of its descriptor is {stored:#x}, should be {computed:#x}"),
            );
        }
        let flags = self.geometry.has_group_flags();
        let unwritten = EXT4_BG_INODE_UNINIT | EXT4_BG_BLOCK_UNINIT;
        if !flags && (get16(raw, 0x12) & unwritten != 0 || get16(raw, 0x1c) != 0) {
            self.wrong(
                place,
                "it counts as not initialised, a feature that the file system has not",
            );
        }
        parse(raw, flags)
    }

    /// Bitmaps and inode table.
    fn claim_tables(&mut self, number: usize) {
        let place = Place::Group(number as u64);
        let group = self.groups[number];
        let (start, blocks) = self.geometry.span(number as u64);
        let mut usable = true;
        for (what, at, count) in [
            ("block bitmap", group.block_bitmap, 1),
            ("inode bitmap", group.inode_bitmap, 1),
            (
                "inode table",
                group.inode_table,
                self.geometry.table_blocks(),
            ),
        ] {
            // Without flex_bg they lie in their group.
            let here = self.geometry.has_flex_bg() || (at >= start && at + count <= start + blocks);
            if self.inside(at, count) && here {
                self.claim(place, at, count);
            } else {
                self.wrong(place, format!("its {what} is said to lie at block {at}"));
                usable = false;
            }
        }
        self.groups[number].usable = usable;
        let most = self.geometry.superblock.inodes_per_group;
        if group.itable_unused > most {
            self.wrong(
                place,
                format!("bg_itable_unused is {}", group.itable_unused),
            );
            self.groups[number].itable_unused = 0;
        }
    }
}

fn parse(raw: &[u8], flags: bool) -> Group {
    let wide = raw.len() >= 64;
    let block = |low, high| match wide {
        true => get32_split(raw, low, high),
        false => get32(raw, low).into(),
    };
    let count = |low, high| match wide {
        true => get16_split(raw, low, high),
        false => get16(raw, low).into(),
    };
    Group {
        block_bitmap: block(0x00, 0x20),
        inode_bitmap: block(0x04, 0x24),
        inode_table: block(0x08, 0x28),
        free_blocks: count(0x0c, 0x2c),
        free_inodes: count(0x0e, 0x2e),
        used_dirs: count(0x10, 0x30),
        flags: if flags { get16(raw, 0x12) } else { 0 },
        block_bitmap_csum: count(0x18, 0x38),
        inode_bitmap_csum: count(0x1a, 0x3a),
        itable_unused: if flags { count(0x1c, 0x32) } else { 0 },
        usable: false,
    }
}

/// The stored and the computed crc16 of file systems without `metadata_csum`.
fn gdt_csum(raw: &[u8], number: u32, uuid: &[u8; 16]) -> (u16, u16) {
    let sum = crc16(!0, uuid);
    let sum = crc16(sum, &number.to_le_bytes());
    let sum = crc16(sum, &raw[..0x1e]);
    (get16(raw, 0x1e), crc16(sum, &raw[0x20..]))
}

/// Reflected, polynomial 0x8005.
fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0xa001 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::crc16;

    /// The check value of CRC-16/ARC in the CRC catalogue.
    #[test]
    fn crc16_matches_the_published_check_value() {
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }
}
