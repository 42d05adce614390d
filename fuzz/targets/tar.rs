//! Layers: tar and its extensions, whiteouts, links, merged into one tree.
#![no_main]

#[path = "../../crates/oci/tests/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::layers(bytes));
