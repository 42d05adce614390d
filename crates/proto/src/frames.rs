//! Ethernet frames on a stream: each is its length (four bytes, big-endian) and its bytes, without a check sequence, as in QEMU's
//! `-netdev stream`. So a guest and its supervisor carry those of a network device that the VM was not made with.

/// Bytes of a frame's length.
pub const HEADER: usize = 4;

/// Bytes of the largest frame: what an IP packet can be, and an Ethernet header with a VLAN tag.
pub const MAX_FRAME: usize = 65535 + 18;

/// A frame that nobody sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub struct TooLong(pub usize);

/// What comes before a frame of `len` bytes, [`MAX_FRAME`] at most.
#[must_use]
pub fn header(len: usize) -> [u8; HEADER] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

/// Parts a stream into frames.
#[derive(Debug)]
pub struct Reader {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            buffer: vec![0; 2 * (HEADER + MAX_FRAME)].into(),
            start: 0,
            end: 0,
        }
    }
}

impl Reader {
    /// Where the stream's next bytes belong. It is never empty after [`Reader::next`] had no frame.
    pub fn room(&mut self) -> &mut [u8] {
        if self.buffer.len() - self.end < HEADER + MAX_FRAME {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes are in the room now.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// The next frame; `None` until more bytes are there.
    ///
    /// # Errors
    /// The stream holds no frames.
    #[expect(clippy::should_implement_trait, reason = "the frame is borrowed")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*header) as usize;
        if len > MAX_FRAME {
            return Err(TooLong(len));
        }
        if rest.len() < len {
            return Ok(None);
        }
        self.start += HEADER + len;
        Ok(Some(&rest[..len]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds a stream in pieces of these sizes.
    fn read(stream: &[u8], pieces: &[usize]) -> Result<Vec<Vec<u8>>, TooLong> {
        let (mut reader, mut rest, mut frames) = (Reader::default(), stream, Vec::new());
        let mut pieces = pieces.iter().copied().cycle();
        while !rest.is_empty() {
            let room = reader.room();
            assert!(!room.is_empty());
            let piece = pieces.next().unwrap_or(1).clamp(1, room.len());
            let piece = piece.min(rest.len());
            room[..piece].copy_from_slice(&rest[..piece]);
            rest = &rest[piece..];
            reader.filled(piece);
            while let Some(frame) = reader.next()? {
                frames.push(frame.to_vec());
            }
        }
        Ok(frames)
    }

    #[test]
    fn the_largest_fits_and_a_larger_one_is_none() {
        let mut stream = Vec::new();
        for len in [MAX_FRAME, 0, MAX_FRAME, 60] {
            stream.extend(header(len));
            stream.extend(vec![7; len]);
        }
        let frames = read(&stream, &[usize::MAX]).unwrap();
        let lens: Vec<usize> = frames.iter().map(Vec::len).collect();
        assert_eq!(lens, [MAX_FRAME, 0, MAX_FRAME, 60]);
        let long = header(MAX_FRAME + 1);
        assert_eq!(read(&long, &[1]), Err(TooLong(MAX_FRAME + 1)));
    }

    proptest! {
        #[test]
        fn frames_arrive_however_the_stream_is_cut(
            sizes in prop::collection::vec(0_usize..3000, 0..8),
            pieces in prop::collection::vec(1_usize..5000, 1..8),
        ) {
            let frames: Vec<Vec<u8>> = sizes.iter().map(|len| vec![*len as u8; *len]).collect();
            let stream: Vec<u8> = frames
                .iter()
                .flat_map(|frame| [&header(frame.len())[..], &frame[..]].concat())
                .collect();
            prop_assert_eq!(read(&stream, &pieces).unwrap(), frames);
        }

        #[test]
        fn any_bytes(stream in prop::collection::vec(any::<u8>(), 0..4000), piece in 1_usize..4000) {
            let _ = read(&stream, &[piece]);
        }
    }
}
