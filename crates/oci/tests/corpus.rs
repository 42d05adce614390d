//! Replays the corpus: files named `ok-…` are taken, `bad-…` are refused, nothing panics. Then
//! the same with random damage, and with random bytes.

mod harness;
mod support;

use std::fs;
use std::path::PathBuf;

use harness::merge;
use oci::{ImageConfig, Reference, parse_document};
use proptest::prelude::*;
use support::chain;

fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[track_caller]
fn replay<T, E: std::error::Error>(folder: &str, parse: impl Fn(&[u8]) -> Result<T, E>) {
    for (name, bytes) in corpus(folder) {
        match parse(&bytes) {
            Ok(_) => assert!(name.starts_with("ok-"), "{name} was taken"),
            Err(e) => assert!(name.starts_with("bad-"), "{name}: {}", chain(&e)),
        }
    }
}

/// `layers` and `documents`: what fuzzing found.
#[test]
fn fuzzed_ones() {
    let targets = [
        ("layers", harness::layers as fn(&[u8])),
        ("documents", harness::documents),
    ];
    for (folder, target) in targets {
        for (_, bytes) in corpus(folder) {
            target(&bytes);
        }
    }
}

#[test]
fn archives() {
    replay("tar", merge);
}

#[test]
fn documents() {
    replay("manifest", |bytes| parse_document(None, bytes));
}

#[test]
fn references() {
    for (name, text) in corpus("reference") {
        let text = String::from_utf8(text).unwrap();
        for line in text.lines() {
            if name == "ok.txt" {
                let words: Vec<_> = line.split(' ').collect();
                let [input, full, familiar] = words[..] else {
                    panic!("{line}");
                };
                let r: Reference = input.parse().unwrap_or_else(|e| panic!("{input}: {e}"));
                assert_eq!(
                    (r.to_string(), r.familiar()),
                    (full.to_owned(), familiar.to_owned())
                );
                assert_eq!(full.parse().as_ref(), Ok(&r));
                assert_eq!(familiar.parse().as_ref(), Ok(&r));
            } else {
                let (input, expect) = line.split_once('|').unwrap();
                let error = input.parse::<Reference>().expect_err(input);
                assert_eq!(chain(&error), expect);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_references(text in "([a-zA-Z0-9_./:@\\[\\]-]{0,40}|\\PC{0,20})") {
        if let Ok(r) = text.parse::<Reference>() {
            prop_assert_eq!(r.to_string().parse(), Ok(r.clone()));
            prop_assert_eq!(r.familiar().parse(), Ok(r));
        }
    }

    #[test]
    fn random_archives(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = merge(&bytes);
    }

    /// Damage somewhere in a good archive, with the checksums made right again so that the
    /// damage gets further than those.
    #[test]
    fn damaged_archives(
        pick in any::<proptest::sample::Index>(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<proptest::sample::Index>(),
    ) {
        let files = corpus("tar");
        let mut tar = files[pick.index(files.len())].1.clone();
        if tar.is_empty() {
            return Ok(());
        }
        for (at, value) in damage {
            let at = at.index(tar.len());
            tar[at] = value;
        }
        for block in tar.chunks_exact_mut(512).filter(|b| b.iter().any(|c| *c != 0)) {
            if block.starts_with(b"Pax") || &block[257..262] == b"ustar" {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let _ = merge(&tar);
        let _ = merge(&tar[..cut.index(tar.len())]);
    }

    #[test]
    fn damaged_documents(
        pick in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        value in any::<u8>(),
    ) {
        let files = corpus("manifest");
        let mut bytes = files[pick.index(files.len())].1.clone();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = parse_document(None, &bytes);
        let _ = ImageConfig::parse(&bytes);
    }
}
