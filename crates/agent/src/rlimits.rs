//! Resource limits by name.

use rustix::process::{Resource, Rlimit};

/// `RLIM_INFINITY`.
const INFINITY: u64 = u64::MAX;

/// How many open files the kernel gives a process that nobody asked about: soft and hard (`INR_OPEN_CUR`, `INR_OPEN_MAX`).
pub(crate) const KERNELS_FILES: (u64, u64) = (1024, 4096);

/// The resource that a name as `RLIMIT_NOFILE` means.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_STACK" => Resource::Stack,
        _ => return None,
    })
}

/// Sets a limit of this process.
pub(crate) fn set(resource: Resource, soft: u64, hard: u64) -> rustix::io::Result<()> {
    let limit = |value| Some(value).filter(|value| *value != INFINITY);
    rustix::process::setrlimit(
        resource,
        Rlimit {
            current: limit(soft),
            maximum: limit(hard),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(resource("RLIMIT_NOFILE"), Some(Resource::Nofile));
        assert_eq!(resource("NOFILE"), None);
        assert_eq!(resource(""), None);
    }

    #[test]
    fn a_limit_is_set() {
        let now = rustix::process::getrlimit(Resource::Core);
        set(Resource::Core, 0, now.maximum.unwrap_or(INFINITY)).unwrap();
        assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(0));
    }
}
