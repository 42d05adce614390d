//! Kernel parameters of the container's own namespaces (Docker's `--sysctl`).

use proto::agent::Sysctl;
use rustix::io::Errno;

use crate::failure::{Failed, Step};

/// Those that a container has to itself; the rest is the VM's. As runc (`libcontainer/configs/validate`).
const NAMES: [&str; 9] = [
    "kernel/domainname",
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// The same, by how they begin.
const TREES: [&str; 2] = ["fs/mqueue/", "net/"];

/// Sets one. This process is in the new namespaces, and /proc still the VM's: what it shows of these follows the reader.
pub(super) fn set(sysctl: &Sysctl) -> Result<(), Failed> {
    let name = &sysctl.name;
    let path = path(name).ok_or_else(|| {
        Failed::invalid(
            "set sysctl",
            name,
            "it is not in a separate kernel namespace",
        )
    })?;
    match std::fs::write(&path, &sysctl.value) {
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
            Err(Failed::invalid("set sysctl", name, "no such sysctl"))
        }
        result => result.step("set sysctl", format!("{name}={}", sysctl.value)),
    }
}

/// Where it is; `None` for what is not the container's. As sysctl(8): with a dot as the first separator dots separate,
/// and a slash stands for a dot in a name; with a slash it is the other way round.
fn path(name: &str) -> Option<String> {
    let dots = name
        .find(['.', '/'])
        .is_none_or(|at| name[at..].starts_with('.'));
    let path: String = name
        .chars()
        .map(|character| match character {
            '.' if dots => '/',
            '/' if dots => '.',
            other => other,
        })
        .collect();
    let proper = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let ours = NAMES.contains(&path.as_str()) || TREES.iter().any(|tree| path.starts_with(tree));
    (proper && ours).then(|| format!("/proc/sys/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_where_they_are() {
        let check = |name, expect: Option<&str>| {
            let expect = expect.map(|path| format!("/proc/sys/{path}"));
            assert_eq!(path(name), expect, "{name}");
        };
        check("net.ipv4.ip_forward", Some("net/ipv4/ip_forward"));
        check(
            "net/ipv4/conf/eth0.1/forwarding",
            Some("net/ipv4/conf/eth0.1/forwarding"),
        );
        check(
            "net.ipv4.conf.eth0/1.forwarding",
            Some("net/ipv4/conf/eth0.1/forwarding"),
        );
        check("kernel.shmmax", Some("kernel/shmmax"));
        check("fs.mqueue.msg_max", Some("fs/mqueue/msg_max"));
        check("kernel.panic", None);
        check("vm.swappiness", None);
        check("net", None);
        check("net.", None);
        check("net/../kernel/panic", None);
        check("net.ipv4...x", None);
        check("", None);
    }
}
