//! The images that `./dev run` and the tests run, made of Debian's packages and kept in the cache as OCI archives.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use self::archive::Image;

mod archive;

const BUSYBOX: &str = "/bin/busybox";

/// Time stamp of what is made here, so that the same busybox gives the same image: 2026-01-01.
const MADE: u64 = 1_767_225_600;

/// `CACHE/images/busybox.tar`: the static busybox, a hard link for each of its applets, and an `/etc`.
pub fn busybox(cache: &Path) -> Result<()> {
    let path = cache.join("images/busybox.tar");
    let program = fs::metadata(BUSYBOX).context("the package busybox-static")?;
    if fs::metadata(&path).is_ok_and(|made| made.modified().ok() >= program.modified().ok()) {
        return Ok(());
    }
    Image {
        name: "busybox:latest",
        layer: busybox_root()?,
        command: &["sh"],
    }
    .write(&path)
}

/// `CACHE/images/debian.tar`: Debian's essential packages, of the release that this machine runs.
pub fn debian(cache: &Path) -> Result<()> {
    let path = cache.join("images/debian.tar");
    if path.is_file() {
        return Ok(());
    }
    let release = fs::read_to_string("/etc/os-release").context("which Debian this is")?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("no VERSION_CODENAME in /etc/os-release")?;
    eprintln!("xtask: making a Debian root with mmdebstrap; this takes about a minute");
    let out = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=essential", "--format=tar", suite, "-"])
        .env("SOURCE_DATE_EPOCH", MADE.to_string())
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("start mmdebstrap")?;
    ensure!(out.status.success(), "mmdebstrap: {}", out.status);
    Image {
        name: "debian:latest",
        layer: out.stdout,
        command: &["bash"],
    }
    .write(&path)
}

fn busybox_root() -> Result<Vec<u8>> {
    let program = fs::read(BUSYBOX).with_context(|| format!("read {BUSYBOX}"))?;
    let list = Command::new(BUSYBOX)
        .arg("--list-full")
        .output()
        .with_context(|| format!("start {BUSYBOX}"))?;
    ensure!(
        list.status.success(),
        "{BUSYBOX} --list-full: {}",
        list.status
    );
    let applets = String::from_utf8(list.stdout)?;

    let mut tar = tar::Builder::new(Vec::new());
    for dir in [
        "bin", "dev", "etc", "home", "proc", "run", "sbin", "sys", "usr", "usr/bin", "usr/sbin",
        "var",
    ] {
        append(&mut tar, tar::EntryType::Directory, dir, 0o755, b"")?;
    }
    append(&mut tar, tar::EntryType::Directory, "root", 0o700, b"")?;
    append(&mut tar, tar::EntryType::Directory, "tmp", 0o1777, b"")?;
    append(&mut tar, tar::EntryType::Directory, "var/tmp", 0o1777, b"")?;
    for (name, text) in [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/os-release", OS_RELEASE),
    ] {
        append(
            &mut tar,
            tar::EntryType::Regular,
            name,
            0o644,
            text.as_bytes(),
        )?;
    }
    append(
        &mut tar,
        tar::EntryType::Regular,
        "bin/busybox",
        0o755,
        &program,
    )?;
    for applet in applets.lines().filter(|applet| *applet != "bin/busybox") {
        let (dir, _) = applet.rsplit_once('/').unwrap_or_default();
        // A few applets stand elsewhere (`linuxrc`): nobody looks for those in a container.
        if ["bin", "sbin", "usr/bin", "usr/sbin"].contains(&dir) {
            let mut header = header(tar::EntryType::Link, 0o755, 0);
            tar.append_link(&mut header, applet, "bin/busybox")?;
        }
    }
    Ok(tar.into_inner()?)
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    name: &str,
    mode: u32,
    bytes: &[u8],
) -> Result<()> {
    let mut header = header(kind, mode, bytes.len() as u64);
    tar.append_data(&mut header, name, bytes)
        .with_context(|| format!("add {name}"))
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(MADE);
    header.set_uid(0);
    header.set_gid(0);
    header
}

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
user:x:1000:1000:a user:/home:/bin/sh
nobody:x:65534:65534:nobody:/home:/bin/false
";

const GROUP: &str = "\
root:x:0:
daemon:x:1:
users:x:100:user
user:x:1000:
nogroup:x:65534:
";

const OS_RELEASE: &str = "\
ID=busybox
NAME=BusyBox
PRETTY_NAME=\"BusyBox from Debian's busybox-static\"
HOME_URL=\"https://busybox.net/\"
";
