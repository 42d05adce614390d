//! What a driver is and what a running VM can do.
//!
//! Both traits are dyn-compatible: the supervisor holds a `Box<dyn Driver>` and a `Box<dyn Vm>` and knows no driver
//! by name.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::config::{DriverKind, VmConfig};
use crate::validate::ConfigErrors;

/// Why a driver or a VM did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration can't be run by this driver.
    #[error("the VM's configuration is wrong")]
    Config(#[source] ConfigErrors),
    /// A monitor program is missing.
    #[error("the program {program} was not found ({looked})")]
    MissingProgram {
        /// The program's name.
        program: String,
        /// Where it was looked for.
        looked: String,
    },
    /// A file that the VM is made of can't be opened.
    #[error("open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A path that was resolved when the container was made has a link in it.
    #[error("open {path}: {words}; {remedy}", words = crate::resolved::REPLACED, remedy = crate::resolved::REMEDY)]
    Replaced {
        /// The path.
        path: PathBuf,
    },
    /// A monitor could not be started.
    #[error("start {program}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A monitor could not be confined.
    #[error("confine a monitor")]
    Confine(#[source] vmm::confine::ConfineError),
    /// No driver works here.
    #[error("{what}: {why}")]
    Unavailable {
        /// The driver that was asked for, or that any was.
        what: String,
        /// Why it doesn't work.
        why: String,
        /// What a person can do about it, if anything.
        remedy: Option<String>,
    },
    /// A system call failed.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The VM ended before it could do what was asked.
    #[error("the VM is gone: {0}")]
    Gone(VmExit),
    /// The guest has no listener on this port.
    #[error("the guest refused a connection to its port {port}")]
    Refused {
        /// The guest's port.
        port: u32,
    },
    /// The configuration has no such component.
    #[error("the VM has no {component}")]
    Absent {
        /// The component, as `VmConfig` names it.
        component: &'static str,
    },
    /// There are not as many links as networks.
    #[error("the VM has {networks} network devices and got {links} links")]
    Links {
        /// Network devices.
        networks: usize,
        /// Links.
        links: usize,
    },
    /// The port is in use.
    #[error("something listens on the host's port {port} already")]
    PortInUse {
        /// The host's port.
        port: u32,
    },
    /// The monitor answered a command with an error.
    #[error("the monitor refused {command}: {reason}")]
    Monitor {
        /// The command.
        command: &'static str,
        /// The monitor's words.
        reason: String,
    },
}

/// The programs that a driver starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// `gourd-vmm`.
    pub vmm: PathBuf,
    /// `qemu-system-x86_64`; `None`: looked for in `PATH`.
    pub qemu: Option<PathBuf>,
}

/// What a start needs besides the configuration.
#[derive(Debug, Default)]
pub struct StartOptions {
    /// Leases. Every monitor process that could write inherits them, so that a lease is free only when all are dead.
    pub held: Vec<OwnedFd>,
    /// One connected `SOCK_DGRAM` unix socket for each of [`VmConfig::networks`], in its order: a datagram is an Ethernet frame
    /// without its check sequence.
    pub links: Vec<OwnedFd>,
    /// Host ports to listen on before the guest's first instruction. [`Started::listeners`] has the same order.
    /// A guest's connection to a port that nobody listens on is refused.
    pub listen: Vec<u32>,
}

impl StartOptions {
    /// Each network device has its link.
    pub(crate) fn check_links(&self, config: &VmConfig) -> Result<(), Error> {
        let (networks, links) = (config.networks.len(), self.links.len());
        if networks == links {
            Ok(())
        } else {
            Err(Error::Links { networks, links })
        }
    }
}

/// A VM that runs, and the listeners that were asked for.
pub struct Started {
    /// The VM.
    pub vm: Box<dyn Vm>,
    /// One listener for each port of [`StartOptions::listen`], in its order.
    pub listeners: Vec<Listener>,
}

/// Makes VMs run.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Which driver this is.
    fn kind(&self) -> DriverKind;

    /// How many of a guest's processors run at the same time, at most.
    fn parallelism(&self) -> u32;

    /// What is wrong with a configuration for this driver.
    fn validate(&self, config: &VmConfig) -> Result<(), ConfigErrors> {
        crate::validate::validate(config, self.kind())
    }

    /// Starts a VM. Returns as soon as the monitor processes run: nothing is waited for, the guest boots meanwhile.
    ///
    /// Must be called from a thread that lives as long as the VM: the monitors die with the *thread* that started them
    /// (`PR_SET_PDEATHSIG`). The main thread of a current-thread runtime is right; a blocking pool's thread is wrong.
    /// The runtime must have its I/O and time drivers enabled.
    async fn start(&self, config: &VmConfig, options: StartOptions) -> Result<Started, Error>;
}

/// The processors that this process may run on.
pub(crate) fn host_processors() -> u32 {
    let processors = std::thread::available_parallelism();
    processors.map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// A VM. Dropping it kills its monitors.
#[async_trait]
pub trait Vm: Send + Sync {
    /// Waits until every monitor process is gone. Any number of callers may wait, now or later: all get the same answer.
    async fn wait(&self) -> VmExit;

    /// Presses the power button, waits for `grace`, then kills. Returns when every monitor process is gone.
    async fn stop(&self, grace: Duration) -> VmExit;

    /// Stops the virtual processors. Devices stay.
    async fn pause(&self) -> Result<(), Error>;

    /// Lets the virtual processors run again.
    async fn resume(&self) -> Result<(), Error>;

    /// Connects to a port of the guest over vsock. Returns when the guest accepted.
    async fn connect(&self, port: u32) -> Result<UnixStream, Error>;

    /// Listens on a port of the host over vsock.
    async fn listen(&self, port: u32) -> Result<Listener, Error>;

    /// Asks the guest to give memory back until it has `size` bytes. Returns when the request is with the guest, which
    /// follows when it can.
    async fn balloon(&self, size: u64) -> Result<(), Error>;

    /// Takes the stream of a console with [`ConsoleOutput::Stream`](crate::config::ConsoleOutput::Stream), once.
    fn console(&self, index: usize) -> Result<UnixStream, Error>;

    /// The monitor processes' identifiers, by program name.
    fn processes(&self) -> Vec<(&'static str, u32)>;
}

/// Accepts the guest's connections to one port of the host. Dropping it refuses further ones.
pub struct Listener {
    port: u32,
    incoming: mpsc::Receiver<(UnixStream, u32)>,
    close: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Listener {
    /// A listener on `port` that gets connections from `incoming` and calls `close` when it is dropped.
    pub(crate) fn new(
        port: u32,
        incoming: mpsc::Receiver<(UnixStream, u32)>,
        close: Box<dyn FnOnce() + Send + Sync>,
    ) -> Self {
        Listener {
            port,
            incoming,
            close: Some(close),
        }
    }

    /// The host's port.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// The next connection and the guest's port that it comes from (below 1024: from a privileged process of the guest).
    /// `None`: the VM is gone.
    pub async fn accept(&mut self) -> Option<(UnixStream, u32)> {
        self.incoming.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(close) = self.close.take() {
            close();
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("port", &self.port)
            .finish()
    }
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct VmExit {
    /// Why.
    pub reason: ExitReason,
}

/// Why a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest asked for a reset (its kernel panicked with `panic=-1`, or it rebooted). VMs are not restarted in place.
    Reset,
    /// [`Vm::stop`] or dropping the VM killed it: the guest did not power off in time.
    Killed,
    /// Something broke: a monitor died, or the guest crashed.
    Crashed {
        /// What died and how, in words: a signal, an exit code, the monitor's own last words.
        what: String,
    },
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitReason::PoweredOff => f.write_str("the guest powered off"),
            ExitReason::Reset => f.write_str("the guest asked for a reset"),
            ExitReason::Killed => f.write_str("killed"),
            ExitReason::Crashed { what } => f.write_str(what),
        }
    }
}
