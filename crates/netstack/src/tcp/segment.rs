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
            _ => {}
        }
        options = &options[len..];
    }
}

/// Writes a header; the checksum is left zero.
pub fn put(buffer: &mut Vec<u8>, header: &Header) {
    let mut options = [0; 8];
    let mut len = 0;
    if let Some(mss) = header.mss {
        options[..2].copy_from_slice(&[2, 4]);
        options[2..4].copy_from_slice(&mss.to_be_bytes());
        len = 4;
    }
    if let Some(scale) = header.window_scale {
        options[len..len + 4].copy_from_slice(&[1, 3, 3, scale]);
        len += 4;
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
