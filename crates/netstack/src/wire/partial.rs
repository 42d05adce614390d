//! Checksums that are left to whoever needs them, and the header that says so on links of devices that can leave them out:
//! `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6), in little endian.
//!
//! ```text
//!   │ flags │ GSO type │ header length (16) │ GSO size (16) │ start (16) │ offset (16) │ buffers (16) │ frame …
//! ```
//!
//! A checksum that is left out has the sum of what else it covers (the pseudo header) in its place. Where it is says a guest, and it may be
//! anywhere: in a tunnel's packet, or where it turns somebody's address into another's.

use super::{ETHERNET_LEN, checksum, ether_type, parse_ethernet, parse_ipv4, parse_ipv6, protocol};

/// Bytes of the header.
pub const HEADER_LEN: usize = 12;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`. Other flags tell a guest something; from one they mean nothing.
const NEEDS_CSUM: u8 = 1;

/// Where the checksum of TCP's header is, and that of UDP's.
const OF_TCP: u16 = 16;
const OF_UDP: u16 = 6;

/// A checksum that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// `csum_start`: the byte of the frame where what it covers begins, which goes to the frame's end.
    pub start: u16,
    /// `csum_offset`: its own place, counted from there.
    pub offset: u16,
}

/// Reads what a link says before a frame: a checksum that is left out, and the frame. `None`: something that we have not offered, or a checksum beyond
/// the frame.
pub fn parse_header(datagram: &[u8]) -> Option<(Option<Partial>, &[u8])> {
    let (header, frame) = datagram.split_first_chunk::<HEADER_LEN>()?;
    let [flags, segmentation, _, _, _, _, rest @ ..] = *header;
    if segmentation != 0 || frame.is_empty() {
        return None;
    }
    if flags & NEEDS_CSUM == 0 {
        return Some((None, frame));
    }
    let partial = Partial {
        start: u16::from_le_bytes([rest[0], rest[1]]),
        offset: u16::from_le_bytes([rest[2], rest[3]]),
    };
    (partial.end() <= frame.len()).then_some((Some(partial), frame))
}

/// What is written before a frame.
pub fn header(partial: Option<Partial>) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    if let Some(partial) = partial {
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&partial.start.to_le_bytes());
        header[8..10].copy_from_slice(&partial.offset.to_le_bytes());
    }
    header
}

impl Partial {
    /// Leaves the checksum of TCP's header out, which begins at `start`. `pseudo` is the [pseudo header](super::pseudo_header)'s sum.
    pub(crate) fn of_tcp(frame: &mut [u8], start: usize, pseudo: u64) -> Partial {
        Partial::leave(frame, start, OF_TCP, pseudo)
    }

    /// The same for UDP's.
    pub(crate) fn of_udp(frame: &mut [u8], start: usize, pseudo: u64) -> Partial {
        Partial::leave(frame, start, OF_UDP, pseudo)
    }

    fn leave(frame: &mut [u8], start: usize, offset: u16, pseudo: u64) -> Partial {
        let at = start + usize::from(offset);
        let sum = !checksum(&[], pseudo);
        if let Some(place) = frame.get_mut(at..at + 2) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        // Behind headers, whose bytes are a few dozen.
        let start = start as u16;
        Partial { start, offset }
    }

    fn end(self) -> usize {
        usize::from(self.start) + usize::from(self.offset) + 2
    }

    /// Whether it is the checksum of TCP or UDP in a packet that is in the frame itself: nothing that anybody looks at changes with it.
    pub(crate) fn is_plain(self, frame: &[u8]) -> bool {
        plain(frame) == Some(self)
    }

    /// Computes it and puts it into its place. One that comes out as zero, which says to UDP that there is none, becomes its twin (RFC 768), as Linux
    /// has it for all.
    pub fn complete(self, frame: &mut [u8]) {
        let Some(covered) = frame.get_mut(usize::from(self.start)..) else {
            return;
        };
        let sum = match checksum(covered, 0) {
            0 => 0xffff,
            sum => sum,
        };
        let at = usize::from(self.offset);
        if let Some(place) = covered.get_mut(at..at + 2) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// A copy of the frame with it.
    pub fn completed(self, frame: &[u8]) -> Vec<u8> {
        let mut whole = frame.to_vec();
        self.complete(&mut whole);
        whole
    }
}

/// Where the checksum of a frame's own TCP or UDP is.
fn plain(frame: &[u8]) -> Option<Partial> {
    let ethernet = parse_ethernet(frame)?;
    let packet = match ethernet.ether_type {
        ether_type::IPV4 => parse_ipv4(ethernet.payload)?,
        ether_type::IPV6 => parse_ipv6(ethernet.payload)?,
        _ => return None,
    };
    let offset = match packet.protocol {
        protocol::TCP => OF_TCP,
        protocol::UDP => OF_UDP,
        _ => return None,
    };
    let start = ETHERNET_LEN + packet.packet.len() - packet.payload.len();
    let start = u16::try_from(start).ok()?;
    (packet.payload.len() >= usize::from(offset) + 2).then_some(Partial { start, offset })
}
