//! The initramfs: `/init`, the kernel's modules, and directories to mount on.
//!
//! It depends on gourd-init and the modules only, and is cached under a key of what stat says about them, because the
//! lookup is on the way to the first byte. An installation that replaces a file changes its inode or its time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Error, Kernel, LOAD_LIST};
use crate::cpio;
use crate::file::{self, Durability};
use crate::root::hex;

/// Changes when the archive's layout does.
const LAYOUT: &[u8] = b"gourd initramfs 1\0";

/// The path of an initramfs for `kernel` whose `/init` is the program `init`, made if it is not cached.
///
/// # Errors
/// A file that cannot be read or written.
pub fn initramfs(kernel: &Kernel, init: &Path) -> Result<PathBuf, Error> {
    let key = key(kernel, init)?;
    let dir = kernel.cache.join(".initramfs");
    let path = dir.join(format!("{key}.cpio"));
    if path.exists() {
        return Ok(path);
    }
    file::make_dir(&dir)?;
    file::sweep(&dir)?;
    let temporary = file::sibling(&path);
    let written = build(kernel, init, &temporary)
        .and_then(|file| file::publish(&file, &temporary, &path, Durability::Synced));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error.into());
    }
    Ok(path)
}

fn key(kernel: &Kernel, init: &Path) -> Result<String, Error> {
    let mut hash = Sha256::new();
    hash.update(LAYOUT);
    for path in std::iter::once(init).chain(kernel.modules.iter().map(PathBuf::as_path)) {
        let found = fs::metadata(path).map_err(file::Error::at("stat", path))?;
        hash.update(path.as_os_str().as_bytes());
        hash.update([0]);
        for number in [
            found.dev(),
            found.ino(),
            found.size(),
            found.mtime().cast_unsigned(),
            found.mtime_nsec().cast_unsigned(),
        ] {
            hash.update(number.to_le_bytes());
        }
    }
    Ok(hex(&hash.finalize()[..16]))
}

fn build(kernel: &Kernel, init: &Path, path: &Path) -> Result<File, file::Error> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(file::Error::at("create", path))?;
    let writing = |source| file::Error::new("write", path, source);
    let mut archive = cpio::Writer::new(BufWriter::with_capacity(256 << 10, file));
    for dir in ["dev", "proc", "sys", "modules"] {
        archive.directory(dir, 0o755).map_err(writing)?;
    }
    // The kernel opens it for /init before anything is mounted.
    archive
        .character_device("dev/console", 0o600, 5, 1)
        .map_err(writing)?;
    add_file(&mut archive, "init", 0o755, init)?;
    let mut load = Vec::new();
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default();
        let inside = format!("modules/{}", name.to_string_lossy());
        add_file(&mut archive, &inside, 0o644, module)?;
        load.extend_from_slice(name.as_bytes());
        load.push(b'\n');
    }
    archive
        .file(&format!("modules/{LOAD_LIST}"), 0o644, &load)
        .map_err(writing)?;
    archive
        .finish()
        .and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error))
        .map_err(writing)
}

fn add_file(
    archive: &mut cpio::Writer<impl Write>,
    name: &str,
    mode: u32,
    path: &Path,
) -> Result<(), file::Error> {
    let bytes = fs::read(path).map_err(file::Error::at("read", path))?;
    archive
        .file(name, mode, &bytes)
        .map_err(file::Error::at("archive", path))
}
