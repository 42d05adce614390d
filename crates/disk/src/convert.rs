//! From any image to a raw disk.
//!
//! Worker threads take pieces of the disk in order, read or decompress them, and write them where they belong; blocks of
//! zeros are left out. A compressed file is a stream instead: one thread decompresses, the other writes, and a qcow2 image
//! in it goes through an unnamed file beside the target, because it is read from all over.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::chain::{self, Format, Image, OpenOptions, Place, Reader, START};
use crate::image_error::ImageError;
use crate::raw;
use crate::sparse;
use crate::wrapper::Wrapper;

/// What a worker takes at a time. At least the largest cluster, and aligned as all of them are.
const CHUNK: u64 = 2 << 20;
const MAX_THREADS: usize = 16;
/// What travels from the thread that decompresses to the one that writes.
const BUFFER: usize = 1 << 20;
const BUFFERS: usize = 4;

/// How far a conversion is: bytes of the disk, or of the file where it is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// So many are done.
    pub done: u64,
    /// So many there are.
    pub total: u64,
}

/// What came of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converted {
    /// What the image was.
    pub format: Format,
    /// What was around it.
    pub wrapper: Option<Wrapper>,
    /// Length of the disk in bytes.
    pub size: u64,
}

/// Called from the threads that work; `Break` ends the conversion.
type Report<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// Makes the new file `to` (mode 0600) the raw disk that `from` holds.
///
/// Nothing is synced: durability is the caller's.
///
/// # Errors
/// `to` exists; the image cannot be read; `progress` says stop. There is no `to` then.
pub fn convert(
    from: &Path,
    to: &Path,
    options: &OpenOptions,
    progress: Report<'_>,
) -> Result<Converted, ImageError> {
    let source = File::open(from).map_err(ImageError::at("open", from))?;
    let start = chain::read_start(&source, START).map_err(ImageError::at("read", from))?;
    let wrapper = match options.format {
        None => Wrapper::detect(&start),
        Some(_) => None,
    };
    let target = raw::create_sparse(to, 0)?;
    let conversion = Conversion {
        from,
        to,
        target: &target,
        options,
        progress,
    };
    let converted = match wrapper {
        None => conversion.plain(source),
        Some(wrapper) => conversion.wrapped(source, wrapper),
    };
    if converted.is_err() {
        let _ = fs::remove_file(to);
    }
    converted
}

struct Conversion<'a> {
    from: &'a Path,
    to: &'a Path,
    target: &'a File,
    options: &'a OpenOptions,
    progress: Report<'a>,
}

impl Conversion<'_> {
    fn plain(&self, source: File) -> Result<Converted, ImageError> {
        let image = Image::open_file(source, self.from, self.options)?;
        let size = image.size();
        let format = match image.as_raw() {
            Some(_) => Format::Raw,
            None => Format::Qcow2,
        };
        let cloned = image
            .as_raw()
            .is_some_and(|file| rustix::fs::ioctl_ficlone(self.target, file).is_ok());
        if cloned {
            self.report(size, size)?;
        } else {
            self.image(&image)?;
        }
        Ok(Converted {
            format,
            wrapper: None,
            size,
        })
    }

    fn image(&self, image: &Image) -> Result<(), ImageError> {
        let size = image.size();
        self.target
            .set_len(size)
            .map_err(ImageError::at("size", self.to))?;
        let threads = std::thread::available_parallelism()
            .map_or(1, std::num::NonZero::get)
            .min(MAX_THREADS)
            .min(size.div_ceil(CHUNK) as usize);
        let work = Work {
            conversion: self,
            image,
            next: Mutex::new(Next::At(0)),
            done: AtomicU64::new(0),
        };
        if threads <= 1 {
            return work.run();
        }
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work.run())).collect();
            let mut result = Ok(());
            for worker in workers {
                match worker.join() {
                    // The first failure is the one that made the others stop.
                    Ok(outcome) => result = result.and(outcome),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            result
        })
    }

    fn report(&self, done: u64, total: u64) -> Result<(), ImageError> {
        match (self.progress)(Progress { done, total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ImageError::Interrupted {
                path: self.from.to_owned(),
            }),
        }
    }

    fn wrapped(&self, source: File, wrapper: Wrapper) -> Result<Converted, ImageError> {
        let failed = |source| ImageError::Unwrap {
            path: self.from.to_owned(),
            wrapper,
            source,
        };
        let total = source
            .metadata()
            .map_err(ImageError::at("stat", self.from))?
            .len();
        let taken = AtomicU64::new(0);
        let counted = Counted {
            inner: BufReader::with_capacity(BUFFER, source),
            taken: &taken,
        };
        let mut stream = wrapper.reader(counted).map_err(failed)?;
        let first = fill(&mut stream, vec![0; BUFFER]).map_err(failed)?;
        let format = self.inner_format(&first, wrapper)?;
        let unpacked = match format {
            Format::Raw => None,
            Format::Qcow2 => {
                let folder = self.to.parent().filter(|parent| *parent != Path::new(""));
                let folder = folder.unwrap_or(Path::new("."));
                let file = tempfile::tempfile_in(folder)
                    .map_err(ImageError::at("make a file in", folder))?;
                Some(file)
            }
        };
        let target = unpacked.as_ref().unwrap_or(self.target);
        let written = self.pour(stream, first, target, failed, || {
            self.report(taken.load(Ordering::Relaxed).min(total), total)
        })?;
        target
            .set_len(written)
            .map_err(ImageError::at("size", self.to))?;
        let size = match unpacked {
            None => written,
            Some(file) => {
                let options = OpenOptions {
                    format: Some(format),
                    ..self.options.clone()
                };
                let image = Image::open_file(file, self.from, &options)?;
                self.image(&image)?;
                image.size()
            }
        };
        Ok(Converted {
            format,
            wrapper: Some(wrapper),
            size,
        })
    }

    fn inner_format(&self, first: &[u8], outer: Wrapper) -> Result<Format, ImageError> {
        if let Some(inner) = Wrapper::detect(first) {
            return Err(ImageError::WrappedTwice {
                path: self.from.to_owned(),
                outer,
                inner,
            });
        }
        chain::detect(first, self.from)
    }

    /// Writes a stream and says how long it was; `first` is its beginning.
    fn pour<'s>(
        &self,
        mut stream: Box<dyn Read + Send + 's>,
        first: Vec<u8>,
        target: &File,
        failed: impl Fn(io::Error) -> ImageError,
        report: impl Fn() -> Result<(), ImageError>,
    ) -> Result<u64, ImageError> {
        std::thread::scope(|scope| {
            // In here, so that they are gone before the other thread is waited for: a failure must not leave it waiting.
            let (full, fulls) = mpsc::sync_channel::<io::Result<Vec<u8>>>(BUFFERS);
            let (empty, empties) = mpsc::channel::<Vec<u8>>();
            scope.spawn(move || {
                loop {
                    let buffer = empties.try_recv().unwrap_or_default();
                    let filled = fill(&mut stream, buffer);
                    let last = !matches!(&filled, Ok(bytes) if bytes.len() == BUFFER);
                    // The one who writes has given up, or this was all.
                    if full.send(filled).is_err() || last {
                        break;
                    }
                }
            });
            let mut at = 0;
            let mut next = Some(Ok(first));
            while let Some(bytes) = next {
                let bytes = bytes.map_err(&failed)?;
                at += bytes.len() as u64;
                if at > self.options.limit {
                    return Err(ImageError::TooLarge {
                        path: self.from.to_owned(),
                        size: None,
                        limit: self.options.limit,
                    });
                }
                sparse::write(target, &bytes, at - bytes.len() as u64)
                    .map_err(ImageError::at("write", self.to))?;
                report()?;
                // Nobody may be left to reuse it.
                let _ = empty.send(bytes);
                next = fulls.recv().ok();
            }
            Ok(at)
        })
    }
}

/// Where the next worker begins.
#[derive(Debug, Clone, Copy)]
enum Next {
    At(u64),
    /// Something failed: nobody begins any more.
    Stopped,
}

struct Work<'a> {
    conversion: &'a Conversion<'a>,
    image: &'a Image,
    next: Mutex<Next>,
    done: AtomicU64,
}

impl Work<'_> {
    fn run(&self) -> Result<(), ImageError> {
        let result = self.work();
        if result.is_err() {
            *self.lock() = Next::Stopped;
        }
        result
    }

    fn work(&self) -> Result<(), ImageError> {
        let mut reader = Reader::new(self.image);
        let mut buffer = vec![0; CHUNK as usize];
        while let Some((start, end, passed)) = self.take(&mut reader)? {
            self.copy(&mut reader, start, end, &mut buffer)?;
            let took = end - start + passed;
            let done = self.done.fetch_add(took, Ordering::Relaxed) + took;
            self.conversion.report(done, self.image.size())?;
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Next> {
        self.next
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The next range that is not all zeros, within one chunk, and how many zeros were passed over before it.
    fn take(&self, reader: &mut Reader<'_>) -> Result<Option<(u64, u64, u64)>, ImageError> {
        let size = self.image.size();
        let mut next = self.lock();
        let Next::At(begin) = *next else {
            return Ok(None);
        };
        let mut at = begin;
        while at < size {
            let piece = reader.locate(at, size - at)?;
            if piece.place != Place::Zero {
                let end = (at / CHUNK + 1).saturating_mul(CHUNK).min(size);
                *next = Next::At(end);
                return Ok(Some((at, end, at - begin)));
            }
            at += piece.len;
        }
        *next = Next::At(size);
        Ok(None)
    }

    fn copy(
        &self,
        reader: &mut Reader<'_>,
        start: u64,
        end: u64,
        buffer: &mut [u8],
    ) -> Result<(), ImageError> {
        let write = |bytes: &[u8], at| {
            sparse::write(self.conversion.target, bytes, at)
                .map_err(ImageError::at("write", self.conversion.to))
        };
        let within = |at: u64| (at - start) as usize;
        let mut begin = start;
        let mut at = start;
        while at < end {
            let piece = reader.locate(at, end - at)?;
            let after = at + piece.len;
            if piece.place == Place::Zero {
                write(&buffer[within(begin)..within(at)], begin)?;
                begin = after;
            } else {
                reader.read(piece, at, &mut buffer[within(at)..within(after)])?;
            }
            at = after;
        }
        write(&buffer[within(begin.min(end))..within(end)], begin)
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(stream: &mut dyn Read, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    buffer.resize(BUFFER, 0);
    let mut done = 0;
    while done < BUFFER {
        match stream.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(done);
    Ok(buffer)
}

/// Counts what a decompressor has taken.
struct Counted<'a, R> {
    inner: R,
    taken: &'a AtomicU64,
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        self.inner.consume(count);
    }
}
