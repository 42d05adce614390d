//! Which drivers work on this host: not what exists, what works.
//!
//! A `/dev/kvm` that opens but cannot run a real guest (software KVM on rented machines: no `CMPXCHG16B`, no `XRSTOR`,
//! no `int3`) counts as missing. Answers that cost time are kept in a file (`cache`): KVM's for one boot of the host,
//! QEMU's for as long as its program file does not change.
//!
//! Everything here blocks, for some milliseconds when the cache has the answers, for a few hundred when it hasn't.

mod cache;
mod qemu;

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::DriverKind;
use crate::driver::{Driver, Error, Programs};
use crate::kvm::Kvm;
use crate::qemu::Qemu;
use cache::Cache;

/// What works on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Hardware virtualization, as this user has it.
    pub kvm: Capability,
    /// Every driver that there is, best first.
    pub drivers: Vec<DriverReport>,
    /// How far this host's kernel lets monitors be confined. Looked at by [`probe`] alone: to start a VM nobody needs it.
    #[serde(default)]
    pub confinement: Option<Confinement>,
}

/// What of a monitor's confinement the host's kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Landlock's ABI; 0 if the kernel has none, or it is turned off.
    pub landlock_abi: u32,
    /// System calls can be filtered.
    pub seccomp: bool,
    /// A process can be kept from gaining privileges.
    pub no_new_privs: bool,
    /// This user may make user namespaces.
    pub user_namespaces: bool,
}

fn confinement() -> Confinement {
    use vmm::confine;
    let level = confine::available();
    Confinement {
        landlock_abi: level.landlock_abi,
        seccomp: level.seccomp,
        no_new_privs: confine::knows_no_new_privs(),
        user_namespaces: confine::user_namespaces(),
    }
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

impl Capability {
    fn yes(detail: impl Into<String>) -> Capability {
        Capability {
            works: true,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn no(detail: impl Into<String>, remedy: Option<&str>) -> Capability {
        Capability {
            works: false,
            detail: detail.into(),
            remedy: remedy.map(str::to_owned),
        }
    }
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

/// Finds out what works. `cache` is a file that only this function reads and writes; without one, nothing is kept.
pub fn probe(programs: &Programs, cache: Option<&Path>) -> Report {
    Report {
        confinement: Some(confinement()),
        ..probe_drivers(programs, cache)
    }
}

fn probe_drivers(programs: &Programs, cache: Option<&Path>) -> Report {
    let search = std::env::var_os("PATH").unwrap_or_default();
    probe_in(programs, &search, Path::new("/dev/kvm"), cache)
}

fn probe_in(programs: &Programs, search: &OsStr, device: &Path, cache: Option<&Path>) -> Report {
    let mut cache = Cache::load(cache);
    let kvm = kvm(device, &mut cache);
    let qemu = qemu::report(programs, search, kvm.works, &mut cache);
    cache.store();
    let ours = DriverReport {
        driver: DriverKind::Kvm,
        program: Some(programs.vmm.clone()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        acceleration: kvm.works.then_some(Acceleration::Kvm),
        capability: kvm.clone(),
    };
    Report {
        kvm,
        // Those of this host's kind: vz is macOS's, and nobody misses it elsewhere.
        drivers: vec![ours, qemu],
        confinement: None,
    }
}

/// The driver that was asked for, or the best that works.
pub fn open(
    wanted: Option<DriverKind>,
    programs: &Programs,
    cache: Option<&Path>,
) -> Result<Box<dyn Driver>, Error> {
    let report = probe_drivers(programs, cache);
    let chosen = choose(&report, wanted)?;
    if chosen.driver == DriverKind::Kvm {
        tracing::debug!("driver kvm");
        return Ok(Box::new(Kvm::new(programs.vmm.clone())));
    }
    // A report that says that QEMU works names its program.
    let program = chosen.program.clone().unwrap_or_default();
    let acceleration = chosen.acceleration.unwrap_or(Acceleration::Tcg);
    tracing::debug!(?program, ?acceleration, "driver");
    Ok(Box::new(Qemu::new(
        program,
        programs.vmm.clone(),
        acceleration,
    )))
}

fn choose(report: &Report, wanted: Option<DriverKind>) -> Result<&DriverReport, Error> {
    let mut candidates = report
        .drivers
        .iter()
        .filter(|driver| wanted.is_none_or(|wanted| wanted == driver.driver));
    if let Some(works) = candidates.clone().find(|driver| driver.capability.works) {
        return Ok(works);
    }
    // Nothing works: of several, QEMU's reason is the one that a person can do something about.
    let best = candidates
        .clone()
        .rfind(|driver| driver.capability.remedy.is_some())
        .or_else(|| candidates.next());
    let (what, why, remedy) = match best {
        Some(driver) => (
            format!("the driver {} does not work here", driver.driver),
            driver.capability.detail.clone(),
            driver.capability.remedy.clone(),
        ),
        None => ("no driver works here".into(), "none exists".into(), None),
    };
    Err(Error::Unavailable { what, why, remedy })
}

/// Hardware virtualization: can the device be opened, and does a guest run?
fn kvm(device: &Path, cache: &mut Cache) -> Capability {
    const FIRMWARE: &str = "enable virtualization (SVM or VT-x) in the firmware's settings, or nested virtualization for \
                            this VM, and load the module kvm_amd or kvm_intel";
    const GROUP: &str =
        "add the user to the group kvm (sudo usermod -aG kvm \"$USER\") and log in again";
    const SOFTWARE: &str =
        "use a machine with hardware virtualization for speed; QEMU's translation works meanwhile";
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let detail = format!("this user may not open {}", device.display());
            return Capability::no(detail, Some(GROUP));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let detail = format!("there is no {}", device.display());
            return Capability::no(detail, Some(FIRMWARE));
        }
        Err(error) => {
            let detail = format!("{} can't be opened: {error}", device.display());
            return Capability::no(detail, Some(FIRMWARE));
        }
    }
    match cache.kvm(run_guest) {
        None => Capability::yes(format!("{} runs a guest", device.display())),
        Some(fault) => {
            let detail = format!("{} can't run a real guest: {fault}", device.display());
            Capability::no(detail, Some(SOFTWARE))
        }
    }
}

/// Whether the host's KVM lets guests run VMs (`nested` of its modules: `1` or `Y`).
pub(crate) fn host_nests() -> bool {
    ["kvm_amd", "kvm_intel"].iter().any(|module| {
        std::fs::read_to_string(format!("/sys/module/{module}/parameters/nested"))
            .is_ok_and(|value| value.starts_with(['1', 'Y']))
    })
}

/// Why a guest does not run; `None` if it does.
#[cfg(target_arch = "x86_64")]
fn run_guest() -> Option<String> {
    let fault = vmm::kvm_probe::run().err()?;
    let mut text = fault.to_string();
    if let Some(cause) = std::error::Error::source(&fault) {
        text = format!("{text}: {cause}");
    }
    Some(text)
}

#[cfg(not(target_arch = "x86_64"))]
fn run_guest() -> Option<String> {
    Some("the probe knows x86-64 only".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kvm: Capability, qemu: Capability) -> Report {
        let driver = |driver, capability| DriverReport {
            driver,
            program: Some("/q".into()),
            version: None,
            acceleration: Some(Acceleration::Tcg),
            capability,
        };
        Report {
            kvm: kvm.clone(),
            drivers: vec![driver(DriverKind::Kvm, kvm), driver(DriverKind::Qemu, qemu)],
            confinement: None,
        }
    }

    fn broken() -> Capability {
        Capability::no("there is no /dev/kvm", None)
    }

    fn check(qemu: Capability, wanted: Option<DriverKind>, expect: &str) {
        check_both(broken(), qemu, wanted, expect);
    }

    fn check_both(kvm: Capability, qemu: Capability, wanted: Option<DriverKind>, expect: &str) {
        let text = match choose(&report(kvm, qemu), wanted) {
            Ok(driver) => driver.driver.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(text, expect);
    }

    #[test]
    fn choices() {
        let fine = || Capability::yes("7.2");
        let missing = || Capability::no("not in PATH", Some("install it"));
        check(fine(), None, "qemu");
        check(fine(), Some(DriverKind::Qemu), "qemu");
        check(
            fine(),
            Some(DriverKind::Kvm),
            "the driver kvm does not work here: there is no /dev/kvm",
        );
        // Our own monitor wherever it works, unless somebody wants the other.
        check_both(fine(), fine(), None, "kvm");
        check_both(fine(), missing(), None, "kvm");
        check_both(fine(), fine(), Some(DriverKind::Qemu), "qemu");
        check(
            missing(),
            None,
            "the driver qemu does not work here: not in PATH",
        );
        check(
            fine(),
            Some(DriverKind::Vz),
            "no driver works here: none exists",
        );
    }

    #[test]
    fn a_report_is_json_with_flat_drivers() {
        let text =
            serde_json::to_string(&report(broken(), Capability::yes("7.2")).drivers[1]).unwrap();
        assert_eq!(
            text,
            r#"{"driver":"qemu","program":"/q","version":null,"acceleration":"tcg","works":true,"detail":"7.2","remedy":null}"#
        );
    }

    /// Oracle: this process's own status, which has a line for each if the kernel knows it.
    #[test]
    fn what_the_kernel_has_for_confinement() {
        let found = confinement();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let has = |word: &str| status.lines().any(|line| line.starts_with(word));
        assert_eq!(found.no_new_privs, has("NoNewPrivs:"));
        assert_eq!(found.seccomp, has("Seccomp_filters:"));
        let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
        if most.is_ok_and(|most| most.trim() == "0") {
            assert!(!found.user_namespaces);
        }
    }

    #[test]
    fn a_missing_device_and_one_that_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let missing = kvm(&folder.path().join("kvm"), &mut Cache::load(None));
        assert!(!missing.works && missing.detail.contains("there is no"));
        assert!(missing.remedy.is_some());
    }
}
