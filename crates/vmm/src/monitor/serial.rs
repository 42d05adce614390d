//! A 16550 serial port (`vm-superio`) and where its bytes go.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{Serial, SerialEvents};
use vmm_sys_util::eventfd::EventFd;

/// The most that a log holds, in bytes. What comes then replaces what was there: the end of a guest's words says why
/// it died.
const MAX_LOG: u64 = 4 << 20;
/// Bytes of a line that are kept back until it ends.
const MAX_LINE: usize = 512;

/// A port's interrupt line.
pub struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells that the guest has read all its input.
pub struct Emptied(EventFd);

impl SerialEvents for Emptied {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        let _ = self.0.write(1);
    }
}

/// Where a console's bytes go.
pub enum Output {
    /// A file that is appended to, a line at a time.
    Log {
        /// Opened for appending.
        file: File,
        /// Bytes until it starts anew.
        room: u64,
        /// The line that has not ended.
        line: Vec<u8>,
    },
    /// A socket, byte by byte. The guest waits while nobody reads; when nobody is left, its words are lost.
    Stream(File),
}

impl Output {
    /// A log that holds what it holds already.
    pub fn log(file: File) -> io::Result<Output> {
        let room = MAX_LOG.saturating_sub(file.metadata()?.len());
        Ok(Output::Log {
            file,
            room,
            line: Vec::new(),
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Log { line, .. } => {
                line.extend_from_slice(bytes);
                if line.ends_with(b"\n") || line.len() >= MAX_LINE {
                    self.end_line();
                }
            }
            Output::Stream(file) => {
                let _ = file.write_all(bytes);
            }
        }
        // A console that can't be written is no reason for the guest to stop.
        Ok(bytes.len())
    }

    /// The port flushes after each byte: that is not what ends a line.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    /// Writes what was kept back.
    pub fn end_line(&mut self) {
        let Output::Log { file, room, line } = self else {
            return;
        };
        if line.len() as u64 > *room {
            let _ = file.set_len(0);
            let _ = file.write_all(b"[earlier output was dropped]\n");
            *room = MAX_LOG;
        }
        let _ = file.write_all(line);
        *room = room.saturating_sub(line.len() as u64);
        line.clear();
    }
}

/// A port.
pub struct Port {
    serial: Mutex<Serial<Line, Emptied, Output>>,
    /// Readable when the guest has read all its input.
    pub emptied: EventFd,
}

impl Port {
    /// A port with the eventfd of its interrupt line.
    pub fn new(line: EventFd, output: Output) -> io::Result<Arc<Port>> {
        let emptied = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        let events = Emptied(emptied.try_clone()?);
        Ok(Arc::new(Port {
            serial: Mutex::new(Serial::with_events(Line(line), events, output)),
            emptied,
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Serial<Line, Emptied, Output>> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest reads a register.
    pub fn read(&self, offset: u8) -> u8 {
        self.lock().read(offset)
    }

    /// The guest writes one.
    pub fn write(&self, offset: u8, value: u8) {
        // It fails when the interrupt's counter is full, and then one is pending.
        let _ = self.lock().write(offset, value);
    }

    /// Passes input on; says how much found room.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut serial = self.lock();
        let room = serial.fifo_capacity().min(bytes.len());
        serial.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }

    /// Bytes of input that find room now.
    pub fn room(&self) -> usize {
        self.lock().fifo_capacity()
    }

    /// Writes what was kept back of the last line.
    pub fn finish(&self) {
        self.lock().writer_mut().end_line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_keeps_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let file = File::options().append(true).open(&path).unwrap();
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let port = Port::new(line, Output::log(file).unwrap()).unwrap();
        let say = |text: &[u8]| text.iter().for_each(|&byte| port.write(0, byte));
        say(b"first\n");
        for _ in 0..MAX_LOG / 512 {
            say(&[b'x'; 512]);
        }
        say(b"last");
        port.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("[earlier output was dropped]\n"));
        assert!(text.ends_with("last"));
        assert!(text.len() as u64 <= MAX_LOG);
    }
}
