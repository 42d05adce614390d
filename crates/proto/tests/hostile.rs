//! The corpus of what hostile peers say, and some at random: whatever it is, every call ends and so does the connection.

mod harness;

use proptest::prelude::*;

#[test]
fn corpus_of_words() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/words");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        harness::words(&std::fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed >= 10, "{replayed} files in {folder}");
}

#[test]
fn empty_answers_are_answers() {
    let pieces: Vec<u8> = (0..15).flat_map(|stream| [0, 0, stream]).collect();
    let bytes = harness::stream(&[&[1][..], &pieces].concat());
    assert_eq!(harness::answers(&bytes), 15);
}

proptest! {
    #[test]
    fn any_words(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        harness::words(&bytes);
    }
}
