//! Frames of a guest, answers of resolvers, a guest's TCP and the host's sockets, against the stack.
#![no_main]

#[path = "../../crates/netstack/tests/play/mod.rs"]
mod play;
#[path = "../../crates/netstack/tests/world/mod.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| play::frames(bytes));
