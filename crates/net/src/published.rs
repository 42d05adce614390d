//! Ports of the host that lead to guests.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use proto::network::{Protocol, Publish, Refused};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, SocketType, sockopt};

use crate::poll::{Poll, Token};
use crate::streams::socket;
use crate::sys::{self, Local};

/// Connections that may wait for us.
const BACKLOG: i32 = 4096;

/// Times that another free port is tried when the one of IPv4 is taken for IPv6.
const TRIES: usize = 16;

/// Addresses of the host's that are told apart; a client of a further one is answered from where the kernel likes.
const LOCALS: usize = 4096;

/// A socket of a published port.
#[derive(Debug)]
pub struct Published {
    /// The guest that it leads to.
    pub member: u32,
    /// As it was asked for, with the address and port that it got.
    pub port: Publish,
    /// The socket.
    pub fd: OwnedFd,
}

/// All of them, by number.
#[derive(Debug, Default)]
pub struct Ports {
    last: u64,
    all: HashMap<u64, Published>,
    /// A socket for all addresses has a further number for each one that was sent to: an answer to it goes out from there.
    by_local: HashMap<(u64, Local), u64>,
    locals: HashMap<u64, (u64, Local)>,
}

impl Ports {
    /// Publishes all that a guest asks for, or nothing. The ports as they are now.
    pub fn publish(
        &mut self,
        poll: &Poll,
        member: u32,
        wanted: &[Publish],
    ) -> Result<Vec<Publish>, Refused> {
        let mut bound = Vec::new();
        for port in wanted {
            bound.extend(open(port)?);
        }
        let mut published = Vec::new();
        for (port, fd) in bound {
            self.last += 1;
            poll.watch_input(fd.as_fd(), Token::Published(self.last))
                .map_err(|error| refused(&port, &error))?;
            published.push(port);
            self.all.insert(self.last, Published { member, port, fd });
        }
        Ok(published)
    }

    /// The port of this number.
    pub fn get(&self, id: u64) -> Option<&Published> {
        self.all.get(&id)
    }

    /// Takes a guest's ports away.
    pub fn withdraw(&mut self, member: u32) {
        self.all.retain(|_, published| published.member != member);
        self.by_local.retain(|(id, _), _| self.all.contains_key(id));
        self.locals.retain(|_, (id, _)| self.all.contains_key(id));
    }

    /// The number of a port for what was sent to this address.
    pub fn at(&mut self, id: u64, local: Option<Local>) -> u64 {
        let Some(local) = local else {
            return id;
        };
        if let Some(known) = self.by_local.get(&(id, local)) {
            return *known;
        }
        if self.locals.len() >= LOCALS {
            return id;
        }
        self.last += 1;
        self.by_local.insert((id, local), self.last);
        self.locals.insert(self.last, (id, local));
        self.last
    }

    /// Answers a client of the port with this number, or one of [`Ports::at`]. Lost when there is no room, as datagrams are.
    pub fn answer(&self, id: u64, peer: SocketAddr, payload: &[u8]) {
        let flags = SendFlags::NOSIGNAL;
        if let Some((id, local)) = self.locals.get(&id) {
            if let Some(published) = self.all.get(id) {
                let _ = sys::send(&published.fd, payload, peer, *local);
            }
        } else if let Some(published) = self.all.get(&id) {
            let _ = rustix::net::sendto(&published.fd, payload, flags, &peer);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The next connection to a port, and the client.
    pub fn accept(published: &Published) -> Result<(OwnedFd, SocketAddr), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match rustix::net::acceptfrom_with(&published.fd, flags) {
                Ok((fd, address)) => {
                    if let Some(Ok(address)) = address.map(SocketAddr::try_from) {
                        return Ok((fd, address));
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn refused(port: &Publish, error: &io::Error) -> Refused {
    let message = match error.kind() {
        io::ErrorKind::AddrInUse => "the port is taken".to_owned(),
        io::ErrorKind::AddrNotAvailable => "the host has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => "the system keeps low ports for root".to_owned(),
        _ => error.to_string(),
    };
    Refused {
        step: "publish".to_owned(),
        object: port.to_string(),
        errno: error.raw_os_error().unwrap_or(0),
        message,
    }
}

/// The sockets of one port: one for an address, two for all.
fn open(wanted: &Publish) -> Result<Vec<(Publish, OwnedFd)>, Refused> {
    if let Some(address) = wanted.address {
        let bound = bind(wanted, address, wanted.host_port);
        return bound
            .map(|bound| vec![bound])
            .map_err(|error| refused(wanted, &error));
    }
    for _ in 0..TRIES {
        let first = bind(wanted, Ipv4Addr::UNSPECIFIED.into(), wanted.host_port)
            .map_err(|error| refused(wanted, &error))?;
        let port = first.0.host_port;
        match bind(wanted, Ipv6Addr::UNSPECIFIED.into(), port) {
            Ok(second) => return Ok(vec![first, second]),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Ok(vec![first]),
            Err(_) if wanted.host_port == 0 => {}
            Err(error) => return Err(refused(wanted, &error)),
        }
    }
    let error = io::Error::from(io::ErrorKind::AddrInUse);
    Err(refused(wanted, &error))
}

fn bind(wanted: &Publish, address: IpAddr, port: u16) -> io::Result<(Publish, OwnedFd)> {
    let address = SocketAddr::new(address, port);
    let fd = match wanted.protocol {
        Protocol::Tcp => {
            let fd = socket(address, SocketType::STREAM)?;
            // Connections of the last one that had it may still be on their way out.
            sockopt::set_socket_reuseaddr(&fd, true)?;
            fd
        }
        Protocol::Udp => {
            let fd = socket(address, SocketType::DGRAM)?;
            if address.ip().is_unspecified() {
                sys::tell_local(&fd, address.is_ipv6())?;
            }
            fd
        }
    };
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    rustix::net::bind(&fd, &address)?;
    if wanted.protocol == Protocol::Tcp {
        rustix::net::listen(&fd, BACKLOG)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
    let port = Publish {
        address: Some(bound.ip()),
        host_port: bound.port(),
        ..*wanted
    };
    Ok((port, fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(address: Option<&str>, host_port: u16) -> Publish {
        Publish {
            protocol: Protocol::Tcp,
            address: address.map(|address| address.parse().unwrap()),
            host_port,
            guest_port: 80,
            proxy: None,
        }
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let refused = open(&wanted(Some("127.0.0.1"), port)).unwrap_err();
        assert_eq!(refused.object, format!("127.0.0.1:{port}/tcp"));
        assert_eq!(refused.message, "the port is taken");
        let refused = open(&wanted(Some("192.0.2.77"), 0)).unwrap_err();
        assert_eq!(refused.message, "the host has no such address");
    }

    #[test]
    fn any_port_is_the_same_for_both_families() {
        let bound = open(&wanted(None, 0)).unwrap();
        assert_ne!(bound[0].0.host_port, 0);
        assert!(
            bound
                .iter()
                .all(|(port, _)| port.host_port == bound[0].0.host_port)
        );
    }
}
