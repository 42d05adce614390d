//! Extended attributes: in the inode's spare bytes, then in one block beside it.
//!
//! Source: `Documentation/filesystems/ext4/attributes.rst`. Both places hold entries that grow
//! upwards and values that grow downwards from the end:
//!
//! | offset | field |
//! | --- | --- |
//! | 0x0 | `e_name_len` (8) |
//! | 0x1 | `e_name_index` (8): which prefix was cut off |
//! | 0x2 | `e_value_offs` (16): from the first entry in an inode, from the start of a block |
//! | 0x4 | `e_value_inum` |
//! | 0x8 | `e_value_size` |
//! | 0xc | `e_hash`: zero in an inode |
//! | 0x10 | the name, padded to four bytes |
//!
//! An inode's area starts with the magic number; a block with 32 bytes: `h_magic`, `h_refcount`
//! 0x4, `h_blocks` 0x8, `h_hash` 0xc, `h_checksum` 0x10.
//!
//! A value that fits into neither lies in an inode of its own, whose number is `e_value_inum`, if the file system has the
//! feature `ea_inode`. `e_hash` then covers the name and the value's checksum, which that inode's `i_atime` holds.
//!
//! Access control lists have one form on disk and another in `getxattr`; this module translates.

use crate::crc::crc32c;
use crate::layout::{Block, ZERO_BLOCK};
use crate::le::{get16, get32, put16, put32};

pub(crate) const EXT4_XATTR_MAGIC: u32 = 0xea02_0000;
const EXT4_XATTR_INDEX_USER: u8 = 1;
const EXT4_XATTR_INDEX_POSIX_ACL_ACCESS: u8 = 2;
const EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT: u8 = 3;
const EXT4_XATTR_INDEX_TRUSTED: u8 = 4;
const EXT4_XATTR_INDEX_SECURITY: u8 = 6;

const PREFIXES: [(&[u8], u8); 3] = [
    (b"user.", EXT4_XATTR_INDEX_USER),
    (b"trusted.", EXT4_XATTR_INDEX_TRUSTED),
    (b"security.", EXT4_XATTR_INDEX_SECURITY),
];
const ACLS: [(&[u8], u8); 2] = [
    (
        b"system.posix_acl_access",
        EXT4_XATTR_INDEX_POSIX_ACL_ACCESS,
    ),
    (
        b"system.posix_acl_default",
        EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT,
    ),
];

const ENTRY: usize = 16;
const HEADER: usize = 32;
const CHECKSUM_AT: usize = 0x10;
/// `XATTR_SIZE_MAX`: the longest value that a system call takes or gives.
pub(crate) const XATTR_SIZE_MAX: usize = 1 << 16;

/// A full name and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// Whether ext4 on Linux can hold an extended attribute of that full name: `user.`, `trusted.`,
/// `security.` with up to 255 bytes after the prefix, and the two access control lists.
pub fn is_supported(name: &[u8]) -> bool {
    split(name).is_some()
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    if let Some((_, index)) = ACLS.iter().find(|(acl, _)| *acl == name) {
        return Some((*index, b""));
    }
    PREFIXES.iter().find_map(|(prefix, index)| {
        let rest = name.strip_prefix(*prefix)?;
        let valid = (1..=255).contains(&rest.len()) && !rest.contains(&0);
        valid.then_some((*index, rest))
    })
}

fn join(index: u8, rest: &[u8]) -> Option<Vec<u8>> {
    if let Some((name, _)) = ACLS.iter().find(|(_, acl)| *acl == index) {
        return rest.is_empty().then(|| name.to_vec());
    }
    let (prefix, _) = PREFIXES.iter().find(|(_, prefix)| *prefix == index)?;
    Some([*prefix, rest].concat())
}

/// Why attributes cannot be stored; the number is the attribute's place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Name(usize),
    Duplicate(usize),
    Acl(usize),
    Space(usize),
}

/// Attributes as they go to disk.
#[derive(Debug)]
pub(crate) struct Encoded<const N: usize> {
    pub(crate) in_inode: [u8; N],
    /// Without its checksum, which needs the block's number.
    pub(crate) block: Option<Box<Block>>,
    /// Values that need inodes of their own, with their checksums: the first has the first of the inode numbers.
    pub(crate) values: Vec<(Vec<u8>, u32)>,
}

/// What values in inodes of their own need to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbering {
    /// The first inode that is free.
    pub(crate) next_ino: u32,
    /// What all checksums start from.
    pub(crate) fs_seed: u32,
    /// Whether there must be a block with attributes if there are such values. The blocks of a value count for its owner, and
    /// e2fsck takes a short symbolic link that has blocks, and no such one, for one whose target lies in a block.
    pub(crate) needs_block: bool,
}

struct Attribute<'a> {
    place: usize,
    index: u8,
    name: &'a [u8],
    value: Vec<u8>,
    /// The inode of the value and its checksum, if it has one of its own.
    own: Option<(u32, u32)>,
}

impl Attribute<'_> {
    fn size(&self) -> usize {
        let value = match self.own {
            Some(_) => 0,
            None => self.value.len().next_multiple_of(4),
        };
        ENTRY + self.name.len().next_multiple_of(4) + value
    }
}

/// Places attributes in the `N` spare bytes of an inode, in a block what does not fit there, and in inodes of their own
/// the largest values if that is still too much.
pub(crate) fn encode<const N: usize>(
    pairs: &[Pair],
    numbering: Numbering,
) -> Result<Encoded<N>, Refusal> {
    if pairs.is_empty() {
        return Ok(Encoded {
            in_inode: [0; N],
            block: None,
            values: Vec::new(),
        });
    }
    let mut attributes = attributes(pairs)?;
    let mut next_ino = numbering.next_ino;
    loop {
        let refusal = match place(&attributes, numbering.needs_block) {
            Ok(encoded) => return Ok(finish(encoded, attributes)),
            Err(refusal) => refusal,
        };
        // Of those of the same length the first one.
        let inside = attributes.iter_mut().rev().filter(|a| a.own.is_none());
        let Some(largest) = inside.max_by_key(|a| a.value.len()) else {
            return Err(refusal);
        };
        largest.own = Some((next_ino, crc32c(numbering.fs_seed, &largest.value)));
        next_ino += 1;
    }
}

/// Moves the values that have inodes of their own out, in the order of their numbers.
fn finish<const N: usize>(mut encoded: Encoded<N>, attributes: Vec<Attribute<'_>>) -> Encoded<N> {
    let mut own: Vec<_> = attributes
        .into_iter()
        .filter_map(|a| Some((a.own?, a.value)))
        .collect();
    own.sort_by_key(|((ino, _), _)| *ino);
    encoded.values = own
        .into_iter()
        .map(|((_, sum), value)| (value, sum))
        .collect();
    encoded
}

/// Places attributes in the order that a block must have.
fn place<const N: usize>(
    attributes: &[Attribute<'_>],
    needs_block: bool,
) -> Result<Encoded<N>, Refusal> {
    let mut encoded = Encoded {
        in_inode: [0; N],
        block: None,
        values: Vec::new(),
    };
    // the magic number or the header, and four zero bytes behind the last entry
    let in_block = needs_block && attributes.iter().any(|a| a.own.is_some());
    let mut inode_room = if in_block { 0 } else { N.saturating_sub(4 + 4) };
    let mut block_room = ZERO_BLOCK.len() - HEADER - 4;
    let mut inside = Vec::new();
    let mut outside = Vec::new();
    for attribute in attributes {
        let size = attribute.size();
        if size <= inode_room {
            inode_room -= size;
            inside.push(attribute);
        } else if size <= block_room {
            block_room -= size;
            outside.push(attribute);
        } else {
            return Err(Refusal::Space(attribute.place));
        }
    }
    if !inside.is_empty() {
        put32(&mut encoded.in_inode, 0, EXT4_XATTR_MAGIC);
        put_entries(&mut encoded.in_inode[4..], 0, &inside, false);
    }
    if !outside.is_empty() {
        let mut block = Box::new(ZERO_BLOCK);
        put32(&mut block[..], 0x0, EXT4_XATTR_MAGIC);
        put32(&mut block[..], 0x4, 1); // h_refcount
        put32(&mut block[..], 0x8, 1); // h_blocks
        let hash = put_entries(&mut block[..], HEADER, &outside, true);
        put32(&mut block[..], 0xc, hash);
        encoded.block = Some(block);
    }
    Ok(encoded)
}

/// The attributes in the order that a block must have: by prefix, length of name, name.
fn attributes(pairs: &[Pair]) -> Result<Vec<Attribute<'_>>, Refusal> {
    let mut attributes = Vec::with_capacity(pairs.len());
    for (place, (full, value)) in pairs.iter().enumerate() {
        let (index, name) = split(full).ok_or(Refusal::Name(place))?;
        let value = if name.is_empty() {
            acl_to_disk(value).ok_or(Refusal::Acl(place))?
        } else {
            value.clone()
        };
        if value.len() > XATTR_SIZE_MAX {
            return Err(Refusal::Space(place));
        }
        attributes.push(Attribute {
            place,
            index,
            name,
            value,
            own: None,
        });
    }
    attributes.sort_by_key(|a| (a.index, a.name.len(), a.name));
    let twin = attributes
        .windows(2)
        .find(|pair| (pair[0].index, pair[0].name) == (pair[1].index, pair[1].name));
    match twin {
        Some(pair) => Err(Refusal::Duplicate(pair[1].place)),
        None => Ok(attributes),
    }
}

/// Writes entries from `start` and their values from the end; offsets count from the start of
/// `area`. Returns the hash over all entries.
fn put_entries(area: &mut [u8], start: usize, list: &[&Attribute<'_>], hashed: bool) -> u32 {
    let (mut at, mut end) = (start, area.len());
    let mut all = 0u32;
    for attribute in list {
        let size = attribute.value.len();
        area[at] = attribute.name.len() as u8;
        area[at + 1] = attribute.index;
        put32(area, at + 8, size as u32);
        if let Some((ino, sum)) = attribute.own {
            put32(area, at + 4, ino);
            let hash = entry_hash(attribute.name, &sum.to_le_bytes());
            put32(area, at + 0xc, hash);
            all = all.rotate_left(16) ^ hash;
        } else {
            end -= size.next_multiple_of(4);
            area[end..end + size].copy_from_slice(&attribute.value);
            put16(area, at + 2, if size == 0 { 0 } else { end as u16 });
            if hashed {
                let hash = entry_hash(attribute.name, &attribute.value);
                put32(area, at + 0xc, hash);
                all = all.rotate_left(16) ^ hash;
            }
        }
        let name = at + ENTRY;
        area[name..name + attribute.name.len()].copy_from_slice(attribute.name);
        at = name + attribute.name.len().next_multiple_of(4);
    }
    all
}

/// `e_hash`: the name's bytes with a rotation of 5, then the value's words with one of 16.
pub(crate) fn entry_hash(name: &[u8], value: &[u8]) -> u32 {
    let hash = name
        .iter()
        .fold(0u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    value.chunks(4).fold(hash, |hash, part| {
        let mut word = [0; 4];
        word[..part.len()].copy_from_slice(part);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}

/// Seals a block of attributes for its place on the disk.
pub(crate) fn seal(block: &mut Block, number: u64, fs_seed: u32) {
    let (_, sum) = block_checksum(&block[..], number, fs_seed);
    put32(block, CHECKSUM_AT, sum);
}

/// The stored and the computed checksum of a block of attributes.
pub(crate) fn block_checksum(block: &[u8], number: u64, fs_seed: u32) -> (u32, u32) {
    let sum = crc32c(fs_seed, &number.to_le_bytes());
    let sum = crc32c(sum, &block[..CHECKSUM_AT]);
    let sum = crc32c(sum, &[0; 4]);
    let sum = crc32c(sum, &block[CHECKSUM_AT + 4..]);
    (get32(block, CHECKSUM_AT), sum)
}

/// An attribute that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// The value itself.
    Here(Vec<u8>),
    /// An inode that holds it, and its length in bytes.
    Own(u32, u32),
}

/// A full name and where its value is.
pub(crate) type Parsed = (Vec<u8>, Value);

/// Parses the attributes behind an inode's fixed fields; none when they are malformed.
pub(crate) fn parse_in_inode(tail: &[u8]) -> Option<Vec<Parsed>> {
    if tail.len() < 4 || get32(tail, 0) != EXT4_XATTR_MAGIC {
        return Some(Vec::new());
    }
    parse_entries(&tail[4..], 0)
}

/// Parses a block of attributes; none when it is malformed.
pub(crate) fn parse_block(block: &[u8]) -> Option<Vec<Parsed>> {
    if block.len() < HEADER || get32(block, 0) != EXT4_XATTR_MAGIC {
        return None;
    }
    parse_entries(block, HEADER)
}

fn parse_entries(area: &[u8], start: usize) -> Option<Vec<Parsed>> {
    let mut pairs = Vec::new();
    let mut at = start;
    // an area may end without the zero that ends the list
    while area.get(at..at + 4).is_some_and(|bytes| bytes != [0; 4]) {
        let entry = area.get(at..at + ENTRY)?;
        let name_len = usize::from(entry[0]);
        let name = area.get(at + ENTRY..at + ENTRY + name_len)?;
        let (offset, size) = (usize::from(get16(entry, 2)), get32(entry, 8));
        let value = match (get32(entry, 4), size) {
            (0, 0) => Value::Here(Vec::new()),
            (0, _) => {
                let value = area.get(offset..offset.checked_add(size as usize)?)?;
                Value::Here(value.to_vec())
            }
            (ino, size) => Value::Own(ino, size),
        };
        // kinds of attribute that no system call shows are passed over
        if let Some(full) = join(entry[1], name) {
            pairs.push((full, value));
        }
        at += ENTRY + name_len.next_multiple_of(4);
    }
    Some(pairs)
}

/// A value from the disk in the form that `getxattr` gives; none when it is malformed.
pub(crate) fn from_disk(full: &[u8], value: Vec<u8>) -> Option<Vec<u8>> {
    if ACLS.iter().any(|(acl, _)| *acl == full) {
        return acl_from_disk(&value);
    }
    Some(value)
}

// `posix_acl_xattr_header` and `ext4_acl_header`; entries are tag (16), permissions (16), id (32),
// but on disk only those for a named user or group have an id.
const POSIX_ACL_XATTR_VERSION: u32 = 2;
const EXT4_ACL_VERSION: u32 = 1;
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;
const ACL_UNDEFINED_ID: [u8; 4] = [0xff; 4];

fn acl_to_disk(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != POSIX_ACL_XATTR_VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let mut disk = EXT4_ACL_VERSION.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        match get16(entry, 0) {
            ACL_USER | ACL_GROUP => disk.extend_from_slice(entry),
            0x01 | 0x04 | 0x10 | 0x20 => disk.extend_from_slice(&entry[..4]),
            _ => return None,
        }
    }
    Some(disk)
}

fn acl_from_disk(value: &[u8]) -> Option<Vec<u8>> {
    let (version, mut entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != EXT4_ACL_VERSION {
        return None;
    }
    let mut acl = POSIX_ACL_XATTR_VERSION.to_le_bytes().to_vec();
    while entries.len() >= 4 {
        let named = matches!(get16(entries, 0), ACL_USER | ACL_GROUP);
        let (entry, rest) = entries.split_at_checked(if named { 8 } else { 4 })?;
        acl.extend_from_slice(entry);
        if !named {
            acl.extend_from_slice(&ACL_UNDEFINED_ID);
        }
        entries = rest;
    }
    entries.is_empty().then_some(acl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, len: usize) -> Pair {
        (name.as_bytes().to_vec(), vec![b'v'; len])
    }

    const NUMBERING: Numbering = Numbering {
        next_ino: 100,
        fs_seed: 7,
        needs_block: false,
    };

    fn check(pairs: &[Pair], block: bool, own: usize) {
        let encoded = encode::<96>(pairs, NUMBERING).unwrap();
        assert_eq!(
            (encoded.block.is_some(), encoded.values.len()),
            (block, own)
        );
        let mut parsed = parse_in_inode(&encoded.in_inode).unwrap();
        if let Some(block) = encoded.block {
            parsed.extend(parse_block(&block[..]).unwrap());
        }
        let mut found: Vec<Pair> = parsed
            .into_iter()
            .map(|(name, value)| {
                let value = match value {
                    Value::Here(value) => value,
                    Value::Own(ino, size) => {
                        let (value, sum) = &encoded.values[ino as usize - 100];
                        assert_eq!((value.len(), *sum), (size as usize, crc32c(7, value)));
                        value.clone()
                    }
                };
                let value = from_disk(&name, value).unwrap();
                (name, value)
            })
            .collect();
        let mut expect = pairs.to_vec();
        expect.sort();
        found.sort();
        assert_eq!(found, expect);
    }

    #[test]
    fn attributes_come_back() {
        check(&[], false, 0);
        check(&[pair("security.capability", 20)], false, 0);
        check(&[pair("user.a", 0), pair("trusted.b", 5)], false, 0);
        // 16 + 4 + 68 are all there is in the inode
        check(&[pair("user.full", 68)], false, 0);
        check(&[pair("user.over", 69)], true, 0);
        check(&[pair("user.big", 4000), pair("security.x", 8)], true, 0);
        check(&[pair("user.large", 65_536)], false, 1);
        check(&[pair("user.x", 3000), pair("user.y", 3000)], true, 1);
        let many: Vec<Pair> = (0..40)
            .map(|i| pair(&format!("user.{i:02}"), 2000))
            .collect();
        // One has the room that the names leave.
        check(&many, true, 39);
    }

    #[test]
    fn access_control_lists_change_their_form() {
        let mut acl = vec![2, 0, 0, 0];
        for (tag, id) in [
            (1u16, u32::MAX),
            (2, 1000),
            (4, u32::MAX),
            (16, u32::MAX),
            (32, u32::MAX),
        ] {
            acl.extend(tag.to_le_bytes());
            acl.extend(5u16.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        let disk = acl_to_disk(&acl).unwrap();
        assert_eq!(disk.len(), 4 + 4 * 4 + 8);
        assert_eq!(acl_from_disk(&disk).unwrap(), acl);
        let name = b"system.posix_acl_default".to_vec();
        check(&[(name.clone(), acl)], false, 0);
        let bad = encode::<96>(&[(name, vec![9; 4])], NUMBERING).unwrap_err();
        assert_eq!(bad, Refusal::Acl(0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refuse = |pairs: &[Pair], refusal| {
            assert_eq!(encode::<96>(pairs, NUMBERING).unwrap_err(), refusal);
        };
        refuse(&[pair("user.x", 65_537)], Refusal::Space(0));
        // The names alone are too many.
        let many: Vec<Pair> = (0..300).map(|i| pair(&format!("user.{i:03}"), 1)).collect();
        assert!(matches!(
            encode::<96>(&many, NUMBERING),
            Err(Refusal::Space(_))
        ));
        refuse(
            &[pair("user.x", 1), pair("com.apple.quarantine", 1)],
            Refusal::Name(1),
        );
        refuse(&[pair("user.", 1)], Refusal::Name(0));
        refuse(
            &[pair("user.x", 1), pair("user.x", 2)],
            Refusal::Duplicate(1),
        );
    }
}
