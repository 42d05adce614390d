//! Folders and files of this host in a container.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use store::container::BindMount;

use crate::{Error, volume};

/// A folder or file of this host that a container is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BindRequest {
    /// Absolute path on this host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
    /// It can't be written there.
    pub read_only: bool,
    /// A folder is made where there is nothing.
    pub create: bool,
    /// As `-v` had it, for `inspect`.
    pub bind: Option<String>,
}

/// As many as one file system of shared folders shows.
const MOST: usize = 64;

/// Checks what was asked for, and makes the folders that are to be made. `taken`: where something else is.
pub(crate) fn plan(
    wanted: &[BindRequest],
    taken: &mut BTreeSet<String>,
) -> Result<Vec<BindMount>, Error> {
    if wanted.len() > MOST {
        let reason = format!("{} of them; a container can have {MOST}", wanted.len());
        return Err(Error::invalid("bind mount", reason));
    }
    let mut planned = Vec::new();
    for bind in wanted {
        let target = volume::take(&bind.target, taken)?;
        check(&bind.source, bind.create)?;
        planned.push(BindMount {
            source: bind.source.clone(),
            target,
            read_only: bind.read_only,
            bind: bind.bind.clone(),
        });
    }
    Ok(planned)
}

/// There is a folder or a file.
fn check(source: &Path, create: bool) -> Result<(), Error> {
    let shown = source.display();
    let invalid = |reason: String| Err(Error::invalid("bind mount", reason));
    if !source.is_absolute() {
        return invalid(format!("{shown}: the path on this host is not absolute"));
    }
    match std::fs::metadata(source) {
        Ok(found) if found.is_dir() || found.is_file() => Ok(()),
        Ok(_) => invalid(format!("{shown} is neither a folder nor a file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => {
            match std::fs::create_dir_all(source) {
                Ok(()) => Ok(()),
                Err(error) => invalid(format!("{shown} can't be made: {error}")),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            invalid(format!("bind source path does not exist: {shown}"))
        }
        Err(error) => invalid(format!("{shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: what Docker 28 does with each.
    #[test]
    fn folders_and_files_that_are_there_or_made() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let bind = |source: &str, target: &str, create| BindRequest {
            source: dir.path().join(source),
            target: target.to_owned(),
            create,
            ..BindRequest::default()
        };
        let check = |wanted: &[BindRequest], expect: Result<&[&str], &str>| {
            let mut taken = BTreeSet::from(["/run".to_owned()]);
            match (plan(wanted, &mut taken), expect) {
                (Ok(binds), Ok(expect)) => {
                    let targets: Vec<_> = binds.iter().map(|bind| bind.target.as_str()).collect();
                    assert_eq!(targets, expect);
                    assert!(binds.iter().all(|bind| bind.source.exists()));
                }
                (Err(error), Err(expect)) => {
                    assert!(error.to_string().contains(expect), "{error}");
                }
                (planned, expect) => panic!("{planned:?}, not {expect:?}"),
            }
        };
        check(
            &[bind("file", "/a", false), bind("", "/b/", false)],
            Ok(&["/a", "/b"]),
        );
        check(&[bind("new/deep", "/a", true)], Ok(&["/a"]));
        check(
            &[bind("none", "/a", false)],
            Err("bind source path does not exist: "),
        );
        check(
            &[bind("socket", "/a", true)],
            Err("neither a folder nor a file"),
        );
        check(&[bind("file/x", "/a", true)], Err("Not a directory"));
        check(
            &[bind("file", "/run", false)],
            Err("duplicate mount point: /run"),
        );
        check(
            &[bind("file", "a", false)],
            Err("absolute path below the root"),
        );
        let relative = BindRequest {
            source: "x".into(),
            target: "/a".into(),
            ..BindRequest::default()
        };
        check(&[relative], Err("not absolute"));
    }
}
