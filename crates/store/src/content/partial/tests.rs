//! The oracle is the digest that `oci::Digest::of` gives of the whole, and the plain bytes.

// A list of one range is what is meant.
#![allow(clippy::single_range_in_vec_init)]

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::content::{self, Claim};
use oci::{Descriptor, MediaType};
use proptest::prelude::*;

struct Setup {
    _dir: tempfile::TempDir,
    root: Root,
    bytes: Vec<u8>,
    blob: Descriptor,
}

fn setup(size: u64) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let bytes: Vec<u8> = (0..size).map(|i| ((i * 7919) >> 5) as u8).collect();
    let blob = Descriptor::of(MediaType::OciLayer, &bytes);
    Setup {
        _dir: dir,
        root,
        bytes,
        blob,
    }
}

impl Setup {
    fn open(&self) -> Partial {
        let claim = Claim::acquire(&self.root, &self.blob.digest).unwrap();
        Partial::open(&self.root, claim, self.blob.size).unwrap()
    }

    fn write(&self, partial: &mut Partial, range: Range<u64>) {
        let bytes = &self.bytes[range.start as usize..range.end as usize];
        for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
            let offset = range.start + (CHUNK * index) as u64;
            partial.write(offset, chunk).unwrap();
        }
    }

    fn finish(&self, partial: Partial) {
        partial.finish().unwrap();
        let path = content::path(&self.root, &self.blob.digest);
        assert_eq!(fs::read(&path).unwrap(), self.bytes);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        self.nothing_left();
    }

    fn nothing_left(&self) {
        let left = fs::read_dir(self.root.content().join("ingest")).unwrap();
        assert_eq!(left.count(), 0);
    }
}

const SIZE: u64 = 3 * SEGMENT + 1234;
const CHUNK: usize = 1000;

/// As a process that is killed leaves it: with the table as it stands.
fn die(mut partial: Partial) {
    partial.said.clone_from(&partial.counts);
}

#[test]
fn a_blob_comes_in_order() {
    let setup = setup(SIZE);
    let mut partial = setup.open();
    assert_eq!(partial.missing(), [0..SIZE]);
    setup.write(&mut partial, 0..SIZE);
    assert_eq!(partial.missing(), []);
    assert_eq!(partial.received(), SIZE);
    setup.finish(partial);
}

#[test]
fn empty_and_small_ones_too() {
    for size in [0, 1, SEGMENT, SEGMENT + 1] {
        let setup = setup(size);
        let mut partial = setup.open();
        setup.write(&mut partial, 0..size);
        setup.finish(partial);
    }
}

#[test]
fn what_came_is_gone_on_with() {
    let setup = setup(SIZE);
    let mut partial = setup.open();
    setup.write(&mut partial, 2 * SEGMENT..2 * SEGMENT + 5000);
    setup.write(&mut partial, 0..SEGMENT + 77);
    drop(partial);
    let mut partial = setup.open();
    let missing = [SEGMENT + 77..2 * SEGMENT, 2 * SEGMENT + 5000..SIZE];
    assert_eq!(partial.missing(), missing);
    assert_eq!(partial.received(), SEGMENT + 77 + 5000);
    for range in missing {
        setup.write(&mut partial, range);
    }
    setup.finish(partial);
}

#[test]
fn a_death_loses_little() {
    let setup = setup(SIZE);
    let mut partial = setup.open();
    setup.write(&mut partial, 0..SEGMENT + 10_000);
    die(partial);
    let mut partial = setup.open();
    let missing = partial.missing();
    let start = missing[0].start;
    assert!(
        start > SEGMENT + 10_000 - UNSAID - CHUNK as u64 && start < SEGMENT + 10_000,
        "{start}"
    );
    for range in missing {
        setup.write(&mut partial, range);
    }
    setup.finish(partial);
}

#[test]
fn what_is_no_table_is_begun_anew() {
    let setup = setup(SIZE);
    let mut partial = setup.open();
    setup.write(&mut partial, 0..SEGMENT);
    let path = partial.path.clone();
    drop(partial);
    let whole = fs::read(&path).unwrap();
    let mut lying = whole.clone();
    lying[SIZE as usize + MAGIC.len() + 3] = 0xff;
    let mut other = whole.clone();
    other[SIZE as usize] ^= 1;
    for bad in [
        &b""[..],
        &whole[..whole.len() - 1],
        &whole[..100],
        &lying,
        &other,
    ] {
        fs::write(&path, bad).unwrap();
        let partial = setup.open();
        assert_eq!(partial.missing(), [0..SIZE]);
        drop(partial);
    }
    let mut partial = setup.open();
    setup.write(&mut partial, 0..SIZE);
    setup.finish(partial);
}

#[test]
fn a_death_before_the_name_loses_nothing() {
    let setup = setup(SIZE);
    let mut partial = setup.open();
    setup.write(&mut partial, 0..SIZE);
    let path = partial.path.clone();
    partial.said.clone_from(&partial.counts);
    partial.file.set_len(SIZE).unwrap();
    drop(partial);
    assert_eq!(fs::metadata(&path).unwrap().len(), SIZE);
    let partial = setup.open();
    assert_eq!(partial.missing(), []);
    setup.finish(partial);
}

#[test]
fn a_table_that_promises_too_much_is_found_out() {
    let setup = setup(SIZE);
    let mut partial = setup.open();
    setup.write(&mut partial, 0..SIZE);
    // As a crash of the host may leave it: the table was written, the bytes were not.
    partial.file.write_all_at(&[0; 4096], SEGMENT).unwrap();
    partial.said.clone_from(&partial.counts);
    drop(partial);
    let partial = setup.open();
    assert_eq!(partial.missing(), []);
    assert!(matches!(partial.finish(), Err(Error::Digest { .. })));
    setup.nothing_left();
}

#[test]
fn wrong_bytes_and_wrong_sizes_are_refused() {
    let setup = setup(1000);
    let mut partial = setup.open();
    let error = partial.write(999, b"ab").unwrap_err();
    assert!(matches!(error, Error::Size { found: 1001, .. }), "{error}");
    setup.write(&mut partial, 0..999);
    let error = partial.finish().unwrap_err();
    assert!(matches!(error, Error::Size { found: 999, .. }), "{error}");
    let mut partial = setup.open();
    assert_eq!(partial.missing(), [999..1000]);
    partial.write(999, b"!").unwrap();
    let error = partial.finish().unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    setup.nothing_left();
    setup.open().discard();
    setup.nothing_left();
    for size in [MAX_BLOB + 1, u64::MAX] {
        let claim = Claim::acquire(&setup.root, &setup.blob.digest).unwrap();
        let error = Partial::open(&setup.root, claim, size).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        setup.nothing_left();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order, with whatever deaths in between: the blob is right in the end, and what `missing`
    /// names is enough.
    #[test]
    fn any_order(pieces in prop::collection::vec((0..SIZE, 1_u64..2 * SEGMENT, any::<bool>()), 0..12)) {
        let setup = setup(SIZE);
        let mut partial = setup.open();
        for (start, length, dies) in pieces {
            let end = SIZE.min(start + length);
            let bytes = &setup.bytes[start as usize..end as usize];
            partial.write(start, bytes).unwrap();
            if dies {
                die(partial);
                partial = setup.open();
            }
        }
        for range in partial.missing() {
            setup.write(&mut partial, range);
        }
        setup.finish(partial);
    }
}
