//! QEMU's command line. Pure: the same configuration and descriptors give the same words.
//!
//! No path of the host is in it: QEMU is confined, and what it may touch it is handed as open descriptors.
//! Options are QEMU 7.2's; `docs/measured.md` says why these and no others.

use std::os::fd::RawFd;

use vmm::machine::OPTIMAL_READ;

use crate::config::{BootLoader, VmConfig};
use crate::probe::Acceleration;

/// The numbers of the descriptors that QEMU inherits.
#[derive(Debug, Default)]
pub(super) struct Fds {
    /// A connected stream socket: the machine protocol.
    pub qmp: RawFd,
    /// The kernel, opened for reading.
    pub kernel: RawFd,
    /// The initramfs, opened for reading.
    pub initramfs: Option<RawFd>,
    /// The small firmware, opened for reading; without it QEMU's own SeaBIOS runs first.
    pub firmware: Option<RawFd>,
    /// One for each disk, opened as the disk says.
    pub disks: Vec<RawFd>,
    /// A connected socket of datagrams for each network device.
    pub links: Vec<RawFd>,
    /// A connected stream socket for each console.
    pub consoles: Vec<RawFd>,
    /// A connected stream socket to `gourd-vmm`: the vsock device's vhost-user protocol.
    pub vsock: Option<RawFd>,
    /// The same for each share's file system device.
    pub shares: Vec<RawFd>,
}

/// Collects words.
#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.flag(name);
        self.0.push(value.into());
    }
}

/// What of the host counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    /// What runs the guest's code.
    pub accel: Acceleration,
    /// See [`vmm::host::is_translated`].
    pub translated: bool,
}

/// The words after the program's name. The configuration is valid.
pub(super) fn arguments(config: &VmConfig, host: Host, fds: &Fds) -> Vec<String> {
    let mut words = Words::default();
    words.option("-name", format!("guest={}", config.id));
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        words.flag(flag);
    }
    words.option("-display", "none");
    machine(&mut words, config, host);
    words.option("-chardev", format!("socket,id=qmp,fd={}", fds.qmp));
    words.option("-mon", "chardev=qmp,mode=control");
    for (index, fd) in fds.consoles.iter().enumerate() {
        words.option("-chardev", format!("socket,id=console{index},fd={fd}"));
        words.option("-serial", format!("chardev:console{index}"));
    }
    disks(&mut words, config, fds);
    networks(&mut words, config, fds);
    if let Some(fd) = fds.vsock {
        // The guest's context identifier is gourd-vmm's to say: it serves the device's configuration space.
        words.option("-chardev", format!("socket,id=vsock,fd={fd}"));
        words.option("-device", "vhost-user-vsock-pci,chardev=vsock");
    }
    for (index, (share, fd)) in config.shares.iter().zip(&fds.shares).enumerate() {
        words.option("-chardev", format!("socket,id=share{index},fd={fd}"));
        // As many descriptors as gourd-vmm takes: a request of a megabyte.
        words.option(
            "-device",
            format!(
                "vhost-user-fs-pci,chardev=share{index},tag={},queue-size=256",
                share.tag
            ),
        );
    }
    if config.entropy {
        words.option("-object", "rng-random,id=entropy,filename=/dev/urandom");
        words.option("-device", "virtio-rng-pci,rng=entropy");
    }
    if let Some(balloon) = &config.balloon {
        let reporting = on(balloon.free_page_reporting);
        words.option(
            "-device",
            format!("virtio-balloon-pci,id=balloon,free-page-reporting={reporting}"),
        );
    }
    if let BootLoader::Linux { command_line, .. } = &config.boot {
        if let Some(fd) = fds.firmware {
            words.option("-bios", format!("/proc/self/fd/{fd}"));
        }
        words.option("-kernel", format!("/proc/self/fd/{}", fds.kernel));
        if let Some(fd) = fds.initramfs {
            words.option("-initrd", format!("/proc/self/fd/{fd}"));
        }
        words.option("-append", command_line);
    }
    words.0
}

fn machine(words: &mut Words, config: &VmConfig, host: Host) {
    words.option(
        "-machine",
        // A host that keeps core files whatever the limit is (by a program) has none of the guest's memory in them.
        "q35,sata=off,smbus=off,usb=off,vmport=off,dump-guest-core=off,memory-backend=memory",
    );
    match host.accel {
        Acceleration::Kvm => {
            words.option("-accel", "kvm");
            // Where this host is itself translated, the timer that KVM offers never fires.
            let cpu = match host.translated {
                true => "host,-tsc-deadline",
                false => "host",
            };
            words.option("-cpu", cpu);
        }
        Acceleration::Tcg => {
            // QEMU before 8.1 reads the code that it translates without a lock on its page (mended by its commit
            // deba78709a). So with a thread for each processor, one can translate the breakpoint that the kernel puts
            // into its own code for a moment while another takes it out again, keep that translation, and meet it
            // later: "Oops: int3". Measured with 7.2: one boot with two processors in 70 to 120 (the kernel patches
            // `sched_clock_cpu` when it finds the TSC unstable), 5 of 15 guests that flipped a static key 300 times,
            // none of 9 on one thread, which boots no slower. One processor has nobody to race with.
            let thread = if config.vcpus > 1 { "single" } else { "multi" };
            words.option("-accel", format!("tcg,thread={thread}"));
            // Without SVM unless it is wanted: emulating it costs the guest's kernel its set-up.
            // Without LA57: a bzImage turns five levels of page tables on, and QEMU 7.2 gets them wrong (programs of the
            // guest see wrong bytes and abort).
            // Without ERMS and FSRM: where they are, the kernel and C libraries clear and copy with `rep stosb` and `rep movsb`,
            // which are emulated a byte at a time (a cleared page: 10 µs, a start: 600 of them).
            let svm = if config.virtualization { '+' } else { '-' };
            words.option("-cpu", format!("max,{svm}svm,-la57,-erms,-fsrm"));
        }
    }
    words.option(
        "-smp",
        format!("cpus={0},sockets=1,cores={0},threads=1", config.vcpus),
    );
    words.option("-m", format!("{}M", config.memory >> 20));
    // Shared, because gourd-vmm reads and writes the vsock device's queues in it.
    words.option(
        "-object",
        format!(
            "memory-backend-memfd,id=memory,size={},share=on",
            config.memory
        ),
    );
}

fn disks(words: &mut Words, config: &VmConfig, fds: &Fds) {
    for (index, (disk, fd)) in config.disks.iter().zip(&fds.disks).enumerate() {
        let set = index + 1;
        let read_only = on(disk.read_only);
        let discard = if disk.discard { "unmap" } else { "ignore" };
        let no_flush = on(disk.volatile);
        words.option("-add-fd", format!("fd={fd},set={set}"));
        // Leases say who may open the file: QEMU's own locks would be a second opinion.
        words.option(
            "-blockdev",
            format!(
                "driver=file,node-name=file{index},filename=/dev/fdset/{set},read-only={read_only},\
                 auto-read-only=off,discard={discard},locking=off,aio=threads,\
                 cache.direct=off,cache.no-flush={no_flush}"
            ),
        );
        words.option(
            "-device",
            format!(
                // The guest is told when the host's disk is full; QEMU's way is to stop the VM, which nobody would see.
                "virtio-blk-pci,drive=file{index},serial={},write-cache={},discard={},write-zeroes={},\
                 werror=report,rerror=report,opt_io_size={}",
                disk.id,
                // A disk that nobody wants after the VM is never flushed: the guest need not ask.
                on(!disk.volatile),
                on(disk.discard),
                on(disk.discard),
                // 0 says nothing about it.
                if disk.read_only { OPTIMAL_READ } else { 0 },
            ),
        );
    }
}

/// What goes over a control queue. Linux refuses a card that offers any of it without the queue.
const NO_CONTROL: &str = "ctrl_vq=off,ctrl_rx=off,ctrl_rx_extra=off,ctrl_vlan=off,ctrl_mac_addr=off,\
    ctrl_guest_offloads=off,guest_announce=off";

fn networks(words: &mut Words, config: &VmConfig, fds: &Fds) {
    for (index, (network, fd)) in config.networks.iter().zip(&fds.links).enumerate() {
        // What QEMU takes for a stream is a socket of datagrams, which hold whole frames: nothing is left half said when the process at the
        // other end dies, and QEMU does not see that it is another one. As datagrams (`-netdev dgram`) it would read one frame in each turn
        // of its loop; so it reads many.
        words.option(
            "-netdev",
            format!("stream,id=net{index},server=off,addr.type=fd,addr.str={fd}"),
        );
        let [a, b, c, d, e, f] = network.mac;
        // No ROM to boot from, and no control queue: nobody has anything to control. The link has no offloads.
        words.option(
            "-device",
            format!(
                "virtio-net-pci,netdev=net{index},mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x},\
                 host_mtu={},{NO_CONTROL},romfile=",
                network.mtu
            ),
        );
    }
}

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::*;

    fn check(config: &VmConfig, accel: Acceleration, fds: &Fds, expect: &str) {
        let translated = false;
        let words = arguments(config, Host { accel, translated }, fds);
        let mut lines = String::new();
        for word in words {
            lines.push_str(if word.starts_with('-') { "\n" } else { " " });
            lines.push_str(&word);
        }
        assert_eq!(lines.trim(), expect.trim(), "\n{lines}");
    }

    fn small() -> VmConfig {
        VmConfig {
            id: "abc".into(),
            vcpus: 1,
            memory: 128 << 20,
            boot: BootLoader::Linux {
                kernel: "/k".into(),
                initramfs: None,
                command_line: "quiet".into(),
            },
            disks: Vec::new(),
            networks: Vec::new(),
            shares: Vec::new(),
            vsock: None,
            consoles: Vec::new(),
            entropy: false,
            balloon: None,
            power_button: true,
            graphics: None,
            audio: None,
            usb: None,
            translation: None,
            virtualization: false,
        }
    }

    #[test]
    fn the_least() {
        let fds = Fds {
            qmp: 5,
            kernel: 6,
            ..Fds::default()
        };
        check(&small(), Acceleration::Kvm, &fds, SMALL);
    }

    #[test]
    fn everything() {
        let mut config = small();
        config.vcpus = 2;
        let disk = |id: &str, read_only| Disk {
            id: id.into(),
            path: "/secret/path".into(),
            read_only,
            discard: !read_only,
            volatile: !read_only,
        };
        config.disks = vec![disk("rootfs", true), disk("upper", false)];
        config.networks = vec![Network {
            id: "default".into(),
            mac: [2, 1, 2, 3, 4, 0xff],
            mtu: 65520,
        }];
        config.vsock = Some(Vsock::default());
        config.shares = vec![Share {
            tag: "shares".into(),
            folders: vec![Folder {
                name: "0".into(),
                path: "/secret/folder".into(),
                read_only: true,
            }],
        }];
        config.consoles = vec![Console {
            output: ConsoleOutput::Log("/secret/log".into()),
        }];
        config.entropy = true;
        config.balloon = Some(Balloon {
            free_page_reporting: true,
        });
        let fds = Fds {
            qmp: 5,
            kernel: 6,
            initramfs: Some(7),
            firmware: Some(12),
            disks: vec![8, 9],
            links: vec![13],
            consoles: vec![10],
            vsock: Some(11),
            shares: vec![14],
        };
        check(&config, Acceleration::Tcg, &fds, EVERYTHING);
    }

    #[test]
    fn processors() {
        let cpu = |virtualization, accel, translated| {
            let config = VmConfig {
                virtualization,
                ..small()
            };
            let host = Host { accel, translated };
            let words = arguments(&config, host, &Fds::default());
            let at = words.iter().position(|word| word == "-cpu").unwrap();
            words[at + 1].clone()
        };
        let (tcg, kvm) = (Acceleration::Tcg, Acceleration::Kvm);
        assert_eq!(cpu(false, tcg, false), "max,-svm,-la57,-erms,-fsrm");
        assert_eq!(cpu(true, tcg, true), "max,+svm,-la57,-erms,-fsrm");
        assert_eq!(cpu(true, kvm, false), "host");
        assert_eq!(cpu(true, kvm, true), "host,-tsc-deadline");
    }

    const SMALL: &str = "
-name guest=abc
-nodefaults
-no-user-config
-no-reboot
-display none
-machine q35,sata=off,smbus=off,usb=off,vmport=off,dump-guest-core=off,memory-backend=memory
-accel kvm
-cpu host
-smp cpus=1,sockets=1,cores=1,threads=1
-m 128M
-object memory-backend-memfd,id=memory,size=134217728,share=on
-chardev socket,id=qmp,fd=5
-mon chardev=qmp,mode=control
-kernel /proc/self/fd/6
-append quiet";

    const EVERYTHING: &str = "
-name guest=abc
-nodefaults
-no-user-config
-no-reboot
-display none
-machine q35,sata=off,smbus=off,usb=off,vmport=off,dump-guest-core=off,memory-backend=memory
-accel tcg,thread=single
-cpu max,-svm,-la57,-erms,-fsrm
-smp cpus=2,sockets=1,cores=2,threads=1
-m 128M
-object memory-backend-memfd,id=memory,size=134217728,share=on
-chardev socket,id=qmp,fd=5
-mon chardev=qmp,mode=control
-chardev socket,id=console0,fd=10
-serial chardev:console0
-add-fd fd=8,set=1
-blockdev driver=file,node-name=file0,filename=/dev/fdset/1,read-only=on,auto-read-only=off,discard=ignore,locking=off,aio=threads,cache.direct=off,cache.no-flush=off
-device virtio-blk-pci,drive=file0,serial=rootfs,write-cache=on,discard=off,write-zeroes=off,werror=report,rerror=report,opt_io_size=1048576
-add-fd fd=9,set=2
-blockdev driver=file,node-name=file1,filename=/dev/fdset/2,read-only=off,auto-read-only=off,discard=unmap,locking=off,aio=threads,cache.direct=off,cache.no-flush=on
-device virtio-blk-pci,drive=file1,serial=upper,write-cache=off,discard=on,write-zeroes=on,werror=report,rerror=report,opt_io_size=0
-netdev stream,id=net0,server=off,addr.type=fd,addr.str=13
-device virtio-net-pci,netdev=net0,mac=02:01:02:03:04:ff,host_mtu=65520,ctrl_vq=off,ctrl_rx=off,ctrl_rx_extra=off,ctrl_vlan=off,ctrl_mac_addr=off,ctrl_guest_offloads=off,guest_announce=off,romfile=
-chardev socket,id=vsock,fd=11
-device vhost-user-vsock-pci,chardev=vsock
-chardev socket,id=share0,fd=14
-device vhost-user-fs-pci,chardev=share0,tag=shares,queue-size=256
-object rng-random,id=entropy,filename=/dev/urandom
-device virtio-rng-pci,rng=entropy
-device virtio-balloon-pci,id=balloon,free-page-reporting=on
-bios /proc/self/fd/12
-kernel /proc/self/fd/6
-initrd /proc/self/fd/7
-append quiet";
}
