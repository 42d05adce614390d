//! The host's side of ICMP echoes: a ping socket for each flow (icmp(7): `IPPROTO_ICMP` over `SOCK_DGRAM`), connected, so that the
//! kernel gives it an identifier of its own and lets in answers to that from there only. No rights are needed, but those that
//! `net.ipv4.ping_group_range` gives; it counts for IPv6, too.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netstack::{FlowId, Stack, Unreachable};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use crate::descriptors::Share;
use crate::poll::{Poll, Token};

/// Bytes before what comes back: type, code, checksum, identifier, sequence.
const HEADER_LEN: usize = 8;

/// Answers of one flow before others have their turn.
const TURN: usize = 32;

/// All flows.
#[derive(Debug, Default)]
pub struct Echoes {
    sockets: HashMap<FlowId, (OwnedFd, Share)>,
    /// It was said that the host does not allow it.
    told: bool,
}

/// What an error says to the guest.
fn unreachable(errno: Errno) -> Unreachable {
    match errno {
        Errno::ACCESS | Errno::PERM => Unreachable::Prohibited,
        Errno::NETUNREACH | Errno::AFNOSUPPORT | Errno::NETDOWN => Unreachable::Network,
        _ => Unreachable::Host,
    }
}

fn socket(to: IpAddr) -> rustix::io::Result<OwnedFd> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
    rustix::net::connect(&fd, &SocketAddr::new(to, 0))?;
    Ok(fd)
}

impl Echoes {
    /// Whether a flow has its socket.
    pub fn is_open(&self, flow: FlowId) -> bool {
        self.sockets.contains_key(&flow)
    }

    /// Sends a request of a flow; the first needs a descriptor.
    pub fn send(
        &mut self,
        poll: &Poll,
        stack: &mut Stack,
        (flow, to): (FlowId, IpAddr),
        sequence: u16,
        payload: &[u8],
        share: Option<Share>,
    ) {
        if let Err(errno) = self.try_send(poll, (flow, to), sequence, payload, share) {
            if errno == Errno::ACCESS && !self.told {
                self.told = true;
                let group = rustix::process::getegid().as_raw();
                eprintln!(
                    "gourd-net: the host does not let group {group} send echoes: \
                     `sysctl -w net.ipv4.ping_group_range=\"{group} {group}\"` would"
                );
            }
            stack.flow_failed(flow, unreachable(errno));
        }
    }

    fn try_send(
        &mut self,
        poll: &Poll,
        (flow, to): (FlowId, IpAddr),
        sequence: u16,
        payload: &[u8],
        share: Option<Share>,
    ) -> rustix::io::Result<()> {
        let (fd, _) = match self.sockets.entry(flow) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let share = share.ok_or(Errno::MFILE)?;
                let fd = socket(to)?;
                let watched = poll.watch_input(fd.as_fd(), Token::Echoes(flow));
                watched.map_err(|error: io::Error| {
                    Errno::from_io_error(&error).unwrap_or(Errno::NOBUFS)
                })?;
                place.insert((fd, share))
            }
        };
        // An echo request; the kernel fills in the checksum and its own identifier.
        let kind = if to.is_ipv4() { 8 } else { 128 };
        let mut message = vec![kind, 0, 0, 0, 0, 0];
        message.extend_from_slice(&sequence.to_be_bytes());
        message.extend_from_slice(payload);
        match rustix::net::send(&*fd, &message, SendFlags::NOSIGNAL) {
            // A full buffer loses them, as everywhere.
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Something came in.
    pub fn on_ready(&mut self, stack: &mut Stack, flow: FlowId, buffer: &mut [u8], now: Duration) {
        for _ in 0..TURN {
            let Some((fd, _)) = self.sockets.get(&flow) else {
                return;
            };
            match rustix::net::recv(fd, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _)) => {
                    // The kernel lets in nothing but replies.
                    if let Some(payload) = buffer.get(HEADER_LEN..count) {
                        let sequence = u16::from_be_bytes([buffer[6], buffer[7]]);
                        stack.echo_answer(flow, sequence, payload, now);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(errno) => return stack.flow_failed(flow, unreachable(errno)),
            }
        }
    }

    /// The flow is over.
    pub fn forget(&mut self, flow: FlowId) {
        self.sockets.remove(&flow);
    }
}
