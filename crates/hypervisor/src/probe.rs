//! Which drivers work on this host: not what exists, what works.
//!
//! A `/dev/kvm` that opens but cannot run a real guest (software KVM on rented machines: no `CMPXCHG16B`, no `XRSTOR`,
//! no `int3`) counts as missing. Answers that cost time are kept in a file: KVM's for one boot of the host, QEMU's for
//! as long as its program file does not change.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::DriverKind;

/// What works on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Hardware virtualization, as this user has it.
    pub kvm: Capability,
    /// The drivers, best first.
    pub drivers: Vec<DriverReport>,
}

/// Whether something works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// It works.
    pub works: bool,
    /// What was found: a version, or why it doesn't work.
    pub detail: String,
    /// What a person can do about it, if anything.
    pub remedy: Option<String>,
}

/// Whether a driver works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverReport {
    /// The driver.
    pub driver: DriverKind,
    /// The monitor's program, if it is one of the host's.
    pub program: Option<PathBuf>,
    /// The monitor's version.
    pub version: Option<String>,
    /// What runs the guest's instructions.
    pub acceleration: Option<Acceleration>,
    /// Whether it works.
    #[serde(flatten)]
    pub capability: Capability,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// The processor, by Linux's KVM.
    Kvm,
    /// Translation in software: works everywhere, slow.
    Tcg,
}
