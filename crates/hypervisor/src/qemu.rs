//! The driver `qemu`: QEMU for the processors and most devices, `gourd-vmm` beside it for vsock.
//!
//! [`arguments`] is the command line, [`qmp`] the conversation, [`life`] who outlives whom. QEMU runs as `q35` with
//! virtio-pci and gets everything as open descriptors; it starts confined (Landlock: its libraries and firmware;
//! seccomp; no new privileges). Nothing is waited for on the way up: the first QMP commands and the ports to listen on
//! lie in sockets before the processes exist.

mod arguments;
mod console;
mod life;
pub mod qmp;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use rustix::io::Errno;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::watch;
use vmm::confine;
use vmm::control::Control;

use crate::config::{BootLoader, ConsoleOutput, Disk, DriverKind, VmConfig};
use crate::driver::{Driver, Error, ExitReason, Listener, StartOptions, Started, Vm, VmExit};
use crate::probe::{Acceleration, host_nests};
use crate::process::Process;
use crate::resolved;
use crate::validate::{ConfigError, ConfigErrors};
use crate::vsock::Vsock;
use arguments::Fds;
use life::{Axe, Life};
use qmp::Qmp;

type StdStream = std::os::unix::net::UnixStream;

/// Makes VMs with QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    vmm: PathBuf,
    acceleration: Acceleration,
}

impl Qemu {
    /// A driver that runs `program` (`qemu-system-x86_64`, an absolute path) and `vmm` (`gourd-vmm`).
    pub fn new(program: PathBuf, vmm: PathBuf, acceleration: Acceleration) -> Qemu {
        Qemu {
            program,
            vmm,
            acceleration,
        }
    }

    /// What runs the guest's instructions.
    pub fn acceleration(&self) -> Acceleration {
        self.acceleration
    }

    /// What QEMU may open by name: itself, its libraries and firmware, and the kernel, which it opens through
    /// `/proc/self/fd`.
    fn rules(&self, config: &VmConfig) -> confine::Rules {
        let mut read: Vec<PathBuf> = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store"]
            .iter()
            .map(PathBuf::from)
            .collect();
        read.extend(self.program.canonicalize());
        if let BootLoader::Linux {
            kernel, initramfs, ..
        } = &config.boot
        {
            read.push(kernel.clone());
            read.extend(initramfs.clone());
        }
        let mut devices: Vec<PathBuf> = vec!["/dev/null".into(), "/dev/urandom".into()];
        if self.acceleration == Acceleration::Kvm {
            devices.push("/dev/kvm".into());
        }
        confine::Rules {
            read,
            read_write: Vec::new(),
            devices,
            network: false,
        }
    }

    fn start_vmm(&self, config: &VmConfig, listen: &[u32]) -> Result<Option<Beside>, Error> {
        let Some(vsock) = &config.vsock else {
            return match listen.first() {
                Some(_) => Err(Error::Absent { component: "vsock" }),
                None => Ok(None),
            };
        };
        let (control, their_control) = Control::pair().map_err(system("socketpair"))?;
        let (for_qemu, ours) = StdStream::pair().map_err(system("socketpair"))?;
        let (vsock_handle, task) = Vsock::new(control).map_err(system("watch a socket"))?;
        let mut listeners = Vec::new();
        for &port in listen {
            listeners.push(vsock_handle.listen(port)?);
        }
        let mut command = Command::new(&self.vmm);
        command.env_clear();
        command.arg("--vhost-user-fd");
        command.arg(ours.as_raw_fd().to_string());
        command.arg("--control-fd");
        command.arg(their_control.as_raw_fd().to_string());
        command.arg("--guest-cid");
        command.arg(vsock.cid.to_string());
        let shared = Shared::open(config)?;
        command.args(&shared.words);
        let around = crate::process::around_ours(config, 0);
        let mut keep = vec![ours.as_fd(), their_control.as_fd()];
        keep.extend(shared.keep.iter().map(AsFd::as_fd));
        let process =
            Process::spawn("gourd-vmm", command, &keep, around).map_err(spawn_error(&self.vmm))?;
        Ok(Some(Beside {
            process,
            socket: for_qemu,
            shares: shared.for_qemu,
            vsock: vsock_handle,
            listeners,
            control: tokio::spawn(task),
        }))
    }
}

/// `gourd-vmm` and our ties to it.
struct Beside {
    process: Process,
    socket: StdStream,
    /// QEMU's end for each share.
    shares: Vec<StdStream>,
    vsock: Vsock,
    listeners: Vec<Listener>,
    control: tokio::task::JoinHandle<vmm::control::ControlError>,
}

/// What `gourd-vmm` inherits for shared folders, and QEMU's ends.
#[derive(Default)]
struct Shared {
    words: Vec<String>,
    keep: Vec<OwnedFd>,
    for_qemu: Vec<StdStream>,
}

impl Shared {
    fn open(config: &VmConfig) -> Result<Shared, Error> {
        let mut shared = Shared::default();
        for share in &config.shares {
            let (for_qemu, ours) = StdStream::pair().map_err(system("socketpair"))?;
            shared.word("--share-fd", ours.as_raw_fd().to_string());
            shared.keep.push(ours.into());
            shared.for_qemu.push(for_qemu);
            for folder in &share.folders {
                let fd = open_folder(&folder.path)?;
                let access = if folder.read_only { "ro" } else { "rw" };
                let word = format!("{}:{access}:{}", fd.as_raw_fd(), folder.name);
                shared.word("--folder", word);
                shared.keep.push(fd);
            }
        }
        Ok(shared)
    }

    fn word(&mut self, name: &str, value: String) {
        self.words.extend([name.to_owned(), value]);
    }
}

/// What QEMU inherits, and our ends of it.
struct Handed {
    fds: Fds,
    keep: Vec<OwnedFd>,
    qmp: UnixStream,
    consoles: Vec<(UnixStream, Option<std::fs::File>)>,
}

impl Handed {
    fn open(config: &VmConfig) -> Result<Handed, Error> {
        let mut keep = Vec::new();
        let mut number = |fd: OwnedFd| {
            keep.push(fd);
            keep[keep.len() - 1].as_raw_fd()
        };
        let (ours, theirs) = StdStream::pair().map_err(system("socketpair"))?;
        // QEMU reads it once it is up: there is no need to wait for its greeting.
        std::io::Write::write_all(&mut &ours, Qmp::HELLO).map_err(system("write to QMP"))?;
        let qmp = watched(ours)?;
        let mut fds = Fds {
            qmp: number(theirs.into()),
            ..Fds::default()
        };
        if let BootLoader::Linux {
            kernel, initramfs, ..
        } = &config.boot
        {
            fds.kernel = number(open(kernel, false)?);
            let firmware = FIRMWARE
                .iter()
                .find_map(|path| std::fs::File::open(path).ok());
            fds.firmware = firmware.map(|file| number(file.into()));
            if let Some(initramfs) = initramfs {
                fds.initramfs = Some(number(open(initramfs, false)?));
            }
        }
        for Disk {
            path, read_only, ..
        } in &config.disks
        {
            fds.disks.push(number(open(path, !read_only)?));
        }
        let mut consoles = Vec::new();
        for console in &config.consoles {
            let log = match &console.output {
                ConsoleOutput::Log(path) => Some(console::open(path).map_err(open_error(path))?),
                ConsoleOutput::Stream => None,
            };
            let (ours, theirs) = StdStream::pair().map_err(system("socketpair"))?;
            fds.consoles.push(number(theirs.into()));
            consoles.push((watched(ours)?, log));
        }
        Ok(Handed {
            fds,
            keep,
            qmp,
            consoles,
        })
    }
}

#[async_trait]
impl Driver for Qemu {
    fn kind(&self) -> DriverKind {
        DriverKind::Qemu
    }

    fn parallelism(&self) -> u32 {
        match self.acceleration {
            Acceleration::Kvm => crate::driver::host_processors(),
            // Translated processors share a thread: see `arguments::machine`.
            Acceleration::Tcg => 1,
        }
    }

    fn validate(&self, config: &VmConfig) -> Result<(), ConfigErrors> {
        let valid = crate::validate::validate(config, self.kind());
        if !config.virtualization || self.acceleration == Acceleration::Tcg || host_nests() {
            return valid;
        }
        let mut errors = valid.err().unwrap_or(ConfigErrors(Vec::new()));
        errors.0.push(ConfigError {
            field: "virtualization".into(),
            problem: "the driver qemu has it from the host's KVM, which does not nest".into(),
            remedy: "load kvm_amd or kvm_intel with nested=1, or leave it out".into(),
        });
        Err(errors)
    }

    async fn start(&self, config: &VmConfig, options: StartOptions) -> Result<Started, Error> {
        self.validate(config).map_err(Error::Config)?;
        options.check_links(config)?;
        let mut handed = Handed::open(config)?;
        handed.fds.links = options.links.iter().map(AsRawFd::as_raw_fd).collect();
        let beside = self.start_vmm(config, &options.listen)?;
        if let Some(beside) = &beside {
            handed.fds.vsock = Some(beside.socket.as_raw_fd());
            handed.fds.shares = beside.shares.iter().map(AsRawFd::as_raw_fd).collect();
        }
        let confinement = confine::for_spawn(&self.rules(config)).map_err(Error::Confine)?;
        let confinement = confinement
            .in_namespaces()
            .with_memory(memory_limit(config));
        tracing::debug!(level = ?confinement.level(), "QEMU's confinement");
        let mut command = Command::new(&self.program);
        command.env_clear();
        let host = arguments::Host {
            accel: self.acceleration,
            translated: vmm::host::is_translated(),
        };
        command.args(arguments::arguments(config, host, &handed.fds));
        let mut keep: Vec<BorrowedFd<'_>> = handed.keep.iter().map(AsFd::as_fd).collect();
        keep.extend(options.held.iter().map(AsFd::as_fd));
        keep.extend(options.links.iter().map(AsFd::as_fd));
        if let Some(beside) = &beside {
            keep.push(beside.socket.as_fd());
            keep.extend(beside.shares.iter().map(AsFd::as_fd));
        }
        let qemu = Process::spawn("QEMU", command, &keep, confinement)
            .map_err(spawn_error(&self.program))?;
        drop(keep);
        Ok(assemble(config, qemu, beside, handed))
    }
}

/// Sets the tasks of a VM going whose processes run.
fn assemble(config: &VmConfig, qemu: Process, beside: Option<Beside>, handed: Handed) -> Started {
    let mut streams = Vec::new();
    let mut logs = Vec::new();
    for (stream, log) in handed.consoles {
        match log {
            Some(log) => {
                logs.push(tokio::spawn(console::copy(stream, log)));
                streams.push(None);
            }
            None => streams.push(Some(stream)),
        }
    }
    let (reader, writer) = handed.qmp.into_split();
    let (qmp, task) = Qmp::new(reader, writer);
    let mut processes = vec![("qemu", qemu.id())];
    let mut killers = vec![qemu.killer()];
    let (mut vmm, mut control, mut vsock, mut listeners) = (None, None, None, Vec::new());
    if let Some(beside) = beside {
        processes.push(("gourd-vmm", beside.process.id()));
        killers.push(beside.process.killer());
        vmm = Some(beside.process);
        control = Some(beside.control);
        vsock = Some(beside.vsock);
        listeners = beside.listeners;
    }
    let axe = Axe::new(killers);
    let life = Life {
        qemu,
        vmm,
        qmp: Some(tokio::spawn(task)),
        control,
        consoles: logs,
        axe: axe.clone(),
    };
    let (sender, exit) = watch::channel(None);
    tokio::spawn(life.lead(sender));
    let vm = QemuVm {
        qmp,
        vsock,
        axe,
        exit,
        power_button: config.power_button,
        balloon: config.balloon.is_some(),
        streams: Mutex::new(streams),
        processes,
    };
    Started {
        vm: Box::new(vm),
        listeners,
    }
}

struct QemuVm {
    qmp: Qmp,
    vsock: Option<Vsock>,
    axe: Axe,
    exit: watch::Receiver<Option<VmExit>>,
    power_button: bool,
    balloon: bool,
    streams: Mutex<Vec<Option<UnixStream>>>,
    processes: Vec<(&'static str, u32)>,
}

impl QemuVm {
    async fn command(&self, command: &'static str, arguments: Value) -> Result<(), Error> {
        match self.qmp.execute(command, arguments).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(reason)) => Err(Error::Monitor { command, reason }),
            None => Err(Error::Gone(self.wait().await)),
        }
    }

    fn vsock(&self) -> Result<&Vsock, Error> {
        let component = "vsock";
        self.vsock.as_ref().ok_or(Error::Absent { component })
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        if self.exit.borrow().is_none() {
            self.axe.fall();
        }
    }
}

#[async_trait]
impl Vm for QemuVm {
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
            let patient = async {
                if let Err(error) = self.command("system_powerdown", json!({})).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "power button");
                }
                self.wait().await
            };
            if let Ok(exit) = tokio::time::timeout(grace, patient).await {
                return exit;
            }
        }
        if self.exit.borrow().is_none() {
            self.axe.fall();
        }
        self.wait().await
    }

    async fn pause(&self) -> Result<(), Error> {
        self.command("stop", json!({})).await
    }

    async fn resume(&self) -> Result<(), Error> {
        self.command("cont", json!({})).await
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
        self.command("balloon", json!({ "value": size })).await
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
        self.processes.clone()
    }
}

/// The most private memory that QEMU may have, in bytes. The guest's is shared and does not count. What does: a gigabyte
/// for translated code, a stack of 8 MiB for each processor and for each of the 64 threads that serve disks, and the
/// devices' own, of which a guest makes little. So the limit is one that nothing right comes near to.
fn memory_limit(config: &VmConfig) -> u64 {
    const ALL_BUT_PROCESSORS: u64 = 4 << 30;
    const PROCESSOR: u64 = 16 << 20;
    ALL_BUT_PROCESSORS + u64::from(config.vcpus) * PROCESSOR
}

/// Where distributions put qboot, which starts a Linux kernel and does nothing else. SeaBIOS looks for disks to boot from first:
/// 0.15 s under translation.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu/qboot.rom", "/usr/share/qboot/bios.bin"];

fn open(path: &Path, write: bool) -> Result<OwnedFd, Error> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(write).open(path);
    file.map(OwnedFd::from).map_err(open_error(path))
}

/// Only named, not opened for anything: the one who serves it opens what is in it. Links were followed when the container was
/// made; one that is there now may be a guest's.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd, Error> {
    resolved::open(path).map_err(|errno| match errno {
        Errno::LOOP => Error::Replaced {
            path: path.to_owned(),
        },
        errno => open_error(path)(errno.into()),
    })
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

fn spawn_error(program: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let program = program.to_owned();
    move |source| Error::Spawn { program, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_became_a_link_is_not_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("cache");
        std::fs::create_dir(&path).unwrap();
        open_folder(&path).unwrap();
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/", &path).unwrap();
        let refused = open_folder(&path).unwrap_err();
        assert!(matches!(refused, Error::Replaced { .. }), "{refused}");
        assert!(refused.to_string().contains("was replaced by a link"));
    }

    #[test]
    fn translated_processors_take_turns() {
        let parallelism = |acceleration| {
            let driver = Qemu::new("/qemu".into(), "/vmm".into(), acceleration);
            driver.parallelism()
        };
        assert_eq!(parallelism(Acceleration::Tcg), 1);
        let host = std::thread::available_parallelism().unwrap().get();
        assert_eq!(parallelism(Acceleration::Kvm) as usize, host);
    }
}
