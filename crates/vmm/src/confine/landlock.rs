//! Landlock rulesets, best effort: what the kernel does not know is left out.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::{ConfineError, Rules};

/// The newest ABI whose rights we ask for: the newest that the library knows. What the kernel does not know is left out.
const WANTED: ABI = ABI::V10;

/// The kernel's ABI, 0 without Landlock.
pub fn kernel_abi() -> u32 {
    const CREATE_RULESET_VERSION: u32 = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: with this flag the call takes no attributes and answers a number.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            none,
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(abi).unwrap_or(0)
}

fn ruleset(network: bool) -> Result<RulesetCreated, landlock::RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?;
    if !network {
        ruleset = ruleset.handle_access(AccessNet::from_all(WANTED))?;
    }
    ruleset.scope(Scope::from_all(WANTED))?.create()
}

/// A ruleset that allows nothing; `None` without Landlock.
pub fn deny_all() -> Result<Option<OwnedFd>, ConfineError> {
    ruleset(false)
        .map(Option::from)
        .map_err(ConfineError::Landlock)
}

/// A ruleset that allows what the rules say. Paths that do not exist are left out.
pub fn allow(rules: &Rules) -> Result<Option<OwnedFd>, ConfineError> {
    let mut created = ruleset(rules.network).map_err(ConfineError::Landlock)?;
    let read = AccessFs::from_read(WANTED);
    // To talk to whoever listens there is no way of changing a file.
    let write = AccessFs::from_all(WANTED) & !AccessFs::ResolveUnix;
    // Character devices (ioctl), but neither made nor removed.
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    for (paths, access) in [
        (&rules.read, read),
        (&rules.read_write, write),
        (&rules.devices, device),
    ] {
        for path in paths {
            created = add(created, path, access).map_err(ConfineError::Landlock)?;
        }
    }
    Ok(created.into())
}

/// A ruleset that allows what is beneath these descriptors: to be read, and to be changed where it is said so. Nothing is run,
/// and no device is made or asked.
pub fn allow_beneath(reach: &[(OwnedFd, bool)]) -> Result<Option<OwnedFd>, ConfineError> {
    let mut created = ruleset(false).map_err(ConfineError::Landlock)?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let never = AccessFs::Execute
        | AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::IoctlDev
        | AccessFs::ResolveUnix;
    let write = AccessFs::from_all(WANTED) & !never;
    for (fd, writable) in reach {
        let access = if *writable { write } else { read };
        created = created
            .add_rule(PathBeneath::new(fd, access))
            .map_err(ConfineError::Landlock)?;
    }
    Ok(created.into())
}

fn add(
    created: RulesetCreated,
    path: &PathBuf,
    access: landlock::BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    match PathFd::new(path) {
        Ok(fd) => created.add_rule(PathBeneath::new(fd, access)),
        Err(_) => Ok(created),
    }
}

/// Puts a ruleset in force for the calling thread. Only this system call; safe between fork and exec.
pub fn restrict_self(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes a descriptor and flags.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
