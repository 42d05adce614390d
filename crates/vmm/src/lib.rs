//! The machine monitor's parts: virtio devices, their transports, and the confinement of whoever runs them.
//!
//! `control` and `machine` are what the other crates need: what a supervisor and `gourd-vmm` say to each other. They
//! and `host` compile on every host. Everything else is Linux only.
//!
//! The guest is hostile, its kernel included. Nothing that guest memory holds is trusted: it is copied first, then
//! checked, and what is wrong is counted, never an error that ends the process.

pub mod control;
pub mod host;
pub mod machine;

#[cfg(target_os = "linux")]
pub mod confine;
#[cfg(target_os = "linux")]
pub mod fs;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod kvm_probe;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod monitor;
#[cfg(all(any(test, fuzzing), target_os = "linux"))]
mod script;
#[cfg(target_os = "linux")]
pub mod spawn;
#[cfg(target_os = "linux")]
pub mod vhost_user;
#[cfg(target_os = "linux")]
pub mod virtio;
#[cfg(target_os = "linux")]
pub mod vsock;
