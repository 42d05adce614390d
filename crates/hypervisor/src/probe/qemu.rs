//! Is there a QEMU, new enough, with the devices that gourd uses?

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cache::{Cache, FileKey, QemuFacts};
use super::{Acceleration, Capability, DriverReport};
use crate::config::DriverKind;
use crate::driver::Programs;

/// The program's name in `PATH`.
const PROGRAM: &str = "qemu-system-x86_64";

/// The oldest version whose options are used.
const OLDEST: (u32, u32) = (7, 2);

/// The devices that a VM is made of.
const DEVICES: [&str; 4] = [
    "vhost-user-vsock-pci",
    "virtio-balloon-pci",
    "virtio-blk-pci",
    "virtio-rng-pci",
];

const INSTALL: &str =
    "install QEMU 7.2 or newer (Debian, Ubuntu: sudo apt install qemu-system-x86)";

pub(super) fn report(
    programs: &Programs,
    search: &OsStr,
    kvm_works: bool,
    cache: &mut Cache,
) -> DriverReport {
    let program = match &programs.qemu {
        Some(program) => Some(program.clone()),
        None => find(PROGRAM, search),
    };
    let mut report = DriverReport {
        driver: DriverKind::Qemu,
        program: program.clone(),
        version: None,
        acceleration: None,
        capability: Capability::no(format!("{PROGRAM} is not in PATH"), Some(INSTALL)),
    };
    let Some(program) = program else {
        return report;
    };
    let facts = FileKey::of(&program).and_then(|key| cache.qemu(&key, || ask(&program)));
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => {
            let detail = format!("{} does not start: {error}", program.display());
            report.capability = Capability::no(detail, Some(INSTALL));
            return report;
        }
    };
    let version = parse_version(&facts.banner);
    report.version = version.map(|(major, minor, micro)| format!("{major}.{minor}.{micro}"));
    report.capability = judge(&program, version, &facts);
    if report.capability.works && !programs.vmm.is_file() {
        let detail = format!("{} is missing", programs.vmm.display());
        report.capability =
            Capability::no(detail, Some("install gourd again, with all its programs"));
    }
    if report.capability.works {
        report.acceleration = Some(if kvm_works {
            Acceleration::Kvm
        } else {
            Acceleration::Tcg
        });
    }
    report
}

fn judge(program: &Path, version: Option<(u32, u32, u32)>, facts: &QemuFacts) -> Capability {
    let Some((major, minor, micro)) = version else {
        let detail = format!("{} says {:?}", program.display(), facts.banner);
        return Capability::no(detail, Some(INSTALL));
    };
    let found = format!("QEMU {major}.{minor}.{micro}");
    if (major, minor) < OLDEST {
        let detail = format!("{found} is older than {}.{}", OLDEST.0, OLDEST.1);
        return Capability::no(detail, Some(INSTALL));
    }
    if !facts.missing.is_empty() {
        let detail = format!("{found} has no {}", facts.missing.join(", "));
        return Capability::no(detail, Some(INSTALL));
    }
    Capability::yes(found)
}

/// The first executable file of that name.
fn find(name: &str, search: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| {
            let found = std::fs::metadata(path);
            found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
}

/// Asks QEMU for its version and its devices, both at once: each takes tens of milliseconds.
fn ask(program: &Path) -> io::Result<QemuFacts> {
    let start = |arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    };
    let version = start(&["--version"])?;
    let devices = start(&["-machine", "none", "-device", "help"])?;
    let version = version.wait_with_output()?;
    let devices = devices.wait_with_output()?;
    for output in [&version, &devices] {
        if !output.status.success() {
            return Err(io::Error::other(output.status.to_string()));
        }
    }
    let banner = String::from_utf8_lossy(&version.stdout);
    let listed = String::from_utf8_lossy(&devices.stdout);
    Ok(QemuFacts {
        banner: banner.lines().next().unwrap_or_default().to_owned(),
        missing: missing(&listed),
    })
}

/// Which of [`DEVICES`] a `-device help` does not name.
fn missing(listed: &str) -> Vec<String> {
    let absent = |device: &&str| !listed.contains(&format!("name \"{device}\""));
    let names = DEVICES.iter().copied().filter(absent);
    names.map(str::to_owned).collect()
}

/// Reads `QEMU emulator version 7.2.22 (Debian …)`.
fn parse_version(banner: &str) -> Option<(u32, u32, u32)> {
    let rest = banner.strip_prefix("QEMU emulator version ")?;
    let number = rest.split([' ', '-', '+']).next()?;
    let mut parts = number.split('.').map(str::parse);
    let mut next = || parts.next()?.ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |banner, expect| assert_eq!(parse_version(banner), expect, "{banner}");
        check(
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)",
            Some((7, 2, 22)),
        );
        check("QEMU emulator version 10.0.0-rc1", Some((10, 0, 0)));
        check("QEMU emulator version 8.2", Some((8, 2, 0)));
        check("QEMU emulator version x", None);
        check("bochs 2.7", None);
        check("", None);
    }

    fn check(banner: &str, missing: &[&str], expect: &str) {
        let facts = QemuFacts {
            banner: banner.into(),
            missing: missing.iter().map(|&name| name.to_owned()).collect(),
        };
        let found = judge(Path::new("/bin/qemu"), parse_version(banner), &facts);
        assert_eq!(found.detail, expect);
        assert_eq!(found.works, found.remedy.is_none());
    }

    #[test]
    fn judgements() {
        let good = "QEMU emulator version 7.2.0";
        check(good, &[], "QEMU 7.2.0");
        check(
            good,
            &["virtio-rng-pci"],
            "QEMU 7.2.0 has no virtio-rng-pci",
        );
        check(
            "QEMU emulator version 5.2.0",
            &[],
            "QEMU 5.2.0 is older than 7.2",
        );
        check("hello", &[], "/bin/qemu says \"hello\"");
    }

    #[test]
    fn devices() {
        let listed = "name \"virtio-blk-pci\", bus PCI, alias \"virtio-blk\"\nname \"virtio-rng-pci\", bus PCI\n";
        let expect = ["vhost-user-vsock-pci", "virtio-balloon-pci"];
        assert_eq!(missing(listed), expect);
    }

    #[test]
    fn no_qemu_in_path() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs {
            vmm: "/nonexistent".into(),
            qemu: None,
        };
        let search = folder.path().as_os_str();
        let report = report(&programs, search, false, &mut Cache::load(None));
        assert!(!report.capability.works);
        assert_eq!(
            report.capability.detail,
            "qemu-system-x86_64 is not in PATH"
        );
        // A folder of that name, and a file that can't be executed, are no program either.
        std::fs::create_dir(folder.path().join(PROGRAM)).unwrap();
        assert_eq!(find(PROGRAM, search), None);
    }
}
