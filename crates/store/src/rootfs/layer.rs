//! One layer on its way from its blob into the merger.
//!
//! A thread reads, decompresses and hashes; the caller's thread merges and writes. What says how a layer is packed is
//! its first bytes: media types lie, and archives of `docker save` call gzip a tar.

use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use flate2::read::MultiGzDecoder;
use oci::{Compression, Digest, Hasher, MergeError, Merger};

use super::{Error, Layer, MAX_UNPACKED, tree::Sink};
use crate::{Root, content};

/// Bytes that go from thread to thread at once.
const CHUNK: usize = 256 << 10;

/// Chunks that wait at most.
const WAITING: usize = 8;

type Chunk = io::Result<Vec<u8>>;

/// Applies a layer, and checks that it unpacks to its diff ID, and to no more than the `left` bytes.
pub(super) fn apply<D: ext4::Disk>(
    root: &Root,
    layer: &Layer,
    merger: &mut Merger<Sink<D>>,
    left: &mut u64,
) -> Result<(), Error> {
    let digest = layer.blob.digest;
    let blob = BufReader::with_capacity(CHUNK, content::open(root, &digest)?);
    // A blob that is its own content is plain, whatever its first bytes look like.
    let plain = digest == layer.diff_id;
    let (sender, receiver) = sync_channel(WAITING);
    std::thread::scope(|scope| {
        let unpacking = scope.spawn(move || unpack(blob, plain, &sender));
        let mut tar = Chunks::new(receiver, *left);
        let merged = merger.apply_layer(&mut tar);
        let (broken, too_large) = (tar.broken, tar.left.is_none());
        *left = tar.left.unwrap_or(0);
        // Lets the thread end when we gave up early.
        drop(tar.receiver);
        let found = unpacking
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if too_large {
            return Err(Error::TooLarge {
                layer: digest,
                limit: MAX_UNPACKED,
            });
        }
        match (merged, found) {
            (Ok(()), Some(found)) if found == layer.diff_id => Ok(()),
            (Ok(()), Some(found)) => Err(Error::DiffId {
                layer: digest,
                expected: layer.diff_id,
                found,
            }),
            (Err(source), _) => Err(cause(digest, source, broken)),
            (Ok(()), None) => Err(Error::Decompress {
                layer: digest,
                source: io::ErrorKind::UnexpectedEof.into(),
            }),
        }
    })
}

/// The merger met what the other thread said, or an error of its own.
fn cause(layer: Digest, source: MergeError, broken: Option<String>) -> Error {
    match broken {
        Some(reason) => Error::Decompress {
            layer,
            source: io::Error::new(io::ErrorKind::InvalidData, reason),
        },
        None => Error::Merge { layer, source },
    }
}

/// The digest of what came out, unless it broke off.
fn unpack(blob: impl Read + Send, plain: bool, to: &SyncSender<Chunk>) -> Option<Digest> {
    let mut reader = match decoder(blob, plain) {
        Ok(reader) => reader,
        Err(error) => {
            // Nobody listens when the merger gave up.
            let _ = to.send(Err(error));
            return None;
        }
    };
    let mut hasher = Hasher::new();
    loop {
        let mut chunk = vec![0; CHUNK];
        match fill(&mut reader, &mut chunk) {
            Ok(0) => return Some(hasher.finish()),
            Ok(length) => {
                chunk.truncate(length);
                hasher.update(&chunk);
                to.send(Ok(chunk)).ok()?;
            }
            Err(error) => {
                let _ = to.send(Err(error));
                return None;
            }
        }
    }
}

/// Whatever is packed in `blob`, by its first bytes.
///
/// # Errors
/// The first bytes cannot be read.
pub fn decompress<'a>(blob: impl Read + Send + 'a) -> io::Result<Box<dyn Read + 'a>> {
    decoder(blob, false)
}

fn decoder<'a>(mut blob: impl Read + Send + 'a, plain: bool) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 4];
    let length = fill(&mut blob, &mut magic)?;
    let packed = if plain {
        Compression::None
    } else {
        compression(&magic[..length])
    };
    let whole = io::Cursor::new(magic).take(length as u64).chain(blob);
    Ok(match packed {
        Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::Decoder::new(whole)?),
        Compression::None => Box::new(whole),
    })
}

/// How something that begins so is packed (RFC 1952, RFC 8878).
#[must_use]
pub fn compression(magic: &[u8]) -> Compression {
    match magic {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A Zstandard frame, or a skippable one, as zstd:chunked and pzstd begin.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// Reads until the buffer is full or there is no more.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
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

/// The merger's end of the channel.
struct Chunks {
    receiver: Receiver<Chunk>,
    chunk: Vec<u8>,
    at: usize,
    /// What broke, as text: the error itself goes to the merger.
    broken: Option<String>,
    /// Bytes that may still come; `None` when more came.
    left: Option<u64>,
}

impl Chunks {
    fn new(receiver: Receiver<Chunk>, left: u64) -> Self {
        Self {
            receiver,
            chunk: Vec::new(),
            at: 0,
            broken: None,
            left: Some(left),
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.receiver.recv() {
                Ok(Ok(chunk)) => {
                    let left = self
                        .left
                        .and_then(|left| left.checked_sub(chunk.len() as u64));
                    self.left = left;
                    if left.is_none() {
                        return Err(io::ErrorKind::FileTooLarge.into());
                    }
                    (self.chunk, self.at) = (chunk, 0);
                }
                Ok(Err(error)) => {
                    self.broken = Some(error.to_string());
                    return Err(error);
                }
                // The end: the sender is gone after the last chunk.
                Err(_) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.chunk.len() - self.at);
        buffer[..length].copy_from_slice(&self.chunk[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_comes_than_is_allowed() {
        let check = |left: u64, expect: Option<u64>| {
            let (sender, receiver) = sync_channel(WAITING);
            sender.send(Ok(vec![1; 10])).unwrap();
            sender.send(Ok(vec![2; 10])).unwrap();
            drop(sender);
            let mut chunks = Chunks::new(receiver, left);
            let mut bytes = Vec::new();
            let read = chunks.read_to_end(&mut bytes);
            assert_eq!(
                (read.is_ok(), chunks.left),
                (expect.is_some(), expect),
                "{left}"
            );
        };
        check(25, Some(5));
        check(20, Some(0));
        check(19, None);
        check(5, None);
    }
}
