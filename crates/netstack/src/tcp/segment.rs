//! Segments: reading and writing their headers (RFC 9293, 3.1).

use crate::wire::{be16, be32};

/// A segment's flags.
pub mod flag {
    /// The sender has no more to say.
    pub const FIN: u8 = 1;
    /// A connection begins.
    pub const SYN: u8 = 2;
    /// The connection is no more.
    pub const RST: u8 = 4;
    /// Hand it to the program.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// A segment's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// From which port.
    pub source: u16,
    /// To which port.
    pub destination: u16,
    /// Of the first byte.
    pub sequence: u32,
    /// The next byte that is expected.
    pub acknowledgement: u32,
    /// See [`flag`].
    pub flags: u8,
    /// As it stands there, not scaled.
    pub window: u16,
    /// Option 2.
    pub mss: Option<u16>,
    /// Option 3.
    pub window_scale: Option<u8>,
    /// Option 4: the sender understands option 5.
    pub selective: bool,
    /// Option 5.
    pub blocks: Blocks,
}

/// What came before its turn (RFC 2018, 3): for each, its first sequence number and the one behind its last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    list: [(u32, u32); MOST_BLOCKS],
    len: usize,
}

/// As many as there is room for.
pub const MOST_BLOCKS: usize = 4;

impl Blocks {
    /// One more, if there is room.
    pub fn push(&mut self, block: (u32, u32)) {
        if let Some(place) = self.list.get_mut(self.len) {
            *place = block;
            self.len += 1;
        }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[(u32, u32)] {
        &self.list[..self.len]
    }
}

/// Reads a segment: header and payload.
pub fn parse(segment: &[u8]) -> Option<(Header, &[u8])> {
    let offset = usize::from(*segment.get(12)? >> 4) * 4;
    let options = segment.get(HEADER_LEN..offset)?;
    let payload = segment.get(offset..)?;
    let mut header = Header {
        source: be16(segment, 0)?,
        destination: be16(segment, 2)?,
        sequence: be32(segment, 4)?,
        acknowledgement: be32(segment, 8)?,
        flags: segment[13],
        window: be16(segment, 14)?,
        ..Header::default()
    };
    parse_options(options, &mut header);
    Some((header, payload))
}

/// Options that make no sense end the list: what came before counts (RFC 9293, 3.1 leaves it open).
fn parse_options(mut options: &[u8], header: &mut Header) {
    while let [kind, rest @ ..] = options {
        match kind {
            0 => return,
            1 => {
                options = rest;
                continue;
            }
            _ => {}
        }
        let Some(len) = rest.first().map(|len| usize::from(*len)) else {
            return;
        };
        let Some(value) = options.get(2..len) else {
            return;
        };
        match (kind, value) {
            (2, [high, low]) => header.mss = Some(u16::from_be_bytes([*high, *low])),
            // More than 14 counts as 14 (RFC 7323, 2.3).
            (3, [scale]) => header.window_scale = Some((*scale).min(14)),
            (4, []) => header.selective = true,
            (5, blocks) => {
                for block in blocks.chunks_exact(8) {
                    if let (Some(begin), Some(end)) = (be32(block, 0), be32(block, 4)) {
                        header.blocks.push((begin, end));
                    }
                }
            }
            _ => {}
        }
        options = &options[len..];
    }
}

/// Bytes of a header's options at most.
const MOST_OPTIONS: usize = 40;

/// Writes a header; the checksum is left zero. (Blocks stand in segments without other options, so that there is room for all.)
pub fn put(buffer: &mut Vec<u8>, header: &Header) {
    let mut options = [0; MOST_OPTIONS];
    let mut len = 0;
    let mut add = |bytes: &[u8]| {
        if let Some(places) = options.get_mut(len..len + bytes.len()) {
            places.copy_from_slice(bytes);
            len += bytes.len();
        }
    };
    if let Some(mss) = header.mss {
        let [high, low] = mss.to_be_bytes();
        add(&[2, 4, high, low]);
    }
    if header.selective {
        add(&[1, 1, 4, 2]);
    }
    if let Some(scale) = header.window_scale {
        add(&[1, 3, 3, scale]);
    }
    let blocks = header.blocks.as_slice();
    if !blocks.is_empty() {
        add(&[1, 1, 5, 2 + 8 * blocks.len() as u8]);
        for (begin, end) in blocks {
            add(&begin.to_be_bytes());
            add(&end.to_be_bytes());
        }
    }
    buffer.extend_from_slice(&header.source.to_be_bytes());
    buffer.extend_from_slice(&header.destination.to_be_bytes());
    buffer.extend_from_slice(&header.sequence.to_be_bytes());
    buffer.extend_from_slice(&header.acknowledgement.to_be_bytes());
    buffer.extend_from_slice(&[((HEADER_LEN + len) as u8) << 2, header.flags]);
    buffer.extend_from_slice(&header.window.to_be_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&options[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            mss: Option<u16>, scale in proptest::option::of(0_u8..15), selective: bool,
            blocks in proptest::collection::vec(any::<(u32, u32)>(), 0..5),
        ) {
            let mut header = Header { sequence: 7, flags: flag::ACK, ..Header::default() };
            if blocks.is_empty() {
                (header.mss, header.window_scale, header.selective) = (mss, scale, selective);
            }
            blocks.into_iter().for_each(|block| header.blocks.push(block));
            let mut bytes = Vec::new();
            put(&mut bytes, &header);
            bytes.extend(b"payload");
            prop_assert_eq!(parse(&bytes), Some((header, &b"payload"[..])));
        }
    }
}
