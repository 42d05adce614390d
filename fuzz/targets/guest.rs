//! A guest's acts against the monitor: registers, rings, every device's queues, serial ports.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::monitor::hostile::program(bytes));
