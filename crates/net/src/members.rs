//! Guests and their supervisors' connections.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use netstack::{Endpoint, Mac, Stack};
use proto::network::{self, Join, Joined, Member, PROTOCOL, Publish, Refused};

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
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    /// Its frames.
    pub link: OwnedFd,
    /// The link has no room.
    pub full: bool,
    /// A frame that found no room.
    pub waiting: Vec<u8>,
    /// Who is asked for names; empty: the host's resolvers.
    pub resolvers: Vec<SocketAddr>,
    member: Member,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Clients {
    last: u32,
    all: HashMap<u32, Client>,
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
        self.plug(id, join, link, address);
        Ok(joined(stack, address, published))
    }

    fn plug(&mut self, id: u32, join: Join, link: OwnedFd, address: Ipv4Addr) {
        let resolver = |address: IpAddr| SocketAddr::new(address, resolvers::PORT);
        let guest = Guest {
            link,
            full: false,
            waiting: Vec::new(),
            resolvers: join.resolvers.into_iter().map(resolver).collect(),
            member: Member {
                name: join.names.first().cloned().unwrap_or_default(),
                container: join.container,
                mac: join.mac,
                address,
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
        let Some(guest) = client.guest else {
            return false;
        };
        // The supervisor has a duplicate of it.
        poll.forget(guest.link.as_fd());
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
            false if stack.config().contains(wish) => {
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
        published,
    }
}

/// Answers on a connection. One that does not read its answers is no concern of the network's.
pub fn reply(client: &Client, reply: &network::Reply) {
    let _ = network::send(client.socket.as_fd(), reply, None);
}
