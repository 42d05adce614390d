//! Docker's rules of `cp`: what a copy is called, and into which directory it goes.
//!
//! | destination | source is a file | source is a directory |
//! | --- | --- | --- |
//! | a directory | into it, under its own name | into it, under its own name; `SRC/.`: its contents |
//! | a file | takes its place | cannot copy directory |
//! | nothing | made; with a `/` at the end: no such directory | made, with the contents |
//!
//! The parent of what is made must be there; whoever opens it finds out.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A path as a person wrote it: cleaned, and what its end asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// Absolute; `.` and `..` taken out by the letter, as Docker does.
    pub(super) path: PathBuf,
    pub(super) end: End,
}

/// How a path ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Name,
    /// A slash: it must be a directory, and a link is followed.
    Slash,
    /// `/.`: its contents.
    Dot,
}

impl Asked {
    /// A path; a relative one is taken from `base`.
    pub(super) fn parse(text: &OsStr, base: &Path) -> Self {
        let bytes = text.as_bytes();
        let end = if bytes == b"." || bytes.ends_with(b"/.") {
            End::Dot
        } else if bytes.ends_with(b"/") {
            End::Slash
        } else {
            End::Name
        };
        let whole = base.join(text);
        let mut path = PathBuf::from("/");
        for part in whole.components() {
            match part {
                std::path::Component::Normal(name) => path.push(name),
                std::path::Component::ParentDir => {
                    path.pop();
                }
                _ => {}
            }
        }
        Self { path, end }
    }

    /// The name that a copy gets when nobody gives it another one; `.` merges.
    pub(super) fn name(&self) -> OsString {
        match self.path.file_name() {
            Some(name) if self.end != End::Dot => name.to_owned(),
            _ => ".".into(),
        }
    }

    /// With the end that was asked for.
    pub(super) fn written(&self) -> OsString {
        let mut text = self.path.clone().into_os_string().into_vec();
        let end: &[u8] = match self.end {
            End::Name => b"",
            End::Slash => b"/",
            End::Dot => b"/.",
        };
        if text != b"/" || self.end == End::Dot {
            if text == b"/" {
                text.clear();
            }
            text.extend_from_slice(end);
        }
        OsString::from_vec(text)
    }
}

/// What is at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    Directory,
    Other,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Unpack in this directory.
    pub(super) directory: PathBuf,
    /// The first name of every entry, instead of the source's own.
    pub(super) rename: Option<OsString>,
}

/// Why nothing is done. Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A directory would take a file's place.
    #[error("cannot copy directory")]
    CannotCopyDirectory,
    /// A file would become a directory that is not there.
    #[error("no such directory")]
    NoSuchDirectory,
}

/// Where a source goes. `destination` is where links at its end have led.
pub(super) fn plan(
    source_is_directory: bool,
    destination: &Asked,
    there: There,
) -> Result<Plan, Refusal> {
    let beside = || {
        let name = destination.path.file_name();
        Plan {
            directory: destination
                .path
                .parent()
                .unwrap_or(Path::new("/"))
                .to_owned(),
            rename: Some(name.unwrap_or(OsStr::new(".")).to_owned()),
        }
    };
    match there {
        There::Directory => Ok(Plan {
            directory: destination.path.clone(),
            rename: None,
        }),
        There::Other if source_is_directory => Err(Refusal::CannotCopyDirectory),
        There::Other => Ok(beside()),
        There::Nothing if source_is_directory => Ok(beside()),
        There::Nothing if destination.end != End::Name => Err(Refusal::NoSuchDirectory),
        There::Nothing => Ok(beside()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |text: &str, path: &str, end: End, name: &str, written: &str| {
            let asked = Asked::parse(OsStr::new(text), Path::new("/home/me"));
            assert_eq!(asked.path, Path::new(path), "{text}");
            assert_eq!(asked.end, end, "{text}");
            assert_eq!(asked.name(), name, "{text}");
            assert_eq!(asked.written(), written, "{text}");
        };
        check("/a/b", "/a/b", End::Name, "b", "/a/b");
        check("/a/b/", "/a/b", End::Slash, "b", "/a/b/");
        check("/a/b/.", "/a/b", End::Dot, ".", "/a/b/.");
        check("b", "/home/me/b", End::Name, "b", "/home/me/b");
        check(".", "/home/me", End::Dot, ".", "/home/me/.");
        check("..", "/home", End::Name, "home", "/home");
        check(
            "./b/../c//d/",
            "/home/me/c/d",
            End::Slash,
            "d",
            "/home/me/c/d/",
        );
        check("/", "/", End::Slash, ".", "/");
        check("/.", "/", End::Dot, ".", "/.");
        check("/../..", "/", End::Name, ".", "/");
    }

    /// Oracle: the rules of docker-cp(1), case by case.
    #[test]
    fn docker_cp() {
        let check = |is_directory: bool,
                     destination: &str,
                     there: There,
                     expect: Result<(&str, Option<&str>), Refusal>| {
            let asked = Asked::parse(OsStr::new(destination), Path::new("/"));
            let plan = plan(is_directory, &asked, there);
            let expect = expect.map(|(directory, rename)| Plan {
                directory: directory.into(),
                rename: rename.map(Into::into),
            });
            assert_eq!(plan, expect, "{is_directory} {destination} {there:?}");
        };
        use Refusal::{CannotCopyDirectory, NoSuchDirectory};
        use There::{Directory, Nothing, Other};
        // SRC_PATH specifies a file
        //   DEST_PATH does not exist: the file is saved to a file created at DEST_PATH
        check(false, "/d/new", Nothing, Ok(("/d", Some("new"))));
        check(false, "/new", Nothing, Ok(("/", Some("new"))));
        //   DEST_PATH does not exist and ends with /: error condition, the destination directory must exist
        check(false, "/d/new/", Nothing, Err(NoSuchDirectory));
        check(false, "/d/new/.", Nothing, Err(NoSuchDirectory));
        //   DEST_PATH exists and is a file: the destination is overwritten
        check(false, "/d/old", Other, Ok(("/d", Some("old"))));
        //   DEST_PATH exists and is a directory: the file is copied into it using the basename from SRC_PATH
        check(false, "/d", Directory, Ok(("/d", None)));
        check(false, "/d/", Directory, Ok(("/d", None)));
        check(false, "/", Directory, Ok(("/", None)));
        // SRC_PATH specifies a directory
        //   DEST_PATH does not exist: it is created as a directory, with the contents of the source
        check(true, "/d/new", Nothing, Ok(("/d", Some("new"))));
        check(true, "/d/new/", Nothing, Ok(("/d", Some("new"))));
        //   DEST_PATH exists and is a file: error condition, cannot copy a directory to a file
        check(true, "/d/old", Other, Err(CannotCopyDirectory));
        //   DEST_PATH exists and is a directory: the source (or with /. its contents) is copied into it
        check(true, "/d", Directory, Ok(("/d", None)));
    }
}
