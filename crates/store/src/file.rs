//! How files are written: temporary file, fsync, rename, fsync of the directory.
//!
//! A crash at any moment leaves the old content or the new one. What belongs to a `--rm` container alone is written
//! without the fsyncs: after a crash of the host nobody wants it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fault;

/// A system call on a file that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct Error {
    /// A verb: `open`, `write`, `rename`, …
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Error {
    /// `operation` on `path` met `source`.
    pub fn new(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// For `map_err`.
    pub fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(operation, path, source)
    }

    /// The path does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// The disk, or what one may have of it, is full.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        is_no_room(&self.source)
    }
}

/// The disk, or what one may have of it, is full.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    full.contains(&error.kind())
}

/// Whether a write must survive a crash of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is on the disk before the call returns.
    Synced,
    /// The kernel writes it when it likes.
    Unsynced,
}

/// Replaces `path` by `bytes` (mode 0600), whole or not at all.
///
/// # Errors
/// The first system call that failed; `path` is then as it was.
pub fn write(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    let temporary = sibling(path);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(Error::at("create", &temporary))?;
        file.write_all(bytes)
            .map_err(Error::at("write", &temporary))?;
        publish(&file, &temporary, path, durability)
    })();
    if written.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Writes a new file (mode 0600) under its own name: for a directory into which nobody looks yet.
///
/// # Errors
/// The first system call that failed; the file may be there in part.
pub fn write_new(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::at("create", path))?;
    file.write_all(bytes).map_err(Error::at("write", path))?;
    if durability == Durability::Synced {
        file.sync_all().map_err(Error::at("sync", path))?;
    }
    Ok(())
}

/// Gives a written temporary file its name.
///
/// # Errors
/// The first system call that failed.
pub fn publish(
    file: &File,
    temporary: &Path,
    path: &Path,
    durability: Durability,
) -> Result<(), Error> {
    if durability == Durability::Synced {
        file.sync_all().map_err(Error::at("sync", temporary))?;
    }
    rename(temporary, path, durability)
}

/// Renames, and makes the new name durable.
///
/// # Errors
/// The system call that failed.
pub fn rename(from: &Path, to: &Path, durability: Durability) -> Result<(), Error> {
    fault::file("rename", to);
    fs::rename(from, to).map_err(Error::at("rename to", to))?;
    fault::file("renamed", to);
    match (durability, to.parent()) {
        (Durability::Synced, Some(parent)) => sync_dir(parent),
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The system call that failed.
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::at("sync", path))
}

/// A name beside `path` that nobody else uses: hidden, with process id and a counter.
#[must_use]
pub fn sibling(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(
        ".{}.{}.tmp",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ));
    path.with_file_name(name)
}

/// Removes the temporary files ([`sibling`]) of processes that are dead.
///
/// # Errors
/// The system call that failed.
pub fn sweep(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::at("list", dir))? {
        let entry = entry.map_err(Error::at("list", dir))?;
        if writer(&entry.file_name().to_string_lossy()).is_some_and(|pid| !is_alive(pid)) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Who writes a temporary file: `.NAME.PID.COUNT.tmp`.
fn writer(name: &str) -> Option<rustix::process::Pid> {
    let name = name.strip_prefix('.')?.strip_suffix(".tmp")?;
    let pid = name.rsplit('.').nth(1)?.parse().ok()?;
    rustix::process::Pid::from_raw(pid)
}

fn is_alive(pid: rustix::process::Pid) -> bool {
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

/// Makes a directory and its parents, 0700; one that exists is fine.
///
/// # Errors
/// The system call that failed.
pub fn make_dir(path: &Path) -> Result<(), Error> {
    let news = cfg!(feature = "faults") && !path.is_dir();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::at("create", path))?;
    if news {
        fault::file("made", path);
    }
    Ok(())
}

/// Removes a tree. One that is gone already, or that somebody else removes at the same time, is fine.
///
/// # Errors
/// The system call that failed.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    fault::file("remove", path);
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::new("remove", path, error))
        }
        _ => {
            fault::file("removed", path);
            Ok(())
        }
    }
}

/// The names of directories that are being removed begin with it.
pub(crate) const CONDEMNED: &str = ".del-";

/// The name that a directory has while it is removed.
pub(crate) fn condemned(dir: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(CONDEMNED);
    name.push(dir.file_name().unwrap_or_default());
    dir.with_file_name(name)
}

/// Gives a directory that is removed the name that it has meanwhile. A disk may have no room even for that: then what is in the
/// directory goes first, but for the files `last`, without which it could not be found and removed again after a crash.
///
/// # Errors
/// The system call that failed.
pub(crate) fn condemn(
    dir: &Path,
    condemned: &Path,
    last: &[&str],
    durability: Durability,
) -> Result<(), Error> {
    condemn_by(dir, last, || rename(dir, condemned, durability))
}

fn condemn_by(
    dir: &Path,
    last: &[&str],
    mut rename: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    match rename() {
        Err(error) if error.is_no_room() => {}
        other => return other,
    }
    for entry in fs::read_dir(dir).map_err(Error::at("list", dir))? {
        let entry = entry.map_err(Error::at("list", dir))?;
        if last.iter().all(|name| entry.file_name() != *name) {
            // A link is removed, not followed.
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => remove_tree(&entry.path())?,
                false => drop(remove(&entry.path())?),
            }
        }
    }
    rename()
}

/// Removes a directory whose lock the caller holds exclusively. First it gets another name: who is about to lock it would otherwise make
/// its lock file once more, in a directory that is just being emptied.
///
/// # Errors
/// The system call that failed. What is left then has a hidden name, for [`sweep_condemned`].
pub fn remove_locked(dir: &Path) -> Result<(), Error> {
    let condemned = condemned(dir);
    // What a crash left of the last one.
    remove_tree(&condemned)?;
    rename(dir, &condemned, Durability::Unsynced)?;
    remove_tree(&condemned)
}

/// Removes what crashes left of directories in `dir` that were being removed; the bytes that it occupied.
///
/// # Errors
/// The system call that failed.
pub fn sweep_condemned(dir: &Path) -> Result<u64, Error> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(Error::at("list", dir))? {
        let path = entry.map_err(Error::at("list", dir))?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(CONDEMNED.as_bytes()) {
            bytes += occupied_tree(&path)?;
            remove_tree(&path)?;
        }
    }
    Ok(bytes)
}

/// Removes a file; true when it was there.
///
/// # Errors
/// The system call that failed.
pub fn remove(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => {
            fault::file("removed", path);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::new("remove", path, error)),
    }
}

/// Bytes that a file occupies on the disk (`st_blocks`): fewer than its size where it has holes. 0 when it is not there.
///
/// # Errors
/// The system call that failed.
pub fn occupied(path: &Path) -> Result<u64, Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.blocks() * 512),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::new("stat", path, error)),
    }
}

/// The same for all that is below a directory, directories included. What goes away meanwhile does not count.
///
/// # Errors
/// The system call that failed.
pub fn occupied_tree(path: &Path) -> Result<u64, Error> {
    let mut bytes = occupied(path)?;
    let entries = match fs::read_dir(path) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(bytes);
        }
        other => other.map_err(Error::at("list", path))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::at("list", path))?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        bytes += if is_dir {
            occupied_tree(&entry.path())?
        } else {
            occupied(&entry.path())?
        };
    }
    Ok(bytes)
}

/// The names in a directory that are text, sorted; hidden ones left out. A directory that does not exist is empty.
///
/// # Errors
/// The system call that failed.
pub fn names(path: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::at("list", path))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::at("list", path))?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, b"one", Durability::Synced).unwrap();
        write(&path, b"two", Durability::Unsynced).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn what_the_dead_were_writing_is_swept_away() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = dir.path().join(format!(".a.json.{}.3.tmp", child.id()));
        let own = sibling(&dir.path().join("a.json"));
        let others = [dir.path().join("a.tmp"), dir.path().join(".a.x.0.tmp")];
        for path in others.iter().chain([&dead, &own]) {
            fs::write(path, "x").unwrap();
        }
        sweep(dir.path()).unwrap();
        assert!(!dead.exists());
        assert!(own.exists() && others.iter().all(|path| path.exists()));
    }

    #[test]
    fn without_room_for_a_name_the_contents_go_first() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            let dir = tempfile::tempdir().unwrap();
            for name in ["lock", "spec.json", "upper.ext4"] {
                fs::write(dir.path().join(name), "x").unwrap();
            }
            fs::create_dir(dir.path().join("logs")).unwrap();
            fs::write(dir.path().join("logs/output.log"), "x").unwrap();
            let mut tried = 0;
            let result = condemn_by(dir.path(), &["lock", "spec.json"], || {
                tried += 1;
                let room = names(dir.path()).unwrap() == ["lock", "spec.json"];
                room.then_some(())
                    .ok_or_else(|| Error::new("rename to", dir.path(), kind))
            });
            let full = kind == io::ErrorKind::StorageFull;
            assert_eq!((result.is_ok(), tried), (full, 1 + i32::from(full)));
            assert_eq!(dir.path().join("upper.ext4").exists(), !full);
        }
    }

    #[test]
    fn names_the_path_and_keeps_the_cause() {
        let error = write(Path::new("/proc/nope/x"), b"", Durability::Synced).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot create /proc/nope/.x.")
        );
        assert!(std::error::Error::source(&error).is_some());
        assert!(error.is_not_found());
    }
}
