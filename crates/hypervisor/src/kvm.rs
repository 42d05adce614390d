//! The driver `kvm`: gourd's own monitor, `gourd-vmm machine`.
//!
//! One process, which gets everything as open descriptors and one description on its control socket, and confines
//! itself before the guest's first instruction (`vmm::monitor`). Nothing is waited for on the way up: the description and
//! the ports to listen on lie in the socket before the process exists.

mod life;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::sync::watch;
use vmm::control::{Control, Msg};
use vmm::machine::{self, Machine};

use crate::config::{BootLoader, ConsoleOutput, DriverKind, VmConfig};
use crate::driver::{Driver, Error, ExitReason, Listener, StartOptions, Started, Vm, VmExit};
use crate::process::Process;
use crate::validate::MAX_COMMAND_LINE;
use crate::vsock::Vsock;
use life::{Axe, Life};

type StdStream = std::os::unix::net::UnixStream;

/// Makes VMs with `gourd-vmm`.
#[derive(Clone, Debug)]
pub struct Kvm {
    vmm: PathBuf,
}

impl Kvm {
    /// A driver that runs `vmm` (`gourd-vmm`).
    pub fn new(vmm: PathBuf) -> Kvm {
        Kvm { vmm }
    }
}

/// What the monitor inherits, the description that names it, and our ends of it.
struct Handed {
    keep: Vec<OwnedFd>,
    machine: Machine,
    streams: Vec<Option<UnixStream>>,
}

impl Handed {
    fn open(config: &VmConfig, links: Vec<OwnedFd>) -> Result<Handed, Error> {
        let mut keep = Vec::new();
        let mut number = |fd: OwnedFd| {
            keep.push(fd);
            keep[keep.len() - 1].as_raw_fd()
        };
        let BootLoader::Linux {
            kernel,
            initramfs,
            command_line,
        } = &config.boot
        else {
            return Err(Error::Absent {
                component: "kernel",
            });
        };
        let initramfs = match initramfs {
            Some(path) => Some(number(open(path, false)?)),
            None => None,
        };
        let mut machine = Machine {
            kvm: number(open(Path::new("/dev/kvm"), true)?),
            vcpus: config.vcpus,
            memory: config.memory,
            kernel: number(open(kernel, false)?),
            initramfs,
            command_line: fit_command_line(command_line),
            disks: Vec::new(),
            networks: Vec::new(),
            shares: Vec::new(),
            vsock: config.vsock.as_ref().map(|vsock| vsock.cid),
            consoles: Vec::new(),
            entropy: config.entropy,
            balloon: config.balloon.as_ref().map(|balloon| machine::Balloon {
                free_page_reporting: balloon.free_page_reporting,
            }),
            power_button: config.power_button,
            virtualization: config.virtualization,
        };
        for (network, link) in config.networks.iter().zip(links) {
            machine.networks.push(machine::Network {
                fd: number(link),
                mac: network.mac,
                mtu: network.mtu,
            });
        }
        for disk in &config.disks {
            machine.disks.push(machine::Disk {
                fd: number(open(&disk.path, !disk.read_only)?),
                id: disk.id.clone(),
                read_only: disk.read_only,
                discard: disk.discard,
                volatile: disk.volatile,
            });
        }
        for share in &config.shares {
            let mut folders = Vec::new();
            for folder in &share.folders {
                folders.push(machine::Folder {
                    fd: number(crate::qemu::open_folder(&folder.path)?),
                    name: folder.name.clone(),
                    read_only: folder.read_only,
                });
            }
            machine.shares.push(machine::Share {
                tag: share.tag.clone(),
                folders,
            });
        }
        let mut streams = Vec::new();
        for console in &config.consoles {
            let (console, stream) = match &console.output {
                ConsoleOutput::Log(path) => {
                    let log = open_log(path).map_err(open_error(path))?;
                    (machine::Console::Log(number(log.into())), None)
                }
                ConsoleOutput::Stream => {
                    let (ours, theirs) = StdStream::pair().map_err(system("socketpair"))?;
                    let stream = watched(ours)?;
                    (
                        machine::Console::Stream(number(theirs.into())),
                        Some(stream),
                    )
                }
            };
            machine.consoles.push(console);
            streams.push(stream);
        }
        Ok(Handed {
            keep,
            machine,
            streams,
        })
    }
}

#[async_trait]
impl Driver for Kvm {
    fn kind(&self) -> DriverKind {
        DriverKind::Kvm
    }

    fn parallelism(&self) -> u32 {
        crate::driver::host_processors()
    }

    async fn start(&self, config: &VmConfig, mut options: StartOptions) -> Result<Started, Error> {
        self.validate(config).map_err(Error::Config)?;
        if config.vsock.is_none() && !options.listen.is_empty() {
            return Err(Error::Absent { component: "vsock" });
        }
        options.check_links(config)?;
        let handed = Handed::open(config, std::mem::take(&mut options.links))?;
        let (control, their_control) = Control::pair().map_err(system("socketpair"))?;
        let description = serde_json::to_vec(&handed.machine)
            .map_err(|error| system("describe the machine")(error.into()))?;
        control
            .send_machine(&description)
            .map_err(|error| system("describe the machine")(error.into()))?;
        let (vsock, task) = Vsock::new(control).map_err(system("watch a socket"))?;
        let mut listeners = Vec::new();
        for &port in &options.listen {
            listeners.push(vsock.listen(port)?);
        }
        let mut command = Command::new(&self.vmm);
        command.env_clear().arg("machine").arg("--control-fd");
        command.arg(their_control.as_raw_fd().to_string());
        let mut keep: Vec<BorrowedFd<'_>> = handed.keep.iter().map(AsFd::as_fd).collect();
        keep.extend(options.held.iter().map(AsFd::as_fd));
        keep.push(their_control.as_fd());
        let around = crate::process::around_ours(config, config.memory);
        let process = Process::spawn("gourd-vmm", command, &keep, around).map_err(|source| {
            let program = self.vmm.clone();
            Error::Spawn { program, source }
        })?;
        drop(keep);
        Ok(assemble(
            config,
            process,
            vsock,
            task,
            listeners,
            handed.streams,
        ))
    }
}

/// The kernel's command line, led by what is true of every machine of this driver: it has no PCI. A kernel that is not told
/// looks for it by hundreds of port accesses, an exit each, and complains on the console, two exits a letter. The caller's
/// own words come later and win.
fn fit_command_line(line: &str) -> String {
    const MACHINE: &str = "pci=off";
    let whole = format!("{MACHINE} {line}");
    match whole.len() <= MAX_COMMAND_LINE {
        true => whole,
        false => line.to_owned(),
    }
}

/// Sets the tasks of a VM going whose process runs.
fn assemble(
    config: &VmConfig,
    process: Process,
    vsock: Vsock,
    task: impl Future<Output = vmm::control::ControlError> + Send + 'static,
    listeners: Vec<Listener>,
    streams: Vec<Option<UnixStream>>,
) -> Started {
    let axe = Axe::new(process.killer());
    let id = process.id();
    let life = Life {
        process,
        control: tokio::spawn(task),
        vsock: vsock.clone(),
        axe: axe.clone(),
    };
    let (sender, exit) = watch::channel(None);
    tokio::spawn(life.lead(sender));
    let vm = KvmVm {
        vsock,
        axe,
        exit,
        has_vsock: config.vsock.is_some(),
        power_button: config.power_button,
        memory: config.memory,
        balloon: config.balloon.is_some(),
        streams: Mutex::new(streams),
        id,
    };
    Started {
        vm: Box::new(vm),
        listeners,
    }
}

struct KvmVm {
    /// Speaks on the control socket, about vsock and all else.
    vsock: Vsock,
    axe: Axe,
    exit: watch::Receiver<Option<VmExit>>,
    has_vsock: bool,
    power_button: bool,
    /// In bytes.
    memory: u64,
    balloon: bool,
    streams: Mutex<Vec<Option<UnixStream>>>,
    id: u32,
}

impl KvmVm {
    fn vsock(&self) -> Result<&Vsock, Error> {
        let component = "vsock";
        let vsock = self.has_vsock.then_some(&self.vsock);
        vsock.ok_or(Error::Absent { component })
    }

    async fn ask(&self, msg: impl FnOnce(u32) -> Msg) -> Result<(), Error> {
        match self.vsock.ask(msg).await {
            Some(()) => Ok(()),
            None => Err(Error::Gone(self.wait().await)),
        }
    }
}

impl Drop for KvmVm {
    fn drop(&mut self) {
        if self.exit.borrow().is_none() {
            self.axe.fall();
        }
    }
}

#[async_trait]
impl Vm for KvmVm {
    async fn wait(&self) -> VmExit {
        let mut exit = self.exit.clone();
        let answer = exit.wait_for(Option::is_some).await;
        let answer = answer.ok().and_then(|exit| exit.clone());
        // The task that answers ends without an answer only with the runtime itself.
        answer.unwrap_or_else(|| VmExit {
            reason: ExitReason::Crashed {
                what: "the VM's supervisor is shutting down".into(),
            },
        })
    }

    async fn stop(&self, grace: Duration) -> VmExit {
        if self.power_button && !grace.is_zero() {
            self.vsock.tell(Msg::PowerButton);
            if let Ok(exit) = tokio::time::timeout(grace, self.wait()).await {
                return exit;
            }
        }
        if self.exit.borrow().is_none() {
            self.axe.fall();
        }
        self.wait().await
    }

    async fn pause(&self) -> Result<(), Error> {
        self.ask(|id| Msg::Pause { id }).await
    }

    async fn resume(&self) -> Result<(), Error> {
        self.ask(|id| Msg::Resume { id }).await
    }

    async fn connect(&self, port: u32) -> Result<UnixStream, Error> {
        match self.vsock()?.connect(port).await? {
            Some(stream) => Ok(stream),
            None => Err(Error::Gone(self.wait().await)),
        }
    }

    async fn listen(&self, port: u32) -> Result<Listener, Error> {
        self.vsock()?.listen(port)
    }

    async fn balloon(&self, size: u64) -> Result<(), Error> {
        if !self.balloon {
            let component = "balloon";
            return Err(Error::Absent { component });
        }
        let mib = self.memory.saturating_sub(size) >> 20;
        self.vsock.tell(Msg::Balloon {
            mib: u32::try_from(mib).unwrap_or(u32::MAX),
        });
        Ok(())
    }

    fn console(&self, index: usize) -> Result<UnixStream, Error> {
        let mut streams = match self.streams.lock() {
            Ok(streams) => streams,
            Err(poisoned) => poisoned.into_inner(),
        };
        let stream = streams.get_mut(index).and_then(Option::take);
        stream.ok_or(Error::Absent {
            component: "console stream of that number, or it is taken",
        })
    }

    fn processes(&self) -> Vec<(&'static str, u32)> {
        vec![("gourd-vmm", self.id)]
    }
}

fn open(path: &Path, write: bool) -> Result<OwnedFd, Error> {
    let file = OpenOptions::new().read(true).write(write).open(path);
    file.map(OwnedFd::from).map_err(open_error(path))
}

/// Mode 0600 when it is new.
fn open_log(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

fn open_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Open { path, source }
}

fn watched(stream: StdStream) -> Result<UnixStream, Error> {
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(system("watch a socket"))
}

fn system(operation: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::System { operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_words_have_priority() {
        assert_eq!(
            fit_command_line("quiet pci=conf1"),
            "pci=off quiet pci=conf1"
        );
        let long = "x".repeat(MAX_COMMAND_LINE);
        assert_eq!(fit_command_line(&long), long);
    }
}
