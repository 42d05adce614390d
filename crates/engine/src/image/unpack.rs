//! What is packed is unpacked: gzip and zstd here, xz and bzip2 by the programs of these names, as Docker does.

use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use store::rootfs;

/// The longest first bytes that say how something is packed.
const MAGIC: usize = 6;

/// More came out than anybody wants.
#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than the {} MiB allowed ({packed} bytes packed)", limit >> 20)]
struct TooLarge {
    limit: u64,
    packed: u64,
}

/// As [`unpack`], but of what is packed no more comes out than layers of as many bytes may unpack to, or than `max_unpacked` says:
/// then an error of the kind `FileTooLarge`. What is not packed is as long as it is.
pub(crate) fn unpack_within(
    mut source: impl Read + Send + 'static,
    max_unpacked: Option<u64>,
) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::with_capacity(MAGIC);
    source.by_ref().take(MAGIC as u64).read_to_end(&mut magic)?;
    let is_packed =
        program(&magic).is_some() || rootfs::compression(&magic) != oci::Compression::None;
    let whole = io::Cursor::new(magic).chain(source);
    if !is_packed {
        return Ok(Box::new(whole));
    }
    let packed = Arc::new(AtomicU64::new(0));
    let counted = Counted {
        source: whole,
        bytes: Arc::clone(&packed),
    };
    Ok(Box::new(Within {
        unpacked: unpack(counted)?,
        bytes: 0,
        packed,
        max_unpacked,
    }))
}

/// Says how much was read.
struct Counted<R> {
    source: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Ends with an error when more comes than is allowed.
struct Within {
    unpacked: Box<dyn Read>,
    bytes: u64,
    /// Bytes that were read so far to be unpacked.
    packed: Arc<AtomicU64>,
    max_unpacked: Option<u64>,
}

impl Read for Within {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.unpacked.read(buffer)?;
        self.bytes += length as u64;
        let packed = self.packed.load(Ordering::Relaxed);
        let limit = self
            .max_unpacked
            .unwrap_or_else(|| rootfs::max_unpacked_of(packed));
        if self.bytes > limit {
            let error = TooLarge { limit, packed };
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, error));
        }
        Ok(length)
    }
}

/// What unpacks something that begins so, when it is not ourselves.
fn program(magic: &[u8]) -> Option<&'static str> {
    match magic {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        _ => None,
    }
}

/// Unpacks a stream by its first bytes.
pub(crate) fn unpack(mut source: impl Read + Send + 'static) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::with_capacity(MAGIC);
    source.by_ref().take(MAGIC as u64).read_to_end(&mut magic)?;
    let program = program(&magic);
    let whole = io::Cursor::new(magic).chain(source);
    match program {
        Some(program) => Ok(Box::new(Unpacker::start(program, whole)?)),
        None => rootfs::decompress(whole),
    }
}

/// A program that unpacks, fed by a thread.
struct Unpacker {
    program: &'static str,
    child: Child,
    output: ChildStdout,
    feeder: Option<JoinHandle<io::Result<u64>>>,
    ended: bool,
}

impl Unpacker {
    fn start(program: &'static str, mut source: impl Read + Send + 'static) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(["-d", "-c", "-q"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => io::Error::new(
                    error.kind(),
                    format!("it is packed with {program}, which is not installed here"),
                ),
                _ => error,
            })?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let feeder = std::thread::Builder::new()
            .name("unpack".to_owned())
            .spawn(move || io::copy(&mut source, &mut input))?;
        Ok(Self {
            program,
            child,
            output,
            feeder: Some(feeder),
            ended: false,
        })
    }

    /// The end of its output: it must be the end of all, and well.
    fn end(&mut self) -> io::Result<()> {
        self.ended = true;
        let status = self.child.wait()?;
        let fed = match self.feeder.take().map(JoinHandle::join) {
            Some(Ok(fed)) => fed,
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        };
        match fed {
            // Our own source, unless the program hung up on us.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ if status.success() => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} cannot unpack it", self.program),
            )),
        }
    }
}

impl Read for Unpacker {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let length = self.output.read(buffer)?;
        if length == 0 && !buffer.is_empty() {
            self.end()?;
        }
        Ok(length)
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        if !self.ended {
            // Nobody wants the rest. The feeder's next write fails; it is not waited for, since its source may stall.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
