//! The reader on bytes that mean harm: any answer will do, but it must be an answer.

mod harness;

use std::path::Path;

use ext4::read::Reader;
use ext4::{FormatOptions, format};
use harness::{image, read_all};
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn the_image_itself_is_read_whole() {
    assert_eq!(read_all(image(), true).unwrap(), 7);
}

/// `tests/corpus/*.edits`: lines of `offset: hexadecimal bytes` that damage the image above.
#[test]
fn the_corpus_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let mut disk = image();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (offset, bytes) = line.split_once(": ").unwrap();
            let offset = usize::from_str_radix(offset, 16).unwrap();
            let bytes: Vec<u8> = (0..bytes.len() / 2)
                .map(|i| u8::from_str_radix(&bytes[i * 2..i * 2 + 2], 16).unwrap())
                .collect();
            disk[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        let _ = read_all(&disk, false);
        let _ = read_all(&disk, true);
        replayed += 1;
    }
    assert!(replayed > 0, "no corpus");
}

/// `tests/corpus/damaged`: what fuzzing found.
#[test]
fn fuzzed_images_are_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/damaged");
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        harness::damaged(&std::fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed >= 20, "{replayed} files");
}

#[test]
fn every_changed_byte_of_metadata_is_noticed_or_harmless() {
    let clean = image();
    let whole = read_all(&clean, true).unwrap();
    let mut noticed = 0;
    for at in (0..clean.len()).step_by(97) {
        let mut disk = clean.clone();
        disk[at] ^= 0x55;
        match read_all(&disk, true) {
            Ok(count) => noticed += usize::from(count < whole),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 0);
}

/// An extent tree whose only node is its own child, and a directory that contains its parent.
#[test]
fn circles_end() {
    let mut disk = image();
    let reader = Reader::open(&disk).unwrap();
    let sparse = reader.lookup(b"/sparse").unwrap().unwrap();
    let extents = reader.extents(&sparse).unwrap();
    assert_eq!(extents.len(), 6);
    // the node behind the root of the tree is the only block with this header
    let header = [0x0a, 0xf3, 6, 0, 0x54, 1, 0, 0];
    let node = disk.windows(8).position(|window| window == header).unwrap();
    let block = (node / 4096) as u32;
    disk[node + 6] = 1; // depth
    disk[node + 2] = 1; // entries
    disk[node + 12 + 4..node + 12 + 8].copy_from_slice(&block.to_le_bytes());
    let reader = Reader::open_with(&disk, false).unwrap();
    let sparse = reader.lookup(b"/sparse").unwrap().unwrap();
    assert!(reader.extents(&sparse).is_err());
}

#[test]
fn other_formats_are_refused_by_name() {
    let refuse = |at: usize, value: u32, expect: &str| {
        let mut disk = image();
        disk[1024 + at..1024 + at + 4].copy_from_slice(&value.to_le_bytes());
        let error = Reader::open_with(&disk, false).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    refuse(0x38, 0, "s_magic");
    refuse(0x18, 7, "s_log_block_size");
    refuse(0x20, 0, "s_blocks_per_group");
    refuse(0x28, u32::MAX, "s_inodes_per_group");
    refuse(0x04, 0x00ff_ffff, "cut off");
    refuse(0x60, 0x8000_0000, "features");
    assert!(Reader::open(Vec::new()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_images_never_panic(
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        metadata in any::<bool>(),
    ) {
        let mut disk = image();
        // contents come first; most of what is parsed lies behind them and before them
        let start = if metadata { 8 * 4096 } else { 0 };
        let len = disk.len() - start;
        for (at, value) in &edits {
            disk[start + at.index(len)] = *value;
        }
        let _ = read_all(&disk, false);
        let _ = read_all(&disk, true);
    }

    #[test]
    fn random_bytes_behind_a_magic_number_never_panic(mut disk in vec(any::<u8>(), 2048..9000)) {
        disk[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        let _ = read_all(&disk, false);
    }
}

#[test]
fn an_empty_disk_with_a_journal_is_read() {
    let mut disk = Vec::new();
    let options = FormatOptions {
        size: 20 << 20,
        ..FormatOptions::default()
    };
    format(&mut disk, &options).unwrap();
    assert_eq!(read_all(&disk, true).unwrap(), 2);
    let reader = Reader::open(&disk).unwrap();
    assert!(reader.superblock().clean && !reader.superblock().needs_recovery());
}
