//! Writing what is not zero.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Blocks of zeros of this size, at multiples of it, are not written: what file systems allocate by.
const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes bytes at an offset of a file that reads as zeros there, and leaves out blocks of zeros.
pub(crate) fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let block = BLOCK - (offset as usize + at) % BLOCK;
        let end = (at + block).min(bytes.len());
        if is_zero(&bytes[at..end]) {
            flush(file, &bytes[start..at], offset + start as u64)?;
            start = end;
        }
        at = end;
    }
    flush(file, &bytes[start..], offset + start as u64)
}

fn flush(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    file.write_all_at(bytes, offset)
}

/// At most a block.
fn is_zero(bytes: &[u8]) -> bool {
    bytes == &ZEROS[..bytes.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for (offset, len) in [(0, 5 * BLOCK), (100, 5 * BLOCK), (BLOCK - 1, 2), (512, 512)] {
            for data in [0..0, 0..len, 1..2, len - 1..len, len / 2..len / 2 + 1] {
                let file = File::create(&path).unwrap();
                file.set_len(1 << 20).unwrap();
                let mut bytes = vec![0; len];
                bytes[data.clone()].fill(7);
                write(&file, &bytes, offset as u64).unwrap();
                let found = std::fs::read(&path).unwrap();
                assert!(found[offset..offset + len] == bytes[..]);
                assert!(found[..offset].iter().all(|byte| *byte == 0));
                assert!(found[offset + len..].iter().all(|byte| *byte == 0));
                let most = if data.is_empty() {
                    0
                } else {
                    data.len() / BLOCK + 2
                };
                let blocks = file.metadata().unwrap().blocks() as usize * 512 / BLOCK;
                assert!(blocks <= most, "{blocks} blocks for {data:?} at {offset}");
            }
        }
    }
}
