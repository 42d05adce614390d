//! Folders, files and unix sockets of this host in a container.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use store::container::{BindMount, Socket, Way};

use crate::{Error, volume};

/// A folder, file or unix socket of this host that a container is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BindRequest {
    /// Absolute path on this host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
    /// It can't be written there. A socket is connected to all the same.
    pub read_only: bool,
    /// A folder is made where there is nothing.
    pub create: bool,
    /// As `-v` had it, for `inspect`.
    pub bind: Option<String>,
}

/// As many as one file system of shared folders shows.
const MOST: usize = 64;

/// What a container gets of this host.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// Shared folders and files.
    pub(crate) binds: Vec<BindMount>,
    /// Sockets: no file is shared, connections are passed on.
    pub(crate) sockets: Vec<Socket>,
}

/// Checks what was asked for, and makes the folders that are to be made. `taken`: where something else is.
pub(crate) fn plan(wanted: &[BindRequest], taken: &mut BTreeSet<String>) -> Result<Planned, Error> {
    if wanted.len() > MOST {
        let reason = format!("{} of them; a container can have {MOST}", wanted.len());
        return Err(Error::invalid("bind mount", reason));
    }
    let mut planned = Planned::default();
    for bind in wanted {
        let target = volume::take(&bind.target, taken)?;
        let (kind, source) = check(&bind.source, bind.create)?;
        match kind {
            Kind::Socket => planned.sockets.push(Socket {
                way: Way::Mount,
                host: source,
                container: target,
            }),
            Kind::Shared => planned.binds.push(BindMount {
                source,
                target,
                read_only: bind.read_only,
                bind: bind.bind.clone(),
            }),
        }
    }
    Ok(planned)
}

/// How a path of the host comes into a container.
enum Kind {
    Shared,
    Socket,
}

/// There is a folder, a file or a socket; where it is without links. They are followed once, here: later they may be a guest's, for
/// which what it is given must stay what its user named.
fn check(source: &Path, create: bool) -> Result<(Kind, PathBuf), Error> {
    let shown = source.display();
    let invalid = |reason: String| Err(Error::invalid("bind mount", reason));
    if !source.is_absolute() {
        return invalid(format!("{shown}: the path on this host is not absolute"));
    }
    let mut real = source.canonicalize();
    if create
        && let Err(error) = &real
        && error.kind() == ErrorKind::NotFound
    {
        if let Err(error) = std::fs::create_dir_all(source) {
            return invalid(format!("{shown} can't be made: {error}"));
        }
        real = source.canonicalize();
    }
    match real.and_then(|real| Ok((std::fs::symlink_metadata(&real)?, real))) {
        Ok((found, real)) if found.is_dir() || found.is_file() => Ok((Kind::Shared, real)),
        Ok((found, real)) if found.file_type().is_socket() => Ok((Kind::Socket, real)),
        Ok(_) => invalid(format!(
            "{shown} is neither a folder nor a file nor a socket"
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => {
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
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap();
        std::fs::write(dir.join("file"), "x").unwrap();
        std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
        let bind = |source: &str, target: &str, create| BindRequest {
            source: dir.join(source),
            target: target.to_owned(),
            create,
            ..BindRequest::default()
        };
        let check = |wanted: &[BindRequest], expect: Result<&[&str], &str>| {
            let mut taken = BTreeSet::from(["/run".to_owned()]);
            match (plan(wanted, &mut taken), expect) {
                (Ok(Planned { binds, sockets }), Ok(expect)) => {
                    assert!(sockets.is_empty());
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
        let planned = plan(&[bind("socket", "/a/", true)], &mut BTreeSet::new()).unwrap();
        let socket = Socket {
            way: Way::Mount,
            host: dir.join("socket"),
            container: "/a".to_owned(),
        };
        assert_eq!((planned.sockets, planned.binds), (vec![socket], vec![]));
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("fifo"), 0o600.into()).unwrap();
        check(
            &[bind("fifo", "/a", true)],
            Err("neither a folder nor a file nor a socket"),
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

    /// Oracle: `realpath`. `inspect` shows what the container has as `Source`, and as `Binds` what was asked for.
    #[test]
    fn links_are_followed_once() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("real/cache")).unwrap();
        let _server = std::os::unix::net::UnixListener::bind(dir.join("real/socket")).unwrap();
        std::os::unix::fs::symlink("real", dir.join("link")).unwrap();
        std::os::unix::fs::symlink("cache", dir.join("real/again")).unwrap();
        std::os::unix::fs::symlink("none", dir.join("dangling")).unwrap();
        let plan = |source: &str| {
            let bind = BindRequest {
                source: dir.join(source),
                target: "/a".to_owned(),
                create: true,
                bind: Some(format!("{source}:/a")),
                ..BindRequest::default()
            };
            plan(&[bind], &mut BTreeSet::new())
        };
        for (source, real) in [
            ("real/cache", "real/cache"),
            ("link/again", "real/cache"),
            ("link/made/deep", "real/made/deep"),
        ] {
            let Planned { binds, .. } = plan(source).unwrap();
            let expect = BindMount {
                source: dir.join(real),
                target: "/a".to_owned(),
                read_only: false,
                bind: Some(format!("{source}:/a")),
            };
            assert_eq!(binds, [expect]);
        }
        let sockets = plan("link/socket").unwrap().sockets;
        assert_eq!(sockets[0].host, dir.join("real/socket"));
        let refused = plan("dangling").unwrap_err().to_string();
        assert!(refused.contains("can't be made"), "{refused}");
    }
}
