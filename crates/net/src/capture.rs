//! Frames for tshark(1): the pcap format with nanoseconds (draft-ietf-opsawg-pcap, link type 1, Ethernet).

use std::fs::File;
use std::io::Write;
use std::time::{Duration, SystemTime};

/// Bytes of a frame that are kept: all.
const SNAP_LEN: u32 = 1 << 18;

/// Bytes that wait until they are written.
const BUFFER: usize = 256 << 10;

/// A file that frames go into.
#[derive(Debug)]
pub struct Capture {
    file: File,
    buffer: Vec<u8>,
    /// It could not be written: its disk is full, as a rule.
    broken: bool,
}

impl Capture {
    /// Begins a file.
    pub fn new(file: File) -> Capture {
        let mut buffer = Vec::with_capacity(BUFFER);
        // Nanoseconds, in this byte order; version 2.4; no zone; no accuracy.
        for word in [0xa1b2_3c4d_u32, 4 << 16 | 2, 0, 0, SNAP_LEN, 1] {
            buffer.extend_from_slice(&word.to_le_bytes());
        }
        Capture {
            file,
            buffer,
            broken: false,
        }
    }

    /// A frame that passed at this moment.
    pub fn frame(&mut self, frame: &[u8], at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        let since: Duration = since.unwrap_or_default();
        // Seconds have 32 bits there, until 2106.
        let len = frame.len() as u32;
        for word in [since.as_secs() as u32, since.subsec_nanos(), len, len] {
            self.buffer.extend_from_slice(&word.to_le_bytes());
        }
        self.buffer.extend_from_slice(frame);
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    /// Writes what waits. Whoever looks at the file meanwhile sees whole frames.
    pub fn flush(&mut self) {
        if !self.broken
            && let Err(error) = self.file.write_all(&self.buffer)
        {
            eprintln!("gourd-net: the capture ends: {error}");
            self.broken = true;
        }
        self.buffer.clear();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte by byte, from the format's description.
    #[test]
    fn a_file_with_one_frame() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut capture = Capture::new(file.reopen().unwrap());
        let at = SystemTime::UNIX_EPOCH + Duration::new(0x6543_2101, 9);
        capture.frame(b"0123456789abcd", at);
        drop(capture);
        let bytes = std::fs::read(file.path()).unwrap();
        let expect = [
            &[0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0][..],
            &[0; 8],
            &[0, 0, 4, 0, 1, 0, 0, 0],
            &[0x01, 0x21, 0x43, 0x65, 9, 0, 0, 0, 14, 0, 0, 0, 14, 0, 0, 0],
            b"0123456789abcd",
        ];
        assert_eq!(bytes, expect.concat());
    }
}
