//! A console's log: what the guest prints, kept in a file that the guest can't make grow without end.

use std::io;
use std::path::Path;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// The most that a log holds, in bytes. What comes then replaces what was there: the end of a guest's words says
/// why it died.
const MAX_LOG: u64 = 4 << 20;

/// Opens a log for appending; mode 0600 when it is new.
pub(super) fn open(path: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

/// Copies from the guest to the log until QEMU closes the console.
pub(super) async fn copy(mut from: UnixStream, mut log: std::fs::File) -> io::Result<()> {
    let mut room = MAX_LOG.saturating_sub(log.metadata()?.len());
    let mut buffer = vec![0; 8192];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if room < count as u64 {
            log.set_len(0)?;
            write(&mut log, b"[earlier output was dropped]\n")?;
            room = MAX_LOG;
        }
        write(&mut log, &buffer[..count])?;
        room -= count as u64;
    }
}

/// A short write into the page cache: not worth a thread of its own.
fn write(log: &mut std::fs::File, bytes: &[u8]) -> io::Result<()> {
    io::Write::write_all(log, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_log_is_bounded_and_keeps_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        std::fs::write(&path, "before\n").unwrap();
        let (mut guest, host) = UnixStream::pair().unwrap();
        let copying = tokio::spawn(copy(host, open(&path).unwrap()));
        guest.write_all(b"first\n").await.unwrap();
        let line = [b'x'; 4096];
        for _ in 0..MAX_LOG / 4096 {
            guest.write_all(&line).await.unwrap();
        }
        guest.write_all(b"last\n").await.unwrap();
        drop(guest);
        copying.await.unwrap().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("[earlier output was dropped]\n"));
        assert!(text.ends_with("last\n"));
        assert!(text.len() as u64 <= MAX_LOG);
    }
}
