//! A network with real sockets; smoltcp plays its guests.

mod few;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use netstack::wire::partial;
use netstack::{Config, Mac};
use proto::network::{
    self, Framing, Join, Joined, Lookup, PROTOCOL, Protocol, Publish, Reply, Request,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, socketpair,
};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use super::Server;

const MTU: u16 = 9000;

struct Link(OwnedFd, Framing);
struct Frame(Vec<u8>);
struct Out<'a>(&'a Link);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        if self.0.1 == Framing::Offload {
            frame.splice(..0, partial::header(None));
        }
        let _ = rustix::net::send(&self.0.0, &frame, SendFlags::NOSIGNAL);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Frame, Out<'_>)> {
        let mut frame = vec![0; partial::HEADER_LEN + usize::from(MTU) + 14];
        let (len, _) = rustix::net::recv(&self.0, &mut frame[..], RecvFlags::DONTWAIT).ok()?;
        frame.truncate(len);
        if self.1 == Framing::Offload {
            // smoltcp looks at what was left out: it is completed for it.
            let (left, rest) = partial::parse_header(&frame).expect("a header");
            frame = left.map_or_else(|| rest.to_vec(), |left| left.completed(rest));
        }
        Some((Frame(frame), Out(self)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Out<'_>> {
        Some(Out(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(MTU) + 14;
        capabilities
    }
}

/// A network in a thread, and where to connect to it.
struct Network {
    dir: tempfile::TempDir,
    thread: std::thread::JoinHandle<bool>,
}

impl Network {
    fn new() -> Network {
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path());
        let thread = std::thread::spawn(move || server.run().is_ok());
        Network { dir, thread }
    }

    fn connect(&self) -> OwnedFd {
        connect(&self.dir.path().join("sock"))
    }

    fn join(&self, number: u8, publish: &[Publish]) -> (OwnedFd, Result<Guest, network::Refused>) {
        self.join_by(Framing::Plain, number, publish)
    }

    fn join_by(
        &self,
        framing: Framing,
        number: u8,
        publish: &[Publish],
    ) -> (OwnedFd, Result<Guest, network::Refused>) {
        self.join_on(self.connect(), framing, number, publish)
    }

    fn join_on(
        &self,
        control: OwnedFd,
        framing: Framing,
        number: u8,
        publish: &[Publish],
    ) -> (OwnedFd, Result<Guest, network::Refused>) {
        let (link, theirs) = pair();
        let mac = [2, 0, 0, 0, 0, number];
        let join = Join {
            protocol: PROTOCOL,
            container: format!("{number}"),
            names: vec![format!("guest{number}")],
            mac,
            wish: None,
            insists: false,
            host: true,
            resolvers: Vec::new(),
            publish: publish.to_vec(),
            elsewhere: false,
            framing,
        };
        network::send(control.as_fd(), &Request::Join(join), Some(theirs.as_fd())).unwrap();
        let guest = match network::expect::<Reply>(&control).unwrap().0 {
            Reply::Joined(joined) => Ok(Guest::new(Link(link, framing), joined, mac)),
            Reply::Refused(refused) => Err(refused),
            other => panic!("{other:?}"),
        };
        (control, guest)
    }
}

/// One that listens in this folder.
fn server(dir: &Path) -> Server {
    let listener = seqpacket();
    let address = SocketAddrUnix::new(dir.join("sock")).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 16).unwrap();
    let config = Config {
        gateway: Ipv4Addr::new(10, 219, 0, 1),
        prefix: 16,
        mac: Mac([2, 0, 0, 0, 0, 0xff]),
        mtu: MTU,
        internal: false,
        ipv6: Some(("fd00::1".parse().unwrap(), 64)),
        allow: Vec::new(),
        seed: [1; 16],
    };
    Server::with(config, listener, None, dir.join("resolv.conf")).unwrap()
}

fn seqpacket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

fn connect(path: &Path) -> OwnedFd {
    let socket = seqpacket();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap()
}

struct Guest {
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    joined: Joined,
    start: Instant,
}

impl Guest {
    fn new(mut link: Link, joined: Joined, mac: [u8; 6]) -> Guest {
        let hardware = HardwareAddress::Ethernet(EthernetAddress(mac));
        let config = InterfaceConfig::new(hardware);
        let mut interface = Interface::new(config, &mut link, SmolInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let cidr = IpCidr::new(IpAddress::Ipv4(joined.address), joined.prefix);
            addresses.push(cidr).unwrap();
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(joined.gateway).unwrap();
        Guest {
            link,
            interface,
            sockets: SocketSet::new(Vec::new()),
            joined,
            start: Instant::now(),
        }
    }

    fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 64 << 10]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// Lives until `done` says so; there is a limit, so that a test that fails ends.
    fn until(&mut self, mut done: impl FnMut(&mut SocketSet<'static>) -> bool) {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let now = SmolInstant::from_micros(self.start.elapsed().as_micros() as i64);
            self.interface.poll(now, &mut self.link, &mut self.sockets);
            if done(&mut self.sockets) {
                return;
            }
            assert!(Instant::now() < limit, "it never came about");
            let wait = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 5_000_000,
            };
            let flags = rustix::event::PollFlags::IN;
            let mut fds = [rustix::event::PollFd::new(&self.link.0, flags)];
            let _ = rustix::event::poll(&mut fds, Some(&wait));
        }
    }
}

fn publish(protocol: Protocol, guest_port: u16) -> Publish {
    Publish {
        protocol,
        address: Some(Ipv4Addr::LOCALHOST.into()),
        host_port: 0,
        guest_port,
        proxy: None,
    }
}

#[test]
fn a_guest_reaches_a_server_of_the_hosts_and_ends_its_half() {
    for framing in [Framing::Plain, Framing::Offload] {
        there_and_back(framing);
    }
}

fn there_and_back(framing: Framing) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let host = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut all = Vec::new();
        // To the end of the guest's half; only then the answer.
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    });
    let network = Network::new();
    let (control, guest) = network.join_by(framing, 2, &[]);
    let mut guest = guest.unwrap();
    assert_eq!(guest.joined.address, Ipv4Addr::new(10, 219, 0, 2));
    let handle = guest.tcp();
    let to = IpEndpoint::new(IpAddress::Ipv4(guest.joined.gateway), port);
    let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
    socket
        .connect(guest.interface.context(), to, 40000)
        .unwrap();
    let sent: Vec<u8> = (0..1_000_000_u32).map(|at| (at >> 3) as u8).collect();
    let (mut written, mut got) = (0, Vec::new());
    let all = sent.clone();
    guest.until(move |sockets| {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        if socket.can_send() && written < all.len() {
            written += socket.send_slice(&all[written..]).unwrap();
        }
        written == all.len() && {
            socket.close();
            true
        }
    });
    guest.until(|sockets| {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        while socket.can_recv() {
            let read = |bytes: &mut [u8]| (bytes.len(), bytes.to_vec());
            got.extend(socket.recv(read).unwrap());
        }
        !socket.may_recv()
    });
    host.join().unwrap();
    let mut expect = sent;
    expect.reverse();
    assert!(got == expect);
    // The last guest's supervisor goes, and so does the network.
    drop(control);
    assert!(network.thread.join().unwrap());
}

#[test]
fn ports_lead_to_guests() {
    let network = Network::new();
    let ports = [publish(Protocol::Tcp, 80), publish(Protocol::Udp, 53)];
    let (_control, guest) = network.join(2, &ports);
    let mut guest = guest.unwrap();
    let [web, names] = guest.joined.published[..] else {
        panic!("{:?}", guest.joined);
    };
    let taken = Publish {
        host_port: web.host_port,
        ..ports[0]
    };
    let (other, refused) = network.join(3, &[taken]);
    assert_eq!(refused.err().unwrap().message, "the port is taken");
    // It may ask for another one.
    let (_control, joined) = network.join_on(other, Framing::Plain, 3, &ports);
    assert_eq!(joined.unwrap().joined.published.len(), 2);

    let handle = guest.tcp();
    guest
        .sockets
        .get_mut::<tcp::Socket<'_>>(handle)
        .listen(80)
        .unwrap();
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(("127.0.0.1", web.host_port)).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    guest.until(|sockets| sockets.get_mut::<tcp::Socket<'_>>(handle).can_recv());
    let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
    assert_eq!(
        socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap(),
        b"hello"
    );
    socket.send_slice(b"world").unwrap();
    socket.close();
    guest.until(|_| client.is_finished());
    assert_eq!(client.join().unwrap(), b"world");

    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(53).unwrap();
    let handle = guest.sockets.add(socket);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client
        .send_to(b"ping", ("127.0.0.1", names.host_port))
        .unwrap();
    guest.until(|sockets| {
        let socket = sockets.get_mut::<udp::Socket<'_>>(handle);
        let Ok((bytes, from)) = socket.recv() else {
            return false;
        };
        let (bytes, from) = (bytes.to_vec(), from.endpoint);
        socket.send_slice(&bytes, from).unwrap();
        true
    });
    client.set_nonblocking(true).unwrap();
    let mut bytes = [0; 8];
    guest.until(|_| {
        client
            .recv_from(&mut bytes)
            .is_ok_and(|(count, _)| count == 4)
    });
}

/// A client whose socket is connected hears nothing that comes from another address than it asked.
#[test]
fn datagrams_are_answered_from_the_address_that_was_asked() {
    let network = Network::new();
    let everywhere = Publish {
        address: None,
        ..publish(Protocol::Udp, 53)
    };
    let (_control, guest) = network.join(2, &[everywhere]);
    let mut guest = guest.unwrap();
    let port = guest.joined.published[0].host_port;
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(53).unwrap();
    let handle = guest.sockets.add(socket);
    // One socket that asks two addresses has two answers, each from its own.
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_nonblocking(true).unwrap();
    for address in ["127.0.0.2", "127.0.0.3", "127.0.0.2"] {
        client.connect((address, port)).unwrap();
        client.send(b"ping").unwrap();
        echoed(&mut guest, handle, &client);
    }
    if guest.joined.published.len() == 2 {
        let client = UdpSocket::bind("[::1]:0").unwrap();
        client.set_nonblocking(true).unwrap();
        client.connect(("::1", port)).unwrap();
        client.send(b"ping").unwrap();
        echoed(&mut guest, handle, &client);
    }
}

/// The guest answers the client with what it said.
fn echoed(guest: &mut Guest, handle: SocketHandle, client: &UdpSocket) {
    guest.until(|sockets| {
        let socket = sockets.get_mut::<udp::Socket<'_>>(handle);
        if let Ok((bytes, from)) = socket.recv() {
            let (bytes, from) = (bytes.to_vec(), from.endpoint);
            socket.send_slice(&bytes, from).unwrap();
        }
        client.recv(&mut [0; 8]).is_ok_and(|count| count == 4)
    });
}

#[test]
fn nobody_there_is_refused_and_a_member_is_reported() {
    let network = Network::new();
    let (_control, guest) = network.join(2, &[]);
    let mut guest = guest.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let handle = guest.tcp();
    let to = IpEndpoint::new(IpAddress::Ipv4(guest.joined.gateway), closed.port());
    let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
    socket
        .connect(guest.interface.context(), to, 40000)
        .unwrap();
    guest.until(|sockets| sockets.get_mut::<tcp::Socket<'_>>(handle).state() == tcp::State::Closed);
    let watch = network.connect();
    let file = tempfile::tempfile().unwrap();
    let question = Request::Watch {
        protocol: PROTOCOL,
        container: None,
    };
    network::send(watch.as_fd(), &question, Some(file.as_fd())).unwrap();
    // Its connection comes after the watch's request, which is in the queue; one answer says that it was read.
    let engine = network.connect();
    let question = Request::Report { protocol: PROTOCOL };
    network::send(engine.as_fd(), &question, None).unwrap();
    let Reply::Report(members) = network::expect::<Reply>(&engine).unwrap().0 else {
        panic!("no report");
    };
    assert_eq!((members.len(), members[0].name.as_str()), (1, "guest2"));
    assert_eq!(members[0].ipv6, Some("fd00::adb:2".parse().unwrap()));
    let handle = guest.tcp();
    let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
    socket
        .connect(guest.interface.context(), to, 40001)
        .unwrap();
    guest.until(|sockets| sockets.get_mut::<tcp::Socket<'_>>(handle).state() == tcp::State::Closed);
    let Reply::Note(line) = network::expect::<Reply>(&watch).unwrap().0 else {
        panic!("no note");
    };
    let expect = format!("guest2 tcp 10.219.0.2:40001 -> 10.219.0.1:{}", to.port);
    assert!(line.ends_with(&expect), "{line}");
    // At least a SYN, and the reset that answers it.
    guest.until(|_| file.metadata().unwrap().len() >= 24 + 2 * (16 + 54));
}

/// A member's ports can be others later, and what nobody here is called is asked where it is, too.
#[test]
fn ports_change_and_names_are_asked_elsewhere() {
    let network = Network::new();
    let (control, guest) = network.join(2, &[publish(Protocol::Tcp, 80)]);
    let mut guest = guest.unwrap();
    let before = guest.joined.published[0].host_port;
    let ask = |request: &Request| {
        network::send(control.as_fd(), request, None).unwrap();
        network::expect::<Reply>(&control).unwrap().0
    };
    let wanted = vec![publish(Protocol::Tcp, 81)];
    let Reply::Published(now) = ask(&Request::Publish(wanted)) else {
        panic!("not published");
    };
    assert_eq!((now.len(), now[0].guest_port), (1, 81));
    assert!(TcpStream::connect(("127.0.0.1", before)).is_err());
    assert!(TcpStream::connect(("127.0.0.1", now[0].host_port)).is_ok());
    assert_eq!(
        ask(&Request::Publish(Vec::new())),
        Reply::Published(Vec::new())
    );
    // Its own network's names, for the supervisor that asks for another one.
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(b"\x06guest2\0\0\x01\0\x01");
    let lookup = |message: &[u8]| {
        let message = Some(message.to_vec());
        Request::Lookup(Lookup { id: 5, message })
    };
    let Reply::Found(found) = ask(&lookup(&question)) else {
        panic!("no answer");
    };
    let address = [10, 219, 0, 2];
    assert!(found.id == 5 && found.message.unwrap().ends_with(&address));
    let nobody = Reply::Found(Lookup {
        id: 5,
        message: None,
    });
    assert_eq!(ask(&lookup(b"nonsense")), nobody);
    // The guest asks for a name that is another network's.
    network::send(control.as_fd(), &Request::Elsewhere(true), None).unwrap();
    let mut db = question[..12].to_vec();
    db.extend(b"\x02db\0\0\x01\0\x01");
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(5353).unwrap();
    let to = IpEndpoint::new(IpAddress::Ipv4(guest.joined.gateway), 53);
    // The answer to a request says that those before it were read.
    assert_eq!(ask(&lookup(b"nonsense")), nobody);
    socket.send_slice(&db, to).unwrap();
    let handle = guest.sockets.add(socket);
    rustix::io::ioctl_fionbio(&control, true).unwrap();
    let mut asked = None;
    guest.until(|_| {
        asked = network::expect::<Reply>(&control).ok();
        asked.is_some()
    });
    let Some((Reply::Ask(asked), _)) = asked else {
        panic!("{asked:?}");
    };
    assert_eq!(asked.message.as_deref(), Some(&db[..]));
    let mut answer = db.clone();
    answer[2] |= 0x80;
    let reply = Lookup {
        id: asked.id,
        message: Some(answer.clone()),
    };
    network::send(control.as_fd(), &Request::Answer(reply), None).unwrap();
    guest.until(|sockets| {
        let socket = sockets.get_mut::<udp::Socket<'_>>(handle);
        matches!(socket.recv(), Ok((bytes, _)) if bytes == answer)
    });
}
