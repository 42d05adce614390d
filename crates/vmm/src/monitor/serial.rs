//! A 16550 serial port (`vm-superio`) and where its bytes go. A processor that writes a byte never waits for whoever reads it: it
//! holds the port meanwhile, which the main thread needs, too.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vm_superio::Trigger;
use vm_superio::serial::{Serial, SerialEvents, SerialState};
use vmm_sys_util::eventfd::EventFd;

/// The most that a log holds, in bytes. What comes then replaces what was there: the end of a guest's words says why
/// it died.
const MAX_LOG: u64 = 4 << 20;
/// Bytes of a line that are kept back until it ends.
const MAX_LINE: usize = 512;

/// Bytes of a stream that wait for room in its socket. What comes then is lost.
const MAX_WAITING: usize = 64 << 10;

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
    /// A socket. When nobody is left who reads, the guest's words are lost.
    Stream {
        /// A connected stream socket.
        socket: File,
        /// What the socket had no room for.
        waiting: Vec<u8>,
    },
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

    /// A stream that nobody has written to.
    pub fn stream(socket: File) -> Output {
        let waiting = Vec::new();
        Output::Stream { socket, waiting }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Log { line, .. } => {
                line.extend_from_slice(bytes);
                if line.ends_with(b"\n") || line.len() >= MAX_LINE {
                    self.end();
                }
            }
            Output::Stream { waiting, .. } => {
                let room = MAX_WAITING - waiting.len();
                let idle = waiting.is_empty();
                waiting.extend_from_slice(&bytes[..bytes.len().min(room)]);
                // The main thread goes on where the socket had no room.
                if idle {
                    self.end();
                }
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
    /// Writes what was kept back, as far as there is room.
    fn end(&mut self) {
        let (file, room, line) = match self {
            Output::Log { file, room, line } => (file, room, line),
            Output::Stream { socket, waiting } => return send(socket, waiting),
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

/// Sends what waits, without waiting itself.
fn send(socket: &File, waiting: &mut Vec<u8>) {
    use rustix::io::Errno;
    use rustix::net::SendFlags;
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut sent = 0;
    while sent < waiting.len() {
        match rustix::net::send(socket, &waiting[sent..], flags) {
            Ok(count) => sent += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            // Nobody is left.
            Err(_) => sent = waiting.len(),
        }
    }
    waiting.drain(..sent);
}

/// A port's registers and what it was given to read, as a checkpoint will keep them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    baud_divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    input: Vec<u8>,
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

    /// A port that goes on where another stopped. It fails for more input than a port has room for.
    pub fn restored(line: EventFd, output: Output, state: &State) -> io::Result<Arc<Port>> {
        let emptied = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        let events = Emptied(emptied.try_clone()?);
        let [baud_divisor_low, baud_divisor_high] = state.baud_divisor;
        let state = SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.input.clone(),
        };
        let serial = Serial::from_state(&state, Line(line), events, output);
        Ok(Arc::new(Port {
            serial: Mutex::new(serial.map_err(io::Error::other)?),
            emptied,
        }))
    }

    /// Its state.
    pub fn state(&self) -> State {
        let state = self.lock().state();
        State {
            baud_divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            input: state.in_buffer,
        }
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

    /// Writes what was kept back, of a log's last line or for want of room in a stream's socket. Never waits.
    pub fn finish(&self) {
        self.lock().writer_mut().end();
    }

    /// Nothing waits for room.
    pub fn is_silent(&self) -> bool {
        match self.lock().writer() {
            Output::Log { .. } => true,
            Output::Stream { waiting, .. } => waiting.is_empty(),
        }
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

    fn eventfd() -> EventFd {
        EventFd::new(libc::EFD_NONBLOCK).unwrap()
    }

    /// More than the socket and the buffer hold: the writer comes back all the same, and so does whoever ends the machine.
    #[test]
    fn nobody_waits_for_a_reader() {
        use std::io::Read;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let output = Output::stream(std::os::fd::OwnedFd::from(theirs).into());
        let port = Port::new(eventfd(), output).unwrap();
        // Beyond the socket's room, in bytes that no other follows in order.
        let said: Vec<u8> = (0..1 << 20)
            .map(|number: u32| number.to_le_bytes()[1])
            .collect();
        said.iter().for_each(|&byte| port.write(0, byte));
        port.finish();
        assert!(!port.is_silent());
        // It reads at last, and gets what was kept, in order.
        let mut heard = Vec::new();
        ours.set_nonblocking(true).unwrap();
        while !port.is_silent() {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = (&ours).read(&mut buffer) {
                heard.extend(&buffer[..count]);
            }
            port.finish();
        }
        let _ = (&ours).read_to_end(&mut heard);
        assert!(heard.len() >= MAX_WAITING, "{}", heard.len());
        assert_eq!(heard, said[..heard.len()]);
        port.write(0, b'!');
        assert_eq!((&ours).read(&mut [0; 9]).unwrap(), 1);
        // Nobody is left.
        drop(ours);
        port.write(0, b'?');
        assert!(port.is_silent());
    }

    #[test]
    fn a_port_goes_on_where_another_stopped() {
        let (file, line) = (tempfile::tempfile().unwrap(), eventfd());
        let port = Port::new(line, Output::log(file.try_clone().unwrap()).unwrap()).unwrap();
        // Interrupts for input, eight bits, a scratch byte, two letters typed.
        for (register, value) in [(1, 1), (3, 3), (4, 11), (7, 0x5a)] {
            port.write(register, value);
        }
        assert_eq!(port.input(b"ab"), 2);
        let text = serde_json::to_string(&port.state()).unwrap();
        let mut state: State = serde_json::from_str(&text).unwrap();
        let line = eventfd();
        let raised = line.try_clone().unwrap();
        let again = Output::log(file.try_clone().unwrap()).unwrap();
        let other = Port::restored(line, again, &state).unwrap();
        assert_eq!(other.state(), state);
        assert_eq!(raised.read().unwrap(), 1, "its interrupt waits");
        let registers = [1, 3, 4, 7, 0, 0].map(|register| other.read(register));
        assert_eq!(registers, [1, 3, 11, 0x5a, b'a', b'b']);
        state.input = vec![0; 65];
        let output = Output::log(file).unwrap();
        assert!(Port::restored(eventfd(), output, &state).is_err());
    }
}
