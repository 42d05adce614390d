//! Which driver runs a container's VM, and what `probe` and `validate` tell.

use std::path::PathBuf;

use hypervisor::probe::{self, Report};
use hypervisor::{Driver, DriverKind, VmConfig};
use proto::supervisor::Failure;
use serde::Serialize;
use store::Root;
use store::locate::{self, Programs};

use crate::failure;

/// The names that `--driver` takes.
const KINDS: [DriverKind; 3] = [DriverKind::Kvm, DriverKind::Qemu, DriverKind::Vz];

/// The driver that `wanted` names (`auto` or nothing: the best that works).
///
/// # Errors
/// A name that no driver has; a driver that does not work here, with the probe's reason and remedy.
pub fn choose(root: &Root, wanted: &str, programs: &Programs) -> Result<Box<dyn Driver>, Failure> {
    let step = "choose a driver";
    let kind = match wanted {
        "" | "auto" => None,
        name => Some(
            KINDS
                .into_iter()
                .find(|kind| kind.to_string() == name)
                .ok_or_else(|| failure::own(step, name, "there are auto, kvm, qemu and vz"))?,
        ),
    };
    let programs = monitors(programs)?;
    probe::open(kind, &programs, Some(&cache(root))).map_err(|error| {
        let remedy = match &error {
            hypervisor::Error::Unavailable { remedy, .. } => remedy.clone(),
            _ => None,
        };
        Failure {
            remedy: remedy.unwrap_or_default(),
            ..failure::from_error(step, wanted, &error)
        }
    })
}

/// Processors of a container that asks for no number: as many as can run at once, two at most.
pub fn processors(driver: &dyn Driver) -> u32 {
    driver.parallelism().min(2)
}

/// What works on this host, for `gourd-vm probe`.
///
/// # Errors
/// When `gourd-vmm` is missing.
pub fn report(root: &Root) -> Result<Report, Failure> {
    let programs = monitors(&Programs::new(None))?;
    Ok(probe::probe(&programs, Some(&cache(root))))
}

/// What each driver has to say about a bill of materials, for `gourd-vm validate`.
#[derive(Debug, Serialize)]
pub struct Verdict {
    driver: DriverKind,
    errors: Vec<String>,
}

/// Asks every driver.
pub fn validate(config: &VmConfig) -> Vec<Verdict> {
    KINDS
        .into_iter()
        .map(|driver| Verdict {
            driver,
            errors: match hypervisor::validate(config, driver) {
                Ok(()) => Vec::new(),
                Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
            },
        })
        .collect()
}

/// Where the probe keeps its answers. Losing the file costs a probe.
fn cache(root: &Root) -> PathBuf {
    root.path().join("probe.json")
}

fn monitors(programs: &Programs) -> Result<hypervisor::Programs, Failure> {
    let vmm = programs
        .find(locate::VMM)
        .map_err(|error| failure::from_error("find the monitor", locate::VMM, &error))?;
    Ok(hypervisor::Programs { vmm, qemu: None })
}
