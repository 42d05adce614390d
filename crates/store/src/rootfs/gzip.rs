//! gzip (RFC 1952) without its checksum.
//!
//! A layer's diff ID is the SHA-256 of what it unpacks to, and is checked: CRC-32 would find nothing that it does not, and costs a
//! tenth of the decompression. Everything else is checked: headers, the compressed data, lengths, the end.

use std::io::{self, BufRead, Read};

use flate2::{Decompress, FlushDecompress, Status};

const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// Reads all members, one after the other.
#[derive(Debug)]
pub(super) struct Gzip<R> {
    reader: R,
    inflate: Decompress,
    at: At,
    /// What the member unpacked to, modulo 2³².
    len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The first member's header, which must be there.
    Start,
    Body,
    Trailer,
    /// Another member's header, or the end.
    Next,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid gzip: {what}"))
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            inflate: Decompress::new(false),
            at: At::Start,
            len: 0,
        }
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn header(&mut self) -> io::Result<()> {
        let header: [u8; 10] = self.bytes()?;
        if header[..2] != [0x1f, 0x8b] {
            return Err(invalid("something that is no member follows"));
        }
        let flags = header[3];
        if header[2] != 8 || flags & RESERVED != 0 {
            return Err(invalid("an unknown method of compression"));
        }
        if flags & FEXTRA != 0 {
            let len = u16::from_le_bytes(self.bytes()?);
            let skipped = io::copy(&mut self.reader.by_ref().take(len.into()), &mut io::sink())?;
            if skipped < u64::from(len) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        for flag in [FNAME, FCOMMENT] {
            if flags & flag != 0 {
                self.skip_text()?;
            }
        }
        if flags & FHCRC != 0 {
            let _: [u8; 2] = self.bytes()?;
        }
        Ok(())
    }

    /// Up to a zero byte.
    fn skip_text(&mut self) -> io::Result<()> {
        loop {
            let text = self.reader.fill_buf()?;
            if text.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = text.iter().position(|byte| *byte == 0);
            let len = end.map_or(text.len(), |end| end + 1);
            self.reader.consume(len);
            if end.is_some() {
                return Ok(());
            }
        }
    }

    fn trailer(&mut self) -> io::Result<()> {
        let [_, _, _, _, len @ ..]: [u8; 8] = self.bytes()?;
        if u32::from_le_bytes(len) != self.len {
            return Err(invalid("a member has another length than it says"));
        }
        Ok(())
    }

    /// As many bytes as are to be had at once; none at the member's end.
    fn body(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.reader.fill_buf()?;
            let is_end = input.is_empty();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, buffer, FlushDecompress::None)
                .map_err(|error| invalid(&error.to_string()))?;
            let taken = (self.inflate.total_in() - before_in) as usize;
            let given = (self.inflate.total_out() - before_out) as usize;
            self.reader.consume(taken);
            self.len = self.len.wrapping_add(given as u32);
            if status == Status::StreamEnd {
                self.at = At::Trailer;
            }
            if given > 0 || self.at == At::Trailer {
                return Ok(given);
            }
            if is_end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if taken == 0 {
                return Err(invalid("the compressed data make no sense"));
            }
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.at {
                At::Next if self.reader.fill_buf()?.is_empty() => return Ok(0),
                At::Start | At::Next => {
                    self.header()?;
                    self.inflate.reset(false);
                    (self.at, self.len) = (At::Body, 0);
                }
                At::Body => match self.body(buffer)? {
                    0 => {}
                    given => return Ok(given),
                },
                At::Trailer => {
                    self.trailer()?;
                    self.at = At::Next;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use flate2::{Compression, GzBuilder};
    use proptest::prelude::*;

    use super::*;

    fn pack(bytes: &[u8], builder: GzBuilder) -> Vec<u8> {
        let mut encoder = builder.write(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(packed: &[u8], buffer: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut gzip = Gzip::new(BufReader::with_capacity(buffer, packed));
        gzip.read_to_end(&mut bytes).map(|_| bytes)
    }

    fn sample(words: u32) -> Vec<u8> {
        (0..words).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    #[test]
    fn every_field_of_the_header_is_skipped_and_members_follow_one_another() {
        let bytes = sample(100_000);
        let all = GzBuilder::new()
            .filename("name")
            .comment("a comment")
            .extra(vec![7; 300])
            .mtime(5);
        let mut packed = pack(&bytes, all);
        packed.extend(pack(b"", GzBuilder::new()));
        packed.extend(pack(b"more", GzBuilder::new().filename("x".repeat(1000))));
        let expect = [&bytes[..], b"more"].concat();
        for buffer in [1, 7, 100, 1 << 20] {
            assert!(unpack(&packed, buffer).unwrap() == expect, "{buffer}");
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let bytes = sample(100_000);
        let packed = pack(&bytes, GzBuilder::new());
        let check = |packed: &[u8], expect: &str| {
            let error = unpack(packed, 4096).unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
        };
        let end = packed.len();
        for cut in [0, 5, 10, 11, end / 2, end - 9, end - 8, end - 1] {
            let error = unpack(&packed[..cut], 4096).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}: {error}");
        }
        let changed = |at: usize, value: u8| {
            let mut packed = packed.clone();
            packed[at] = value;
            packed
        };
        check(&changed(2, 9), "unknown method");
        check(&changed(3, 0x80), "unknown method");
        check(&changed(10, 7), "invalid gzip");
        check(&changed(end - 1, 77), "another length");
        check(&[&packed[..], b"garbage after it"].concat(), "no member");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is damaged: bytes or an error. What flate2's own reader takes is the same here.
        #[test]
        fn damage_never_panics_and_is_seen_by_others_too(
            at in any::<prop::sample::Index>(),
            value in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = sample(1000);
            let mut packed = pack(&bytes, GzBuilder::new().filename("name").extra(vec![1; 9]));
            let at = at.index(packed.len());
            packed[at] = value;
            packed.truncate(1 + cut.index(packed.len()));
            let mut expect = Vec::new();
            if flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut expect).is_ok() {
                prop_assert_eq!(unpack(&packed, 512).unwrap(), expect);
            } else {
                let _ = unpack(&packed, 512);
            }
        }
    }
}
