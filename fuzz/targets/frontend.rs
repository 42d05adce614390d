//! vhost-user messages, a guest's rings and a supervisor's messages, against the vsock back-end.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    vmm::vhost_user::hostile::program(bytes);
});
