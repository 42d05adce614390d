//! The VM's one container: what of it exists, and how its processes are started.
//!
//! ```text
//!          Boot             Start "main"           main ends            Shutdown
//! empty ─────────► booted ───────────────► runs ──────────────► over ───────────► the VM ends
//!                                           └ Start of others, Signal, Resize, Stop; Wait, also afterwards
//! ```
//!
//! Owned by the agent's one thread; the lock is never held across an `await`.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::agent::{BootRequest, StartRequest, Sysctl};

use rustix::process::Resource;

use super::boot::Booted;
use super::mounts::Mounts;
use super::networks::Devices;
use super::process::Process;
use super::spawn::{self, ChildEnds};
use super::stdio::{self, Dialling, Direction, Ends};
use super::stream::{Dial, Stream};
use super::terminal::{self, Terminal};
use crate::failure::{Failed, Step};
use crate::helper::Instructions;
use crate::rlimits;

/// The name of the container's first process.
pub(super) const MAIN: &str = "main";

/// Open files of the agent.
const FILES: u64 = 1 << 20;

/// Ended processes that can still be asked about, as long as no more than that run.
const MOST_REMEMBERED: usize = 1024;

/// `SIGKILL`.
pub(super) const KILL: u32 = libc::SIGKILL as u32;

/// Everything that the calls share.
#[derive(Default)]
pub(super) struct State {
    /// Whether `Boot` was called: a second one would find half of its work done.
    pub(super) boot_tried: bool,
    pub(super) container: Option<Container>,
    pub(super) mounts: Mounts,
    pub(super) devices: Devices,
}

/// A container that was booted.
pub(super) struct Container {
    pub(super) id: String,
    pub(super) hostname: String,
    pub(super) booted: Booted,
    /// `None` while it starts. Ended processes stay, for those who ask later.
    pub(super) processes: HashMap<String, Option<Arc<Process>>>,
    /// For the namespaces that its first process makes.
    pub(super) sysctls: Vec<Sysctl>,
    /// Whether its control group is frozen, or about to be.
    pub(super) paused: bool,
    /// Helpers that read or write the container's files.
    pub(super) transfers: Vec<Arc<Process>>,
    /// The namespaces of the first process: the last reference to them takes them down, which its end shall not wait for.
    pub(super) namespaces: Vec<OwnedFd>,
}

/// Whether it has not ended.
fn is_running(process: &Option<Arc<Process>>) -> bool {
    process
        .as_ref()
        .is_none_or(|process| !process.exit().ended())
}

/// The state, whatever became of who held it before.
pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The container of this id.
    pub(super) fn container(&mut self, id: &str) -> Result<&mut Container, Failed> {
        self.container
            .as_mut()
            .filter(|container| container.id == id)
            .ok_or_else(|| Failed::invalid("find container", id, "no such container"))
    }
}

/// The agent's ends of a process's streams.
struct HostEnds {
    stdin: Option<(
        Dialling,
        Arc<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
    )>,
    out: Vec<(
        Option<Dialling>,
        Arc<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
    )>,
}

/// Starts a process to the end: its name is taken while this runs, and free again when it fails.
pub(super) async fn start<D: Dial>(
    dial: Arc<D>,
    state: Arc<Mutex<State>>,
    request: StartRequest,
) -> Result<Arc<Process>, Failed> {
    lock(&state)
        .container(&request.container)?
        .reserve(&request.process)?;
    let started = launch(&*dial, &state, &request).await;
    if let Ok(container) = lock(&state).container(&request.container) {
        match &started {
            Ok(process) => {
                if request.process == MAIN {
                    container.namespaces = process.namespaces();
                }
                let process = Some(Arc::clone(process));
                container.processes.insert(request.process, process);
            }
            Err(_) => {
                container.processes.remove(&request.process);
            }
        }
    }
    started
}

impl Container {
    /// A container whose root is ready.
    pub(super) fn new(request: &BootRequest, booted: Booted) -> Self {
        Self {
            id: request.container.clone(),
            hostname: request.hostname.clone(),
            sysctls: request.sysctls.clone(),
            booted,
            processes: HashMap::new(),
            paused: false,
            transfers: Vec::new(),
            namespaces: Vec::new(),
        }
    }

    /// The first process, if it runs.
    pub(super) fn running(&self) -> Option<Arc<Process>> {
        let main = self.processes.get(MAIN)?.clone()?;
        Some(main).filter(|main| !main.exit().ended())
    }

    /// Health checks run for as long as the container does: the process that has ended the longest ago goes, when there
    /// are many.
    fn forget_old_ones(&mut self) {
        if self.processes.len() < MOST_REMEMBERED {
            return;
        }
        let ended = |process: &Arc<Process>| process.exit().now().map(|exit| exit.exited_ns);
        let oldest = self
            .processes
            .iter()
            .filter(|(name, _)| *name != MAIN)
            .filter_map(|(name, process)| Some((ended(process.as_ref()?)?, name.clone())))
            .min();
        if let Some((_, name)) = oldest {
            self.processes.remove(&name);
        }
    }

    /// Ends every process; returns those to wait for.
    pub(super) fn kill_all(&mut self) -> (Result<(), Failed>, Vec<Arc<Process>>) {
        let mut result = Ok(());
        if self.processes.values().any(is_running) {
            result = self.booted.cgroup.kill();
        }
        // A frozen process dies of KILL too; this is for what the kernel may still have to do in it.
        result = result.and(self.thaw());
        let processes: Vec<_> = self.processes.values().flatten().cloned().collect();
        if result.is_err() {
            for process in &processes {
                // Gone is what it should be.
                let _ = process.signal(KILL);
            }
        }
        for transfer in &self.transfers {
            let _ = transfer.signal(KILL);
        }
        // What is mounted in them would keep the disks busy.
        self.namespaces.clear();
        (
            result,
            [processes, std::mem::take(&mut self.transfers)].concat(),
        )
    }

    /// Lets the processes go on, if they are paused.
    pub(super) fn thaw(&mut self) -> Result<(), Failed> {
        if std::mem::take(&mut self.paused) {
            self.booted.cgroup.freeze(false)?;
        }
        Ok(())
    }

    fn reserve(&mut self, name: &str) -> Result<(), Failed> {
        if self.processes.contains_key(name) {
            return Err(Failed::invalid("start process", name, "it exists already"));
        }
        if name != MAIN && !self.processes.get(MAIN).is_some_and(Option::is_some) {
            return Err(Failed::invalid(
                "start process",
                name,
                "the container is not running",
            ));
        }
        if name != MAIN {
            // Each holds some streams: many at once are more than the kernel's own limit lets through. Not on the way of
            // the first process, which would inherit it.
            rlimits::set(Resource::Nofile, FILES, FILES).step("set limit", "RLIMIT_NOFILE")?;
        }
        if self.paused {
            // It would be born frozen, and nobody could tell whether it started.
            return Err(Failed::invalid(
                "start process",
                name,
                "the container is paused",
            ));
        }
        self.forget_old_ones();
        self.processes.insert(name.to_owned(), None);
        Ok(())
    }
}

async fn launch<D: Dial>(
    dial: &D,
    state: &Mutex<State>,
    request: &StartRequest,
) -> Result<Arc<Process>, Failed> {
    let spec = request.spec.clone().unwrap_or_default();
    let tty = spec.tty;
    let stdio = request.stdio.clone().unwrap_or_default();
    // The connections are on their way while the helper works.
    let dials = [&stdio.stdin, &stdio.stdout, &stdio.stderr].map(|id| Dialling::begin(dial, id));
    let (starting, ends) = {
        let mut state = lock(state);
        let container = state.container(&request.container)?;
        let [stdin, stdout, stderr] = dials;
        let dials = [stdin?, stdout?, stderr?];
        let (children, ends, terminal) = if tty {
            on_terminal(&container.booted, &spec, dials)?
        } else {
            on_pipes(dials)?
        };
        let instructions = Instructions {
            process: Some(spec),
            rootfs: container.booted.rootfs.display().to_string(),
            hostname: container.hostname.clone(),
            sysctls: container.sysctls.clone(),
            join: 0,
        };
        let first = match request.process.as_str() {
            MAIN => None,
            _ => container.processes.get(MAIN).and_then(Option::as_deref),
        };
        let cgroup = &container.booted.cgroup;
        let starting = spawn::spawn(instructions, first, children, terminal, cgroup)?;
        (starting, ends)
    };
    let streams = connect(ends, &starting.process).await;
    if streams.is_err() {
        // It may have ended by itself.
        let _ = starting.process.signal(KILL);
    }
    let started = starting.finish().await;
    streams.and(started)
}

type Streams = (ChildEnds, HostEnds, Option<Terminal>);

fn on_pipes([stdin, stdout, stderr]: [Option<Dialling>; 3]) -> Result<Streams, Failed> {
    let input = Ends::make(Direction::In, stdin.is_some())?;
    let output = Ends::make(Direction::Out, stdout.is_some())?;
    let errors = Ends::make(Direction::Out, stderr.is_some())?;
    let children = ChildEnds {
        stdin: input.child,
        stdout: output.child,
        stderr: errors.child,
    };
    let out = [(stdout, output.ours), (stderr, errors.ours)];
    let ends = HostEnds {
        stdin: stdin.zip(input.ours),
        out: out
            .into_iter()
            .filter_map(|(dialling, pipe)| Some((dialling, pipe?)))
            .collect(),
    };
    Ok((children, ends, None))
}

fn on_terminal(
    booted: &Booted,
    spec: &proto::agent::Process,
    [stdin, stdout, _]: [Option<Dialling>; 3],
) -> Result<Streams, Failed> {
    let (master, process) = terminal::open(&booted.rootfs, spec.size.as_ref())?;
    let again = || process.try_clone().step("duplicate", "the terminal");
    let children = ChildEnds {
        stdin: again()?,
        stdout: again()?,
        stderr: process,
    };
    let terminal = Terminal::of(&master);
    let ends = HostEnds {
        stdin: stdin.map(|dialling| (dialling, Arc::clone(&master))),
        out: vec![(stdout, master)],
    };
    Ok((children, ends, Some(terminal)))
}

/// Waits for the connections and lets the copying begin.
async fn connect(ends: HostEnds, process: &Process) -> Result<(), Failed> {
    for (dialling, from) in ends.out {
        let to: Option<Stream> = match dialling {
            Some(dialling) => Some(dialling.finish().await?),
            None => None,
        };
        tokio::spawn(stdio::copy_out(from, to, process.exit()));
    }
    if let Some((dialling, to)) = ends.stdin {
        let from = dialling.finish().await?;
        tokio::spawn(stdio::copy_in(from, to, process.exit()));
    }
    Ok(())
}
