//! How a layer is packed, and how it is unpacked. Its first bytes decide: media types lie, and archives of `docker save`
//! call gzip a tar.

use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;
use oci::Compression;

use super::gzip::Gzip;

/// Bytes of a blob that are read at once.
const BUFFER: usize = 128 << 10;

/// Whatever is packed in `blob`, by its first bytes.
///
/// # Errors
/// The first bytes cannot be read.
pub fn decompress<'a>(blob: impl Read + Send + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let (packed, whole) = begin(blob)?;
    Ok(match packed {
        Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::Decoder::new(whole)?),
        Compression::None => Box::new(whole),
    })
}

/// The same for somebody who knows the digest of what must come out, and checks it.
pub(super) fn decompress_verified<'a>(
    blob: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    let (packed, whole) = begin(blob)?;
    Ok(match packed {
        Compression::Gzip => Box::new(Gzip::new(BufReader::with_capacity(BUFFER, whole))),
        Compression::Zstd => Box::new(zstd::Decoder::new(whole)?),
        Compression::None => Box::new(whole),
    })
}

/// How a blob is packed, and all of it.
fn begin<R: Read>(mut blob: R) -> io::Result<(Compression, impl Read + use<R>)> {
    let mut magic = [0; 4];
    let length = fill(&mut blob, &mut magic)?;
    let packed = compression(&magic[..length]);
    Ok((
        packed,
        io::Cursor::new(magic).take(length as u64).chain(blob),
    ))
}

/// How something that begins so is packed (RFC 1952, RFC 8878).
#[must_use]
pub fn compression(magic: &[u8]) -> Compression {
    match magic {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A Zstandard frame, or a skippable one, as pzstd begins.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// Reads until the buffer is full or there is no more.
pub(super) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
