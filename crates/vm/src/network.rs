//! The container's place on its network: `gourd-net` is found or started, joined, joined again when it dies, and left.
//!
//! ```text
//!   begin ──► connect ──► Join ──► joined ──► (gourd-net lives) ──► leave: half close, until its end
//!                ▲          │ it was on its way out      │ it died
//!                └──────────┴────────────────────────────┘
//! ```
//!
//! All of it happens beside the guest's boot: whoever wants to know the address waits for [`Membership::joined`], and mostly it is
//! there long before. The link (a pair of sockets, one for the monitor) is made once and outlives every `gourd-net`: we keep
//! a duplicate of its end, so that the guest sees lost packets and reset connections at worst, never a dead card.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypervisor::confine;
use proto::network::{self, Join, Joined, PROTOCOL, Reply, Request};
use proto::supervisor::Failure;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use store::Root;
use store::container::{Attached, Endpoint, Port, Protocol, Spec};
use store::locate::{self, Programs};
use store::network::{Network, What};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{failure, sys};

pub mod carrier;
mod talk;

use talk::Command;
pub use talk::Directory;

/// Bytes of the largest packet. An IP packet of this size and its Ethernet header are less than 64 KiB.
pub const MTU: u16 = 65520;

/// Connections that may wait until `gourd-net` looks.
const BACKLOG: i32 = 128;

/// How long the network's process may take to let a guest go.
const FAREWELL: Duration = Duration::from_secs(5);

/// One that lives shorter than this dies of something that comes again: a guest's frames, as a rule.
const SHORT_LIFE: Duration = Duration::from_secs(10);

/// The longest that is waited before it is started once more.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Commands to a membership that may wait; more are lost.
const COMMANDS: usize = 64;

/// How often one that was on its way out may be met before something else is wrong.
const TRIES: usize = 20;

/// Both ends of a link: the guest's and the network's.
///
/// # Errors
/// The system has no more descriptors.
pub fn link() -> io::Result<(OwnedFd, OwnedFd)> {
    let (guest, network) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    /// What is on its way, each way; the kernel gives what it allows.
    const BUFFER: usize = 4 << 20;
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&guest, BUFFER);
    Ok((guest, network))
}

/// The Ethernet address of a container's card, of which it has less than 64: locally administered, the rest from its id.
pub fn mac(id: &str, card: u8) -> [u8; 6] {
    let mut mac = [card << 2 | 2; 6];
    for (index, byte) in mac[1..].iter_mut().enumerate() {
        let digits = id.get(2 * index..2 * index + 2).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    mac
}

type Told = Option<Result<Joined, Failure>>;

/// What a container has on a network beside what its endpoint says.
pub struct Seat {
    /// Its card's Ethernet address.
    pub mac: [u8; 6],
    /// The address that it had.
    pub wish: Option<Ipv4Addr>,
    /// The host's ports that lead to it.
    pub publish: Vec<network::Publish>,
    /// Where the names of its other networks are asked for; whether there are others.
    pub directory: Arc<Directory>,
    /// See [`network::Request::Elsewhere`].
    pub elsewhere: bool,
    /// See [`Join::packed`].
    pub packed: bool,
}

/// A container on a network.
pub struct Membership {
    joining: Joining,
    commands: mpsc::Sender<Command>,
    leave: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

/// Its way there.
#[derive(Clone)]
pub struct Joining(watch::Receiver<Told>);

impl Membership {
    /// Joins, in the background.
    pub fn begin(
        root: &Root,
        spec: &Spec,
        endpoint: &Endpoint,
        seat: Seat,
        link: OwnedFd,
    ) -> Membership {
        let (told, joined) = watch::channel(None);
        let (leave, leaving) = oneshot::channel();
        let (commands, orders) = mpsc::channel(COMMANDS);
        seat.directory.enter(&endpoint.network, commands.clone());
        let plan = Plan {
            root: root.clone(),
            network: endpoint.network.clone(),
            directory: seat.directory.clone(),
            join: join(spec, endpoint, seat),
            own: commands.downgrade(),
        };
        let task = tokio::spawn(keep(plan, link, told, orders, leaving));
        Membership {
            joining: Joining(joined),
            commands,
            leave,
            task,
        }
    }

    /// Its way to the network.
    pub fn joining(&self) -> Joining {
        self.joining.clone()
    }

    /// It is on other networks, too, or not any more.
    pub fn set_elsewhere(&self, elsewhere: bool) {
        // Who does not read does not get it; questions are then answered from here alone.
        let _ = self.commands.try_send(Command::Elsewhere(elsewhere));
    }

    /// Has these ports lead to it, instead of those that it had. As they are then.
    ///
    /// # Errors
    /// One can't be had: it has none then.
    pub async fn publish(
        &self,
        ports: Vec<network::Publish>,
    ) -> Result<Vec<network::Publish>, Failure> {
        let (answer, published) = oneshot::channel();
        let _ = self.commands.send(Command::Publish(ports, answer)).await;
        let gone = || failure::own("publish", "", "the network's process does not answer");
        published.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Leaves; when this was the last, the network's process is gone when this returns.
    pub async fn leave(mut self) {
        let _ = self.leave.send(());
        if tokio::time::timeout(FAREWELL, &mut self.task)
            .await
            .is_err()
        {
            // Its connection ends with the task.
            tracing::warn!("the network's process does not let go");
            self.task.abort();
        }
    }
}

impl Joining {
    /// Where it is on the network.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn joined(&self) -> Result<Joined, Failure> {
        let mut joined = self.0.clone();
        let told = joined.wait_for(Option::is_some).await;
        match told.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(failure::own("join the network", "", "it was given up")),
        }
    }

    /// Waits until joining has failed; for ever when it does not.
    pub async fn failed(&self) -> Failure {
        match self.joined().await {
            Err(failure) => failure,
            Ok(_) => std::future::pending().await,
        }
    }
}

/// Waits until one of them has failed to join; for ever when none does.
pub async fn first_failure(joining: &[Joining]) -> Failure {
    match joining {
        [] => std::future::pending().await,
        all => {
            let failures = all.iter().map(|joining| Box::pin(joining.failed()));
            futures_util::future::select_all(failures).await.0
        }
    }
}

/// What `state.json` says about it.
pub fn attached(network: &str, mac: [u8; 6], joined: &Joined) -> Attached {
    let port = |port: &network::Publish| Port {
        protocol: match port.protocol {
            network::Protocol::Tcp => Protocol::Tcp,
            network::Protocol::Udp => Protocol::Udp,
        },
        address: port.address,
        host: port.host_port,
        container: port.guest_port,
    };
    Attached {
        network: network.to_owned(),
        address: joined.address,
        prefix: joined.prefix,
        gateway: joined.gateway,
        ipv6: joined
            .ipv6
            .map(|ipv6| (ipv6.address, ipv6.prefix, ipv6.gateway)),
        mac,
        ports: joined.published.iter().map(port).collect(),
    }
}

/// The host's ports that a container's spec asks for.
pub fn wanted(spec: &Spec) -> Vec<network::Publish> {
    let publish = spec.ports.iter().map(|port| network::Publish {
        protocol: match port.protocol {
            Protocol::Tcp => network::Protocol::Tcp,
            Protocol::Udp => network::Protocol::Udp,
        },
        address: port.address,
        host_port: port.host,
        guest_port: port.container,
    });
    publish.collect()
}

fn join(spec: &Spec, endpoint: &Endpoint, seat: Seat) -> Join {
    let mut names = vec![
        spec.name.clone(),
        spec.id[..spec.id.len().min(12)].to_owned(),
    ];
    names.push(spec.hostname.clone());
    names.extend(endpoint.aliases.iter().cloned());
    names.dedup();
    Join {
        protocol: PROTOCOL,
        container: spec.id.clone(),
        names,
        mac: seat.mac,
        wish: endpoint.address.or(seat.wish),
        insists: endpoint.address.is_some(),
        host: endpoint.host,
        resolvers: spec.resolution.servers.clone(),
        publish: seat.publish,
        elsewhere: seat.elsewhere,
        packed: seat.packed,
    }
}

/// What is needed to join.
struct Plan {
    root: Root,
    network: String,
    join: Join,
    directory: Arc<Directory>,
    /// Where this membership's own commands go.
    own: mpsc::WeakSender<Command>,
}

/// Joins, and again whenever `gourd-net` dies, until it is told to leave.
async fn keep(
    mut plan: Plan,
    link: OwnedFd,
    told: watch::Sender<Told>,
    mut orders: mpsc::Receiver<Command>,
    mut leaving: oneshot::Receiver<()>,
) {
    let (mut tries, mut wait) = (0, Duration::ZERO);
    loop {
        let result = try_join(&plan, &link).await;
        let (connection, joined) = match result {
            Ok(Some(joined)) => joined,
            // It was on its way out: the next one is ours to start.
            Ok(None) if tries < TRIES => {
                tries += 1;
                continue;
            }
            Ok(None) => {
                let failure =
                    failure::own("join the network", &plan.network, "it ends again and again");
                return give_up(&told, failure);
            }
            Err(failure) => return give_up(&told, failure),
        };
        tries = 0;
        let since = Instant::now();
        // The guest lives at this address, with these ports, from now on.
        plan.join.wish = Some(joined.address);
        plan.join.insists = true;
        plan.join.publish.clone_from(&joined.published);
        told.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(Ok(joined));
            first
        });
        match talk::talk(&connection, &mut plan, &mut orders, &mut leaving).await {
            talk::Ended::Left => return,
            talk::Ended::Died => {
                tracing::warn!(network = %plan.network, "the network's process died: its connections are reset");
                // The first time nobody waits.
                tokio::time::sleep(wait).await;
                wait = match since.elapsed() < SHORT_LIFE {
                    true => (wait * 2).clamp(Duration::from_millis(100), LONGEST_WAIT),
                    false => Duration::ZERO,
                };
            }
        }
    }
}

fn give_up(told: &watch::Sender<Told>, failure: Failure) {
    let words = failure::describe(&failure);
    tracing::error!(failure = %words, "the container is on no network");
    told.send_if_modified(|told| {
        let first = told.is_none();
        told.get_or_insert(Err(failure));
        first
    });
}

/// A connection to `gourd-net`, whom we may have started.
struct Connection {
    stream: UnixStream,
    child: std::sync::Mutex<Option<Child>>,
}

impl Connection {
    /// Receives a message; `None`: the other side is gone.
    async fn receive(&self) -> Option<Reply> {
        loop {
            self.stream.readable().await.ok()?;
            let received = self.stream.try_io(Interest::READABLE, || {
                network::receive::<Reply>(self.stream.as_fd())
            });
            match received {
                Ok(message) => return message.map(|(reply, _)| reply),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until the other side is gone.
    async fn ended(&self) {
        while self.receive().await.is_some() {}
        let child = self.child.lock().ok().and_then(|mut child| child.take());
        if let Some(mut child) = child {
            // It has closed its sockets on its way out.
            let _ = tokio::task::spawn_blocking(move || child.wait()).await;
        }
    }

    /// Says that the guest leaves.
    fn leave(&self) {
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
    }
}

/// Joins once; `None` when `gourd-net` ended without an answer.
async fn try_join(plan: &Plan, link: &OwnedFd) -> Result<Option<(Connection, Joined)>, Failure> {
    let step = "join the network";
    let failed = |error: &dyn std::error::Error| failure::from_error(step, &plan.network, error);
    let (root, name) = (plan.root.clone(), plan.network.clone());
    let connected = tokio::task::spawn_blocking(move || connect(&root, &name)).await;
    let (socket, child) = connected.map_err(|error| failed(&error))??;
    let stream = StdStream::from(socket);
    let watched = stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream));
    let connection = Connection {
        stream: watched.map_err(|error| failed(&error))?,
        child: std::sync::Mutex::new(child),
    };
    let request = Request::Join(plan.join.clone());
    match network::send(connection.stream.as_fd(), &request, Some(link.as_fd())) {
        Ok(()) => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed(&error)),
    }
    match connection.receive().await {
        Some(Reply::Joined(joined)) => Ok(Some((connection, joined))),
        Some(Reply::Refused(refused)) => {
            // One that was started for this guest alone ends now.
            connection.leave();
            connection.ended().await;
            Err(refusal(refused))
        }
        Some(_) => Err(failure::own(
            step,
            &plan.network,
            "it says what nobody asked",
        )),
        None => Ok(None),
    }
}

fn refusal(refused: network::Refused) -> Failure {
    Failure {
        errno: refused.errno,
        remedy: remedy(&refused),
        ..failure::own(&refused.step, refused.object, refused.message)
    }
}

fn remedy(refused: &network::Refused) -> String {
    let words = match io::Error::from_raw_os_error(refused.errno).kind() {
        _ if refused.step != "publish" => "",
        io::ErrorKind::AddrInUse => {
            "choose another port of the host, or stop what has this one (`ss -lntup` names it)"
        }
        io::ErrorKind::PermissionDenied => {
            "choose a port from 1024 on, or lower net.ipv4.ip_unprivileged_port_start"
        }
        io::ErrorKind::AddrNotAvailable => "`ip address` lists the host's addresses",
        _ => "",
    };
    words.to_owned()
}

/// A connection to the network's process, which is started when there is none. May block, but for moments only.
fn connect(root: &Root, name: &str) -> Result<(OwnedFd, Option<Child>), Failure> {
    let step = "start the network";
    let network = store::network::open(root, name)
        .map_err(|error| failure::from_error("join the network", name, &error))?;
    let failed = |error: &dyn std::error::Error| failure::from_error(step, name, error);
    let (dir, path) = network.socket().map_err(|error| failed(&error))?;
    if let Some(socket) = dial(&path).map_err(|error| failed(&error))? {
        return Ok((socket, None));
    }
    // One starts it, the others come after.
    rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| failed(&io::Error::from(error)))?;
    if let Some(socket) = dial(&path).map_err(|error| failed(&error))? {
        return Ok((socket, None));
    }
    // Held by one that does not answer any more, and so for its last moments at most.
    let lock = network.lock().map_err(|error| failed(&error))?;
    let listener = listen(&network.dir().join("sock"), &path).map_err(|error| failed(&error))?;
    let child = start(&network, listener, lock.into_fd())?;
    match dial(&path).map_err(|error| failed(&error))? {
        Some(socket) => Ok((socket, Some(child))),
        None => Err(failure::own(
            step,
            name,
            "it ended at once; its net.log may say why",
        )),
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        flags,
        None,
    )?)
}

/// `None`: nobody listens.
fn dial(path: &Path) -> io::Result<Option<OwnedFd>> {
    let socket = seqpacket()?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => Ok(Some(socket)),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// For the lock's holder: what is there is a dead one's.
fn listen(real: &Path, short: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(real) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = seqpacket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(short)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Starts `gourd-net`, confined, with the socket as its standard input and the lock as its output.
fn start(network: &Network, listener: OwnedFd, lock: OwnedFd) -> Result<Child, Failure> {
    let name = &network.spec().name;
    let program = Programs::new(None)
        .find(locate::NET)
        .map_err(|error| failure::from_error("find the network's program", locate::NET, &error))?;
    let failed =
        |error: &dyn std::error::Error| failure::from_error("start the network", name, error);
    let log = log(&network.log()).map_err(|error| failed(&error))?;
    let spec = network.spec();
    let mut command = std::process::Command::new(&program);
    command.env_clear().current_dir("/").process_group(0);
    command
        .arg("--gateway")
        .arg(spec.subnet.gateway().to_string());
    command.arg("--prefix").arg(spec.subnet.prefix.to_string());
    command.arg("--mtu").arg(MTU.to_string());
    command.args(arguments(spec));
    command.stdin(listener).stdout(lock).stderr(log);
    let confinement = confine::for_spawn(&rules(program)).map_err(|error| failed(&error))?;
    sys::spawn_confined(command, confinement).map_err(|error| failed(&error))
}

/// What the network is told beyond its gateway.
fn arguments(spec: &store::network::Spec) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(subnet) = spec.subnet6 {
        words.extend([
            "--ipv6".to_owned(),
            format!("{}/{}", subnet.gateway(), subnet.prefix),
        ]);
    }
    if spec.internal {
        words.push("--internal".to_owned());
    }
    for allow in &spec.allow {
        let (kind, value) = match &allow.what {
            What::Name(name) => ("name", name.clone()),
            What::Below(name) => ("below", name.clone()),
            What::Prefix(address, bits) => ("prefix", format!("{address}/{bits}")),
        };
        let port = allow.port.map_or("any".to_owned(), |port| port.to_string());
        words.extend(["--allow".to_owned(), kind.to_owned(), value, port]);
    }
    words
}

/// What it may open by name: itself, its libraries, and the folders of the file that names the host's resolvers, which is replaced
/// now and then.
fn rules(program: PathBuf) -> confine::Rules {
    let mut read: Vec<PathBuf> = [
        "/usr/lib",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        "/nix/store",
    ]
    .iter()
    .map(PathBuf::from)
    .collect();
    read.push(program);
    let resolv_conf = Path::new("/etc/resolv.conf");
    let real = resolv_conf.canonicalize().ok();
    for path in [Some(resolv_conf), real.as_deref()].into_iter().flatten() {
        read.extend(path.parent().map(Path::to_owned));
    }
    confine::Rules {
        read,
        read_write: Vec::new(),
        devices: Vec::new(),
        network: true,
    }
}

fn log(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Read, because its newer half is kept when it is full.
    options.read(true).append(true).create(true);
    options.mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_ids() {
        assert_eq!(mac("0123456789abcdef", 0), [2, 1, 0x23, 0x45, 0x67, 0x89]);
        assert_eq!(mac("0123456789abcdef", 3)[..2], [14, 1]);
        assert_eq!(mac("xyz", 0), [2, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_a_network_is_told() {
        let spec = store::network::Spec {
            schema: store::network::SCHEMA,
            name: "mine".to_owned(),
            id: String::new(),
            created_ns: 0,
            subnet: "10.1.0.0/16".parse().unwrap(),
            subnet6: Some("fd00:1::/64".parse().unwrap()),
            internal: false,
            allow: ["*.example.org:443", "192.0.2.0/24"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            labels: std::collections::BTreeMap::new(),
        };
        let expect =
            "--ipv6 fd00:1::1/64 --allow below example.org 443 --allow prefix 192.0.2.0/24 any";
        assert_eq!(arguments(&spec).join(" "), expect);
    }

    #[test]
    fn what_others_call_it() {
        let spec = Spec {
            id: "0123456789abcdef".to_owned(),
            name: "web".to_owned(),
            hostname: "0123456789ab".to_owned(),
            ..Spec::default()
        };
        let endpoint = Endpoint {
            aliases: vec!["www".to_owned()],
            ..Endpoint::default()
        };
        let wish = Ipv4Addr::new(10, 219, 0, 9);
        let seat = Seat {
            mac: mac(&spec.id, 0),
            wish: Some(wish),
            publish: Vec::new(),
            directory: Arc::default(),
            elsewhere: false,
            packed: false,
        };
        let join = join(&spec, &endpoint, seat);
        assert_eq!(join.names, ["web", "0123456789ab", "www"]);
        assert_eq!((join.wish, join.insists), (Some(wish), false));
    }
}
