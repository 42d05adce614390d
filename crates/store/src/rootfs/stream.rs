//! One layer on its way from its blob to whoever reads its archive, in two or three threads.
//!
//! ```text
//!   blob ─▶ decompress ─┬─▶ hash (whoever has time)
//!              ▲        └─▶ read the archive (the caller's thread)
//!              └── buffers, when both are done with them
//! ```
//!
//! Where there is a core for each of the three, a layer takes as long as the slowest, which is decompression. Where there are two, a third
//! thread would only take turns with the others: who waits for the other one hashes meanwhile, so that both have always something to do.
//! The layers that are read at once have [`BUFFERS`] buffers; decompression waits when all of its own are full.

mod hashing;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use oci::MergeError;

use self::hashing::Hashing;
use super::{Error, Layer, packing};
use crate::{Root, content};

/// Bytes of a buffer.
const CHUNK: usize = 256 << 10;

/// Buffers of all layers that are read at once: 8 MiB. Each is made when it is needed: the others lag behind by so many only where an archive
/// has many small files in a row, or where there are two cores.
const BUFFERS: usize = 32;

/// Buffers that a layer has at least.
const LEAST: usize = 4;

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
    /// What each layer may use: cores, and buffers.
    cores: usize,
    buffers: usize,
}

impl Watch {
    /// For layers of so many bytes that may unpack to `limit`; `at_once` of them are read by `threads`.
    pub(super) fn new(limit: u64, packed: u64, threads: usize, at_once: usize) -> Self {
        let at_once = at_once.max(1);
        Self {
            left: AtomicU64::new(limit),
            limit,
            packed,
            failed: AtomicUsize::new(usize::MAX),
            cores: threads / at_once,
            buffers: (BUFFERS / at_once).max(LEAST),
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
    let (free, given_back) = channel();
    let (to_read, chunks) = channel();
    let hashing = Hashing::new(free);
    std::thread::scope(|scope| {
        let hashing = &hashing;
        let buffers = Buffers {
            given_back,
            left: watch.buffers,
            hashing,
        };
        scope.spawn(move || unpack(blob, plain, buffers, to_read));
        if watch.cores > 2 {
            scope.spawn(move || hashing.work());
        }
        let mut archive = Archive::new(chunks, hashing, number, watch);
        let result = read(&mut archive);
        let (broken, too_large) = (archive.broken.take(), archive.too_large);
        // Lets the thread end when we gave up early.
        drop(archive);
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
        // All of it came: it was read to its end.
        let found = hashing.finish();
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
    mut buffers: Buffers<'_>,
    to_read: Sender<io::Result<Arc<Chunk>>>,
) {
    unpack_all(blob, plain, &mut buffers, &to_read);
    // The reader may go on to its end.
    drop(to_read);
    buffers.hashing.end();
    buffers.hashing.drain();
}

fn unpack_all(
    blob: impl Read + Send,
    plain: bool,
    buffers: &mut Buffers<'_>,
    to_read: &Sender<io::Result<Arc<Chunk>>>,
) {
    let mut unpacked: io::Result<Box<dyn Read + '_>> = match plain {
        true => Ok(Box::new(blob)),
        false => packing::decompress_verified(blob),
    };
    while let Some(mut chunk) = buffers.next() {
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
                buffers.hashing.push(Arc::clone(&chunk));
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

/// Where decompression has its buffers from.
struct Buffers<'a> {
    given_back: Receiver<Chunk>,
    /// How many may be made.
    left: usize,
    hashing: &'a Hashing,
}

impl Buffers<'_> {
    /// One that was given back, or a new one while there are not enough. Until there is one it hashes.
    fn next(&mut self) -> Option<Chunk> {
        loop {
            match self.given_back.try_recv() {
                Ok(chunk) => return Some(chunk),
                Err(TryRecvError::Empty) if self.left > 0 => {
                    self.left -= 1;
                    let bytes = vec![0; CHUNK].into_boxed_slice();
                    return Some(Chunk { bytes, len: 0 });
                }
                Err(TryRecvError::Empty) if self.hashing.help() => {}
                // Whoever hashes now, or reads, gives one back, be it because they give up.
                Err(TryRecvError::Empty) => return self.given_back.recv().ok(),
                Err(TryRecvError::Disconnected) => return None,
            }
        }
    }
}

/// A layer's archive, as its chunks come.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    chunks: Receiver<io::Result<Arc<Chunk>>>,
    hashing: &'a Hashing,
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
        hashing: &'a Hashing,
        number: usize,
        watch: &'a Watch,
    ) -> Self {
        Self {
            chunks,
            hashing,
            chunk: None,
            at: 0,
            number,
            watch,
            broken: None,
            too_large: false,
        }
    }

    /// The next chunk. Until there is one it hashes.
    fn wait(&self) -> Option<io::Result<Arc<Chunk>>> {
        loop {
            match self.chunks.try_recv() {
                Ok(chunk) => return Some(chunk),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if self.hashing.help() => {}
                Err(TryRecvError::Empty) => return self.chunks.recv().ok(),
            }
        }
    }

    /// Goes to the next chunk; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        if let Some(chunk) = self.chunk.take() {
            give_back(chunk, &self.hashing.free);
        }
        if self.watch.is_futile(self.number) {
            return Err(io::Error::other("a lower layer failed"));
        }
        match self.wait() {
            Some(Ok(chunk)) if self.watch.take(chunk.len) => {
                (self.chunk, self.at) = (Some(chunk), 0);
                Ok(true)
            }
            Some(Ok(_)) => {
                self.too_large = true;
                Err(io::ErrorKind::FileTooLarge.into())
            }
            Some(Err(error)) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                self.broken = Some(error);
                Err(copy)
            }
            // The sender is gone after the last chunk.
            None => Ok(false),
        }
    }
}

impl Drop for Archive<'_> {
    /// Decompression may wait for any of them. It ends when it finds that nobody reads any more.
    fn drop(&mut self) {
        let chunks = self.chunks.try_iter().flatten();
        for chunk in chunks.chain(self.chunk.take()) {
            give_back(chunk, &self.hashing.free);
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
    use oci::Digest;

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
            let watch = Watch::new(limit, 0, 1, 1);
            let hashing = Hashing::new(free);
            let mut archive = Archive::new(chunks, &hashing, 0, &watch);
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
        let watch = Watch::new(100, 0, 1, 1);
        watch.fail(7);
        watch.fail(3);
        watch.fail(5);
        assert!(!watch.is_futile(3) && watch.is_futile(4));
        let (_to_read, chunks) = channel();
        let (free, _buffers) = channel();
        let hashing = Hashing::new(free);
        let mut archive = Archive::new(chunks, &hashing, 4, &watch);
        assert!(archive.read(&mut [0]).is_err());
    }

    /// With a thread for it and without one; and all threads end, wherever the reader gives up.
    #[test]
    fn whoever_hashes_the_digest_is_the_same() {
        let bytes: Vec<u8> = (0..11 * CHUNK + 5).map(|at| (at / 999) as u8).collect();
        let read = |with_worker: bool, most: u64| {
            let (free, given_back) = channel();
            let (to_read, chunks) = channel();
            let (hashing, watch) = (Hashing::new(free), Watch::new(u64::MAX, 0, 2, 1));
            std::thread::scope(|scope| {
                let (hashing, blob) = (&hashing, &bytes[..]);
                let buffers = Buffers {
                    given_back,
                    left: LEAST,
                    hashing,
                };
                scope.spawn(move || unpack(blob, true, buffers, to_read));
                if with_worker {
                    scope.spawn(move || hashing.work());
                }
                let mut archive = Archive::new(chunks, hashing, 0, &watch);
                let read = io::copy(&mut archive.by_ref().take(most), &mut io::sink());
                drop(archive);
                (read.unwrap() < most).then(|| hashing.finish())
            })
        };
        for with_worker in [false, true] {
            assert_eq!(read(with_worker, u64::MAX), Some(Digest::of(&bytes)));
            for most in [0, 1, 3 * CHUNK as u64, 9 * CHUNK as u64] {
                assert_eq!(read(with_worker, most), None);
            }
        }
    }
}
