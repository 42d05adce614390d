//! Files in gzip, bzip2, xz, zstd, and what is inside.
#![no_main]

#[path = "../../crates/disk/tests/builder/mod.rs"]
mod builder;
#[path = "../../crates/disk/tests/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::wrapped(bytes));
