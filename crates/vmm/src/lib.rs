//! The machine monitor's parts: virtio devices, their transports, and the confinement of whoever runs them.
//!
//! `control` is what the other crates need: the messages between a supervisor and `gourd-vmm`. It compiles on
//! every host. Everything else is Linux only.
//!
//! The guest is hostile, its kernel included. Nothing that guest memory holds is trusted: it is copied first, then
//! checked, and what is wrong is counted, never an error that ends the process.

pub mod control;

#[cfg(target_os = "linux")]
pub mod confine;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod kvm_probe;
#[cfg(target_os = "linux")]
pub mod spawn;
#[cfg(target_os = "linux")]
pub mod vhost_user;
#[cfg(target_os = "linux")]
pub mod vsock;
