//! Virtual hardware: one bill of materials, several drivers.
//!
//! [`VmConfig`] lists what a VM is made of. [`validate`] names what is wrong with it before anything starts.
//! A [`Driver`] makes a [`Vm`] of it by starting monitor processes, which are confined and which alone touch what
//! the guest controls. [`probe`] says which drivers work on this host, with a reason and a remedy for each that doesn't.
//!
//! Owner: the supervisor (`gourd-vm`), on its one thread. The crate trusts the configuration's paths (the supervisor
//! wrote them) and nothing that a monitor says: a confined monitor may have fallen to its guest.

pub mod config;
pub mod confine {
    //! Confinement for a process that is no monitor and reads what guests say.
    pub use vmm::confine::{ConfineError, Prepared, Rules, for_spawn};
}
mod driver;
pub mod kvm;
pub mod probe;
mod process;
pub mod qemu;
pub mod resolved;
pub mod spawn {
    //! For a process that is no monitor and goes on while its host goes down.
    pub use vmm::spawn::hold_endings;
}
mod validate;
mod vsock;

pub use config::{DriverKind, Framing, VmConfig};
pub use driver::{
    Driver, Error, ExitReason, Listener, Programs, StartOptions, Started, Vm, VmExit,
};
pub use validate::{ConfigError, ConfigErrors, MAX_MEMORY, MAX_VCPUS, MIN_MEMORY, validate};
