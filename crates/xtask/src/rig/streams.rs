//! The host's end of the rig's standard streams: threads that copy between them and QEMU's sockets.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Our ends, and which of them there are.
pub enum Streams {
    /// One stream both ways.
    Terminal(UnixStream),
    /// In, out, error.
    Pipes([UnixStream; 3]),
}

/// Copies that run.
pub struct Moving(Vec<JoinHandle<()>>);

impl Streams {
    /// Makes the sockets: ours, and QEMU's with the names of their ports.
    pub fn connect(terminal: bool) -> Result<(Streams, Vec<(&'static str, UnixStream)>)> {
        let pair = || UnixStream::pair().context("socketpair");
        if terminal {
            let (ours, theirs) = pair()?;
            return Ok((Streams::Terminal(ours), vec![("terminal", theirs)]));
        }
        let (stdin, their_stdin) = pair()?;
        let (stdout, their_stdout) = pair()?;
        let (stderr, their_stderr) = pair()?;
        let theirs = vec![
            ("stdin", their_stdin),
            ("stdout", their_stdout),
            ("stderr", their_stderr),
        ];
        Ok((Streams::Pipes([stdin, stdout, stderr]), theirs))
    }

    /// Starts copying.
    pub fn start(self) -> Moving {
        match self {
            Streams::Terminal(socket) => {
                if let Ok(input) = socket.try_clone() {
                    std::thread::spawn(move || copy(std::io::stdin(), input));
                }
                Moving(vec![std::thread::spawn(move || {
                    copy(socket, std::io::stdout());
                })])
            }
            Streams::Pipes([mut stdin, stdout, stderr]) => {
                // Not waited for: it may sit in a read of the caller's.
                std::thread::spawn(move || {
                    // The guest's first byte says that it listens: what a port gets before is lost when it closes.
                    if let Ok(1) = stdin.read(&mut [0]) {
                        copy(std::io::stdin(), &stdin);
                    }
                    stdin.shutdown(std::net::Shutdown::Write).ok();
                });
                Moving(vec![
                    std::thread::spawn(move || copy(stdout, std::io::stdout())),
                    std::thread::spawn(move || copy(stderr, std::io::stderr())),
                ])
            }
        }
    }
}

impl Moving {
    /// Waits until QEMU, which is gone, has nothing more to say.
    pub fn finish(self) {
        for thread in self.0 {
            thread.join().ok();
        }
    }
}

fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to
            .write_all(&buffer[..count])
            .and_then(|()| to.flush())
            .is_err()
        {
            return;
        }
    }
}

/// The kernel's messages, which matter only when something goes wrong.
pub struct Console {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Console {
    const KEEP: usize = 16 * 1024;

    /// Collects what comes until the other end closes.
    pub fn collect(mut socket: UnixStream) -> Console {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = kept.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = socket.read(&mut buffer) {
                let mut kept = keep.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..count]);
                let excess = kept.len().saturating_sub(Self::KEEP);
                kept.drain(..excess);
            }
        });
        Console { kept, reader }
    }

    /// The end of it. QEMU is gone.
    pub fn text(self) -> String {
        self.reader.join().ok();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).replace('\r', "")
    }
}

/// Rows and columns of the caller's terminal.
pub fn terminal_size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdin()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Puts the caller's terminal back when it goes.
pub struct RawMode(Termios);

/// Lets the guest's terminal do what the caller's did.
pub fn raw_mode() -> Result<RawMode> {
    let before = tcgetattr(std::io::stdin()).context("the terminal's settings")?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).context("set the terminal")?;
    Ok(RawMode(before))
}

impl Drop for RawMode {
    fn drop(&mut self) {
        tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}
