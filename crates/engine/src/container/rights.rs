//! What a container may do and use, checked: capabilities, limits, kernel parameters, memory file systems.

use std::collections::BTreeMap;

use proto::CAPABILITIES;
use store::container::{Tmpfs, Ulimit};

use super::CreateRequest;
use crate::Error;

/// A capability's whole name (`CAP_NET_ADMIN`), or `ALL`; `None` when Linux has none of this name. Upper and lower case are
/// the same, `CAP_` may be left out.
#[must_use]
pub fn capability(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Some(upper);
    }
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    CAPABILITIES
        .contains(&short)
        .then(|| format!("CAP_{short}"))
}

/// Whole names, each once.
pub(super) fn capabilities(what: &'static str, names: &[String]) -> Result<Vec<String>, Error> {
    let mut whole = Vec::new();
    for name in names {
        let known = capability(name)
            .ok_or_else(|| Error::invalid(what, format!("Linux has none called {name:?}")))?;
        if !whole.contains(&known) {
            whole.push(known);
        }
    }
    Ok(whole)
}

/// Each name once, sorted.
pub(super) fn ulimits(limits: &[Ulimit]) -> Result<Vec<Ulimit>, Error> {
    let mut by_name = BTreeMap::new();
    for limit in limits {
        if limit.soft > limit.hard {
            let reason = format!(
                "{}: the soft limit {} is above the hard one, {}",
                limit.name, limit.soft, limit.hard
            );
            return Err(Error::invalid("ulimit", reason));
        }
        by_name.insert(&limit.name, limit.clone());
    }
    Ok(by_name.into_values().collect())
}

/// Kernel parameters that a container has to itself, by how they begin, and single ones: Docker's list.
const SYSCTL_TREES: [&str; 2] = ["net.", "fs.mqueue."];
const SYSCTLS: [&str; 9] = [
    "kernel.domainname",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Names of /proc/sys with dots, values of one line.
pub(super) fn sysctls(wanted: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in wanted {
        let character = |byte: u8| byte.is_ascii_alphanumeric() || b"_-/:@".contains(&byte);
        let good = |part: &str| !part.is_empty() && part.bytes().all(character);
        // A slash stands for a dot in a name, as sysctl(8) has it; it must not lead elsewhere.
        if !name.split('.').all(good) || name.split('/').any(|part| part.is_empty() || part == "..")
        {
            let reason = format!("{name:?} is no kernel parameter, such as net.core.somaxconn");
            return Err(Error::invalid("sysctl", reason));
        }
        // sysctl(8) takes both.
        let dotted = match name.find(['.', '/']) {
            Some(at) if name[at..].starts_with('/') => name.replace('/', "."),
            _ => name.clone(),
        };
        let own = SYSCTLS.contains(&dotted.as_str())
            || SYSCTL_TREES.iter().any(|tree| dotted.starts_with(tree));
        if !own {
            let reason = format!(
                "{name} is not the container's own: it can be of {}* and {}*, or one of {}",
                SYSCTL_TREES[0],
                SYSCTL_TREES[1],
                SYSCTLS.join(", ")
            );
            return Err(Error::invalid("sysctl", reason));
        }
        if value.contains(['\n', '\0']) {
            let reason = format!("{name}: {value:?} is more than a line");
            return Err(Error::invalid("sysctl", reason));
        }
    }
    Ok(())
}

/// What a memory file system is mounted with, before what is asked for; Docker's.
const TMPFS_DEFAULTS: &str = "noexec,nosuid,nodev";

/// mount(8)'s words without a value, each with the one that takes it back.
const TMPFS_FLAGS: [[&str; 2]; 9] = [
    ["rw", "ro"],
    ["exec", "noexec"],
    ["suid", "nosuid"],
    ["dev", "nodev"],
    ["sync", "async"],
    ["atime", "noatime"],
    ["diratime", "nodiratime"],
    ["relatime", "norelatime"],
    ["strictatime", "nostrictatime"],
];

/// tmpfs(5)'s words with a value.
const TMPFS_VALUES: [&str; 7] = [
    "size",
    "mode",
    "uid",
    "gid",
    "nr_inodes",
    "nr_blocks",
    "mpol",
];

/// Memory file systems with whole options, each path once.
pub(super) fn tmpfs(wanted: &[Tmpfs]) -> Result<Vec<Tmpfs>, Error> {
    let mut mounts: Vec<Tmpfs> = Vec::new();
    for mount in wanted {
        let target = clean(&mount.target).ok_or_else(|| {
            let reason = format!(
                "{:?} is no absolute path below the root without \"..\"",
                mount.target
            );
            Error::invalid("tmpfs", reason)
        })?;
        let options = tmpfs_options(&mount.options)
            .map_err(|option| Error::invalid("tmpfs", format!("{option:?} is no option of it")))?;
        mounts.retain(|other| other.target != target);
        mounts.push(Tmpfs { target, options });
    }
    Ok(mounts)
}

/// The defaults, then what is asked for; of words that contradict each other the last one.
fn tmpfs_options(wanted: &str) -> Result<String, String> {
    let mut chosen: Vec<&str> = Vec::new();
    for option in TMPFS_DEFAULTS.split(',').chain(wanted.split(',')) {
        if option.is_empty() || option == "defaults" {
            continue;
        }
        let pair = TMPFS_FLAGS.iter().find(|pair| pair.contains(&option));
        let key = option.split_once('=').map(|(key, _)| key);
        match (pair, key) {
            (Some(pair), _) => chosen.retain(|other| !pair.contains(other)),
            (None, Some(key)) if TMPFS_VALUES.contains(&key) && !option.contains('\0') => {
                chosen.retain(|other| other.split_once('=').map(|(key, _)| key) != Some(key));
            }
            _ => return Err(option.to_owned()),
        }
        chosen.push(option);
    }
    Ok(chosen.join(","))
}

/// An absolute path without double or trailing slashes and dots.
pub(crate) fn clean(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.is_empty() || parts.contains(&"..") {
        return None;
    }
    Some(format!("/{}", parts.join("/")))
}

/// What is none of the others' business.
pub(super) fn check(request: &CreateRequest) -> Result<(), Error> {
    let score = request.oom_score_adj;
    if !(-1000..=1000).contains(&score) {
        let reason = format!("{score} is not between -1000 and 1000");
        return Err(Error::invalid("oom score adjustment", reason));
    }
    if request.shm_size == Some(0) {
        let reason = "0 bytes; leave it out for 64 MiB".to_owned();
        return Err(Error::invalid("size of /dev/shm", reason));
    }
    if let Some(group) = request
        .groups
        .iter()
        .find(|group| group.is_empty() || group.contains(['\0', '\n', ':']))
    {
        return Err(Error::invalid(
            "group",
            format!("{group:?} is no name and no number"),
        ));
    }
    if let Some(arg) = request
        .kernel_args
        .iter()
        .find(|arg| arg.is_empty() || arg.contains(char::is_control))
    {
        return Err(Error::invalid("kernel argument", format!("{arg:?}")));
    }
    sysctls(&request.sysctls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_names() {
        assert_eq!(capability("net_admin").as_deref(), Some("CAP_NET_ADMIN"));
        assert_eq!(capability("CAP_BPF").as_deref(), Some("CAP_BPF"));
        assert_eq!(capability("all").as_deref(), Some("ALL"));
        assert_eq!(capability("CAP_NOPE"), None);
        let twice = ["CHOWN", "cap_chown", "ALL"].map(str::to_owned);
        assert_eq!(
            capabilities("c", &twice).unwrap(),
            ["CAP_CHOWN".to_owned(), "ALL".to_owned()]
        );
    }

    /// Oracle: Docker's MergeTmpfsOptions.
    #[test]
    fn options_of_memory_file_systems() {
        let check = |wanted: &str, expect: Option<&str>| {
            assert_eq!(tmpfs_options(wanted).ok().as_deref(), expect, "{wanted:?}");
        };
        check("", Some("noexec,nosuid,nodev"));
        check("size=1m", Some("noexec,nosuid,nodev,size=1m"));
        check("exec,mode=1777", Some("nosuid,nodev,exec,mode=1777"));
        check(
            "size=1m,defaults,size=2m,ro",
            Some("noexec,nosuid,nodev,size=2m,ro"),
        );
        check("nope", None);
        check("huge=always", None);
        check("size", None);
    }

    #[test]
    fn paths() {
        let check = |path: &str, expect: Option<&str>| {
            assert_eq!(clean(path).as_deref(), expect, "{path:?}");
        };
        check("/run/", Some("/run"));
        check("//a/./b", Some("/a/b"));
        check("/", None);
        check("/a/../b", None);
        check("a", None);
    }

    #[test]
    fn parameters() {
        let check = |name: &str, value: &str, expect: bool| {
            let wanted = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert_eq!(sysctls(&wanted).is_ok(), expect, "{name:?} {value:?}");
        };
        check("net.ipv4.ip_forward", "1", true);
        check("net/core/somaxconn", "9", true);
        check("vm.max_map_count", "262144", false);
        check("network.x", "1", false);
        check("net.ipv4.conf.eth0/1.forwarding", "1", true);
        check("kernel.sem", "1 2 3 4", true);
        check("", "1", false);
        check("a..b", "1", false);
        check("../x", "1", false);
        check("a/../b", "1", false);
        check("a b", "1", false);
        check("net.b", "1\n2", false);
    }
}
