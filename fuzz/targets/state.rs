//! State files, and logs.
#![no_main]

#[path = "../../crates/store/tests/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::state(bytes));
