//! What stands before a frame, in the guest's rings and on the link: `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6). Of it we know where a checksum is that
//! was left out, and into how many buffers a frame went; segmentation is not offered.
//!
//! Both sides write it, and neither is trusted: one that says anything else is refused, and what is passed on is written anew.

/// Bytes of it.
pub const HEADER_LEN: usize = 12;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum is to be computed. The other flags are a device's to say.
const NEEDS_CSUM: u8 = 1;

/// A checksum that was left out: the sum of what it covers beside the frame's own bytes is in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// `csum_start`: where what it covers begins, to the end of the frame.
    start: u16,
    /// `csum_offset`: its place, from there.
    offset: u16,
}

/// The header asks for what was not offered, or for a checksum beyond the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// Reads a header of a frame that has `len` bytes.
pub fn parse(header: &[u8; HEADER_LEN], len: usize) -> Result<Option<Partial>, Refused> {
    let [flags, segmentation, ..] = *header;
    if segmentation != 0 {
        return Err(Refused);
    }
    if flags & NEEDS_CSUM == 0 {
        return Ok(None);
    }
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let partial = Partial {
        start: half(6),
        offset: half(8),
    };
    let end = usize::from(partial.start) + usize::from(partial.offset) + 2;
    match end <= len {
        true => Ok(Some(partial)),
        false => Err(Refused),
    }
}

/// Writes a header, of a frame in so many of the guest's buffers; there are none on a link.
pub fn write(partial: Option<Partial>, buffers: u16) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    if let Some(partial) = partial {
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&partial.start.to_le_bytes());
        header[8..10].copy_from_slice(&partial.offset.to_le_bytes());
    }
    header[10..].copy_from_slice(&buffers.to_le_bytes());
    header
}

impl Partial {
    /// Computes the checksum, for a driver that wants it done. Zero, which tells UDP that there is none, becomes its twin (RFC 768).
    pub fn complete(self, frame: &mut [u8]) {
        let Some(covered) = frame.get_mut(usize::from(self.start)..) else {
            return;
        };
        let sum = match !sum(covered) {
            0 => 0xffff,
            sum => sum,
        };
        let at = usize::from(self.offset);
        if let Some(place) = covered.get_mut(at..at + 2) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// The sum of 16-bit words in one's complement (RFC 1071), an odd byte counting as the first of one.
fn sum(bytes: &[u8]) -> u16 {
    // Frames have 64 KiB: 32 bits hold the sum of their words.
    let words = bytes.chunks_exact(2);
    let odd = words.remainder().first();
    let odd = odd.map_or(0, |byte| u32::from(*byte) << 8);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    sum += odd;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(header: [u8; HEADER_LEN], len in 0..100_usize) {
            let mut frame = vec![7; len];
            if let Ok(partial) = parse(&header, len) {
                if let Some(partial) = partial {
                    partial.complete(&mut frame);
                }
                let again = write(partial, 1);
                prop_assert_eq!(parse(&again, len), Ok(partial));
            }
        }

        /// A receiver's check (RFC 1071, section 1): all that is covered, with the checksum in its place, sums to ones.
        #[test]
        fn what_is_computed_is_what_is_checked(
            mut frame in proptest::collection::vec(any::<u8>(), 40..200), start in 0_u16..20, word in 0_u16..9, pseudo: u16,
        ) {
            let (start, offset) = (usize::from(start), usize::from(word * 2));
            frame[start + offset..start + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
            let header = write(Some(Partial { start: start as u16, offset: offset as u16 }), 0);
            let partial = parse(&header, frame.len()).unwrap().unwrap();
            partial.complete(&mut frame);
            let mut sum = u64::from(pseudo);
            for pair in frame[start..].chunks(2) {
                sum += u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0));
            }
            prop_assert_eq!(sum % 0xffff, 0);
        }
    }

    /// The words of RFC 1071, section 3.
    #[test]
    fn the_standards_example() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
    }

    #[test]
    fn what_was_not_offered_is_refused() {
        // Segmentation of TCP over IPv4.
        assert_eq!(
            parse(&[0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0], 99),
            Err(Refused)
        );
        let at = |start: u8| [1, 0, 0, 0, 0, 0, start, 0, 16, 0, 0, 0];
        assert!(parse(&at(34), 52).is_ok());
        assert_eq!(parse(&at(35), 52), Err(Refused));
        assert_eq!(parse(&[0xff; HEADER_LEN], 52), Err(Refused));
    }
}
