//! Locks and leases: flock on a `lock` file that is never renamed.
//!
//! A lock belongs to the open file description, not to the process: a descriptor that a child inherits holds it too,
//! and it is free when the last holder is dead. So "the lock is free" means "nobody who could still write lives".
//! A directory may be removed by whoever holds its lock; so after locking, the lock file must still be the one that
//! its path names, otherwise the directory is [`Error::Gone`].

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::file;

/// The name of the file that is locked, in the directory that it protects.
pub const LOCK: &str = "lock";

/// How locking failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory was removed, perhaps while we waited.
    #[error("{} is gone", .0.display())]
    Gone(PathBuf),
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
}

/// Who else may hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Others that share.
    Shared,
    /// Nobody.
    Exclusive,
}

/// A held lock. Dropping it closes this descriptor; inherited or duplicated ones keep the lock held.
#[derive(Debug)]
pub struct Lock {
    fd: OwnedFd,
}

impl Lock {
    /// Locks `dir`, waiting for as long as others hold it.
    ///
    /// # Errors
    /// [`Error::Gone`] when the directory does not exist, or was removed while we waited.
    pub fn acquire(dir: &Path, mode: Mode) -> Result<Self, Error> {
        let operation = match mode {
            Mode::Shared => FlockOperation::LockShared,
            Mode::Exclusive => FlockOperation::LockExclusive,
        };
        let path = dir.join(LOCK);
        let fd = open(dir, &path)?;
        loop {
            match rustix::fs::flock(&fd, operation) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(file::Error::new("lock", &path, errno).into()),
                Ok(()) => break,
            }
        }
        check_linked(dir, &path, &fd)?;
        Ok(Self { fd })
    }

    /// Locks `dir` if that is possible at once; `None` when others hold it.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub fn try_acquire(dir: &Path, mode: Mode) -> Result<Option<Self>, Error> {
        let operation = match mode {
            Mode::Shared => FlockOperation::NonBlockingLockShared,
            Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let path = dir.join(LOCK);
        let fd = open(dir, &path)?;
        match rustix::fs::flock(&fd, operation) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(file::Error::new("lock", &path, errno).into()),
            Ok(()) => {}
        }
        check_linked(dir, &path, &fd)?;
        Ok(Some(Self { fd }))
    }

    /// Locks `dir`, waiting for others for so long at most; `None` when they hold it after that.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub fn acquire_within(
        dir: &Path,
        mode: Mode,
        patience: Duration,
    ) -> Result<Option<Self>, Error> {
        if let Some(lock) = Self::try_acquire(dir, mode)? {
            return Ok(Some(lock));
        }
        let (sender, receiver) = mpsc::channel();
        let waiting = dir.to_owned();
        // It may wait for longer than we do; then it gives the lock back as soon as it has it.
        std::thread::Builder::new()
            .name("lock".to_owned())
            .spawn(move || drop(sender.send(Self::acquire(&waiting, mode))))
            .map_err(|error| file::Error::new("start a thread for", &dir.join(LOCK), error))?;
        receiver.recv_timeout(patience).ok().transpose()
    }

    /// The descriptor, to be passed on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A descriptor that was inherited with its lock held.
impl From<OwnedFd> for Lock {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

/// A process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id. The process that took the lock; its children may hold it when it is dead.
    pub pid: i32,
    /// Its command line; empty when it cannot be seen.
    pub command: String,
}

/// Who holds the lock of `dir`, this process left out, as far as proc_locks(5) tells.
#[must_use]
pub fn holders(dir: &Path) -> Vec<Holder> {
    let Ok(stat) = rustix::fs::stat(dir.join(LOCK)) else {
        return Vec::new();
    };
    let file = format!(
        "{:02x}:{:02x}:{}",
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
        stat.st_ino
    );
    let table = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let own = i32::try_from(std::process::id()).ok();
    let pids: std::collections::BTreeSet<i32> = table
        .lines()
        .filter_map(|line| holder(line, &file))
        .filter(|pid| Some(*pid) != own)
        .collect();
    pids.into_iter()
        .map(|pid| Holder {
            pid,
            command: command(pid),
        })
        .collect()
}

/// `1: FLOCK  ADVISORY  WRITE 4711 fe:01:393219 0 EOF`; one that waits has `->` after the number.
fn holder(line: &str, file: &str) -> Option<i32> {
    let mut words = line.split_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let pid = words.nth(2)?.parse().ok()?;
    (words.next()? == file && pid > 0).then_some(pid)
}

fn command(pid: i32) -> String {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words)
        .split('\0')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(80)
        .collect()
}

fn open(dir: &Path, path: &Path) -> Result<OwnedFd, Error> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    match opened {
        Ok(file) => Ok(file.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::Gone(dir.to_owned()))
        }
        Err(error) => Err(file::Error::new("open", path, error).into()),
    }
}

/// The path must still name the file that was locked.
fn check_linked(dir: &Path, path: &Path, fd: &OwnedFd) -> Result<(), Error> {
    let ours = rustix::fs::fstat(fd).map_err(|errno| file::Error::new("stat", path, errno))?;
    match rustix::fs::stat(path) {
        Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(Error::Gone(dir.to_owned())),
        Err(errno) => Err(file::Error::new("stat", path, errno).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn free(dir: &Path, mode: Mode) -> bool {
        Lock::try_acquire(dir, mode).unwrap().is_some()
    }

    #[test]
    fn excludes_and_shares() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Lock::acquire(dir.path(), Mode::Shared).unwrap();
        assert!(free(dir.path(), Mode::Shared));
        assert!(!free(dir.path(), Mode::Exclusive));
        drop(shared);
        let exclusive = Lock::acquire(dir.path(), Mode::Exclusive).unwrap();
        assert!(!free(dir.path(), Mode::Shared));
        drop(exclusive);
        assert!(free(dir.path(), Mode::Exclusive));
    }

    /// Oracle: flock(1), which holds the descriptor that it inherits as stdin until its own stdin-fed child ends.
    #[test]
    fn an_inherited_descriptor_holds_it_until_the_child_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::acquire(dir.path(), Mode::Exclusive).unwrap();
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::from(lock.into_fd()))
            .spawn()
            .unwrap();
        assert!(!free(dir.path(), Mode::Exclusive));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(free(dir.path(), Mode::Exclusive));
    }

    #[test]
    fn waits_for_so_long_and_leaves_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let within =
            |patience| Lock::acquire_within(dir.path(), Mode::Exclusive, patience).unwrap();
        let held = Lock::acquire(dir.path(), Mode::Shared).unwrap();
        assert!(within(Duration::from_millis(1)).is_none());
        let long = Duration::from_secs(60);
        let waiter = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| within(long));
            drop(held);
            waiter.join().unwrap()
        });
        assert!(waiter.is_some());
        drop(waiter);
        // The first one, too, gets it, and gives it back.
        assert!(within(long).is_some());
    }

    #[test]
    fn a_removed_directory_is_noticed_by_the_waiter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        for _ in 0..50 {
            std::fs::create_dir(&path).unwrap();
            let lock = Lock::acquire(&path, Mode::Exclusive).unwrap();
            let waiter = {
                let path = path.clone();
                std::thread::spawn(move || Lock::acquire(&path, Mode::Exclusive))
            };
            // The waiter either opened the file before the removal or comes after it: gone both times.
            file::remove_locked(&path).unwrap();
            drop(lock);
            assert!(matches!(waiter.join().unwrap(), Err(Error::Gone(_))));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn another_directory_of_the_same_name_is_another_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        std::fs::create_dir(&path).unwrap();
        let old = Lock::acquire(&path, Mode::Exclusive).unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(free(&path, Mode::Exclusive));
        drop(old);
    }
}
