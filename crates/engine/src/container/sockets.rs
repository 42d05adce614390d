//! Unix sockets of host and container that lead to each other: what may be asked for, and what `inspect` says.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use store::container::{SSH_AUTH_SOCK, Socket, Spec, Way};

use super::{CreateRequest, rights};
use crate::Error;

/// Bytes of a path that an address of a unix socket has room for (unix(7): 108 with the NUL).
const LONGEST: usize = 107;

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
    let mut taken: HashSet<&Path> = HashSet::new();
    let mut sockets = mounted;
    for published in &request.sockets {
        sockets.push(check(published)?);
        if !taken.insert(&published.host) {
            return Err(invalid(&published.host, "it is to be two sockets at once"));
        }
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
    let len = host.as_os_str().len();
    if len > LONGEST {
        let reason = format!("{len} bytes; nobody can connect to a path of more than {LONGEST}");
        return Err(invalid(host, &reason));
    }
    let clean = rights::clean(container).ok_or_else(|| {
        let reason = "the path in the container must be absolute, without \"..\"";
        invalid(Path::new(container), reason)
    })?;
    Ok(Socket {
        way: Way::Publish,
        host: host.clone(),
        container: clean,
    })
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
        let long = format!("/{}", "x".repeat(107));
        check(&[("/a", "/b")], "/b", true, "");
        check(&[(&long[..107], &long)], "/b", false, "");
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
