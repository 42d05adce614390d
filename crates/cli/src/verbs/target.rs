//! The file that an archive is written to.
//!
//! It appears when it is whole, in place of one that was there, and is the user's alone, as Docker's are. Meanwhile it has no name
//! where the file system can do without one (open(2), `O_TMPFILE`): then it goes with the process, however that ends. Elsewhere it
//! is a hidden file beside the target, which goes when a signal ends the command.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::session::Signals;

/// Docker's.
const MODE: u32 = 0o600;

/// See the module.
pub(super) struct Target<'p> {
    path: &'p Path,
    file: File,
    kind: Kind,
}

enum Kind {
    /// A pipe or a device, which is written as it is.
    Special,
    Unnamed,
    /// Removed at the end, whatever it is.
    Hidden(Hidden),
}

struct Hidden {
    path: PathBuf,
    signals: Signals,
}

impl<'p> Target<'p> {
    /// Begins it.
    pub(super) fn create(path: &'p Path) -> Result<Self, Failure> {
        let failed = |source| create_failed(path, source);
        let found = std::fs::metadata(path);
        // One that is not there could not be given such a name when all is written.
        let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/")
            || found.as_ref().is_ok_and(std::fs::Metadata::is_dir);
        if is_folder {
            let path = path.to_owned();
            return Err(Failure::IsFolder { path });
        }
        if found.is_ok_and(|found| !found.is_file()) {
            let file = File::options().write(true).open(path).map_err(failed)?;
            return Ok(Self {
                path,
                file,
                kind: Kind::Special,
            });
        }
        match Self::unnamed(path) {
            Some(target) => Ok(target),
            None => Self::hidden(path),
        }
    }

    /// `None`: the file system can't.
    fn unnamed(path: &'p Path) -> Option<Self> {
        let dir = match path.parent()? {
            dir if dir.as_os_str().is_empty() => Path::new("."),
            dir => dir,
        };
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::open(dir, flags, Mode::from_raw_mode(MODE)).ok()?;
        Some(Self {
            path,
            file: file.into(),
            kind: Kind::Unnamed,
        })
    }

    fn hidden(path: &'p Path) -> Result<Self, Failure> {
        let failed = |source| create_failed(path, source);
        let hidden = beside(path).map_err(failed)?;
        // Before there is anything to remove.
        let signals = Signals::catch()?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(MODE);
        Ok(Self {
            path,
            file: options.open(&hidden).map_err(failed)?,
            kind: Kind::Hidden(Hidden {
                path: hidden,
                signals,
            }),
        })
    }

    /// To write to.
    pub(super) fn file(&self) -> Result<File, Failure> {
        let file = self.file.try_clone();
        file.map_err(|source| create_failed(self.path, source))
    }

    /// Does what fills it. Where a signal would leave something behind it fails instead.
    pub(super) async fn filled<T>(
        &mut self,
        fill: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Kind::Hidden(Hidden { signals, .. }) = &mut self.kind else {
            return fill.await;
        };
        tokio::select! {
            filled = fill => filled,
            number = signals.end() => Err(Failure::Signal { number }),
        }
    }

    /// It is whole.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let finished = match &self.kind {
            Kind::Special => Ok(()),
            Kind::Unnamed => self.file.sync_all().and_then(|()| self.name()),
            Kind::Hidden(hidden) => {
                let synced = self.file.sync_all();
                synced.and_then(|()| std::fs::rename(&hidden.path, self.path))
            }
        };
        finished.map_err(|source| create_failed(self.path, source))
    }

    /// Gives it its name; by way of another one when there is such a file already, which a link can't replace.
    fn name(&self) -> io::Result<()> {
        let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = |to: &Path| rustix::fs::linkat(CWD, &file, CWD, to, AtFlags::SYMLINK_FOLLOW);
        match link(self.path) {
            Err(Errno::EXIST) => {}
            linked => return Ok(linked?),
        }
        let hidden = beside(self.path)?;
        link(&hidden)?;
        let renamed = std::fs::rename(&hidden, self.path);
        if renamed.is_err() {
            // Best effort: what went wrong is said.
            let _ = std::fs::remove_file(&hidden);
        }
        renamed
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if let Kind::Hidden(Hidden { path, .. }) = &self.kind {
            // Best effort: whatever went wrong was said; and as a rule it has got its name.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn create_failed(path: &Path, source: io::Error) -> Failure {
    Failure::Create {
        path: path.to_owned(),
        source,
    }
}

/// Where it is until it gets its name.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let hidden = format!(".{}.{}", name.to_string_lossy(), std::process::id());
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let name = |entry: io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        entries.map(name).collect()
    }

    /// Each way, with and without a file that was there.
    #[tokio::test]
    async fn a_file_appears_when_it_is_whole() {
        for there in [false, true] {
            for unnamed in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("a.tar");
                let before: &[&str] = if there { &["a.tar"] } else { &[] };
                let begin = || match unnamed {
                    true => Target::unnamed(&path).expect("the file system can"),
                    false => Target::hidden(&path).unwrap(),
                };
                if there {
                    std::fs::write(&path, "old").unwrap();
                }
                // One that is given up.
                let target = begin();
                if unnamed {
                    assert_eq!(names(dir.path()), before);
                }
                target.file().unwrap().write_all(b"half").unwrap();
                drop(target);
                assert_eq!(names(dir.path()), before);

                let mut target = begin();
                let mut file = target.file().unwrap();
                let fill = async {
                    file.write_all(b"whole").unwrap();
                    Ok(())
                };
                target.filled(fill).await.unwrap();
                target.finish().unwrap();
                assert_eq!(names(dir.path()), ["a.tar"]);
                assert_eq!(std::fs::read(&path).unwrap(), b"whole");
                let mode = std::fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, MODE);
            }
        }
    }

    #[tokio::test]
    async fn a_signal_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut target = Target::hidden(&path).unwrap();
        let pid = rustix::process::getpid();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let filled = target.filled(std::future::pending::<Result<(), _>>()).await;
        assert!(matches!(filled, Err(Failure::Signal { number: 15 })));
        drop(target);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_folder_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        for path in [dir.path(), &link, &dir.path().join("new/"), Path::new(".")] {
            let refused = Target::create(path).map(drop);
            assert!(
                matches!(refused, Err(Failure::IsFolder { .. })),
                "{refused:?}"
            );
        }
        assert_eq!(names(dir.path()), ["link"]);
    }

    #[test]
    fn what_is_no_file_is_written_as_it_is() {
        let target = Target::create(Path::new("/dev/null")).unwrap();
        target.file().unwrap().write_all(b"gone").unwrap();
        target.finish().unwrap();
    }
}
