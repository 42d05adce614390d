//! Manifests, indexes, image configurations, references, platforms.
#![no_main]

#[path = "../../crates/oci/tests/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::documents(bytes));
