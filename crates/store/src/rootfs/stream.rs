//! One layer on its way from its blob to whoever reads its archive, in three threads.
//!
//! ```text
//!   blob ─▶ decompress ─┬─▶ hash
//!              ▲        └─▶ read the archive (the caller's thread)
//!              └── buffers, when both are done with them
//! ```
//!
//! So a layer takes as long as the slowest of the three, which is decompression, unless there are fewer cores than threads.
//! There are up to [`BUFFERS`] buffers for each layer; decompression waits when all of them are full.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use oci::{Digest, Hasher, MergeError};

use super::{Error, Layer, packing};
use crate::{Root, content};

/// Bytes of a buffer.
const CHUNK: usize = 256 << 10;

/// Buffers that a layer may have. Each is made when it is needed: the others lag behind by so many only where an archive has many small
/// files in a row, or where there are two cores for the three.
const BUFFERS: usize = 32;

/// What all layers of an image share while they are read.
#[derive(Debug)]
pub(super) struct Watch {
    /// Bytes that layers may still unpack to.
    left: AtomicU64,
    limit: u64,
    /// Bytes that all layers came in.
    packed: u64,
    /// The lowest layer that failed. What is above it is of no use any more.
    failed: AtomicUsize,
}

impl Watch {
    pub(super) fn new(limit: u64, packed: u64) -> Self {
        Self {
            left: AtomicU64::new(limit),
            limit,
            packed,
            failed: AtomicUsize::new(usize::MAX),
        }
    }

    /// A layer failed: those above it end when they notice.
    pub(super) fn fail(&self, number: usize) {
        self.failed.fetch_min(number, Ordering::Relaxed);
    }

    /// Whether a layer below that one failed.
    pub(super) fn is_futile(&self, number: usize) -> bool {
        self.failed.load(Ordering::Relaxed) < number
    }

    fn take(&self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let left = |left: u64| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
            .is_ok()
    }
}

/// Unpacked bytes: the first `len` of a buffer.
#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    len: usize,
}

/// One of the two that look at a chunk. The last gives the buffer back.
fn give_back(chunk: Arc<Chunk>, to: &Sender<Chunk>) {
    if let Some(chunk) = Arc::into_inner(chunk) {
        // Nobody wants it at the end.
        let _ = to.send(chunk);
    }
}

/// Gives a layer's archive to `read`, and checks that it unpacks to its diff ID. `number` is its place in the image.
pub(super) fn read<T>(
    root: &Root,
    layer: &Layer,
    number: usize,
    watch: &Watch,
    read: impl FnOnce(&mut Archive<'_>) -> Result<T, MergeError>,
) -> Result<T, Error> {
    let digest = layer.blob.digest;
    let blob = content::open(root, &digest)?;
    // A blob that is its own content is plain, whatever its first bytes look like.
    let plain = digest == layer.diff_id;
    let (free, buffers) = channel();
    let (to_hash, hashed) = channel();
    let (to_read, chunks) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || unpack(blob, plain, &buffers, &to_hash, &to_read));
        let hasher_free = free.clone();
        let hashing = scope.spawn(move || hash(&hashed, &hasher_free));
        let mut archive = Archive::new(chunks, free, number, watch);
        let result = read(&mut archive);
        let (broken, too_large) = (archive.broken.take(), archive.too_large);
        // Lets the thread end when we gave up early.
        drop(archive);
        let found = hashing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if too_large {
            return Err(Error::TooLarge {
                layer: digest,
                limit: watch.limit,
                packed: watch.packed,
            });
        }
        if let Some(source) = broken {
            return Err(Error::Decompress {
                layer: digest,
                source,
            });
        }
        let value = result.map_err(|source| Error::Merge {
            layer: digest,
            source,
        })?;
        if found != layer.diff_id {
            return Err(Error::DiffId {
                layer: digest,
                expected: layer.diff_id,
                found,
            });
        }
        Ok(value)
    })
}

/// The first thread. It ends at the end of the blob, where that is broken, or when nobody reads any more.
fn unpack(
    blob: impl Read + Send,
    plain: bool,
    buffers: &Receiver<Chunk>,
    to_hash: &Sender<Arc<Chunk>>,
    to_read: &Sender<io::Result<Arc<Chunk>>>,
) {
    let mut unpacked: io::Result<Box<dyn Read + '_>> = match plain {
        true => Ok(Box::new(blob)),
        false => packing::decompress_verified(blob),
    };
    let mut made = 0;
    while let Some(mut chunk) = buffer(buffers, &mut made) {
        let filled = match &mut unpacked {
            Ok(reader) => packing::fill(reader, &mut chunk.bytes),
            Err(error) => Err(std::mem::replace(
                error,
                io::ErrorKind::UnexpectedEof.into(),
            )),
        };
        match filled {
            Ok(0) => return,
            Ok(len) => {
                chunk.len = len;
                let chunk = Arc::new(chunk);
                let _ = to_hash.send(Arc::clone(&chunk));
                if to_read.send(Ok(chunk)).is_err() {
                    return;
                }
            }
            Err(error) => {
                let _ = to_read.send(Err(error));
                return;
            }
        }
    }
}

/// A buffer that was given back, or a new one while there are not enough; none when the other two are gone.
fn buffer(given_back: &Receiver<Chunk>, made: &mut usize) -> Option<Chunk> {
    match given_back.try_recv() {
        Ok(chunk) => Some(chunk),
        Err(TryRecvError::Empty) if *made < BUFFERS => {
            *made += 1;
            let bytes = vec![0; CHUNK].into_boxed_slice();
            Some(Chunk { bytes, len: 0 })
        }
        Err(TryRecvError::Empty) => given_back.recv().ok(),
        Err(TryRecvError::Disconnected) => None,
    }
}

/// The second thread: the digest of all that comes.
fn hash(chunks: &Receiver<Arc<Chunk>>, free: &Sender<Chunk>) -> Digest {
    let mut hasher = Hasher::new();
    for chunk in chunks {
        hasher.update(&chunk.bytes[..chunk.len]);
        give_back(chunk, free);
    }
    hasher.finish()
}

/// A layer's archive, as its chunks come.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    chunks: Receiver<io::Result<Arc<Chunk>>>,
    free: Sender<Chunk>,
    chunk: Option<Arc<Chunk>>,
    /// Bytes of the chunk that were read.
    at: usize,
    number: usize,
    watch: &'a Watch,
    /// Why there are no more chunks: the reader gets to see a copy.
    broken: Option<io::Error>,
    too_large: bool,
}

impl<'a> Archive<'a> {
    fn new(
        chunks: Receiver<io::Result<Arc<Chunk>>>,
        free: Sender<Chunk>,
        number: usize,
        watch: &'a Watch,
    ) -> Self {
        Self {
            chunks,
            free,
            chunk: None,
            at: 0,
            number,
            watch,
            broken: None,
            too_large: false,
        }
    }

    /// Waits for the next chunk; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        if let Some(chunk) = self.chunk.take() {
            give_back(chunk, &self.free);
        }
        if self.watch.is_futile(self.number) {
            return Err(io::Error::other("a lower layer failed"));
        }
        match self.chunks.recv() {
            Ok(Ok(chunk)) if self.watch.take(chunk.len) => {
                (self.chunk, self.at) = (Some(chunk), 0);
                Ok(true)
            }
            Ok(Ok(_)) => {
                self.too_large = true;
                Err(io::ErrorKind::FileTooLarge.into())
            }
            Ok(Err(error)) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                self.broken = Some(error);
                Err(copy)
            }
            // The sender is gone after the last chunk.
            Err(_) => Ok(false),
        }
    }
}

impl Read for Archive<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(chunk) = &self.chunk
                && self.at < chunk.len
            {
                let len = buffer.len().min(chunk.len - self.at);
                buffer[..len].copy_from_slice(&chunk.bytes[self.at..self.at + len]);
                self.at += len;
                return Ok(len);
            }
            if !self.next()? {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_comes_than_is_allowed() {
        let check = |limit: u64, expect: Option<u64>| {
            let (to_read, chunks) = channel();
            let (free, _buffers) = channel();
            for byte in [1, 2] {
                let bytes = vec![byte; 20].into_boxed_slice();
                to_read
                    .send(Ok(Arc::new(Chunk { bytes, len: 10 })))
                    .unwrap();
            }
            drop(to_read);
            let watch = Watch::new(limit, 0);
            let mut archive = Archive::new(chunks, free, 0, &watch);
            let mut bytes = Vec::new();
            let read = archive.read_to_end(&mut bytes);
            let left = watch.left.load(Ordering::Relaxed);
            assert_eq!(read.ok().map(|_| left), expect, "{limit}");
            assert_eq!(archive.too_large, expect.is_none(), "{limit}");
        };
        check(25, Some(5));
        check(20, Some(0));
        check(19, None);
        check(5, None);
    }

    #[test]
    fn layers_above_one_that_failed_end() {
        let watch = Watch::new(100, 0);
        watch.fail(7);
        watch.fail(3);
        watch.fail(5);
        assert!(!watch.is_futile(3) && watch.is_futile(4));
        let (_to_read, chunks) = channel();
        let (free, _buffers) = channel();
        let mut archive = Archive::new(chunks, free, 4, &watch);
        assert!(archive.read(&mut [0]).is_err());
    }
}
