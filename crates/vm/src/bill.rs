//! From a container's spec to the VM's bill of materials, and to what its guest is told.

use hypervisor::config::{
    Balloon, BootLoader, Console, ConsoleDevice, ConsoleOutput, Disk, VmConfig, Vsock,
};
use proto::agent::{BootRequest, Process, Rlimit, RootFs};
use proto::supervisor::Failure;
use store::container::{Container, Spec};
use store::kernels;
use store::locate::{self, Programs};

use crate::failure;

const MIB: u64 = 1024 * 1024;

/// Guest memory that is not the container's: the kernel, its page tables and buffers, init and agent.
const RESERVE: u64 = 96 * MIB;

/// The serial of the image's disk.
const IMAGE_DISK: &str = "rootfs";

/// The serial of the container's own disk.
const UPPER_DISK: &str = "upper";

/// The kernel's command line. `quiet`: a line on the serial port costs a millisecond. `panic=-1`: a panic resets at
/// once, which ends the VM. `random.trust_cpu=on`: nothing waits for entropy. `rcu_expedited`: unmounting, namespaces and
/// control groups wait for RCU's grace periods, which then end at once instead of at the next ticks; it costs interrupts
/// on a handful of processors.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 random.trust_cpu=on rcupdate.rcu_expedited=1";

/// What Docker leaves a container's root.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Open files: a soft limit that old programs can bear, a hard one that new ones can raise it to.
const NOFILE: (u64, u64) = (1024, 524_288);

/// The VM of a container.
///
/// # Errors
/// A kernel that is missing, an initramfs that can't be made.
pub fn vm_config(container: &Container, programs: &Programs) -> Result<VmConfig, Failure> {
    let (root, spec) = (container.root(), container.spec());
    let kernel = kernels::resolve(root, &spec.vm.kernel)
        .map_err(|error| failure::from_error("find the kernel", &spec.vm.kernel, &error))?;
    let init = programs
        .find(locate::INIT)
        .map_err(|error| failure::from_error("find the guest's init", "", &error))?;
    let initramfs = kernels::initramfs(&kernel, &init)
        .map_err(|error| failure::from_error("make the initramfs", &kernel.name, &error))?;
    // One part in 64 pays for the kernel's struct page of each page.
    let memory = spec.vm.memory + spec.vm.memory / 64 + RESERVE;
    Ok(VmConfig {
        id: spec.id.clone(),
        vcpus: spec.vm.cpus,
        memory: memory.next_multiple_of(MIB),
        boot: BootLoader::Linux {
            kernel: kernel.file,
            initramfs: Some(initramfs),
            command_line: COMMAND_LINE.to_owned(),
        },
        disks: vec![
            Disk {
                id: IMAGE_DISK.to_owned(),
                path: store::rootfs::path(root, &spec.image.rootfs),
                read_only: true,
                discard: false,
                volatile: false,
            },
            Disk {
                id: UPPER_DISK.to_owned(),
                path: container.upper(),
                read_only: false,
                discard: true,
                // It goes with the container: a host that dies takes both.
                volatile: spec.remove,
            },
        ],
        networks: Vec::new(),
        shares: Vec::new(),
        vsock: Some(Vsock::default()),
        consoles: vec![Console {
            device: ConsoleDevice::Serial,
            output: ConsoleOutput::Log(container.console_log()),
        }],
        entropy: true,
        balloon: Some(Balloon {
            free_page_reporting: true,
        }),
        power_button: true,
        graphics: None,
        audio: None,
        usb: None,
        translation: None,
    })
}

/// What the agent is told once per boot.
pub fn boot_request(spec: &Spec) -> BootRequest {
    BootRequest {
        container: spec.id.clone(),
        rootfs: Some(RootFs {
            image_disk: IMAGE_DISK.to_owned(),
            upper_disk: UPPER_DISK.to_owned(),
            upper_options: String::new(),
        }),
        hostname: spec.hostname.clone(),
        hosts: hosts(&spec.hostname).into(),
        memory_limit: spec.vm.memory,
        wall_clock_ns: store::now_ns(),
        ..BootRequest::default()
    }
}

/// The container's first process.
pub fn main_process(spec: &Spec) -> Process {
    let process = &spec.process;
    Process {
        args: process.args.clone(),
        env: process.env.clone(),
        user: process.user.clone(),
        cwd: process.cwd.clone(),
        tty: process.tty,
        ..confined(Process::default())
    }
}

/// A further process: it starts from the container's environment, user and directory.
pub fn exec_process(spec: &Spec, asked: proto::supervisor::Process) -> Process {
    let own = &spec.process;
    let mut env = own.env.clone();
    env.extend(asked.env);
    let or = |asked: String, own: &String| if asked.is_empty() { own.clone() } else { asked };
    Process {
        args: asked.args,
        env,
        user: or(asked.user, &own.user),
        cwd: or(asked.cwd, &own.cwd),
        tty: asked.tty,
        size: asked.size.map(terminal_size),
        ..confined(Process::default())
    }
}

/// A terminal's size, from the engine's message to the agent's.
pub fn terminal_size(size: proto::supervisor::TerminalSize) -> proto::agent::TerminalSize {
    proto::agent::TerminalSize {
        rows: size.rows,
        columns: size.columns,
    }
}

fn confined(process: Process) -> Process {
    Process {
        capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
        rlimits: vec![Rlimit {
            name: "RLIMIT_NOFILE".to_owned(),
            soft: NOFILE.0,
            hard: NOFILE.1,
        }],
        ..process
    }
}

fn hosts(hostname: &str) -> String {
    format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.1.1\t{hostname}\n"
    )
}
