//! `gourd-init`: the one program of a container's VM. The kernel starts it as PID 1, which forks for its other roles.
//!
//! Without std's own entry: that measures the stack (it reads `/proc/self/maps`), asks after the standard streams and
//! makes a second stack for signals, 10 ms under translation, for nobody here.
#![cfg_attr(not(test), no_main)]
// `no_mangle` is the only thing here that counts as unsafe; the rest is in `agent::sys`.
#![allow(unsafe_code)]

// SAFETY: this is the only `main` of the program.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main() -> std::ffi::c_int {
    agent::main().into()
}
