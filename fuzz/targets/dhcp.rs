//! DHCP messages of a guest.
#![no_main]

#[path = "../../crates/netstack/tests/play/mod.rs"]
mod play;
#[path = "../../crates/netstack/tests/world/mod.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| play::dhcp(bytes));
