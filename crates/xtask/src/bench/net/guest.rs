//! A VM on one of three user-space networks: ours, passt's, QEMU's own. Everything but `-netdev` is the same.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use proto::network::{self, Join, Protocol, Publish, Reply, Request};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::super::vm::{self, Vm};

/// The guest's address on all of them, of a subnet of 24 bits.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// The way out, and at the same time the host's loopback.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// What a network may say for packets of.
const LARGE: u16 = 65520;

/// Whose network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `gourd-net`.
    Gourd,
    /// passt(1).
    Passt,
    /// `-netdev user`.
    User,
}

impl Kind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gourd => "gourd-net",
            Kind::Passt => "passt",
            Kind::User => "QEMU user",
        }
    }

    /// QEMU's own network has Ethernet's packets.
    fn mtu(self) -> u16 {
        match self {
            Kind::User => 1500,
            _ => LARGE,
        }
    }
}

/// What all of them boot, and where their files are.
#[derive(Debug)]
pub struct Parts {
    /// Sockets, logs.
    pub dir: PathBuf,
    /// The gourd kernel.
    pub kernel: PathBuf,
    /// A root with the programs of this bench.
    pub rootfs: PathBuf,
    /// Where `gourd-net` is.
    pub programs: PathBuf,
}

/// Ports of the host's loopback that lead to the guest's.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// To iperf3's, TCP and UDP.
    pub iperf: u16,
    /// To nginx's.
    pub http: u16,
}

/// A VM that runs. It and its network end with this value.
#[derive(Debug)]
pub struct Guest {
    /// Whose network it is on.
    pub kind: Kind,
    /// Its published ports.
    pub ports: Ports,
    vm: Vm,
    /// `None`: QEMU itself.
    network: Option<Child>,
    /// The supervisor's connection to `gourd-net`.
    _joined: Option<OwnedFd>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.vm.end();
        if let Some(network) = &mut self.network {
            let _ = network.kill();
            let _ = network.wait();
        }
    }
}

impl Guest {
    /// Boots one and waits until its servers listen.
    pub fn start(parts: &Parts, kind: Kind, ports: Ports) -> Result<Guest> {
        let mut link = None;
        let (mut network, mut joined) = (None, None);
        let netdev = match kind {
            Kind::Gourd => {
                let (process, socket, ours) = gourd_net(parts, ports)?;
                (network, joined) = (Some(process), Some(socket));
                let fd = ours.as_raw_fd();
                link = Some(ours);
                format!("stream,id=net0,server=off,addr.type=fd,addr.str={fd}")
            }
            Kind::Passt => {
                let socket = parts.dir.join("passt.sock");
                network = Some(passt(parts, &socket, ports)?);
                let socket = socket.display();
                format!("stream,id=net0,server=off,addr.type=unix,addr.path={socket}")
            }
            Kind::User => format!(
                "user,id=net0,net=10.99.0.0/24,host={GATEWAY},ipv6=off,\
                 hostfwd=tcp:127.0.0.1:{0}-{ADDRESS}:5201,hostfwd=udp:127.0.0.1:{0}-{ADDRESS}:5201,\
                 hostfwd=tcp:127.0.0.1:{1}-{ADDRESS}:80",
                ports.iperf, ports.http
            ),
        };
        let mut command = qemu(parts, kind, &netdev);
        let keep: Vec<_> = link.iter().map(AsFd::as_fd).collect();
        vmm::spawn::inherit(&mut command, &keep, None);
        let mut guest = Guest {
            kind,
            ports,
            vm: Vm::start(kind.name(), &mut command)?,
            network,
            _joined: joined,
        };
        guest.shell(SET_UP)?;
        guest.shell(&format!(
            "ip link set eth0 up mtu {} && ip address add {ADDRESS}/24 dev eth0 && \
             ip route add default via {GATEWAY} && iperf3 -s -D && nginx -c /run/nginx.conf",
            kind.mtu()
        ))?;
        Ok(guest)
    }

    /// Has the guest do something, which must succeed; what it said.
    pub fn shell(&mut self, script: &str) -> Result<String> {
        self.vm.shell(script)
    }

    /// What has been computed for it so far.
    pub fn processor_time(&self) -> Result<Computed> {
        let (guest, devices) = self.vm.processor_time()?;
        let network = match &self.network {
            Some(network) => vm::processor_time(Path::new("/proc"), network.id())?,
            None => 0.0,
        };
        Ok(Computed {
            network,
            devices,
            guest,
        })
    }
}

/// Seconds of processor time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Computed {
    /// Of the network's process.
    pub network: f64,
    /// Of QEMU's threads that are not a processor: its loop, in which devices and its own network work.
    pub devices: f64,
    /// Of the guest's processor.
    pub guest: f64,
}

const SET_UP: &str = "mount -t tmpfs log /var/log && mount -t tmpfs lib /var/lib/nginx && mkdir /var/log/nginx && ip link set lo up && \
echo 'user root; pid /run/nginx.pid; error_log /dev/null; events { worker_connections 4096; } http { access_log off; \
keepalive_requests 1000000; server { listen 80 backlog=4096; location / { return 200 \"hello\\n\"; } } }' >/run/nginx.conf";

/// The driver's own machine and card, with a console that is QEMU's standard streams.
fn qemu(parts: &Parts, kind: Kind, netdev: &str) -> Command {
    let mut command = vm::qemu(&parts.kernel, &parts.rootfs);
    command
        .args(["-netdev", netdev])
        .arg("-device")
        .arg(format!(
            "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:07,host_mtu={},ctrl_vq=off,ctrl_rx=off,ctrl_rx_extra=off,\
             ctrl_vlan=off,ctrl_mac_addr=off,ctrl_guest_offloads=off,guest_announce=off,romfile=",
            kind.mtu()
        ));
    command
}

/// `gourd-net` as a supervisor starts and confines it, with a guest that has joined: the process, the supervisor's connection, and
/// the guest's end of the link.
fn gourd_net(parts: &Parts, ports: Ports) -> Result<(Child, OwnedFd, OwnedFd)> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let seqpacket = || rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None);
    let path = SocketAddrUnix::new(parts.dir.join("net.sock"))?;
    let listener = seqpacket()?;
    rustix::net::bind(&listener, &path)?;
    rustix::net::listen(&listener, 4)?;
    let socket = seqpacket()?;
    rustix::net::connect(&socket, &path)?;
    let program = parts.programs.join("gourd-net");
    let mut read: Vec<PathBuf> = ["/usr/lib", "/lib", "/lib64", "/etc"]
        .map(PathBuf::from)
        .to_vec();
    read.push(program.clone());
    let confinement = vmm::confine::for_spawn(&vmm::confine::Rules {
        read,
        read_write: Vec::new(),
        devices: Vec::new(),
        network: true,
    })?;
    let log = |name: &str| std::fs::File::create(parts.dir.join(name));
    let mut command = Command::new(program);
    command
        .args(["--gateway", &GATEWAY.to_string(), "--prefix", "24"])
        .args(["--mtu", &LARGE.to_string()])
        .stdin(listener)
        .stdout(log("net.lock")?)
        .stderr(log("net.log")?);
    vmm::spawn::inherit(&mut command, &[], Some(confinement));
    let process = command.spawn().context("start gourd-net")?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    let publish = |protocol, host_port, guest_port| Publish {
        protocol,
        address: Some(Ipv4Addr::LOCALHOST.into()),
        host_port,
        guest_port,
        proxy: None,
    };
    let join = Join {
        elsewhere: false,
        framing: network::Framing::Packed,
        protocol: network::PROTOCOL,
        container: "bench".to_owned(),
        names: vec!["bench".to_owned()],
        mac: MAC,
        wish: Some(ADDRESS),
        insists: true,
        host: true,
        resolvers: Vec::new(),
        publish: vec![
            publish(Protocol::Tcp, ports.iperf, 5201),
            publish(Protocol::Udp, ports.iperf, 5201),
            publish(Protocol::Tcp, ports.http, 80),
        ],
    };
    network::send(socket.as_fd(), &Request::Join(join), Some(theirs.as_fd()))?;
    match network::receive::<Reply>(socket.as_fd())? {
        Some((Reply::Joined(_), _)) => Ok((process, socket, ours)),
        other => bail!("gourd-net: {other:?}"),
    }
}

/// passt on a socket; it must listen before QEMU starts.
fn passt(parts: &Parts, socket: &Path, ports: Ports) -> Result<Child> {
    // It leaves root's rights behind, and has to get at the socket still.
    let me = rustix::process::getuid().as_raw().to_string();
    let mut command = Command::new("passt");
    command
        .args([
            "--foreground",
            "--quiet",
            "--one-off",
            "--ipv4-only",
            "--runas",
            &me,
        ])
        .arg("--socket")
        .arg(socket)
        .args(["--interface", super::INTERFACE, "--mtu", &LARGE.to_string()])
        .args(["--address", &ADDRESS.to_string(), "--netmask", "24"])
        .args(["--gateway", &GATEWAY.to_string()])
        .args([
            "-t",
            &format!("127.0.0.1/{}:5201,{}:80", ports.iperf, ports.http),
        ])
        .args(["-u", &format!("127.0.0.1/{}:5201", ports.iperf)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(parts.dir.join("passt.log"))?);
    vmm::spawn::inherit(&mut command, &[], None);
    let mut child = command.spawn().context("start passt")?;
    let patience = Instant::now();
    while !socket.exists() {
        let ended = child.try_wait()?;
        if ended.is_some() || patience.elapsed() > Duration::from_secs(10) {
            let log = std::fs::read_to_string(parts.dir.join("passt.log"))?;
            bail!("passt does not listen ({ended:?}): {log}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}
