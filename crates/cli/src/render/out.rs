//! Results on stdout. A reader who left (`gourd ps | head -1`) ends the command quietly.

use std::io::{self, Write};

use crate::failure::Failure;

/// Writes a text in one go.
pub fn print(text: &str) -> Result<(), Failure> {
    write(text.as_bytes())
}

/// Writes one line.
pub fn line(text: &str) -> Result<(), Failure> {
    write(format!("{text}\n").as_bytes())
}

/// Writes bytes in one go.
pub fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(Failure::stdout)
}

/// Writes to stderr in one go: what is no result. A reader of stderr who left is no reason to end.
pub fn stderr(text: &str) -> Result<(), Failure> {
    stderr_bytes(text.as_bytes())
}

/// The same for bytes.
pub fn stderr_bytes(bytes: &[u8]) -> Result<(), Failure> {
    match io::stderr().lock().write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Failure::Output),
    }
}
