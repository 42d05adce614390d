//! State files of all kinds with anything in them: an error or what stood there, never a panic.

mod harness;

use proptest::prelude::*;

#[test]
fn corpus_of_states() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/state");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        harness::state(&std::fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed >= 10, "{replayed} files in {folder}");
}

proptest! {
    #[test]
    fn any_state(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        harness::state(&bytes);
    }
}
