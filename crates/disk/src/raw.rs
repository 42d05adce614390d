//! Raw disk files: sparse creation, clones, sparse copies, growing.
//!
//! Holes stay holes. A clone shares blocks where the file system can (FICLONE) and is a sparse copy where it cannot.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

/// A system call on a disk file that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct Error {
    /// A verb.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Error {
    pub(crate) fn at<E: Into<io::Error>>(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// How [`copy`] made the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The two share blocks until one of them is written.
    Cloned,
    /// The data was copied; holes were not.
    Copied,
}

/// Makes a new file of `size` bytes, all of them a hole, mode 0600, open for reading and writing.
///
/// # Errors
/// The path exists, or a system call failed.
pub fn create_sparse(path: &Path, size: u64) -> Result<File, Error> {
    let file = create(path)?;
    // Not even to nothing when it is empty: ext4 on the host takes a file that was cut to nothing for one that is
    // being replaced, and writes it out when it is closed (`auto_da_alloc`).
    if size > 0
        && let Err(error) = file.set_len(size)
    {
        let _ = fs::remove_file(path);
        return Err(Error::at("size", path)(error));
    }
    Ok(file)
}

/// Copies `from` to the new file `to`: cloned where the file system can, sparse otherwise.
///
/// # Errors
/// `to` exists, or a system call failed; there is no `to` then.
pub fn copy(from: &Path, to: &Path) -> Result<Copied, Error> {
    let source = File::open(from).map_err(Error::at("open", from))?;
    let target = create(to)?;
    let copied = match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(Copied::Cloned),
        // Whatever the reason, a copy either works or names the real trouble.
        Err(_) => copy_sparse(&source, from, &target, to).map(|()| Copied::Copied),
    };
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied
}

/// Makes a raw disk `size` bytes long; what is new is a hole.
///
/// # Errors
/// The disk is longer than that (nothing is cut off: what stands there would be lost), or a system call failed.
pub fn grow(path: &Path, size: u64) -> Result<(), Error> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(Error::at("open", path))?;
    let now = file.metadata().map_err(Error::at("stat", path))?.len();
    if size < now {
        let reason = format!("it is {now} bytes long, which is more than {size}");
        return Err(Error::at("grow", path)(io::Error::new(
            io::ErrorKind::InvalidInput,
            reason,
        )));
    }
    file.set_len(size).map_err(Error::at("grow", path))
}

/// Makes a range of a file read as zeros, and gives its space back where the file system can.
///
/// # Errors
/// A system call failed.
pub fn clear(file: &File, offset: u64, len: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, offset, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        done => return Ok(done?),
    }
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let count = (end - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..count as usize], at)?;
        at += count;
    }
    Ok(())
}

/// Bytes that the file takes on its disk.
///
/// # Errors
/// A system call failed.
pub fn allocated(path: &Path) -> Result<u64, Error> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path).map_err(Error::at("stat", path))?;
    Ok(found.blocks() * 512)
}

fn create(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::at("create", path))
}

fn copy_sparse(source: &File, from: &Path, target: &File, to: &Path) -> Result<(), Error> {
    let size = source.metadata().map_err(Error::at("stat", from))?.len();
    target.set_len(size).map_err(Error::at("size", to))?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            // A file system that does not tell holes from data.
            Err(Errno::INVAL) => at,
            Err(errno) => return Err(Error::at("seek in", from)(errno)),
        };
        let end = match rustix::fs::seek(source, SeekFrom::Hole(start)) {
            Ok(end) => end,
            Err(Errno::INVAL) => size,
            Err(errno) => return Err(Error::at("seek in", from)(errno)),
        };
        copy_range(source, from, target, to, start, end)?;
        at = end;
    }
    Ok(())
}

/// Copies the bytes from `start` to `end` to the same place.
fn copy_range(
    source: &File,
    from: &Path,
    target: &File,
    to: &Path,
    start: u64,
    end: u64,
) -> Result<(), Error> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(
            source,
            Some(&mut read_at),
            target,
            Some(&mut write_at),
            left,
        ) {
            // The source shrank; the rest is a hole.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return copy_bytes(source, from, target, to, read_at, end);
            }
            Err(errno) => return Err(Error::at("copy to", to)(errno)),
        }
    }
    Ok(())
}

/// The way that works everywhere.
fn copy_bytes(
    mut source: &File,
    from: &Path,
    mut target: &File,
    to: &Path,
    start: u64,
    end: u64,
) -> Result<(), Error> {
    let start_at = io::SeekFrom::Start(start);
    source.seek(start_at).map_err(Error::at("seek in", from))?;
    target.seek(start_at).map_err(Error::at("seek in", to))?;
    let mut buffer = vec![0; 1 << 20];
    let mut left = end - start;
    while left > 0 {
        let want = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let got = match source.read(&mut buffer[..want]) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::at("read", from)(error)),
        };
        target
            .write_all(&buffer[..got])
            .map_err(Error::at("write", to))?;
        left -= got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Oracle: du(1).
    fn kib_on_disk(path: &Path) -> u64 {
        let output = Command::new("du").arg("-k").arg(path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Oracle: cmp(1).
    fn assert_same(a: &Path, b: &Path) {
        assert!(
            Command::new("cmp")
                .arg(a)
                .arg(b)
                .status()
                .unwrap()
                .success()
        );
    }

    /// 64 MiB with data at the start, in the middle, and at the very end.
    fn sample(path: &Path) {
        let file = create_sparse(path, 64 << 20).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.write_all_at(&[2; 100_000], 30 << 20).unwrap();
        file.write_all_at(&[3; 1], (64 << 20) - 1).unwrap();
    }

    #[test]
    fn a_new_disk_takes_no_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        create_sparse(&path, 64 << 30).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 64 << 30);
        assert_eq!(kib_on_disk(&path), 0);
        let error = create_sparse(&path, 1).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_copy_is_the_same_and_as_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        sample(&from);
        copy(&from, &to).unwrap();
        assert_same(&from, &to);
        assert!(kib_on_disk(&to) < 512, "{} KiB", kib_on_disk(&to));
        assert_eq!(allocated(&to).unwrap(), kib_on_disk(&to) * 1024);
    }

    #[test]
    fn the_way_that_works_everywhere_works() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        sample(&from);
        let (source, target) = (
            File::open(&from).unwrap(),
            create_sparse(&to, 64 << 20).unwrap(),
        );
        for (start, end) in [(0, 4096), (30 << 20, 31 << 20), ((64 << 20) - 1, 64 << 20)] {
            copy_bytes(&source, &from, &target, &to, start, end).unwrap();
        }
        assert_same(&from, &to);
    }

    #[test]
    fn another_file_system_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir_in("/dev/shm").unwrap();
        let (from, to) = (dir.path().join("a"), other.path().join("b"));
        sample(&from);
        assert_eq!(copy(&from, &to).unwrap(), Copied::Copied);
        assert_same(&from, &to);
        assert!(kib_on_disk(&to) < 512);
    }

    #[test]
    fn what_is_cleared_is_zero_and_takes_no_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        let file = create_sparse(&path, 0).unwrap();
        file.write_all_at(&[7; 5 << 20], 0).unwrap();
        clear(&file, 1 << 20, 3 << 20).unwrap();
        let bytes = fs::read(&path).unwrap();
        let count = bytes.iter().filter(|byte| **byte == 0).count();
        assert_eq!((bytes.len(), count), (5 << 20, 3 << 20));
        assert!(bytes[1 << 20..4 << 20].iter().all(|byte| *byte == 0));
        assert!(kib_on_disk(&path) <= 2048 + 64, "{}", kib_on_disk(&path));
    }

    #[test]
    fn a_disk_grows_and_never_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        sample(&path);
        let before = kib_on_disk(&path);
        grow(&path, 1 << 40).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 40);
        assert_eq!(kib_on_disk(&path), before);
        let error = grow(&path, 5).unwrap_err();
        assert!(error.to_string().starts_with("cannot grow"), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 40);
    }

    #[test]
    fn a_failed_copy_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("b");
        let error = copy(Path::new("/nonexistent"), &to).unwrap_err();
        assert_eq!(error.to_string(), "cannot open /nonexistent");
        assert!(copy(dir.path(), &to).is_err());
        assert!(!to.exists());
    }
}
