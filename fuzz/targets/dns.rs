//! A guest's questions by UDP and TCP, and answers of resolvers.
#![no_main]

#[path = "../../crates/netstack/tests/play/mod.rs"]
mod play;
#[path = "../../crates/netstack/tests/world/mod.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| play::resolving(bytes));
