//! `doctor`: whether containers can start here, and what to do when they can't.

use serde_json::Value;
use store::{ARCH, kernels, locate};

use super::{Check, Outcome};
use crate::{Engine, sys};

/// Bytes below which the next image will not fit, and below which nothing does.
const LITTLE_SPACE: u64 = 4 << 30;
const NO_SPACE: u64 = 256 << 20;

/// The first version of Landlock, Linux 6.2's, that covers truncation.
const GOOD_LANDLOCK: u32 = 3;

impl Engine {
    /// Whether containers can start here, and what to do when they can't.
    pub async fn doctor(&self) -> Vec<Check> {
        let mut checks = vec![self.check_space()];
        for program in [locate::VM, locate::VMM, locate::NET, locate::INIT] {
            checks.push(self.check_program(program));
        }
        checks.push(self.check_kernel());
        match self.probe().await {
            Ok(report) => checks.extend(drivers(&report)),
            Err(error) => checks.push(check(
                "drivers",
                Outcome::Fail,
                error.to_string(),
                Some("make gourd-vm work first".to_owned()),
            )),
        }
        checks.push(check_landlock(sys::landlock_abi()));
        checks
    }

    fn check_space(&self) -> Check {
        let name = "state directory";
        let root = self.root.path();
        let stat = match rustix::fs::statvfs(root) {
            Ok(stat) => stat,
            Err(errno) => {
                let detail = format!("{}: {errno}", root.display());
                return check(name, Outcome::Fail, detail, None);
            }
        };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let mib = free >> 20;
        let detail = format!("{} is writable, {mib} MiB free", root.display());
        let outcome = match free {
            0..NO_SPACE => Outcome::Fail,
            NO_SPACE..LITTLE_SPACE => Outcome::Warn,
            _ => Outcome::Ok,
        };
        let remedy = (outcome != Outcome::Ok)
            .then(|| "free some space, or move it: GOURD_ROOT names the directory".to_owned());
        check(name, outcome, detail, remedy)
    }

    fn check_program(&self, program: &'static str) -> Check {
        match self.programs.find(program) {
            Ok(path) => check(program, Outcome::Ok, path.display().to_string(), None),
            Err(error) => check(
                program,
                Outcome::Fail,
                error.to_string(),
                Some("build it (./dev build), or set GOURD_LIBEXEC to where it is".to_owned()),
            ),
        }
    }

    fn check_kernel(&self) -> Check {
        match kernels::resolve(&self.root, "") {
            Ok(kernel) => {
                let detail = format!("{} {} ({ARCH})", kernel.name, kernel.release);
                check("kernel", Outcome::Ok, detail, None)
            }
            Err(error) => check(
                "kernel",
                Outcome::Fail,
                error.to_string(),
                Some("install one: ./dev kernel, or gourd system kernel add".to_owned()),
            ),
        }
    }
}

/// What the supervisor found. It fails when no driver works; one that does not is a warning beside one that does.
fn drivers(report: &Value) -> Vec<Check> {
    let drivers = report["drivers"].as_array().map_or(&[][..], Vec::as_slice);
    let works = |driver: &Value| driver["works"].as_bool().unwrap_or(false);
    let any = drivers.iter().any(works);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut checks: Vec<Check> = drivers
        .iter()
        .map(|driver| {
            let name = text(&driver["driver"]).unwrap_or_else(|| "?".to_owned());
            let detail = text(&driver["detail"]).unwrap_or_default();
            let detail = match text(&driver["acceleration"]) {
                Some(acceleration) => format!("{detail} (acceleration: {acceleration})"),
                None => detail,
            };
            let outcome = match (works(driver), any) {
                (true, _) => Outcome::Ok,
                (false, true) => Outcome::Warn,
                (false, false) => Outcome::Fail,
            };
            let remedy = text(&driver["remedy"]);
            check(&format!("driver {name}"), outcome, detail, remedy)
        })
        .collect();
    if drivers.is_empty() {
        let detail = "there is no driver for this host".to_owned();
        checks.push(check("drivers", Outcome::Fail, detail, None));
    }
    if let Some(kvm) = report.get("kvm") {
        let outcome = match kvm["works"].as_bool() {
            Some(true) => Outcome::Ok,
            _ => Outcome::Warn,
        };
        let detail = text(&kvm["detail"]).unwrap_or_default();
        let remedy = text(&kvm["remedy"]);
        checks.push(check("hardware virtualization", outcome, detail, remedy));
    }
    checks
}

fn check_landlock(abi: Option<u32>) -> Check {
    let name = "confinement";
    match abi {
        Some(abi) if abi >= GOOD_LANDLOCK => {
            check(name, Outcome::Ok, format!("Landlock ABI {abi}"), None)
        }
        Some(abi) => check(
            name,
            Outcome::Ok,
            format!("Landlock ABI {abi}: without rules for truncation (3) and TCP (4)"),
            None,
        ),
        None => check(
            name,
            Outcome::Warn,
            "the kernel has no Landlock, or it is turned off: the monitor is confined by seccomp alone".to_owned(),
            Some("add landlock to the kernel's lsm= list (Linux 5.13 or newer)".to_owned()),
        ),
    }
}

fn check(name: &str, outcome: Outcome, detail: String, remedy: Option<String>) -> Check {
    Check {
        name: name.to_owned(),
        outcome,
        detail,
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_driver_that_works_is_enough() {
        let report = |qemu: bool| {
            json!({
                "kvm": {"works": false, "detail": "no /dev/kvm", "remedy": "load kvm"},
                "drivers": [
                    {"driver": "kvm", "works": false, "detail": "no /dev/kvm", "acceleration": null, "remedy": "x"},
                    {"driver": "qemu", "works": qemu, "detail": "QEMU 7.2", "acceleration": "tcg", "remedy": null},
                ],
            })
        };
        let outcomes = |qemu| {
            drivers(&report(qemu))
                .iter()
                .map(|c| c.outcome)
                .collect::<Vec<_>>()
        };
        assert_eq!(outcomes(true), [Outcome::Warn, Outcome::Ok, Outcome::Warn]);
        assert_eq!(
            outcomes(false),
            [Outcome::Fail, Outcome::Fail, Outcome::Warn]
        );
        assert_eq!(drivers(&json!(null))[0].outcome, Outcome::Fail);
        assert_eq!(
            drivers(&report(true))[1].detail,
            "QEMU 7.2 (acceleration: tcg)"
        );
    }

    #[tokio::test]
    async fn an_empty_installation_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(crate::OpenOptions {
            root: Some(dir.path().join("root")),
            bin_dir: Some(dir.path().to_owned()),
            ..crate::OpenOptions::default()
        })
        .unwrap();
        let checks = engine.doctor().await;
        for name in ["gourd-vm", "gourd-vmm", "gourd-init", "kernel"] {
            let check = checks.iter().find(|check| check.name == name).unwrap();
            assert_eq!(check.outcome, Outcome::Fail, "{check:?}");
            assert!(check.remedy.is_some());
        }
    }
}
