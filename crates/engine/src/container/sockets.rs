//! Unix sockets of host and container that lead to each other: what may be asked for, and what `inspect` says.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use store::container::{SSH_AUTH_SOCK, Socket, Spec, Way};

use super::{CreateRequest, rights};
use crate::Error;

/// Bytes of a path that an address of a unix socket has room for (unix(7): 108 with the NUL).
const LONGEST: usize = 107;

/// Bytes of its last component: the supervisor listens at `/proc/self/fd/FOLDER/NAME`.
const LONGEST_NAME: usize = 80;

/// A unix socket of the container as one of the host: who connects to the first reaches the second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishedSocket {
    /// Absolute path on the host, where nothing is.
    pub host: PathBuf,
    /// Absolute path in the container.
    pub container: String,
}

/// All of a container's sockets: the host's that it has `mounted`, and its own that are published.
pub(super) fn plan(request: &CreateRequest, mounted: Vec<Socket>) -> Result<Vec<Socket>, Error> {
    let inside = mounted.iter().find(|it| it.container == SSH_AUTH_SOCK);
    if request.ssh
        && let Some(socket) = inside
    {
        let reason = format!("{} is where the SSH agent is", socket.container);
        return Err(Error::invalid("socket", reason));
    }
    let mut taken: HashSet<PathBuf> = HashSet::new();
    let mut sockets = mounted;
    for published in &request.sockets {
        let socket = check(published)?;
        if !taken.insert(socket.host.clone()) {
            return Err(invalid(&published.host, "it is to be two sockets at once"));
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

fn invalid(path: &Path, reason: &str) -> Error {
    Error::invalid("socket", format!("{}: {reason}", path.display()))
}

fn check(published: &PublishedSocket) -> Result<Socket, Error> {
    let PublishedSocket { host, container } = published;
    if !host.is_absolute() || host.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(invalid(host, "the path on this host is not absolute"));
    }
    let host = resolve(host);
    let len = host.as_os_str().len();
    if len > LONGEST {
        let reason = format!("{len} bytes; nobody can connect to a path of more than {LONGEST}");
        return Err(invalid(&host, &reason));
    }
    let name = host.file_name().map_or(0, std::ffi::OsStr::len);
    if !(1..=LONGEST_NAME).contains(&name) {
        let reason = format!("its name has {name} bytes; 1 to {LONGEST_NAME} can be listened at");
        return Err(invalid(&host, &reason));
    }
    let clean = rights::clean(container).ok_or_else(|| {
        let reason = "the path in the container must be absolute, without \"..\"";
        invalid(Path::new(container), reason)
    })?;
    Ok(Socket {
        way: Way::Publish,
        host,
        container: clean,
    })
}

/// A path whose folder has no links, as far as there is one: they are followed once, here, as those of bind mounts.
fn resolve(path: &Path) -> PathBuf {
    let real = path.ancestors().skip(1).find_map(|above| {
        let rest = path.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(rest))
    });
    real.unwrap_or_else(|| path.to_owned())
}

/// The variable by which programs find the agent, unless one is set.
pub(super) fn environment(ssh: bool, env: &mut Vec<String>) {
    const NAME: &str = "SSH_AUTH_SOCK=";
    if ssh && !env.iter().any(|entry| entry.starts_with(NAME)) {
        env.push(format!("{NAME}{SSH_AUTH_SOCK}"));
    }
}

/// For `inspect`: those that are published; the others are mounts.
pub(super) fn published(spec: &Spec) -> Value {
    let all = spec
        .sockets
        .iter()
        .filter(|socket| socket.way == Way::Publish);
    all.map(|socket| json!({ "Host": socket.host, "Container": socket.container }))
        .collect()
}

/// The host's sockets that a container has mounted.
pub(super) fn mounted(spec: &Spec) -> impl Iterator<Item = &Socket> {
    let all = spec.sockets.iter();
    all.filter(|socket| socket.way == Way::Mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_collisions() {
        let check = |sockets: &[(&str, &str)], mounted: &str, ssh, expect: &str| {
            let published = |(host, container): &(&str, &str)| PublishedSocket {
                host: host.into(),
                container: (*container).to_owned(),
            };
            let request = CreateRequest {
                sockets: sockets.iter().map(published).collect(),
                ssh,
                ..CreateRequest::default()
            };
            let mount = Socket {
                way: Way::Mount,
                host: "/host".into(),
                container: mounted.to_owned(),
            };
            let said = plan(&request, vec![mount]).err();
            let said = said.map_or(String::new(), |error| error.to_string());
            assert!(
                said.contains(expect) && said.is_empty() == expect.is_empty(),
                "{said}"
            );
        };
        let long = format!("/{}/{}", "x".repeat(26), "x".repeat(80));
        check(&[("/a", "/b")], "/b", true, "");
        check(&[(&long[..107], &long)], "/b", false, "");
        check(&[(&long[27..], "/b")], "/b", false, "");
        let name = format!("/{}", "x".repeat(81));
        check(&[(&name, "/b")], "/b", false, "its name has 81 bytes");
        check(&[("/a/..", "/b")], "/b", false, "its name has 0 bytes");
        check(
            &[(&long, "/b")],
            "/b",
            false,
            "108 bytes; nobody can connect",
        );
        check(&[("a", "/b")], "/b", false, "on this host is not absolute");
        check(&[("/a", "b")], "/b", false, "must be absolute");
        check(&[("/a", "/")], "/b", false, "must be absolute");
        check(
            &[("/a", "/b"), ("/a", "/c")],
            "/b",
            false,
            "/a: it is to be two",
        );
        check(&[], SSH_AUTH_SOCK, false, "");
        check(&[], SSH_AUTH_SOCK, true, "where the SSH agent is");
    }

    #[test]
    fn links_on_the_way_to_a_socket_are_followed_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.join("link")).unwrap();
        for (path, expect) in [
            ("real/a", "real/a"),
            ("link/a", "real/a"),
            ("link/none/a", "real/none/a"),
            ("link/../a", "a"),
            // What is at the path itself is in the way, and not followed.
            ("link", "link"),
        ] {
            assert_eq!(resolve(&dir.join(path)), dir.join(expect));
        }
        let published = |name: &str| PublishedSocket {
            host: dir.join(name),
            container: "/a".to_owned(),
        };
        let request = CreateRequest {
            sockets: vec![published("real/a"), published("link/a")],
            ..CreateRequest::default()
        };
        let said = plan(&request, Vec::new()).unwrap_err().to_string();
        assert!(said.contains("it is to be two sockets at once"), "{said}");
    }

    #[test]
    fn a_variable_that_is_set_stays() {
        let mut env = vec!["A=b".to_owned()];
        environment(false, &mut env);
        assert_eq!(env, ["A=b"]);
        environment(true, &mut env);
        assert_eq!(env[1], format!("SSH_AUTH_SOCK={SSH_AUTH_SOCK}"));
        let mut own = vec!["SSH_AUTH_SOCK=/x".to_owned()];
        environment(true, &mut own);
        assert_eq!(own, ["SSH_AUTH_SOCK=/x"]);
    }
}
