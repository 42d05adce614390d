//! `kernels/<arch>/<name>/`: `vmlinux`, `modules/`, `kernel.json`; and the initramfs that each is started with.
//!
//! A kernel is named, or a path to a vmlinux or bzImage that has what a guest needs built in. `modules/` holds the
//! files that `gourd-init` loads, named in load order by `modules/load`.

mod initramfs;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use initramfs::initramfs;

use crate::file::{self, Durability};
use crate::lock::{self, Lock, Mode};
use crate::{ARCH, Root, json, now_ns};

/// The version of `kernel.json` that this build writes.
pub const SCHEMA: u32 = 1;

/// What is chosen when nothing is named, the first that is installed; or else the only one.
const PREFERRED: [&str; 2] = ["gourd", "debian"];

/// Names the modules' files, one a line, in the order in which they are loaded.
pub const LOAD_LIST: &str = "load";

/// What can go wrong with kernels.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none to choose.
    #[error("no kernel is installed in {}", .0.display())]
    None(PathBuf),
    /// Several are there, none of them a default.
    #[error("no kernel is named, and several are installed: {}", .0.join(", "))]
    NoDefault(Vec<String>),
    /// None is called so, and no file either.
    #[error(
        "no kernel is called {name}, and it is no path of a file; installed: {}",
        if installed.is_empty() { "none".to_owned() } else { installed.join(", ") }
    )]
    NotFound {
        /// What was asked for.
        name: String,
        /// Those that there are.
        installed: Vec<String>,
    },
    /// Not a name.
    #[error(
        "{0:?} is not a kernel's name: use letters, digits and any of _ . -, beginning with a letter or digit"
    )]
    InvalidName(String),
    /// There is one of this name.
    #[error("a kernel is called {0} already")]
    Exists(String),
    /// Neither an ELF file nor a bzImage.
    #[error("{} is not a kernel: neither an ELF vmlinux nor a bzImage", .0.display())]
    NotKernel(PathBuf),
    /// The modules' list names something that is not there or no file's name.
    #[error("{} names the module {module:?}, which is not beside it", list.display())]
    Module {
        /// The list.
        list: PathBuf,
        /// The line.
        module: String,
    },
    /// `kernel.json`.
    #[error(transparent)]
    Json(#[from] json::Error),
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
    /// Copying the kernel.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// Locking failed.
    #[error(transparent)]
    Lock(#[from] lock::Error),
}

/// `kernel.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    schema: u32,
    name: String,
    release: String,
    arch: String,
    added_ns: u64,
}

/// A kernel to start VMs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its name, or its path when it was named by path.
    pub name: String,
    /// vmlinux or bzImage.
    pub file: PathBuf,
    /// As `uname -r`; empty when it was named by path.
    pub release: String,
    /// Modules in load order; empty when all is built in.
    pub modules: Vec<PathBuf>,
    /// Where its initramfs files are cached.
    cache: PathBuf,
}

/// Finds a kernel by name or by path; the default for the empty name.
///
/// # Errors
/// [`Error::None`], [`Error::NoDefault`], [`Error::NotFound`], [`Error::NotKernel`], or what is wrong with its files.
pub fn resolve(root: &Root, wanted: &str) -> Result<Kernel, Error> {
    if wanted.contains('/') {
        return by_path(root, Path::new(wanted));
    }
    let dir = root.kernels();
    if !wanted.is_empty() {
        return match check_name(wanted).and_then(|()| load(&dir.join(wanted))) {
            Ok(kernel) => Ok(kernel),
            Err(error) if !error.is_absent() => Err(error),
            Err(_) if Path::new(wanted).is_file() => by_path(root, Path::new(wanted)),
            Err(_) => Err(Error::NotFound {
                name: wanted.to_owned(),
                installed: installed(&dir)?,
            }),
        };
    }
    for name in PREFERRED {
        match load(&dir.join(name)) {
            Err(error) if error.is_absent() => {}
            other => return other,
        }
    }
    let mut names = installed(&dir)?;
    match names.len() {
        0 => Err(Error::None(dir)),
        1 => load(&dir.join(names.remove(0))),
        _ => Err(Error::NoDefault(names)),
    }
}

/// All installed kernels, by name.
///
/// # Errors
/// The first that cannot be read.
pub fn list(root: &Root) -> Result<Vec<Kernel>, Error> {
    let dir = root.kernels();
    installed(&dir)?
        .iter()
        .map(|name| load(&dir.join(name)))
        .collect()
}

/// Installs a kernel: `vmlinux` (or a bzImage) is copied, and of `modules` all files that its `load` lists.
/// `replace` takes the place of one of the same name.
///
/// # Errors
/// [`Error::Exists`], [`Error::InvalidName`], [`Error::NotKernel`], [`Error::Module`], or what failed; nothing is
/// installed then.
pub fn add(
    root: &Root,
    name: &str,
    vmlinux: &Path,
    modules: Option<&Path>,
    release: &str,
    replace: bool,
) -> Result<Kernel, Error> {
    check_name(name)?;
    check_kernel(vmlinux)?;
    let dir = root.kernels();
    let _kernels = Lock::acquire(&dir, Mode::Exclusive)?;
    let target = dir.join(name);
    if target.exists() && !replace {
        return Err(Error::Exists(name.to_owned()));
    }
    let new = dir.join(format!(".new-{name}"));
    file::remove_tree(&new)?;
    file::make_dir(&new.join("modules"))?;
    copy(vmlinux, &new.join("vmlinux"))?;
    let mut load_list = String::new();
    for module in modules.map_or_else(|| Ok(Vec::new()), load_order)? {
        let file_name = module.file_name().unwrap_or_default();
        copy(&module, &new.join("modules").join(file_name))?;
        load_list.push_str(&file_name.to_string_lossy());
        load_list.push('\n');
    }
    let synced = Durability::Synced;
    file::write(
        &new.join("modules").join(LOAD_LIST),
        load_list.as_bytes(),
        synced,
    )?;
    let record = Record {
        schema: SCHEMA,
        name: name.to_owned(),
        release: release.to_owned(),
        arch: ARCH.to_owned(),
        added_ns: now_ns(),
    };
    json::write(&new.join("kernel.json"), &record, synced)?;
    let old = dir.join(format!(".old-{name}"));
    file::remove_tree(&old)?;
    if target.exists() {
        file::rename(&target, &old, Durability::Unsynced)?;
    }
    file::rename(&new, &target, synced)?;
    file::remove_tree(&old)?;
    load(&target)
}

/// Removes an installed kernel. VMs that run it have it open.
///
/// # Errors
/// [`Error::NotFound`], or what failed.
pub fn remove(root: &Root, name: &str) -> Result<(), Error> {
    let dir = root.kernels();
    let _kernels = Lock::acquire(&dir, Mode::Exclusive)?;
    if check_name(name).is_err() || !dir.join(name).exists() {
        return Err(Error::NotFound {
            name: name.to_owned(),
            installed: installed(&dir)?,
        });
    }
    let old = dir.join(format!(".old-{name}"));
    file::remove_tree(&old)?;
    file::rename(&dir.join(name), &old, Durability::Synced)?;
    Ok(file::remove_tree(&old)?)
}

/// The names of the kernels in `dir`, beside which is the lock.
fn installed(dir: &Path) -> Result<Vec<String>, file::Error> {
    let mut names = file::names(dir)?;
    names.retain(|name| name != lock::LOCK);
    Ok(names)
}

impl Error {
    fn is_absent(&self) -> bool {
        match self {
            Self::Json(error) => error.is_not_found(),
            Self::InvalidName(_) => true,
            _ => false,
        }
    }
}

fn by_path(root: &Root, path: &Path) -> Result<Kernel, Error> {
    check_kernel(path)?;
    let file = path
        .canonicalize()
        .map_err(file::Error::at("resolve", path))?;
    Ok(Kernel {
        name: path.display().to_string(),
        file,
        release: String::new(),
        modules: Vec::new(),
        cache: root.kernels(),
    })
}

fn load(dir: &Path) -> Result<Kernel, Error> {
    let record: Record = json::read(&dir.join("kernel.json"), SCHEMA)?;
    Ok(Kernel {
        name: record.name,
        file: dir.join("vmlinux"),
        release: record.release,
        modules: load_order(&dir.join("modules"))?,
        cache: dir.parent().unwrap_or(dir).to_owned(),
    })
}

/// The files that `load` in `dir` names. They lie beside it: a name with a slash is refused.
fn load_order(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = dir.join(LOAD_LIST);
    let text = fs::read_to_string(&list).map_err(file::Error::at("read", &list))?;
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let path = dir.join(line);
            if line.contains('/') || !path.is_file() {
                return Err(Error::Module {
                    list: list.clone(),
                    module: line.to_owned(),
                });
            }
            Ok(path)
        })
        .collect()
}

/// An ELF file, or a bzImage: "HdrS" at 0x202 (Linux, Documentation/arch/x86/boot.rst).
fn check_kernel(path: &Path) -> Result<(), Error> {
    let mut head = [0; 0x206];
    let mut file = File::open(path).map_err(file::Error::at("open", path))?;
    match io::Read::read_exact(&mut file, &mut head) {
        Ok(()) if head.starts_with(b"\x7fELF") || head.ends_with(b"HdrS") => Ok(()),
        Ok(()) => Err(Error::NotKernel(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Error::NotKernel(path.to_owned()))
        }
        Err(error) => Err(file::Error::new("read", path, error).into()),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    disk::copy(from, to)?;
    let synced = fs::OpenOptions::new()
        .write(true)
        .mode(0o600)
        .open(to)
        .and_then(|file| file.sync_all());
    Ok(synced.map_err(file::Error::at("sync", to))?)
}

fn check_name(name: &str) -> Result<(), Error> {
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let goes_on = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if begins && goes_on && name.len() <= 64 && name != lock::LOCK {
        Ok(())
    } else {
        Err(Error::InvalidName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
