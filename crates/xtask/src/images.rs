//! The images that `./dev run` and the tests run, made of Debian's packages and kept in the cache as OCI archives.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use testkit::image::{Entry, ImageBuilder, Layer};

const BUSYBOX: &str = "/bin/busybox";

/// `CACHE/images/busybox.tar`: the static busybox, a hard link for each of its applets, and an `/etc`.
pub fn busybox(cache: &Path) -> Result<()> {
    let path = cache.join("images/busybox.tar");
    let program = fs::metadata(BUSYBOX).context("the package busybox-static")?;
    if fs::metadata(&path).is_ok_and(|made| made.modified().ok() >= program.modified().ok()) {
        return Ok(());
    }
    write(&path, busybox_root()?, "busybox:latest", "sh")
}

/// `CACHE/images/debian.tar`: Debian's essential packages, of the release that this machine runs.
pub fn debian(cache: &Path) -> Result<()> {
    from_debian(cache, "debian", "bash", &[])
}

/// `CACHE/images/fio.tar`: the same with fio(1), which benches run.
pub fn fio(cache: &Path) -> Result<()> {
    from_debian(cache, "fio", "fio", &["--include=fio"])
}

/// `CACHE/images/network.tar`: the same with servers and clients for networks.
pub fn network(cache: &Path) -> Result<()> {
    let packages = "--include=busybox-static,iperf3,iproute2,netcat-openbsd,nginx-light";
    from_debian(cache, "network", "sh", &[packages])
}

/// `CACHE/images/source.tar`: the same with what source trees are worked on with.
pub fn source(cache: &Path) -> Result<()> {
    let packages = "--include=busybox-static,git";
    from_debian(cache, "source", "sh", &[packages])
}

fn from_debian(cache: &Path, name: &str, command: &str, more: &[&str]) -> Result<()> {
    let path = cache.join(format!("images/{name}.tar"));
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
        .args(["--quiet", "--variant=essential", "--format=tar"])
        .args(more)
        .args([suite, "-"])
        .stderr(Stdio::inherit())
        .output()
        .context("start mmdebstrap")?;
    ensure!(out.status.success(), "mmdebstrap: {}", out.status);
    write(&path, out.stdout, &format!("{name}:latest"), command)
}

/// Whoever reads the cache never sees half of an archive.
fn write(path: &Path, layer: Vec<u8>, name: &str, command: &str) -> Result<()> {
    let dir = path.parent().context("a path with a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let new = path.with_extension(format!("tar.{}", std::process::id()));
    ImageBuilder::new()
        .layer_tar(layer)
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .cmd([command])
        .write_archive(&new, name)?;
    fs::rename(&new, path).with_context(|| format!("move to {}", path.display()))
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

    let mut layer = Layer::new();
    for dir in [
        "bin", "dev", "etc", "home", "proc", "run", "sbin", "sys", "usr", "usr/bin", "usr/sbin",
        "var",
    ] {
        layer = layer.dir(dir);
    }
    layer = layer
        .entry(Entry::dir("root").mode(0o700))
        .entry(Entry::dir("tmp").mode(0o1777))
        .entry(Entry::dir("var/tmp").mode(0o1777))
        .file("etc/passwd", PASSWD)
        .file("etc/group", GROUP)
        .file("etc/os-release", OS_RELEASE)
        .entry(Entry::file("bin/busybox", program).mode(0o755));
    for applet in applets.lines().filter(|applet| *applet != "bin/busybox") {
        let (dir, _) = applet.rsplit_once('/').unwrap_or_default();
        // A few applets stand elsewhere (`linuxrc`): nobody looks for those in a container.
        if ["bin", "sbin", "usr/bin", "usr/sbin"].contains(&dir) {
            layer = layer.hard_link(applet, "bin/busybox");
        }
    }
    Ok(layer.finish())
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
