//! The corpus, and programs at random.

use proptest::prelude::*;

use super::program;

/// A front-end that does all of it right, a guest that dials, talks and hangs up.
fn sane() -> Vec<u8> {
    let mut bytes = vec![0, 0];
    for buffer in 0..4u16 {
        // A buffer for the device to write.
        bytes.extend([5, 0, 1]);
        bytes.extend((0x100 + buffer * 0x40).to_le_bytes());
        bytes.extend([0, 4, 2]);
    }
    for (op, len) in [(1u8, 0u16), (5, 100), (4, 0)] {
        bytes.extend([6, op, 0]);
        bytes.extend(len.to_le_bytes());
        bytes.extend(0x1_0000u32.to_le_bytes());
        bytes.extend([9, 1, 50, 0]);
    }
    bytes
}

#[test]
fn a_sane_program_is_played_to_its_end() {
    assert_eq!(program(&sane()), 11);
}

#[test]
fn corpus_of_front_ends() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/frontend");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        program(&std::fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed >= 20, "{replayed} programs in {folder}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_program(tail in proptest::collection::vec(any::<u8>(), 0..400), ready in any::<bool>()) {
        let mut bytes = if ready { sane() } else { Vec::new() };
        bytes.extend(tail);
        program(&bytes);
    }
}
