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
    /// Checks an inode's attributes; gives how many blocks they add to it. Values that have inodes of their own count for
    /// who has the attribute, too.
    pub(super) fn xattrs(&mut self, inode: &Inode, raw: &[u8]) -> read::Result<u64> {
        let place = Place::Inode(inode.ino);
        // Without i_extra_isize nothing follows the first 128 bytes.
        let mut blocks = 0;
        let there = raw.len() > 128 && get16(raw, 0x80) >= 4;
        if there && inode.tail.len() >= 4 && get32(&inode.tail, 0) == EXT4_XATTR_MAGIC {
            match entries(&inode.tail[4..], 0, false) {
                Ok(values) => blocks += self.refer(&values),
                Err(problem) => self.wrong(place, format!("its extended attributes: {problem}")),
            }
        }
        let at = inode.file_acl;
        if at == 0 {
            return Ok(blocks);
        }
        if !self.inside(at, 1) {
            self.wrong(
                place,
                format!("its extended attributes are said to lie at block {at}"),
            );
            return Ok(blocks);
        }
        if let Some(block) = self.xattr_blocks.get_mut(&at) {
            block.seen += 1;
            return Ok(blocks + 1 + block.values);
        }
        self.claim(place, at, 1);
        let block = self.block(at)?;
        Ok(blocks + 1 + self.xattr_block(place, at, &block))
    }

    /// Checks a block that was not met before; gives how many blocks its values have elsewhere.
    fn xattr_block(&mut self, place: Place, at: u64, block: &[u8]) -> u64 {
        let references = get32(block, 4);
        let mut seen = XattrBlock {
            references,
            seen: 1,
            values: 0,
        };
        self.xattr_blocks.insert(at, seen);
        let mut wrong = |problem: String| {
            self.report.add(
                place,
                format!("block {at} of its extended attributes: {problem}"),
            );
        };
        if get32(block, 0) != EXT4_XATTR_MAGIC {
            wrong(format!("h_magic is {:#x}", get32(block, 0)));
            return 0;
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
            Ok(values) => seen.values = self.refer(&values),
            Err(problem) => wrong(problem),
        }
        self.xattr_blocks.insert(at, seen);
        seen.values
    }

    /// Notes who holds values; gives how many blocks these have.
    fn refer(&mut self, values: &[Elsewhere]) -> u64 {
        let block_size = self.geometry.block_size();
        let mut blocks = 0;
        for value in values {
            *self.xattr_inodes.entry(value.ino).or_default() += 1;
            blocks += u64::from(value.size).div_ceil(block_size);
        }
        blocks
    }
}

/// A value in an inode of its own.
struct Elsewhere {
    ino: u32,
    /// In bytes.
    size: u32,
}

/// Checks entries from `start`; offsets of values count from the start of `area`. The values that are elsewhere.
fn entries(area: &[u8], start: usize, hashed: bool) -> Result<Vec<Elsewhere>, String> {
    let mut elsewhere = Vec::new();
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
            let size = get32(entry, 8);
            elsewhere.push(Elsewhere { ino, size });
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
    Ok(elsewhere)
}
