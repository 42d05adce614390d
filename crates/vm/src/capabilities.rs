//! Which capabilities a process keeps: Docker's default set, and what `--cap-drop` and `--cap-add` make of it.

use proto::supervisor::{Failure, failure::Kind};

use crate::failure;

/// What Docker leaves a container's root.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The others that Linux 6.12 has (`linux/capability.h`).
const OTHERS: [&str; 27] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Every one.
const ALL: &str = "ALL";

/// The names (`CAP_…`) that a process keeps. Drops come first: what is added stays. Only from `ALL` drops take away, as
/// Docker does it.
///
/// # Errors
/// A name that no capability has.
pub fn kept(drop: &[String], add: &[String]) -> Result<Vec<String>, Failure> {
    let drop = names(drop)?;
    let add = names(add)?;
    let every = || DEFAULT.iter().chain(&OTHERS).copied();
    let mut kept: Vec<&str> = if add.contains(&ALL) {
        every().filter(|name| !drop.contains(name)).collect()
    } else {
        let left = DEFAULT.into_iter();
        let mut kept: Vec<&str> = left
            .filter(|name| !drop.contains(&ALL) && !drop.contains(name))
            .collect();
        kept.extend(add);
        kept
    };
    kept.sort_unstable();
    kept.dedup();
    Ok(kept.into_iter().map(|name| format!("CAP_{name}")).collect())
}

/// Names as people type them: with or without `CAP_`, in any case.
fn names(typed: &[String]) -> Result<Vec<&'static str>, Failure> {
    let name = |typed: &String| {
        let upper = typed.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let known = [ALL].into_iter().chain(DEFAULT).chain(OTHERS);
        known
            .into_iter()
            .find(|known| *known == short)
            .ok_or_else(|| Failure {
                kind: Kind::Invalid.into(),
                ..failure::own(
                    "look up the capability",
                    typed,
                    "there is none of this name",
                )
            })
    };
    typed.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Oracle: `TweakCapabilities` of moby, by hand.
    #[test]
    fn drops_come_before_additions() {
        let check = |drop: &str, add: &str, expect: &str| {
            let kept = kept(&words(drop), &words(add)).unwrap().join(" ");
            assert_eq!(kept.replace("CAP_", ""), expect, "drop {drop}, add {add}");
        };
        let default = DEFAULT.join(" ");
        check("", "", &default);
        check("NET_ADMIN", "", &default);
        check("ALL", "", "");
        check("all", "net_admin cap_kill", "KILL NET_ADMIN");
        check("chown KILL", "chown", &default.replace(" KILL", ""));
        check("", "KILL", &default);
    }

    #[test]
    fn all_is_every_one() {
        let count = |drop: &str| kept(&words(drop), &words("ALL")).unwrap().len();
        assert_eq!(count(""), 41);
        assert_eq!(count("NET_ADMIN CAP_CHOWN"), 39);
        assert_eq!(count("ALL"), 41);
    }

    #[test]
    fn an_unknown_name_is_named() {
        let failure = kept(&[], &words("NET_ADMIN FLY")).unwrap_err();
        assert_eq!(failure.object, "FLY");
        assert_eq!(failure.kind(), Kind::Invalid);
    }
}
