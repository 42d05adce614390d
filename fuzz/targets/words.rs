//! What an agent answers and asks, and what `gourd-net` and its clients say.
#![no_main]

#[path = "../../crates/proto/tests/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::words(bytes));
