//! The names `output.log`, `output.log.1`, …: which files they stand for at this moment.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::file;

/// So many numbers in a row that are not there end the list. A rotation, and a crash in one, leave one out.
const GAP: u32 = 3;

/// How often names are looked at until they stand still. Rotations are far apart.
const LOOKS: u32 = 100;

/// Which file it is, whatever its name. No two that are open at the same time are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    device: u64,
    inode: u64,
}

impl Id {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
        }
    }
}

/// A file that has one of the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) number: u32,
    pub(super) id: Id,
    /// Nanoseconds since 1970; of the last write.
    pub(super) modified_ns: u64,
}

/// The name with a number; 0 is the one that is written to.
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// What has a name; `None` when nothing has.
pub(super) fn look(path: &Path) -> Result<Option<Metadata>, file::Error> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file::Error::new("stat", path, error)),
    }
}

/// The files, newest first. Looks upwards, as files move, so that none slips by; and again until nothing moved.
pub(super) fn list(path: &Path) -> Result<Vec<Named>, file::Error> {
    let mut last = look_once(path)?;
    for _ in 0..LOOKS {
        let now = look_once(path)?;
        let same = now.len() == last.len()
            && now
                .iter()
                .zip(&last)
                .all(|(now, last)| (now.number, now.id) == (last.number, last.id));
        last = now;
        if same {
            break;
        }
    }
    Ok(last)
}

fn look_once(path: &Path) -> Result<Vec<Named>, file::Error> {
    let mut files = Vec::new();
    let mut missing = 0;
    let mut number = 0;
    while missing < GAP {
        match look(&numbered(path, number))? {
            Some(found) => {
                missing = 0;
                let seconds = u64::try_from(found.mtime()).unwrap_or(0);
                let fraction = u64::try_from(found.mtime_nsec()).unwrap_or(0);
                files.push(Named {
                    number,
                    id: Id::of(&found),
                    modified_ns: seconds.saturating_mul(1_000_000_000) + fraction,
                });
            }
            None => missing += 1,
        }
        number += 1;
    }
    Ok(files)
}

/// Opens a file of the list; `None` when it has another name by now.
pub(super) fn open(path: &Path, named: &Named) -> Result<Option<(File, PathBuf)>, file::Error> {
    let path = numbered(path, named.number);
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(file::Error::at("open", &path))?,
    };
    let found = file.metadata().map_err(file::Error::at("stat", &path))?;
    Ok((Id::of(&found) == named.id).then_some((file, path)))
}
