//! `doctor`: whether containers can start here, and what to do when they can't.

use serde_json::Value;
use store::{ARCH, kernels, locate};

use super::{Check, Outcome};
use crate::Engine;

/// Bytes below which the next image will not fit, and below which nothing does.
const LITTLE_SPACE: u64 = 4 << 30;
const NO_SPACE: u64 = 256 << 20;

/// What each of Landlock's ABIs brings beyond files and folders, and that some host may lack (landlock(7)).
const LANDLOCK: [(u32, &str); 6] = [
    (3, "truncation"),
    (4, "TCP"),
    (5, "requests to devices"),
    (6, "signals and abstract sockets"),
    (9, "sockets by path"),
    (10, "UDP"),
];

impl Engine {
    /// Whether containers can start here, and what to do when they can't.
    pub async fn doctor(&self) -> Vec<Check> {
        let mut checks = vec![self.check_space()];
        for program in [locate::VM, locate::VMM, locate::NET, locate::INIT] {
            checks.push(self.check_program(program));
        }
        checks.push(self.check_kernel());
        match self.probe().await {
            Ok(report) => {
                checks.extend(drivers(&report));
                checks.push(confinement(&report["confinement"]));
            }
            Err(error) => checks.push(check(
                "drivers",
                Outcome::Fail,
                error.to_string(),
                Some("make gourd-vm work first".to_owned()),
            )),
        }
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

/// How far the kernel lets monitors be confined. Whatever is missing, containers start: none of it is a failure.
fn confinement(found: &Value) -> Check {
    let name = "confinement";
    let has = |what: &str| found[what].as_bool();
    let (Some(abi), Some(seccomp), Some(no_new_privs), Some(namespaces)) = (
        found["landlock_abi"].as_u64(),
        has("seccomp"),
        has("no_new_privs"),
        has("user_namespaces"),
    ) else {
        let detail = "gourd-vm does not say how far monitors can be confined here".to_owned();
        let remedy = "install the gourd-vm that came with this gourd".to_owned();
        return check(name, Outcome::Warn, detail, Some(remedy));
    };
    let yes_or_no = |yes: bool, what: &str| match yes {
        true => what.to_owned(),
        false => format!("no {what}"),
    };
    let mut detail = format!(
        "{}, {}, {}, {}",
        landlock(abi),
        yes_or_no(seccomp, "seccomp"),
        yes_or_no(no_new_privs, "no_new_privs"),
        yes_or_no(namespaces, "user namespaces"),
    );
    const LANDLOCK_REMEDY: &str = "add landlock to the kernel's lsm= list (Linux 5.13 or newer)";
    const SECCOMP_REMEDY: &str =
        "use a kernel with CONFIG_SECCOMP_FILTER: without it monitors may make any system call";
    let (outcome, remedy) = match (abi > 0, seccomp && no_new_privs) {
        (true, true) => (Outcome::Ok, None),
        (false, true) => {
            detail.push_str(": monitors are confined by seccomp alone");
            (Outcome::Warn, Some(LANDLOCK_REMEDY))
        }
        (true, false) => {
            detail.push_str(": monitors are confined by Landlock alone");
            (Outcome::Warn, Some(SECCOMP_REMEDY))
        }
        (false, false) => {
            detail.push_str(": monitors are not confined");
            (Outcome::Warn, Some(SECCOMP_REMEDY))
        }
    };
    check(name, outcome, detail, remedy.map(str::to_owned))
}

/// Landlock's ABI and what it lacks.
fn landlock(abi: u64) -> String {
    if abi == 0 {
        return "no Landlock (the kernel has none, or it is turned off)".to_owned();
    }
    let lacks: Vec<String> = LANDLOCK
        .iter()
        .filter(|(since, _)| abi < u64::from(*since))
        .map(|(since, what)| format!("{what} ({since})"))
        .collect();
    match lacks.is_empty() {
        true => format!("Landlock ABI {abi}"),
        false => format!("Landlock ABI {abi} (no rules for {})", lacks.join(", ")),
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

    fn confined(abi: u32, seccomp: bool, namespaces: bool, expect: &str) {
        let found = json!({
            "landlock_abi": abi,
            "seccomp": seccomp,
            "no_new_privs": true,
            "user_namespaces": namespaces,
        });
        let check = confinement(&found);
        let word = format!("{:?}: {}", check.outcome, check.detail);
        assert_eq!(word, expect);
        assert_eq!(check.remedy.is_some(), check.outcome == Outcome::Warn);
    }

    /// Each host that there is, from the newest to one that has nothing.
    #[test]
    fn confinement_is_told_as_it_is() {
        confined(
            10,
            true,
            true,
            "Ok: Landlock ABI 10, seccomp, no_new_privs, user namespaces",
        );
        confined(
            7,
            true,
            false,
            "Ok: Landlock ABI 7 (no rules for sockets by path (9), UDP (10)), seccomp, no_new_privs, no user namespaces",
        );
        confined(
            2,
            true,
            true,
            "Ok: Landlock ABI 2 (no rules for truncation (3), TCP (4), requests to devices (5), signals and abstract \
             sockets (6), sockets by path (9), UDP (10)), seccomp, no_new_privs, user namespaces",
        );
        const NONE: &str = "no Landlock (the kernel has none, or it is turned off)";
        confined(
            0,
            true,
            true,
            &format!(
                "Warn: {NONE}, seccomp, no_new_privs, user namespaces: monitors are confined by seccomp alone"
            ),
        );
        confined(
            0,
            false,
            false,
            &format!(
                "Warn: {NONE}, no seccomp, no_new_privs, no user namespaces: monitors are not confined"
            ),
        );
        // A gourd-vm of another version: said, not guessed.
        let unknown = confinement(&json!(null));
        assert_eq!(unknown.outcome, Outcome::Warn);
        assert!(unknown.detail.contains("does not say"), "{unknown:?}");
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
