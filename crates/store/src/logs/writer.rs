//! Writing a log: one writer, who holds the container's lock.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::files::{look, numbered};
use super::frame::{self, Frames};
use super::{Error, Stream};
use crate::container::LogLimits;
use crate::{fault, file};

/// Appends.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    limits: LogLimits,
    length: u64,
    frame: Vec<u8>,
}

impl Writer {
    /// Opens a log for appending, making it when it is not there. A last frame that a crash tore is cut off. A file that is
    /// corrupt before its end is put aside as any that is full: what it holds can't be told from what was torn.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn open(path: &Path, limits: LogLimits) -> Result<Self, Error> {
        let mut writer = Self {
            file: create(path)?,
            path: path.to_owned(),
            limits,
            length: 0,
            frame: Vec::new(),
        };
        writer.length = writer
            .file
            .seek(SeekFrom::End(0))
            .map_err(file::Error::at("seek in", path))?;
        match whole_frames(path) {
            Ok(whole) if whole < writer.length => {
                writer
                    .file
                    .set_len(whole)
                    .map_err(file::Error::at("truncate", path))?;
                writer.length = whole;
            }
            Ok(_) => {}
            Err(error @ Error::File(_)) => return Err(error),
            Err(error @ Error::Corrupt { .. }) => {
                tracing::warn!(%error, "putting a file of the log aside");
                writer.rotate()?;
            }
        }
        writer.remove_superfluous()?;
        Ok(writer)
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// The write that failed, for example on a full disk.
    pub fn append(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        time_ns: u64,
    ) -> Result<(), file::Error> {
        frame::encode(&mut self.frame, stream, bytes, time_ns);
        let length = self.frame.len() as u64;
        if self.limits.size > 0 && self.length > 0 && self.length + length > self.limits.size {
            self.rotate()?;
        }
        self.file
            .write_all(&self.frame)
            .map_err(file::Error::at("write", &self.path))?;
        self.length += length;
        Ok(())
    }

    /// Begins a new file. Where the numbers have a gap, files move up to it only.
    fn rotate(&mut self) -> Result<(), file::Error> {
        let last = self.limits.files.max(1) - 1;
        let mut free = 1;
        while free < last && look(&numbered(&self.path, free))?.is_some() {
            free += 1;
        }
        fault::point("logs.rotate");
        if last == 0 {
            file::remove(&self.path)?;
        } else {
            for number in (0..free).rev() {
                // The last one is replaced.
                let (from, to) = (
                    numbered(&self.path, number),
                    numbered(&self.path, number + 1),
                );
                match file::rename(&from, &to, file::Durability::Unsynced) {
                    // Somebody removed it by hand.
                    Err(error) if error.is_not_found() => {}
                    other => other?,
                }
                fault::point("logs.rotate-moved");
            }
        }
        self.file = create(&self.path)?;
        self.length = 0;
        fault::point("logs.rotated");
        Ok(())
    }

    /// Removes what a former, higher limit left.
    fn remove_superfluous(&self) -> Result<(), file::Error> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(());
        };
        let prefix = format!("{}.", name.to_string_lossy());
        for name in file::names(dir)? {
            let number = name
                .strip_prefix(&prefix)
                .and_then(|text| text.parse::<u32>().ok());
            if number.is_some_and(|number| number >= self.limits.files.max(1)) {
                file::remove(&dir.join(name))?;
            }
        }
        Ok(())
    }
}

fn create(path: &Path) -> Result<File, file::Error> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(file::Error::at("open", path))
}

/// Where the whole frames end.
fn whole_frames(path: &Path) -> Result<u64, Error> {
    let file = File::open(path).map_err(file::Error::at("open", path))?;
    let mut frames = Frames::new(file, path.to_owned());
    while frames.skip_record()? {}
    Ok(frames.offset())
}
