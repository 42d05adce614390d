//! Capabilities by name, and the giving up of those that a process shall not have.
//!
//! As Docker since 20.10.14: the set is bounding, permitted and effective; nothing is inheritable or ambient, so that a
//! user other than root has none after `execve` but what a file's capabilities give.

use proto::CAPABILITIES;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The set of `names` (with or without `CAP_`, in any case; `ALL` is every one), or the first name that is none.
pub(crate) fn parse<S: AsRef<str>>(names: &[S]) -> Result<CapabilitySet, &str> {
    let mut set = CapabilitySet::empty();
    for name in names {
        let upper = name.as_ref().to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if short == "ALL" {
            set |= every();
        } else {
            let number = CAPABILITIES.iter().position(|known| *known == short);
            set |= bit(number.ok_or(name.as_ref())?);
        }
    }
    Ok(set)
}

/// Every one that this program knows; more than this kernel has does no harm.
pub(crate) fn every() -> CapabilitySet {
    (0..CAPABILITIES.len()).fold(CapabilitySet::empty(), |set, number| set | bit(number))
}

fn bit(number: usize) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << number)
}

/// Takes everything but `keep` out of the bounding set. Needs `CAP_SETPCAP`, so it comes before the change of user.
pub(crate) fn bound(keep: CapabilitySet) -> Result<(), Errno> {
    for number in 0..u64::BITS as usize {
        if keep.contains(bit(number)) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(bit(number)) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Makes `keep` all that this thread has. Comes after the change of user.
pub(crate) fn reduce(keep: CapabilitySet) -> Result<(), Errno> {
    let held = rustix::thread::capabilities(None)?;
    let keep = keep & held.permitted;
    rustix::thread::clear_ambient_capability_set()?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: keep,
            permitted: keep,
            inheritable: CapabilitySet::empty(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        let check = |names: &[&str], bits| assert_eq!(parse(names).unwrap().bits(), bits);
        check(&[], 0);
        check(&["CAP_CHOWN", "cap_sys_admin"], 1 | 1 << 21);
        check(&["CHECKPOINT_RESTORE"], 1 << 40);
        check(&["ALL"], (1 << 41) - 1);
        // Docker's default set.
        let docker = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP \
            NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE";
        let names: Vec<_> = docker.split_whitespace().collect();
        check(&names, 0xa804_25fb);
    }

    #[test]
    fn an_unknown_name_is_named() {
        assert_eq!(parse(&["CAP_KILL", "CAP_NOPE"]).unwrap_err(), "CAP_NOPE");
    }
}
