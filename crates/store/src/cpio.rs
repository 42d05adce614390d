//! A writer of cpio archives in the "newc" format, as the kernel unpacks an initramfs.
//!
//! Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Deterministic: times are zero, owners
//! are root, inode numbers count up.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// Writes entries, parents first.
pub(crate) struct Writer<W> {
    to: W,
    inode: u32,
}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    device: (u32, u32),
    bytes: &'a [u8],
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, inode: 0 }
    }

    pub(crate) fn directory(&mut self, name: &str, mode: u32) -> io::Result<()> {
        self.entry(&Entry {
            name,
            mode: DIRECTORY | mode,
            device: (0, 0),
            bytes: &[],
        })
    }

    pub(crate) fn character_device(
        &mut self,
        name: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.entry(&Entry {
            name,
            mode: CHARACTER_DEVICE | mode,
            device: (major, minor),
            bytes: &[],
        })
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.entry(&Entry {
            name,
            mode: REGULAR | mode,
            device: (0, 0),
            bytes,
        })
    }

    /// Writes the trailer.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.write(
            0,
            &Entry {
                name: "TRAILER!!!",
                mode: 0,
                device: (0, 0),
                bytes: &[],
            },
        )?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.inode += 1;
        self.write(self.inode, entry)
    }

    fn write(&mut self, inode: u32, entry: &Entry<'_>) -> io::Result<()> {
        let size = u32::try_from(entry.bytes.len()).map_err(|_| {
            let reason = format!("{} is larger than 4 GiB", entry.name);
            io::Error::new(io::ErrorKind::InvalidInput, reason)
        })?;
        let links = if entry.mode & 0o170_000 == DIRECTORY {
            2
        } else {
            1
        };
        // ino, mode, uid, gid, nlink, mtime, filesize, maj, min, rmaj, rmin, namesize, chksum
        let fields = [
            inode,
            entry.mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            entry.device.0,
            entry.device.1,
            u32::try_from(entry.name.len() + 1).unwrap_or(u32::MAX),
            0,
        ];
        let mut header = String::with_capacity(110 + entry.name.len() + 4);
        header.push_str("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(entry.name);
        header.push('\0');
        while !header.len().is_multiple_of(4) {
            header.push('\0');
        }
        self.to.write_all(header.as_bytes())?;
        self.to.write_all(entry.bytes)?;
        self.to
            .write_all(&[0; 3][..(4 - entry.bytes.len() % 4) % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Oracle: cpio(1).
    #[test]
    fn cpio_lists_what_was_written() {
        let mut archive = Writer::new(Vec::new());
        archive.directory("dev", 0o755).unwrap();
        archive
            .character_device("dev/console", 0o600, 5, 1)
            .unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        archive.file("empty", 0o644, b"").unwrap();
        let bytes = archive.finish().unwrap();
        let mut child = Command::new("cpio")
            .args(["-itv", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs cpio (Debian: cpio)");
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listed = child.wait_with_output().unwrap();
        assert!(listed.status.success());
        let listed = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<String> = listed
            .lines()
            .map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                format!("{} {}", words[0], words[words.len() - 1])
            })
            .collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x dev",
                "crw------- dev/console",
                "-rwxr-xr-x init",
                "-rw-r--r-- empty"
            ]
        );
        assert!(listed.contains("5,   1"), "{listed}");
    }
}
