//! The machine monitor: a virtual machine on KVM, from a description and open descriptors.
//!
//! ```text
//!   thread      does                                          waits in
//!   devices     control socket, networks, vsock, entropy,     epoll
//!               balloon, console input; the main thread
//!   block-N     disk N                                        read of its kick
//!   share-N     shared folders N                              epoll of their kicks
//!   cpu-N       processor N: the guest, serial ports,         KVM_RUN
//!               registers of devices
//! ```
//!
//! [`Monitor::new`] makes everything, [`Monitor::run`] confines each thread (Landlock and a system call filter of its own),
//! then lets the guest run. Nothing of the guest is looked at before all threads are confined. The control socket's
//! end of file means that the supervisor is dead: the process ends at once, and the machine with it.

mod acpi;
mod boot;
mod bus;
mod cpuid;
mod events;
mod memory;
pub mod serial;
mod shares;
mod vcpu;

#[cfg(any(test, fuzzing))]
pub mod hostile;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Barrier, Mutex, PoisonError};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::confine::{self, ConfineError, Role};
use crate::control::{Control, ControlError};
use crate::machine::{Console, Disk, Fd, MAX_DEVICES, Machine};
use crate::virtio::balloon::Balloon;
use crate::virtio::block::{self, Block};
use crate::virtio::entropy::Entropy;
use crate::virtio::mmio::{self, Registers, Slot};
use crate::virtio::net::Net;
use crate::virtio::vsock::Vsock;
use crate::vsock::Memory;

pub use bus::Ended;
use bus::{Bus, End};
use serial::{Output, Port};
use shares::Sharing;
use vcpu::Gate;

/// The interrupt line of each virtio slot: those that nothing else of a PC has.
const VIRTIO_LINES: [u32; MAX_DEVICES] = [
    5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];

/// Why a machine can't be made or run.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// The supervisor's description makes no sense.
    #[error("the machine's description")]
    Description(#[source] serde_json::Error),
    /// The description names something that there is not, or too much of it.
    #[error("the machine's description: {0}")]
    Wrong(String),
    /// The control socket broke.
    #[error("control socket of the supervisor")]
    Control(#[source] ControlError),
    /// The system refused.
    #[error("{0}")]
    System(&'static str, #[source] io::Error),
    /// The guest can't be loaded.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// A thread can't be confined.
    #[error("confine a thread")]
    Confine(#[source] ConfineError),
    /// The machine broke while it ran.
    #[error("{0}")]
    Broken(String),
}

/// Bytes of a thread's stack: the largest buffer on it is a device's 64 KiB.
const STACK: usize = 256 * 1024;

fn system<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> MonitorError {
    move |error| MonitorError::System(step, error.into())
}

/// The devices that the main thread looks after.
struct Devices {
    networks: Vec<Arc<Slot<Net>>>,
    vsock: Option<Arc<Slot<Vsock>>>,
    entropy: Option<Arc<Slot<Entropy>>>,
    balloon: Option<Arc<Slot<Balloon>>>,
    power_button: Option<EventFd>,
    streams: Streams,
}

/// A machine that is ready to run.
pub struct Monitor {
    control: Control,
    // Dropped before the memory that it maps.
    _vm: VmFd,
    vcpus: Vec<VcpuFd>,
    bus: Arc<Bus>,
    gate: Arc<Gate>,
    disks: Vec<Arc<Slot<Block>>>,
    shares: Vec<Sharing>,
    devices: Devices,
}

impl Monitor {
    /// Reads the description and makes the machine. Takes the descriptors that it names.
    pub fn new(control: Control) -> Result<Monitor, MonitorError> {
        let bytes = control.recv_machine().map_err(MonitorError::Control)?;
        let machine: Machine = serde_json::from_slice(&bytes).map_err(MonitorError::Description)?;
        if !(1..=crate::machine::MAX_VCPUS).contains(&machine.vcpus) {
            let wrong = format!("{} processors", machine.vcpus);
            return Err(MonitorError::Wrong(wrong));
        }
        let mut taken = Taken(vec![0, 1, 2, control.as_raw_fd()]);
        let kvm = taken.file(machine.kvm)?.into_raw_fd();
        // SAFETY: the number is an open descriptor that was just taken, and nobody else has it.
        let kvm = unsafe { Kvm::from_raw_fd(kvm) };
        let mem = memory::make(machine.memory).map_err(system("make guest memory"))?;
        let vm = make_vm(&kvm, &mem)?;
        let (bus, disks, shares, devices) = build(&machine, &mut taken, &vm, mem.clone())?;
        let mut kernel = taken.file(machine.kernel)?;
        let mut initramfs = match machine.initramfs {
            Some(fd) => Some(taken.file(fd)?),
            None => None,
        };
        let files = boot::Files {
            kernel: &mut kernel,
            initramfs: initramfs.as_mut(),
            command_line: &machine.command_line,
        };
        let entry = boot::load(&mem, machine.memory, files)?;
        let lines = &VIRTIO_LINES[..bus.slots.len()];
        put_tables(&machine, lines, bus.serials.len(), &mem)?;
        let vcpus = make_vcpus(&kvm, &vm, &machine, &mem, entry)?;
        Ok(Monitor {
            control,
            _vm: vm,
            vcpus,
            bus: Arc::new(bus),
            gate: Arc::new(Gate::new(machine.vcpus).map_err(system("eventfd"))?),
            disks,
            shares,
            devices,
        })
    }

    /// Runs the machine to its end. `Ok`: the supervisor has been told, or is gone.
    pub fn run(self) -> Result<(), MonitorError> {
        let Monitor {
            control,
            _vm,
            vcpus,
            bus,
            gate,
            disks,
            shares,
            devices,
        } = self;
        let team = Arc::new(Team {
            all: Barrier::new(1 + vcpus.len() + disks.len() + shares.len()),
            failed: Mutex::new(None),
        });
        for (index, slot) in disks.into_iter().enumerate() {
            let (mem, end) = (bus.mem.clone(), bus.end.clone());
            let name = format!("block-{index}");
            let work = move |slot: Arc<Slot<Block>>| serve_disk(&slot, &mem, &end);
            let confine = |_: &_| confine::this_thread(Role::Block);
            team.start(name, slot, |_| Ok(()), confine, work)?;
        }
        for (index, sharing) in shares.into_iter().enumerate() {
            let (mem, end) = (bus.mem.clone(), bus.end.clone());
            let name = format!("share-{index}");
            let work = move |sharing: Sharing| sharing.serve(&mem, &end);
            team.start(name, sharing, |_| Ok(()), Sharing::confine, work)?;
        }
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let (bus, gate, known) = (bus.clone(), gate.clone(), gate.clone());
            let name = format!("cpu-{index}");
            let enter = move |vcpu: &VcpuFd| vcpu::enter_thread(vcpu, index, &known);
            let work = move |mut vcpu: VcpuFd| vcpu::run(&mut vcpu, &bus, &gate);
            let confine = |_: &_| confine::this_thread(Role::Processor);
            team.start(name, vcpu, enter, confine, work)?;
        }
        let events = events::Events::new(control, devices, bus.clone(), gate)?;
        let level = confine::this_thread(Role::Devices).map_err(MonitorError::Confine)?;
        team.all.wait();
        let failed = team
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match failed {
            Some(error) => Err(error),
            None => events.run(level),
        }
    }
}

/// Threads that start working when all are confined.
struct Team {
    all: Barrier,
    failed: Mutex<Option<MonitorError>>,
}

impl Team {
    /// Starts a thread that owns `thing`: it enters (what its filter will forbid), is confined, waits for the others, and
    /// works.
    fn start<T: Send + 'static>(
        self: &Arc<Team>,
        name: String,
        thing: T,
        enter: impl FnOnce(&T) -> io::Result<()> + Send + 'static,
        confine: impl FnOnce(&T) -> Result<confine::Level, ConfineError> + Send + 'static,
        work: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), MonitorError> {
        let team = self.clone();
        let body = move || {
            let entered = enter(&thing)
                .map_err(system("prepare a thread"))
                .and_then(|()| confine(&thing).map_err(MonitorError::Confine));
            let fine = entered.is_ok();
            if let Err(error) = entered {
                let mut failed = team.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
            }
            team.all.wait();
            if fine {
                work(thing);
            }
        };
        let builder = std::thread::Builder::new().name(name).stack_size(STACK);
        builder.spawn(body).map_err(system("start a thread"))?;
        Ok(())
    }
}

/// A disk's thread.
fn serve_disk(slot: &Slot<Block>, mem: &Memory, end: &End) {
    let kick = &slot.kicks()[0];
    loop {
        let mut buffer = [0; 8];
        match rustix::io::read(kick_fd(kick), &mut buffer) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return end.come(Ended::Broken(format!("wait for a disk's kick: {error}")));
            }
        }
        while slot.serve(mem) {}
    }
}

fn kick_fd(kick: &EventFd) -> std::os::fd::BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as `kick` is borrowed.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(kick.as_raw_fd()) }
}

/// The descriptors that the description has named so far: each may be named once.
struct Taken(Vec<Fd>);

impl Taken {
    fn file(&mut self, fd: Fd) -> Result<File, MonitorError> {
        if fd < 0 || self.0.contains(&fd) {
            let wrong = format!("descriptor {fd} is not one of its own");
            return Err(MonitorError::Wrong(wrong));
        }
        // SAFETY: asks for flags; the number may be anything.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            let wrong = format!("descriptor {fd} is not open");
            return Err(MonitorError::Wrong(wrong));
        }
        self.0.push(fd);
        // SAFETY: open, as was just seen; the parent named it as ours to take, and `self` sees to it that it is taken once.
        // It is none of the few that this process has opened itself: those were opened later, at other numbers.
        Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

fn make_vm(kvm: &Kvm, mem: &Memory) -> Result<VmFd, MonitorError> {
    let vm = kvm.create_vm().map_err(system("KVM_CREATE_VM"))?;
    vm.set_tss_address(memory::TSS)
        .map_err(system("KVM_SET_TSS_ADDR"))?;
    vm.set_identity_map_address(memory::TSS as u64 - 0x1000)
        .map_err(system("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.create_irq_chip().map_err(system("KVM_CREATE_IRQCHIP"))?;
    vm.create_pit2(kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    })
    .map_err(system("KVM_CREATE_PIT2"))?;
    for (slot, region) in mem.iter().enumerate() {
        let host = mem
            .get_host_address(region.start_addr())
            .map_err(|error| MonitorError::System("guest memory", io::Error::other(error)))?;
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: host.addr() as u64,
        };
        // SAFETY: the region is a mapping of guest memory, which the bus holds for as long as the process lives: the VM
        // never outlives it.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(system("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(vm)
}

/// Fills the bus.
struct Builder<'a> {
    vm: &'a VmFd,
    slots: Vec<Arc<dyn Registers>>,
}

impl Builder<'_> {
    fn line(&self, line: &EventFd, number: u32) -> Result<(), MonitorError> {
        self.vm
            .register_irqfd(line, number)
            .map_err(system("KVM_IRQFD"))
    }

    fn eventfd(&self, line: u32) -> Result<EventFd, MonitorError> {
        let eventfd =
            EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(system("eventfd"))?;
        self.line(&eventfd, line)?;
        Ok(eventfd)
    }

    fn slot<D: crate::virtio::Device + 'static>(
        &mut self,
        device: D,
    ) -> Result<Arc<Slot<D>>, MonitorError> {
        let index = self.slots.len();
        let Some(&line) = VIRTIO_LINES.get(index) else {
            let wrong = format!("more than {MAX_DEVICES} devices");
            return Err(MonitorError::Wrong(wrong));
        };
        let slot = Arc::new(Slot::new(device).map_err(system("eventfd"))?);
        self.line(slot.line(), line)?;
        let notify = memory::VIRTIO + index as u64 * mmio::SIZE + mmio::QUEUE_NOTIFY;
        for (queue, kick) in slot.kicks().iter().enumerate() {
            self.vm
                .register_ioevent(kick, &IoEventAddress::Mmio(notify), queue as u32)
                .map_err(system("KVM_IOEVENTFD"))?;
        }
        self.slots.push(slot.clone());
        Ok(slot)
    }
}

type Built = (Bus, Vec<Arc<Slot<Block>>>, Vec<Sharing>, Devices);

fn build(
    machine: &Machine,
    taken: &mut Taken,
    vm: &VmFd,
    mem: Memory,
) -> Result<Built, MonitorError> {
    let mut builder = Builder {
        vm,
        slots: Vec::new(),
    };
    let mut disks = Vec::new();
    for disk in &machine.disks {
        let slot = builder.slot(open_disk(disk, taken)?)?;
        // Its thread waits in a read.
        rustix::io::ioctl_fionbio(kick_fd(&slot.kicks()[0]), false)
            .map_err(system("make a kick block"))?;
        disks.push(slot);
    }
    let mut networks = Vec::new();
    if machine.networks.len() > events::MAX_NETWORKS {
        let wrong = format!("more than {} network devices", events::MAX_NETWORKS);
        return Err(MonitorError::Wrong(wrong));
    }
    for network in &machine.networks {
        let link = OwnedFd::from(taken.file(network.fd)?);
        rustix::io::ioctl_fionbio(&link, true).map_err(system("make a link not block"))?;
        networks.push(builder.slot(Net::new(link, network.mac, network.mtu))?);
    }
    let shares = shares::build(machine, taken, &mut builder)?;
    let vsock = match machine.vsock {
        Some(cid) => {
            let device = Vsock::new(u64::from(cid)).map_err(system("vsock device"))?;
            Some(builder.slot(device)?)
        }
        None => None,
    };
    let entropy = match machine.entropy {
        true => Some(builder.slot(Entropy::default())?),
        false => None,
    };
    let balloon = match &machine.balloon {
        Some(balloon) => Some(builder.slot(Balloon::new(balloon.free_page_reporting))?),
        None => None,
    };
    let power_button = match machine.power_button {
        true => Some(builder.eventfd(acpi::EVENT_LINE)?),
        false => None,
    };
    let (serials, streams) = build_serials(machine, taken, &builder)?;
    let bus = Bus {
        mem,
        serials,
        slots: builder.slots,
        end: Arc::new(End::new().map_err(system("eventfd"))?),
    };
    let devices = Devices {
        networks,
        vsock,
        entropy,
        balloon,
        power_button,
        streams,
    };
    Ok((bus, disks, shares, devices))
}

/// Ports with a stream, and the stream, to be watched for input and for room.
type Streams = Vec<(Arc<Port>, File, File)>;

type Serials = (Vec<Arc<Port>>, Streams);

fn build_serials(
    machine: &Machine,
    taken: &mut Taken,
    builder: &Builder<'_>,
) -> Result<Serials, MonitorError> {
    let mut serials = Vec::new();
    let mut streams = Vec::new();
    if machine.consoles.len() > bus::SERIAL_PORTS.len() {
        let wrong = format!("more than {} serial ports", bus::SERIAL_PORTS.len());
        return Err(MonitorError::Wrong(wrong));
    }
    for (console, (_, line)) in machine.consoles.iter().zip(bus::SERIAL_PORTS) {
        let line = builder.eventfd(line)?;
        match *console {
            Console::Log(fd) => {
                let output = Output::log(taken.file(fd)?).map_err(system("console log"))?;
                serials.push(Port::new(line, output).map_err(system("eventfd"))?);
            }
            Console::Stream(fd) => {
                let stream = taken.file(fd)?;
                let watched = || stream.try_clone().map_err(system("console stream"));
                let (input, output) = (watched()?, watched()?);
                let port = Port::new(line, Output::stream(stream)).map_err(system("eventfd"))?;
                streams.push((port.clone(), input, output));
                serials.push(port);
            }
        }
    }
    Ok((serials, streams))
}

fn open_disk(disk: &Disk, taken: &mut Taken) -> Result<Block, MonitorError> {
    let image = block::Disk::new(taken.file(disk.fd)?, disk.read_only)
        .map_err(system("size of a disk image"))?;
    Ok(Block::new(image, &disk.id, disk.discard, disk.volatile))
}

fn put_tables(
    machine: &Machine,
    lines: &[u32],
    serials: usize,
    mem: &Memory,
) -> Result<(), MonitorError> {
    let hardware = acpi::Hardware {
        vcpus: machine.vcpus,
        virtio_lines: lines,
        serials,
        power_button: machine.power_button,
    };
    let tables = acpi::tables(&hardware);
    let tables = tables.ok_or_else(|| MonitorError::Wrong("too much for ACPI's tables".into()))?;
    let mut generation = [0; 16];
    rustix::rand::getrandom(&mut generation, rustix::rand::GetRandomFlags::empty())
        .map_err(system("random numbers"))?;
    mem.write_slice(&tables, GuestAddress(memory::ACPI))
        .and_then(|()| mem.write_slice(&generation, GuestAddress(memory::GENERATION)))
        .map_err(|error| MonitorError::System("write ACPI's tables", io::Error::other(error)))
}

fn make_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    machine: &Machine,
    mem: &Memory,
    entry: GuestAddress,
) -> Result<Vec<VcpuFd>, MonitorError> {
    vcpu::prepare_memory(mem).map_err(system("write the boot processor's tables"))?;
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(system("KVM_GET_SUPPORTED_CPUID"))?;
    let deadline = !crate::host::is_translated();
    let mut vcpus = Vec::new();
    for index in 0..machine.vcpus {
        let vcpu = vm
            .create_vcpu(u64::from(index))
            .map_err(system("KVM_CREATE_VCPU"))?;
        let mut cpuid = supported.clone();
        let who = cpuid::Identity {
            index,
            count: machine.vcpus,
            virtualization: machine.virtualization,
            deadline,
        };
        cpuid::fit(&mut cpuid, who);
        vcpu.set_cpuid2(&cpuid).map_err(system("KVM_SET_CPUID2"))?;
        vcpu::common_state(&vcpu).map_err(system("a processor's registers"))?;
        if index == 0 {
            vcpu::boot_state(&vcpu, entry).map_err(system("the boot processor's registers"))?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}
