//! `events/`: what happened, one JSON object a line, oldest first.
//!
//! Everybody appends: engines and supervisors, at the same time. An event is one write to a file opened with O_APPEND,
//! under the directory's lock in shared mode; whoever finds the file full takes the lock alone, and renames it to
//! `events.jsonl.1` in place of the one before. So nobody writes to a file that was renamed, and a reader that has come to
//! the end of one knows that it has all of it. Nothing is synced: what a crash of the host loses here nobody needs to
//! go on.
//!
//! A line that is no event (torn by a crash, of a newer gourd) is skipped with a warning; the next writer begins a new
//! line after it.

mod reader;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};

pub use reader::{Events, Follow};

use crate::container::Spec;
use crate::lock::{self, Lock, Mode};
use crate::{Root, fault, file};

/// The file that is written.
const NAME: &str = "events.jsonl";

/// The one before it.
const OLD: &str = "events.jsonl.1";

/// Bytes after which a new file is begun.
const FULL: u64 = 8 << 20;

/// How reading or writing failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Locking failed.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
}

/// What it happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A network.
    Network,
}

impl Kind {
    /// As Docker calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// What it happened to.
    pub kind: Kind,
    /// What happened, in Docker's words: `create`, `start`, `die`, `exec_start: sh -c true`, …
    pub action: String,
    /// The container's id, the image's or the reference, the volume's name.
    pub id: String,
    /// A container's: its labels, `image` and `name`; then what goes with the action, as `exitCode`.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// Something that happens now.
    #[must_use]
    pub fn now(kind: Kind, action: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            time_ns: crate::now_ns(),
            kind,
            action: action.into(),
            id: id.into(),
            attributes: BTreeMap::new(),
        }
    }

    /// Something that happens to a container now, with the attributes that Docker gives all of these.
    #[must_use]
    pub fn container(spec: &Spec, action: impl Into<String>) -> Self {
        let mut event = Self::now(Kind::Container, action, spec.id.clone());
        event.attributes.clone_from(&spec.labels);
        event
            .with("image", &spec.image.reference)
            .with("name", &spec.name)
    }

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.attributes.insert(key.to_owned(), value.to_string());
        self
    }
}

/// Appends an event; when that fails, only says so: what happened has happened.
pub fn emit(root: &Root, event: &Event) {
    if let Err(error) = append(root, event) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            action = event.action,
            "cannot note an event"
        );
    }
}

/// Appends an event.
///
/// # Errors
/// The system call that failed.
pub fn append(root: &Root, event: &Event) -> Result<(), Error> {
    append_to(root, event, FULL)
}

fn append_to(root: &Root, event: &Event, full: u64) -> Result<(), Error> {
    let path = root.events().join(NAME);
    let mut line = b"\n".to_vec();
    serde_json::to_writer(&mut line, event).map_err(|source| {
        // Only maps with keys that are not text fail.
        file::Error::new("encode", &path, std::io::Error::from(source))
    })?;
    line.push(b'\n');
    let length = {
        let _lock = lock(root, Mode::Shared)?;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(file::Error::at("open", &path))?;
        let length = file
            .seek(SeekFrom::End(0))
            .map_err(file::Error::at("seek in", &path))?;
        let line = if ends_in_line(&mut file, length) {
            &line[1..]
        } else {
            &line[..]
        };
        fault::point("events.append");
        file.write_all(line)
            .map_err(file::Error::at("write", &path))?;
        fault::point("events.appended");
        length + line.len() as u64
    };
    if length >= full {
        rotate(root, full)
    } else {
        Ok(())
    }
}

/// Whether a line that is appended begins one. A crash may have torn what is there.
fn ends_in_line(file: &mut File, length: u64) -> bool {
    let mut last = [b'\n'];
    if length > 0 && file.seek(SeekFrom::Start(length - 1)).is_ok() {
        // An unreadable byte costs an empty line.
        let _ = file.read(&mut last);
    }
    last[0] == b'\n'
}

fn lock(root: &Root, mode: Mode) -> Result<Lock, lock::Error> {
    let dir = root.events();
    match Lock::acquire(&dir, mode) {
        Err(lock::Error::Gone(_)) => {
            file::make_dir(&dir)?;
            Lock::acquire(&dir, mode)
        }
        other => other,
    }
}

fn rotate(root: &Root, full: u64) -> Result<(), Error> {
    let _lock = lock(root, Mode::Exclusive)?;
    let path = root.events().join(NAME);
    match std::fs::metadata(&path) {
        // Somebody else was quicker.
        Ok(found) if found.len() < full => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file::Error::new("stat", &path, error).into()),
        Ok(_) => {}
    }
    fault::point("events.rotate");
    let old = root.events().join(OLD);
    file::rename(&path, &old, file::Durability::Unsynced)?;
    fault::point("events.rotated");
    Ok(())
}

#[cfg(test)]
mod tests;
