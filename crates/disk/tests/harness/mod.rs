//! What may be done with a foreign image, and what must hold whatever it is. Shared by `tests/hostile.rs` and the fuzz targets.

// Each of those who share this uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use disk::{Image, ImageError, OpenOptions};

use crate::builder::{self, image};

pub fn limited() -> OpenOptions {
    OpenOptions {
        limit: 1 << 40,
        ..OpenOptions::default()
    }
}

/// Opens, describes and reads an image from all over.
pub fn touch(folder: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let path = folder.join("image");
    fs::write(&path, bytes).unwrap();
    let _ = disk::describe(&path, &limited());
    let image = Image::open(&path, &limited())?;
    let mut result = Ok(());
    let mut buffer = vec![0; 3 * 4096];
    let end = image.size().min(64 << 10);
    for at in (0..end).step_by(buffer.len()).chain([image.size() / 2]) {
        result = result.and(image.read_at(&mut buffer, at));
    }
    result
}

/// A conversion may write what the image holds and no more, however long its disk is said to be.
pub fn converts(folder: &Path) {
    let (from, to) = (folder.join("image"), folder.join("raw"));
    let go_on = |_: disk::Progress| ControlFlow::Continue(());
    if disk::convert(&from, &to, &limited(), &go_on).is_ok() {
        let blocks = fs::metadata(&to).unwrap().blocks();
        assert!(blocks * 512 < 64 << 20, "{blocks} blocks");
        fs::remove_file(&to).unwrap();
    }
    assert!(!to.exists());
}

/// A folder for files, in memory where there is such a place.
fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    match shm.is_dir() {
        true => tempfile::tempdir_in(shm).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// A fuzz target. The first byte chooses an image, of zstd in place of zlib perhaps; then come edits: a byte that says how many
/// bytes and where a little-endian number of two bytes counts, and they. Or what follows is the image itself.
pub fn damaged(bytes: &[u8]) {
    static IMAGES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    let images = IMAGES.get_or_init(|| [image(false).0, image(true).0]);
    let Some((&kind, mut rest)) = bytes.split_first() else {
        return;
    };
    let mut image = match kind & 3 {
        3 => [b"QFI\xfb", rest].concat(),
        kind => images[usize::from(kind & 1)].clone(),
    };
    if kind & 3 != 3 {
        let tables = builder::tables(kind & 1 == 1).start as usize;
        while let [head, place @ ..] = rest
            && let [low, high, more @ ..] = place
        {
            let at = usize::from(u16::from_le_bytes([*low, *high]));
            // The header, the tables, and what is behind them.
            let at = match head >> 6 {
                0 => at % 200,
                1 => tables + at % 256,
                2 => 2 * tables + at % 256,
                _ => at,
            } % image.len();
            let len = (usize::from(head & 15) + 1).min(more.len());
            let (bytes, behind) = more.split_at(len);
            let len = len.min(image.len() - at);
            image[at..at + len].copy_from_slice(&bytes[..len]);
            rest = behind;
        }
    }
    let folder = folder();
    let _ = touch(folder.path(), &image);
    converts(folder.path());
}

/// Compressed files: any bytes are described and converted, within a limit. A fuzz target.
pub fn wrapped(bytes: &[u8]) {
    let folder = folder();
    let (from, to) = (folder.path().join("image"), folder.path().join("raw"));
    fs::write(&from, bytes).unwrap();
    let options = OpenOptions {
        limit: 4 << 20,
        ..OpenOptions::default()
    };
    let _ = disk::describe(&from, &options);
    if let Ok(converted) = disk::convert(&from, &to, &options, &|_| ControlFlow::Continue(())) {
        let metadata = fs::metadata(&to).unwrap();
        assert!(metadata.len() <= options.limit, "{converted:?}");
        fs::remove_file(&to).unwrap();
    }
    assert!(!to.exists());
}
