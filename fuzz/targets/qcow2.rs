//! qcow2 images: headers, tables, clusters of zlib and zstd.
#![no_main]

#[path = "../../crates/disk/tests/builder/mod.rs"]
mod builder;
#[path = "../../crates/disk/tests/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::damaged(bytes));
