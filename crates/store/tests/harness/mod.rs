//! State files, logs and packed layers with anything in them. Shared by `tests/hostile.rs` and the fuzz target.

// Each of those who share this uses a part of it.
#![allow(dead_code)]

use std::fmt::Debug;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use store::logs::{Lines, Reader, Start};
use store::{container, images, json, network, volume};

/// What is taken is the same when it is written and read again.
fn document<T: DeserializeOwned + Serialize + Debug>(bytes: &[u8], known: u32) {
    let path = Path::new("state.json");
    match json::parse::<T>(bytes, path, known) {
        Ok(value) => {
            let again = serde_json::to_vec(&value).unwrap();
            let again = json::parse::<T>(&again, path, known).unwrap();
            assert_eq!(format!("{again:?}"), format!("{value:?}"));
        }
        Err(error) => assert!(error.to_string().contains("state.json")),
    }
}

/// A folder for files, in memory where there is such a place.
fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    match shm.is_dir() {
        true => tempfile::tempdir_in(shm).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// Records in order, and no more bytes than there are in the file.
fn log(bytes: &[u8]) {
    let folder = folder();
    let path = folder.path().join("output.log");
    fs::write(&path, bytes).unwrap();
    for start in [Start::Oldest, Start::Tail(3), Start::Since(1 << 60)] {
        let Ok(mut reader) = Reader::open(&path, start) else {
            continue;
        };
        let mut total = 0;
        while let Ok(Some(record)) = reader.next_record() {
            total += record.bytes.len();
            assert!(total <= bytes.len());
        }
    }
    if let Ok(mut reader) = Reader::open(&path, Start::Oldest) {
        // One that is damaged says so for ever.
        let records = std::iter::from_fn(|| reader.next_record().ok().flatten());
        let records = records.map(Ok::<_, store::logs::Error>);
        assert!(Lines::new(records).count() <= bytes.len());
    }
}

/// A packed layer, of which a bounded part is read.
fn packed(bytes: &[u8]) {
    if let Ok(stream) = store::rootfs::decompress(io::Cursor::new(bytes.to_vec())) {
        let _ = io::copy(&mut stream.take(4 << 20), &mut io::sink());
    }
}

/// All of them; the first byte chooses. A fuzz target.
pub fn state(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    match kind % 7 {
        0 => document::<container::Spec>(bytes, container::SCHEMA),
        1 => document::<container::State>(bytes, container::SCHEMA),
        2 => document::<network::Spec>(bytes, u32::MAX),
        3 => document::<volume::Spec>(bytes, u32::MAX),
        4 => document::<images::Record>(bytes, u32::MAX),
        5 => log(bytes),
        _ => packed(bytes),
    }
}
