//! Confinement of a program that is about to be executed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use seccompiler::BpfProgram;

use super::{ConfineError, Level, denied, filters, landlock, limits, namespaces, no_new_privs};

/// What a spawned program may reach. Descriptors that it inherits work regardless.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Files and folders to read and execute: the program, its libraries and firmware.
    pub read: Vec<PathBuf>,
    /// Files and folders to change in any way.
    pub read_write: Vec<PathBuf>,
    /// Device nodes: read, write, ioctl.
    pub devices: Vec<PathBuf>,
    /// Whether sockets may be made, connected and waited on. Without it there are none but what is inherited, and pairs.
    pub network: bool,
}

/// A confinement that is ready to be put in force in a child.
#[derive(Debug)]
pub struct Prepared {
    ruleset: Option<OwnedFd>,
    filters: Vec<BpfProgram>,
    level: Level,
    namespaces: bool,
    data: Option<u64>,
}

/// Prepares everything that allocates or opens; the child only makes a few system calls.
pub fn for_spawn(rules: &Rules) -> Result<Prepared, ConfineError> {
    Ok(Prepared {
        ruleset: landlock::allow(rules)?,
        filters: denied::spawned(rules.network)?,
        level: super::available(),
        namespaces: false,
        data: None,
    })
}

/// What is put around `gourd-vmm` before it runs: no new privileges and no core file. The rest it does itself, when it has
/// made what it needs.
pub fn for_ourselves() -> Prepared {
    Prepared {
        ruleset: None,
        filters: Vec::new(),
        level: super::available(),
        namespaces: false,
        data: None,
    }
}

impl Prepared {
    /// In namespaces of its own, where the host allows it: not for a program that looks at whose a file is, for there are
    /// no users in them.
    pub fn in_namespaces(mut self) -> Prepared {
        self.namespaces = !namespaces::restricted();
        self
    }

    /// With at most so many bytes of private writable memory (`RLIMIT_DATA`), its stacks included. What processes share,
    /// a guest's memory beside QEMU among it, does not count.
    pub fn with_memory(mut self, bytes: u64) -> Prepared {
        self.data = Some(bytes);
        self
    }

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
        limits::set(self.data)?;
        if self.namespaces {
            namespaces::enter();
        }
        no_new_privs()?;
        if let Some(ruleset) = &self.ruleset {
            landlock::restrict_self(ruleset)?;
        }
        if self.level.seccomp && !self.filters.is_empty() {
            // SAFETY: getpid has no preconditions. The number stays the same when the program is executed.
            let own = denied::own_signals(unsafe { libc::getpid() });
            filters::install(&own)?;
            for filter in &self.filters {
                filters::install(filter)?;
            }
        }
        Ok(())
    }
}
