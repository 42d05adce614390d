//! File systems: the reader and the checker.
#![no_main]

#[path = "../../crates/ext4/tests/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::damaged(bytes));
