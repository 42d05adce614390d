//! Guests and their supervisors' connections.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use netstack::{Endpoint, Mac, Stack};
use proto::network::{
    self, Framing, Ipv6, Join, Joined, Member, PROTOCOL, Publish, Refused, Reply,
};

use crate::capture::Capture;
use crate::descriptors::Account;
use crate::link::Link;
use crate::poll::{Poll, Token};
use crate::published::Ports;
use crate::resolvers;

/// Bytes of frames that may be on their way in a link's socket, each way; the kernel gives what it allows.
const LINK_BUFFER: usize = 4 << 20;

/// A connection, and the guest that it speaks for.
#[derive(Debug)]
pub struct Client {
    /// The connection.
    pub socket: OwnedFd,
    /// The guest, once it has joined.
    pub guest: Option<Guest>,
    /// It wants to hear what people are told.
    watch: Option<Watch>,
}

/// Somebody who watches.
#[derive(Debug)]
struct Watch {
    /// The container that it is about.
    container: Option<String>,
    /// Where frames go.
    capture: Option<Capture>,
}

impl Watch {
    fn is_about(&self, guest: &Guest) -> bool {
        let container = self.container.as_ref();
        container.is_none_or(|container| *container == guest.member.container)
    }
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    /// Its frames.
    pub link: Link,
    /// The link has no room.
    pub full: bool,
    /// Published ports of which nothing is read until the link has room.
    pub paused: Vec<u64>,
    /// Who is asked for names; empty: the host's resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// The descriptors of its flows.
    pub account: Account,
    /// It was said that it wants more of them than it gets.
    pub told: bool,
    member: Member,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Clients {
    last: u32,
    all: HashMap<u32, Client>,
    /// Somebody wants frames.
    captured: bool,
}

fn refused(step: &str, object: impl ToString, message: impl ToString) -> Refused {
    Refused {
        step: step.to_owned(),
        object: object.to_string(),
        errno: 0,
        message: message.to_string(),
    }
}

impl Clients {
    /// A supervisor or an engine has connected.
    pub fn insert(&mut self, poll: &Poll, socket: OwnedFd) -> io::Result<()> {
        self.last += 1;
        poll.watch_input(socket.as_fd(), Token::Client(self.last))?;
        let client = Client {
            socket,
            guest: None,
            watch: None,
        };
        self.all.insert(self.last, client);
        Ok(())
    }

    /// A connection.
    pub fn get(&self, id: u32) -> Option<&Client> {
        self.all.get(&id)
    }

    /// A guest.
    pub fn guest(&mut self, id: u32) -> Option<&mut Guest> {
        self.all.get_mut(&id)?.guest.as_mut()
    }

    /// The guest that this is true of.
    pub fn find(&self, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.all.keys().copied().find(|id| is_it(*id))
    }

    /// The name of a guest.
    pub fn name(&self, id: u32) -> &str {
        let guest = self.all.get(&id).and_then(|client| client.guest.as_ref());
        guest.map_or("?", |guest| &guest.member.name)
    }

    /// A client wants to hear what people are told, of all guests or of one, and to have the frames.
    pub fn watch(&mut self, id: u32, container: Option<String>, file: Option<OwnedFd>) {
        if let Some(client) = self.all.get_mut(&id) {
            let capture = file.map(|file| Capture::new(file.into()));
            client.watch = Some(Watch { container, capture });
        }
        self.find_captures();
    }

    fn find_captures(&mut self) {
        let watches = self.all.values().filter_map(|client| client.watch.as_ref());
        self.captured = watches.into_iter().any(|watch| watch.capture.is_some());
    }

    /// Whether anybody wants frames.
    pub fn is_captured(&self) -> bool {
        self.captured
    }

    /// A frame from a guest, or `to` one. What goes from one guest to another is recorded once, unless it is about the receiver.
    pub fn capture(&mut self, id: u32, to: bool, frame: &[u8], gateway: Mac) {
        let own = frame.get(6..12) == Some(&gateway.0[..]);
        let at = SystemTime::now();
        let guest = self.all.get(&id).and_then(|client| client.guest.as_ref());
        let Some(container) = guest.map(|guest| guest.member.container.clone()) else {
            return;
        };
        for watch in self.all.values_mut().filter_map(|it| it.watch.as_mut()) {
            let about = match &watch.container {
                Some(wanted) => *wanted == container,
                None => !to || own,
            };
            if let Some(capture) = watch.capture.as_mut().filter(|_| about) {
                capture.frame(frame, at);
            }
        }
    }

    /// Writes what was recorded.
    pub fn flush_captures(&mut self) {
        for watch in self.all.values_mut().filter_map(|it| it.watch.as_mut()) {
            if let Some(capture) = &mut watch.capture {
                capture.flush();
            }
        }
    }

    /// Whether anybody does.
    pub fn is_watched(&self) -> bool {
        self.all.values().any(|client| client.watch.is_some())
    }

    /// Tells those who do of what a guest did. Who does not keep up misses some.
    pub fn tell(&self, id: u32, line: &str) {
        let guest = self.all.get(&id).and_then(|client| client.guest.as_ref());
        for client in self.all.values() {
            let about = |watch: &Watch| guest.is_none_or(|guest| watch.is_about(guest));
            if client.watch.as_ref().is_some_and(about) {
                reply(client, &Reply::Note(line.to_owned()));
            }
        }
    }

    /// How many are connected.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many guests there are.
    pub fn guests(&self) -> usize {
        self.all
            .values()
            .filter(|client| client.guest.is_some())
            .count()
    }

    /// Who is there.
    pub fn report(&self) -> Vec<Member> {
        let guests = self.all.values().filter_map(|client| client.guest.as_ref());
        let mut members: Vec<Member> = guests.map(|guest| guest.member.clone()).collect();
        members.sort_by_key(|member| member.address);
        members
    }

    /// A guest joins: it gets an address, its ports are published, its link is plugged in.
    pub fn join(
        &mut self,
        poll: &Poll,
        stack: &mut Stack,
        ports: &mut Ports,
        id: u32,
        join: Join,
        link: Option<OwnedFd>,
    ) -> Result<Joined, Refused> {
        let link = check(&join, link)?;
        let mac = Mac(join.mac);
        if self
            .all
            .get(&id)
            .is_none_or(|client| client.guest.is_some())
        {
            return Err(refused("join", &join.container, "it has joined already"));
        }
        if mac.is_multicast() || stack.has_mac(mac) {
            return Err(refused("join", mac, "the Ethernet address is in use"));
        }
        let address = address(stack, &join)?;
        let published = ports.publish(poll, id, &join.publish)?;
        let plugged = rustix::io::ioctl_fionbio(&link, true)
            .map_err(io::Error::from)
            .and_then(|()| poll.watch_input(link.as_fd(), Token::Link(id)));
        if let Err(error) = plugged {
            ports.withdraw(id);
            return Err(refused("plug in", &join.container, error));
        }
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&link, LINK_BUFFER);
        let endpoint = Endpoint {
            mac,
            address,
            names: join.names.clone(),
            host: join.host,
        };
        stack.attach(id, endpoint);
        stack.set_elsewhere(id, join.elsewhere);
        stack.set_partial(id, join.framing == Framing::Offload);
        let joined = joined(stack, address, published);
        self.plug(id, join, link, &joined);
        Ok(joined)
    }

    /// A guest has other ports from now on: these, or none when one of them can't be had.
    pub fn publish(
        &self,
        poll: &Poll,
        ports: &mut Ports,
        id: u32,
        wanted: &[Publish],
    ) -> Result<Vec<Publish>, Refused> {
        let guest = self.all.get(&id).and_then(|client| client.guest.as_ref());
        if guest.is_none() {
            return Err(refused("publish", "", "the guest has not joined"));
        }
        ports.withdraw(id);
        ports.publish(poll, id, wanted)
    }

    fn plug(&mut self, id: u32, join: Join, link: OwnedFd, joined: &Joined) {
        let resolver = |address: IpAddr| SocketAddr::new(address, resolvers::PORT);
        let guest = Guest {
            link: Link::new(link, join.framing),
            full: false,
            paused: Vec::new(),
            resolvers: join.resolvers.into_iter().map(resolver).collect(),
            account: Account::default(),
            told: false,
            member: Member {
                name: join.names.first().cloned().unwrap_or_default(),
                container: join.container,
                mac: join.mac,
                address: joined.address,
                ipv6: joined.ipv6.map(|ipv6| ipv6.address),
            },
        };
        if let Some(client) = self.all.get_mut(&id) {
            client.guest = Some(guest);
        }
    }

    /// A connection has ended: its guest leaves. True when it had one.
    pub fn leave(&mut self, poll: &Poll, stack: &mut Stack, ports: &mut Ports, id: u32) -> bool {
        let Some(client) = self.all.remove(&id) else {
            return false;
        };
        poll.forget(client.socket.as_fd());
        self.find_captures();
        let Some(guest) = client.guest else {
            return false;
        };
        // The supervisor has a duplicate of it.
        poll.forget(guest.link.fd.as_fd());
        ports.withdraw(id);
        stack.detach(id);
        true
    }
}

fn check(join: &Join, link: Option<OwnedFd>) -> Result<OwnedFd, Refused> {
    if join.protocol != PROTOCOL {
        let message = format!("this gourd-net speaks version {PROTOCOL}");
        return Err(refused(
            "join",
            format!("protocol {}", join.protocol),
            message,
        ));
    }
    let link = link.ok_or_else(|| refused("join", &join.container, "it came without a link"))?;
    match rustix::net::sockopt::socket_type(&link) {
        Ok(rustix::net::SocketType::DGRAM) => Ok(link),
        _ => Err(refused(
            "join",
            &join.container,
            "its link is no socket of datagrams",
        )),
    }
}

fn address(stack: &Stack, join: &Join) -> Result<Ipv4Addr, Refused> {
    if let Some(wish) = join.wish.filter(|_| join.insists) {
        return match stack.is_free(wish) {
            true => Ok(wish),
            false if stack.config().contains(wish.into()) => {
                Err(refused("take the address", wish, "somebody has it"))
            }
            false => Err(refused(
                "take the address",
                wish,
                "the network has no such address",
            )),
        };
    }
    stack
        .free_address(join.wish)
        .ok_or_else(|| refused("join", &join.container, "all addresses are taken"))
}

fn joined(stack: &Stack, address: Ipv4Addr, published: Vec<Publish>) -> Joined {
    let config = stack.config();
    Joined {
        address,
        prefix: config.prefix,
        gateway: config.gateway,
        mtu: config.mtu,
        ipv6: config.ipv6.and_then(|(gateway, prefix)| {
            Some(Ipv6 {
                address: config.twin(address)?,
                prefix,
                gateway,
            })
        }),
        published,
    }
}

/// Answers on a connection. One that does not read its answers is no concern of the network's.
pub fn reply(client: &Client, reply: &Reply) {
    let _ = network::send(client.socket.as_fd(), reply, None);
}
