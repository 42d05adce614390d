//! The kernel `debian`: what a VM needs of the distribution's `linux-image-cloud-amd64` package.
//!
//! `CACHE/kernels/debian` gets `vmlinux` (unpacked: machine monitors start it without its own decompressor),
//! `vmlinuz` as it was, `release`, and `modules/`: the modules that our devices and file systems need, flat and
//! not compressed, with `modules/load`, which names them one a line, each after those that it depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

const PACKAGE: &str = "linux-image-cloud-amd64";

/// What the guest needs, in the order in which it is best loaded. Names with underscores, as the kernel's own.
/// A kernel that has one built in needs no module for it.
const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "crc32c_generic",
    "ext4",
    "overlay",
    "vmw_vsock_virtio_transport",
    "virtio_rng",
    "virtio_console",
    "virtio_balloon",
    "virtio_net",
    "virtiofs",
];

/// Newer kernels have these under no name, as parts of the kernel proper.
const OPTIONAL: &[&str] = &["crc32c_generic"];

/// Makes `CACHE/kernels/debian`, unless it is there.
pub fn make(cache: &Path) -> Result<()> {
    let kernels = cache.join("kernels");
    let home = kernels.join("debian");
    // The last module that was added to the list says whether it was made by this version.
    if home.join("modules/virtio_mmio.ko").is_file() {
        return Ok(());
    }
    fs::create_dir_all(&kernels).with_context(|| format!("make {}", kernels.display()))?;
    let work = kernels.join(format!("debian.{}", std::process::id()));
    let result = unpack_into(&work, &home);
    // Also after a success: the package and the modules that nobody needs.
    fs::remove_dir_all(&work).ok();
    result
}

fn unpack_into(work: &Path, home: &Path) -> Result<()> {
    fs::create_dir(work).with_context(|| format!("make {}", work.display()))?;
    let package = real_package()?;
    download(&package, work)?;
    let archive = only_file(work, |name| name.ends_with(".deb"))?;
    let root = work.join("root");
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&root))?;

    let vmlinuz = only_file(&root.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let file_name = vmlinuz
        .file_name()
        .context("a file name")?
        .to_string_lossy();
    let release = file_name.trim_start_matches("vmlinuz-").to_owned();
    // Since Debian's usr-merge of kernel packages the modules may lie in either place.
    let tree = ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|dir| root.join(dir).join(&release))
        .find(|dir| dir.is_dir())
        .with_context(|| format!("no modules of {release} in {package}"))?;

    let made = work.join("made");
    fs::create_dir_all(made.join("modules"))?;
    fs::write(made.join("vmlinux"), payload(&fs::read(&vmlinuz)?)?)?;
    fs::copy(&vmlinuz, made.join("vmlinuz"))?;
    copy_modules(&tree, &made.join("modules"))?;
    fs::write(made.join("release"), format!("{release}\n"))?;
    fs::remove_dir_all(home).ok();
    fs::rename(&made, home).with_context(|| format!("move to {}", home.display()))?;
    Ok(())
}

/// The package that the meta package stands for now.
fn real_package() -> Result<String> {
    let find = || -> Result<Option<String>> {
        let out = output(Command::new("apt-cache").args(["depends", PACKAGE]))?;
        Ok(out
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with("linux-image-"))
            .map(str::to_owned))
    };
    if let Ok(Some(name)) = find() {
        return Ok(name);
    }
    update_lists()?;
    find()?.with_context(|| format!("apt knows no package that {PACKAGE} depends on"))
}

fn download(package: &str, dir: &Path) -> Result<()> {
    let get = || {
        let mut command = Command::new("apt-get");
        // Root's apt would rather download as a user who can't write here.
        command.args(["-qq", "-o", "APT::Sandbox::User=root", "download", package]);
        run(command.current_dir(dir))
    };
    get().or_else(|_| {
        update_lists()?;
        get()
    })
}

fn update_lists() -> Result<()> {
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = Command::new(if root { "apt-get" } else { "sudo" });
    if !root {
        command.arg("apt-get");
    }
    run(command.args(["-qq", "update"]))
}

/// The kernel proper inside a bzImage: boot protocol 2.08 and later says where it lies
/// (Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`, `payload_length`).
fn payload(image: &[u8]) -> Result<Vec<u8>> {
    let u32_at = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("a kernel image cut short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage");
    let setup = image[0x1f1] as usize;
    let start = (if setup == 0 { 4 } else { setup } + 1) * 512 + u32_at(0x248)?;
    let length = u32_at(0x24c)?;
    let packed = image
        .get(start..start + length)
        .context("the payload lies outside of the kernel image")?;
    let tool: &[&str] = match packed {
        [0x02, 0x21, 0x4c, 0x18, ..] => &["lz4", "-dc"],
        [0x28, 0xb5, 0x2f, 0xfd, ..] => &["zstd", "-dcq"],
        [0xfd, b'7', b'z', b'X', ..] => &["xz", "-dcq", "--single-stream"],
        [0x1f, 0x8b, ..] => &["gzip", "-dcq"],
        _ => bail!(
            "a kernel payload packed in a way unknown here: {:02x?}",
            &packed[..4]
        ),
    };
    // The last four bytes are the unpacked size.
    let (packed, size) = packed.split_at(length - 4);
    let size = u32::from_le_bytes(size.try_into()?) as usize;
    let unpacked = filter(tool, packed)?;
    ensure!(
        unpacked.len() == size && unpacked.starts_with(b"\x7fELF"),
        "{} gave {} bytes that are not the kernel of {size}",
        tool[0],
        unpacked.len()
    );
    Ok(unpacked)
}

fn copy_modules(tree: &Path, into: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    index(&tree.join("kernel"), &mut files)?;
    let list = fs::read_to_string(tree.join("modules.builtin")).context("modules.builtin")?;
    let builtin: BTreeSet<String> = list
        .lines()
        .filter_map(|line| module_name(Path::new(line)))
        .collect();

    let mut order = Vec::new();
    for name in WANTED {
        if builtin.contains(*name) || (OPTIONAL.contains(name) && !files.contains_key(*name)) {
            continue;
        }
        visit(name, &files, &builtin, into, &mut order)?;
    }
    fs::write(into.join("load"), order.join("\n") + "\n").context("write the list of modules")
}

/// Depth first, so that a module stands after what it depends on.
fn visit(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    builtin: &BTreeSet<String>,
    into: &Path,
    order: &mut Vec<String>,
) -> Result<()> {
    let file = format!("{name}.ko");
    if builtin.contains(name) || order.contains(&file) {
        return Ok(());
    }
    let path = files
        .get(name)
        .with_context(|| format!("no module {name} in the package"))?;
    let module = load(path)?;
    for dependency in dependencies(&module).with_context(|| path.display().to_string())? {
        visit(&dependency.replace('-', "_"), files, builtin, into, order)?;
    }
    fs::write(into.join(&file), &module)?;
    order.push(file);
    Ok(())
}

fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `virtio-rng.ko.xz` is the module `virtio_rng`.
fn module_name(path: &Path) -> Option<String> {
    let (name, rest) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

fn load(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => filter(&["xz", "-dcq"], &bytes),
        Some("zst") => filter(&["zstd", "-dcq"], &bytes),
        Some("gz") => filter(&["gzip", "-dcq"], &bytes),
        _ => Ok(bytes),
    }
}

/// The `depends=` entry of the section `.modinfo`, which is strings that end in zero.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let at = module
        .windows(KEY.len())
        .position(|window| window == KEY)
        .context("no `depends` in the module's information")?;
    let value = &module[at + KEY.len()..];
    let end = value
        .iter()
        .position(|&byte| byte == 0)
        .context("an endless `depends`")?;
    let value = std::str::from_utf8(&value[..end])?;
    Ok(value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

fn only_file(dir: &Path, keep: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&keep) {
            return Ok(entry.path());
        }
    }
    bail!("the file that was looked for is not in {}", dir.display())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let out = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(out.status.success(), "{command:?}: {}", out.status);
    Ok(String::from_utf8(out.stdout)?)
}

fn filter(tool: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    use std::io::{Read, Write};
    let mut child = Command::new(tool[0])
        .args(&tool[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", tool[0]))?;
    let mut stdin = child.stdin.take().context("a pipe to write to")?;
    let mut stdout = child.stdout.take().context("a pipe to read from")?;
    let mut out = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        // A tool that fails closes its end early; its status says why.
        scope.spawn(move || stdin.write_all(input).ok());
        stdout.read_to_end(&mut out)?;
        Ok(())
    })?;
    let status = child.wait()?;
    ensure!(status.success(), "{tool:?}: {status}");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_are_the_kernels_own() {
        let check = |file: &str, name: Option<&str>| {
            assert_eq!(module_name(Path::new(file)).as_deref(), name, "{file}");
        };
        check(
            "kernel/drivers/char/hw_random/virtio-rng.ko",
            Some("virtio_rng"),
        );
        check("a/ext4.ko.xz", Some("ext4"));
        check("a/ext4.ko.zst", Some("ext4"));
        check("a/modules.dep", None);
        check("a/x.ko.sig", None);
    }

    #[test]
    fn dependencies_are_read_from_the_module_itself() {
        let check = |info: &[u8], names: &[&str]| {
            assert_eq!(dependencies(info).expect("dependencies"), names);
        };
        check(
            b"license=GPL\0depends=virtio,virtio_ring\0retpoline=Y\0",
            &["virtio", "virtio_ring"],
        );
        check(b"\0depends=\0", &[]);
        assert!(dependencies(b"license=GPL\0").is_err());
        assert!(dependencies(b"\0depends=virtio").is_err());
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(payload(b"").is_err());
        assert!(payload(&[0; 0x300]).is_err());
        let mut image = vec![0u8; 0x2000];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x250].copy_from_slice(&[0xff; 8]);
        assert!(payload(&image).is_err());
    }
}
