//! Files with holes.

use std::io::{self, Read};

use super::error::TarProblem;
use super::header::{Block, number};

/// As many extents as one file may have. GNU tar's formats allow more; no layer needs them.
pub(super) const MAX_EXTENTS: usize = 1 << 16;

/// Where a sparse file has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataExtent {
    /// From the start of the file, in bytes.
    pub offset: u64,
    /// In bytes, not 0.
    pub len: u64,
}

/// Checks a map: in order, apart, inside `len`, and as much data as the archive has. Empty
/// extents, which writers put at a file's end to say how long it is, go.
pub(super) fn check_map(
    mut map: Vec<DataExtent>,
    len: u64,
    packed: u64,
) -> Result<Vec<DataExtent>, TarProblem> {
    if map.len() > MAX_EXTENTS {
        return Err(TarProblem::Sparse("too many extents"));
    }
    let (mut end, mut data) = (0_u64, 0_u64);
    for extent in &map {
        if extent.offset < end {
            return Err(TarProblem::Sparse("extents overlap or are out of order"));
        }
        end = extent
            .offset
            .checked_add(extent.len)
            .filter(|end| *end <= len)
            .ok_or(TarProblem::Sparse("an extent is outside of the file"))?;
        // Cannot overflow: the extents do not overlap.
        data += extent.len;
    }
    if data != packed {
        return Err(TarProblem::Sparse(
            "the extents do not add up to the content",
        ));
    }
    map.retain(|extent| extent.len > 0);
    Ok(map)
}

/// Takes the entries of an old GNU header or extension block, up to the first unused one.
pub(super) fn old_gnu_entries(fields: &[u8], map: &mut Vec<DataExtent>) -> Result<(), TarProblem> {
    for entry in fields.chunks_exact(24) {
        if entry[0] == 0 {
            break;
        }
        map.push(DataExtent {
            offset: size("sparse offset", &entry[..12])?,
            len: size("sparse length", &entry[12..])?,
        });
    }
    if map.len() > MAX_EXTENTS {
        return Err(TarProblem::Sparse("too many extents"));
    }
    Ok(())
}

/// An old GNU header's four entries, whether blocks of more follow, and the file's size.
pub(super) fn old_gnu_header(block: &Block) -> Result<(Vec<DataExtent>, bool, u64), TarProblem> {
    let mut map = Vec::new();
    old_gnu_entries(&block[386..482], &mut map)?;
    Ok((map, block[482] != 0, size("realsize", &block[483..495])?))
}

fn size(name: &'static str, field: &[u8]) -> Result<u64, TarProblem> {
    u64::try_from(number(name, field)?).map_err(|_| TarProblem::Number(name))
}

/// A sparse file's content with its holes filled.
pub(crate) struct Filled<'a> {
    packed: &'a mut dyn Read,
    len: u64,
    at: u64,
    extents: &'a [DataExtent],
}

impl<'a> Filled<'a> {
    pub(crate) fn new(packed: &'a mut dyn Read, len: u64, extents: &'a [DataExtent]) -> Self {
        Self {
            packed,
            len,
            at: 0,
            extents,
        }
    }
}

impl Read for Filled<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((first, rest)) = self.extents.split_first() {
            if self.at < first.offset + first.len {
                break;
            }
            self.extents = rest;
        }
        let (until, is_data) = match self.extents.first() {
            Some(extent) if self.at < extent.offset => (extent.offset, false),
            Some(extent) => (extent.offset + extent.len, true),
            None => (self.len, false),
        };
        let most = usize::try_from(until - self.at).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let buffer = &mut buffer[..most];
        let n = if is_data {
            self.packed.read(buffer)?
        } else {
            buffer.fill(0);
            most
        };
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, len: u64) -> DataExtent {
        DataExtent { offset, len }
    }

    #[test]
    fn holes_are_filled() {
        let mut packed = &b"abcde"[..];
        let extents = [extent(2, 2), extent(4, 1), extent(7, 2)];
        let mut content = Vec::new();
        Filled::new(&mut packed, 10, &extents)
            .read_to_end(&mut content)
            .unwrap();
        assert_eq!(content, b"\0\0abc\0\0de\0");
    }

    #[test]
    fn maps_are_checked() {
        let check = |map: &[DataExtent], len, packed| check_map(map.to_vec(), len, packed).is_ok();
        assert!(check(&[], 10, 0));
        assert!(check(&[extent(0, 5), extent(5, 5), extent(10, 0)], 10, 10));
        assert!(!check(&[extent(0, 5), extent(4, 5)], 10, 10));
        assert!(!check(&[extent(0, 11)], 10, 11));
        assert!(!check(&[extent(0, 5)], 10, 6));
        assert!(!check(&[extent(u64::MAX, 2)], u64::MAX, 2));
    }
}
