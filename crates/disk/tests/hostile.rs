//! Images that mean harm: any answer will do, but it must be an answer, and a short one.

mod builder;
mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use builder::{DISK, image};
use disk::{Image, ImageError};
use harness::{converts, limited, touch};
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn the_image_itself_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    for extended in [false, true] {
        let (bytes, disk) = image(extended);
        touch(dir.path(), &bytes).unwrap();
        let image = Image::open(&dir.path().join("image"), &limited()).unwrap();
        let mut found = vec![1; DISK];
        image.read_at(&mut found, 0).unwrap();
        assert!(found == disk, "extended {extended}");
        converts(dir.path());
    }
}

/// `tests/corpus/*.edits`: a line `plain` or `extended`, then lines of `offset: hexadecimal bytes` that damage that image.
/// A file is called what the error says, or `harmless`.
#[test]
fn the_corpus_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let dir = tempfile::tempdir().unwrap();
    let mut replayed = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        let (mut bytes, _) = image(lines.next() == Some("extended"));
        for line in lines {
            let (at, edit) = line.split_once(": ").unwrap();
            let at = usize::from_str_radix(at, 16).unwrap();
            for (i, digits) in edit.as_bytes().chunks(2).enumerate() {
                let digits = std::str::from_utf8(digits).unwrap();
                bytes[at + i] = u8::from_str_radix(digits, 16).unwrap();
            }
        }
        let outcome = touch(dir.path(), &bytes).map_err(|error| slug(&error));
        converts(dir.path());
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let outcome = outcome.err().unwrap_or_else(|| "harmless".to_owned());
        assert!(name.starts_with(&outcome), "{name} says {outcome}");
        replayed += 1;
    }
    assert!(replayed > 10, "{replayed} files");
}

/// `tests/corpus/{damaged,wrapped}`: what fuzzing found.
#[test]
fn fuzzed_files_are_survived() {
    let targets = [
        ("damaged", harness::damaged as fn(&[u8])),
        ("wrapped", harness::wrapped),
    ];
    for (name, target) in targets {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
        let mut replayed = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            target(&fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed >= 10, "{replayed} files of {name}");
    }
}

/// What an error says, without numbers and paths.
fn slug(error: &ImageError) -> String {
    let text = match error {
        ImageError::Damaged { what, .. } | ImageError::Refused { what, .. } => what.clone(),
        ImageError::TooLarge { .. } => "too large".to_owned(),
        ImageError::Backing { reason, .. } => (*reason).to_owned(),
        ImageError::Io { operation, .. } => (*operation).to_owned(),
        ImageError::Foreign { .. } => "foreign".to_owned(),
        other => other.to_string(),
    };
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let words =
        words.filter(|word| word.len() > 1 && word.bytes().all(|b| b.is_ascii_alphabetic()));
    let words: Vec<&str> = words.take(7).collect();
    words.join("-").to_lowercase()
}

/// Makes corpus files: `GOURD_CORPUS=ROUNDS cargo test -p disk --test hostile corpus_grows` tries so many random edits and
/// keeps the first of each outcome. Without the variable it tries a few and keeps none.
#[test]
fn corpus_grows() {
    let rounds = std::env::var("GOURD_CORPUS").ok();
    let count: u64 = rounds.as_ref().map_or(200, |text| text.parse().unwrap());
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let dir = tempfile::tempdir().unwrap();
    let mut state = std::process::id().into();
    let mut roll = |below: u64| {
        state = u64::wrapping_mul(state, 6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let mut found = BTreeMap::new();
    for _ in 0..count {
        let extended = roll(2) == 1;
        let (mut bytes, _) = image(extended);
        let mut text = if extended { "extended\n" } else { "plain\n" }.to_owned();
        for _ in 0..=roll(2) {
            // The header, and the tables that the builder puts behind it.
            let tables = builder::tables(extended);
            let at = match roll(3) {
                0 => roll(200),
                _ => tables.start + roll(tables.end - tables.start),
            } as usize;
            let value = [0, 1, 0x7f, 0x80, 0xff, roll(256) as u8][roll(6) as usize];
            bytes[at] = value;
            text.push_str(&format!("{at:x}: {value:02x}\n"));
        }
        let outcome = touch(dir.path(), &bytes).map_err(|error| slug(&error));
        let outcome = outcome.err().unwrap_or_else(|| "harmless".to_owned());
        found.entry(outcome).or_insert(text);
    }
    if rounds.is_some() {
        fs::create_dir_all(&corpus).unwrap();
        for (name, text) in found {
            fs::write(corpus.join(format!("{name}.edits")), text).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn damaged_images_never_panic(
        extended in any::<bool>(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut bytes, _) = image(extended);
        let tables = builder::tables(extended);
        let (start, end) = (tables.start as usize, tables.end as usize);
        for (number, (at, value)) in edits.iter().enumerate() {
            let at = if number % 2 == 0 { at.index(120) } else { start + at.index(end - start) };
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = touch(dir.path(), &bytes);
        converts(dir.path());
    }

    #[test]
    fn random_bytes_behind_the_magic_number_never_panic(mut bytes in vec(any::<u8>(), 8..3000), three in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        bytes[..8].copy_from_slice(&[b'Q', b'F', b'I', 0xfb, 0, 0, 0, 2 + u8::from(three)]);
        let _ = touch(dir.path(), &bytes);
    }
}
