//! Confinement of a program that is about to be executed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use seccompiler::BpfProgram;

use super::{ConfineError, Level, filters, landlock, no_new_privs};

/// What a spawned program may reach. Descriptors that it inherits work regardless.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Files and folders to read and execute: the program, its libraries and firmware.
    pub read: Vec<PathBuf>,
    /// Files and folders to change in any way.
    pub read_write: Vec<PathBuf>,
    /// Device nodes: read, write, ioctl.
    pub devices: Vec<PathBuf>,
    /// Whether sockets other than `AF_UNIX` may be made.
    pub network: bool,
}

/// A confinement that is ready to be put in force in a child.
#[derive(Debug)]
pub struct Prepared {
    ruleset: Option<OwnedFd>,
    filters: Vec<BpfProgram>,
    level: Level,
}

/// Prepares everything that allocates or opens; the child only makes a few system calls.
pub fn for_spawn(rules: &Rules) -> Result<Prepared, ConfineError> {
    Ok(Prepared {
        ruleset: landlock::allow(rules)?,
        filters: filters::spawned(rules.network)?,
        level: super::available(),
    })
}

impl Prepared {
    /// The level that the child will have.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Confines the calling thread. Async-signal-safe: for `CommandExt::pre_exec`, as the last step, with the other
    /// steps' own needs done before.
    ///
    /// ```no_run
    /// use std::os::unix::process::CommandExt;
    /// let rules = vmm::confine::Rules { read: vec!["/usr".into()], ..Default::default() };
    /// let prepared = vmm::confine::for_spawn(&rules)?;
    /// let mut command = std::process::Command::new("/usr/bin/qemu-system-x86_64");
    /// // SAFETY: `apply` makes system calls only.
    /// unsafe { command.pre_exec(move || prepared.apply()) };
    /// # Ok::<(), vmm::confine::ConfineError>(())
    /// ```
    pub fn apply(&self) -> io::Result<()> {
        no_new_privs()?;
        if let Some(ruleset) = &self.ruleset {
            landlock::restrict_self(ruleset)?;
        }
        if self.level.seccomp {
            filters::install(&self.filters)?;
        }
        Ok(())
    }
}
