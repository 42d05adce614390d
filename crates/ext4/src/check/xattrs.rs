//! Extended attributes in inodes and in blocks that several may share.

use super::Place;
use super::state::{Checker, XattrBlock};
use crate::inode::Inode;
use crate::le::{get16, get32};
use crate::read::{self, Source};
use crate::xattr::{self, EXT4_XATTR_MAGIC};

const ENTRY: usize = 16;
const HEADER: usize = 32;
const MAX_REFERENCES: u32 = 1024;

impl<S: Source> Checker<'_, S> {
    /// Checks an inode's attributes; gives how many blocks they add to it.
    pub(super) fn xattrs(&mut self, inode: &Inode, raw: &[u8]) -> read::Result<u64> {
        let place = Place::Inode(inode.ino);
        // Without i_extra_isize nothing follows the first 128 bytes.
        let there = raw.len() > 128 && get16(raw, 0x80) >= 4;
        if there && inode.tail.len() >= 4 && get32(&inode.tail, 0) == EXT4_XATTR_MAGIC {
            match entries(&inode.tail[4..], 0, false) {
                Ok(inodes) => self.refer(inodes),
                Err(problem) => self.wrong(place, format!("its extended attributes: {problem}")),
            }
        }
        let at = inode.file_acl;
        if at == 0 {
            return Ok(0);
        }
        if !self.inside(at, 1) {
            self.wrong(
                place,
                format!("its extended attributes are said to lie at block {at}"),
            );
            return Ok(0);
        }
        if let Some(block) = self.xattr_blocks.get_mut(&at) {
            block.seen += 1;
            return Ok(1);
        }
        self.claim(place, at, 1);
        let block = self.block(at)?;
        self.xattr_block(place, at, &block);
        Ok(1)
    }

    fn xattr_block(&mut self, place: Place, at: u64, block: &[u8]) {
        let references = get32(block, 4);
        self.xattr_blocks.insert(
            at,
            XattrBlock {
                references,
                seen: 1,
            },
        );
        let mut wrong = |problem: String| {
            self.report.add(
                place,
                format!("block {at} of its extended attributes: {problem}"),
            );
        };
        if get32(block, 0) != EXT4_XATTR_MAGIC {
            wrong(format!("h_magic is {:#x}", get32(block, 0)));
            return;
        }
        if get32(block, 8) != 1 {
            wrong(format!("h_blocks is {}", get32(block, 8)));
        }
        if references == 0 || references > MAX_REFERENCES {
            wrong(format!("h_refcount is {references}"));
        }
        let sb = &self.geometry.superblock;
        if sb.has_checksums() {
            let (stored, computed) = xattr::block_checksum(block, at, sb.seed);
            if stored != computed {
                wrong(format!(
                    "the checksum is {stored:#x}, should be {computed:#x}"
                ));
            }
        }
        match entries(block, HEADER, true) {
            Ok(inodes) => self.refer(inodes),
            Err(problem) => wrong(problem),
        }
    }

    fn refer(&mut self, inodes: Vec<u32>) {
        for ino in inodes {
            *self.xattr_inodes.entry(ino).or_default() += 1;
        }
    }
}

/// Checks entries from `start`; offsets of values count from the start of `area`. The inodes that hold values.
fn entries(area: &[u8], start: usize, hashed: bool) -> Result<Vec<u32>, String> {
    let mut inodes = Vec::new();
    let mut values: Vec<(usize, usize)> = Vec::new();
    let mut at = start;
    loop {
        match area.get(at..at + 4) {
            None => return Err("the list has no end".to_owned()),
            Some([0, 0, 0, 0]) => break,
            Some(_) => {}
        }
        let entry = area.get(at..at + ENTRY).ok_or("an entry leaves its area")?;
        let name_len = usize::from(entry[0]);
        let name = area.get(at + ENTRY..at + ENTRY + name_len);
        let name = name.ok_or("a name leaves its area")?;
        let (offset, size) = (usize::from(get16(entry, 2)), get32(entry, 8) as usize);
        let ino = get32(entry, 4);
        if ino != 0 {
            inodes.push(ino);
        } else if size > 0 {
            let end = offset.checked_add(size).filter(|end| *end <= area.len());
            let end = end.ok_or("a value leaves its area")?;
            values.push((offset, end));
            let hash = get32(entry, 12);
            // Kernels before 6.6 hash names with bytes above 127 in either of two ways.
            let known = name.is_ascii() && (hashed || hash != 0);
            if known && hash != xattr::entry_hash(name, &area[offset..end]) {
                return Err(format!("e_hash is {hash:#x}"));
            }
        }
        at += ENTRY + name_len.next_multiple_of(4);
    }
    values.sort_unstable();
    let overlap = values.windows(2).any(|pair| pair[0].1 > pair[1].0);
    // Four zeros end the list.
    if overlap || values.first().is_some_and(|(first, _)| *first < at + 4) {
        return Err("values overlap".to_owned());
    }
    Ok(inodes)
}
