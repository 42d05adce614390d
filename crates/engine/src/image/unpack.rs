//! What is packed is unpacked: gzip and zstd here, xz and bzip2 by the programs of these names, as Docker does.

use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use store::rootfs;

/// The longest first bytes that say how something is packed.
const MAGIC: usize = 6;

/// Unpacks a stream by its first bytes.
pub(crate) fn unpack(mut source: impl Read + Send + 'static) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::with_capacity(MAGIC);
    source.by_ref().take(MAGIC as u64).read_to_end(&mut magic)?;
    let program = match magic.as_slice() {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some("xz"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        _ => None,
    };
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
