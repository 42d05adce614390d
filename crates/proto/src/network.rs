//! The service of a network's process (`gourd-net`) to supervisors and engines, on the unix socket `networks/NAME/sock`.
//!
//! No gRPC: a guest's frames come in a socket that is handed over with the first message, which HTTP/2 can't do; and the process
//! that parses hostile frames is smaller and sooner up without it. The socket is `SOCK_SEQPACKET`, a packet is a message in
//! JSON, and a [`Request::Join`] brings one descriptor along.
//!
//! ```text
//!   supervisor                         gourd-net
//!      │ connect (it queues: who starts gourd-net has bound the socket before)
//!      ├── Join, with the guest's link ──►│
//!      │◄───────── Joined, or Refused ────┤
//!      │            …                     │
//!      ├── end of file: the guest leaves ►│
//!      │◄───── end of file: it has left ──┤   (the last one's comes with the end of the process)
//! ```
//!
//! An end of file that nobody asked for means that `gourd-net` is dead: the supervisor starts another one and joins again with
//! the same link, of which it keeps a duplicate.
//!
//! The link is a `SOCK_DGRAM` socket, one end of a pair; a datagram is an Ethernet frame without its check sequence, or what [`Framing`] says.
//! So a process that dies in the middle of anything leaves no half frame behind, and QEMU (`-netdev stream`) never sees an end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version that this build speaks.
pub const PROTOCOL: u32 = 4;

/// Bytes that a message may have: what a packet holds for sure.
pub const MAX_LEN: usize = 64 * 1024;

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// A port of the host that leads to one of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host's address; absent: all of them, IPv4 and IPv6.
    pub address: Option<IpAddr>,
    /// The host's port; 0: any that is free.
    pub host_port: u16,
    /// The guest's port.
    pub guest_port: u16,
    /// Each connection begins with a header that names its client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyProtocol>,
}

impl Publish {
    /// Where it is on the host; 0.0.0.0 stands for all addresses.
    #[must_use]
    pub fn on_host(&self) -> SocketAddr {
        let address = self.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        SocketAddr::new(address, self.host_port)
    }
}

/// `127.0.0.1:8080/tcp`, as it stands in [`Refused::object`].
impl std::fmt::Display for Publish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.on_host(), self.protocol)
    }
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A guest joins. Comes with its link.
    Join(Join),
    /// For a guest that has joined: these are its ports from now on, instead of those that it had.
    Publish(Vec<Publish>),
    /// For a guest that has joined: whether it is on other networks, too, which [`Reply::Ask`] asks.
    Elsewhere(bool),
    /// The answer to a [`Reply::Ask`].
    Answer(Lookup),
    /// For a guest that has joined: what do the names of this network say? The answer is [`Reply::Found`].
    Lookup(Lookup),
    /// Who is there?
    Report {
        /// [`PROTOCOL`].
        protocol: u32,
    },
    /// What happens? It is answered for as long as the connection stands. May come with a file, into which frames go.
    Watch {
        /// [`PROTOCOL`].
        protocol: u32,
        /// The id of the container that it is about; absent: all of them.
        container: Option<String>,
    },
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The container's id.
    pub container: String,
    /// What others on the network call it; the first one is its name.
    pub names: Vec<String>,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The address that it would like to have: the one that it had.
    pub wish: Option<Ipv4Addr>,
    /// It must have that one.
    pub insists: bool,
    /// The gateway's address reaches the host's loopback.
    pub host: bool,
    /// Who is asked for names that are not ours; empty: the host's resolvers.
    pub resolvers: Vec<IpAddr>,
    /// Ports to publish: all, or none and the guest does not join.
    pub publish: Vec<Publish>,
    /// It is on other networks, too ([`Request::Elsewhere`]).
    #[serde(default)]
    pub elsewhere: bool,
    /// What a datagram of the link is.
    pub framing: Framing,
}

/// What a datagram of a link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// A frame.
    #[default]
    Plain,
    /// Frames in a row, each behind its length in 32 bits of network order; 68 KiB in all at most (what `-netdev stream` reads at once).
    Packed,
    /// A frame behind a `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6), which may leave the checksum of the frame out (flag
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`); everything else in it is zero.
    Offload,
}

/// A question about a name, or the answer to it: the asker's number, and the DNS message (RFC 1035). No message is no answer: nobody is
/// called so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// Which question.
    pub id: u64,
    /// The message.
    pub message: Option<Vec<u8>>,
}

/// Bytes of a message in a [`Lookup`]: what [`MAX_LEN`] has room for as JSON's numbers.
pub const MAX_LOOKUP: usize = 12 * 1024;

/// What `gourd-net` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The guest is on the network.
    Joined(Joined),
    /// It is not; or it does not get the ports that it wants, and has none now.
    Refused(Refused),
    /// Its ports are these now.
    Published(Vec<Publish>),
    /// The guest asks for a name that nobody has on this network: have the others that it is on looked at.
    Ask(Lookup),
    /// The answer to a [`Request::Lookup`].
    Found(Lookup),
    /// Who is there.
    Report(Vec<Member>),
    /// A line about what happens.
    Note(String),
}

/// A guest's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Its address.
    pub address: Ipv4Addr,
    /// Bits of the subnet.
    pub prefix: u8,
    /// The gateway's address, which is the resolver's, too.
    pub gateway: Ipv4Addr,
    /// Bytes of the largest packet.
    pub mtu: u16,
    /// Its place in IPv6, where the network has that.
    #[serde(default)]
    pub ipv6: Option<Ipv6>,
    /// Its ports; where any was asked for, with the one that it got. All of the host's addresses are two: IPv4's and IPv6's.
    pub published: Vec<Publish>,
}

/// A guest's place in IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6 {
    /// Its address.
    pub address: Ipv6Addr,
    /// Bits of the subnet.
    pub prefix: u8,
    /// The gateway's address.
    pub gateway: Ipv6Addr,
}

/// Why a guest can't join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// For example `publish`.
    pub step: String,
    /// For example `0.0.0.0:8080/tcp`.
    pub object: String,
    /// As in errno.h; 0 when no system call failed.
    pub errno: i32,
    /// In words.
    pub message: String,
}

/// Somebody on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The container's id.
    pub container: String,
    /// Its first name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its address.
    pub address: Ipv4Addr,
    /// Its address of IPv6.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
}

/// Sends a message, whole or not at all. `fd` is duplicated into the receiver.
///
/// # Errors
/// The system's; `BrokenPipe` and `ConnectionReset` mean that the other side is gone.
pub fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_LEN {
        let text = format!("a message of {} bytes is too long", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds;
    if let Some(fd) = fd {
        fds = [fd];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let slices = [IoSlice::new(&bytes)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &slices, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives a message and the descriptor that came with it (close-on-exec). `None`: the other side has ended it.
///
/// # Errors
/// The system's; `InvalidData` for what is no message.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    // One byte more, so that a longer one is no JSON any more.
    let mut bytes = vec![0; MAX_LEN + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut fd = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last();
        }
    }
    let message = serde_json::from_slice(&bytes[..received.bytes])?;
    Ok(Some((message, fd)))
}

/// As [`receive`], for tests and clients that own the socket.
///
/// # Errors
/// As [`receive`]; `UnexpectedEof` when the other side has ended it.
pub fn expect<T: DeserializeOwned>(socket: &impl AsFd) -> io::Result<(T, Option<OwnedFd>)> {
    receive(socket.as_fd())?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn messages_and_descriptors_arrive() {
        let (ours, theirs) = pair(SocketType::SEQPACKET);
        let (link, end) = pair(SocketType::DGRAM);
        let join = Request::Join(Join {
            protocol: PROTOCOL,
            container: "0123".into(),
            names: vec!["web".into()],
            mac: [2, 0, 0, 0, 0, 1],
            wish: None,
            insists: false,
            host: false,
            resolvers: vec!["::1".parse().unwrap()],
            publish: vec![Publish {
                protocol: Protocol::Udp,
                address: None,
                host_port: 0,
                guest_port: 53,
                proxy: Some(ProxyProtocol::V2),
            }],
            elsewhere: false,
            framing: Framing::Plain,
        });
        send(ours.as_fd(), &join, Some(end.as_fd())).unwrap();
        let (message, fd) = expect::<Request>(&theirs).unwrap();
        assert_eq!(message, join);
        rustix::net::send(fd.unwrap(), b"frame", SendFlags::empty()).unwrap();
        let mut bytes = [0; 9];
        let (count, _) = rustix::net::recv(&link, &mut bytes[..], RecvFlags::empty()).unwrap();
        assert_eq!(&bytes[..count], b"frame");
        rustix::net::send(&ours, b"{\"join\":3}", SendFlags::empty()).unwrap();
        let error = expect::<Request>(&theirs).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(ours);
        assert!(receive::<Request>(theirs.as_fd()).unwrap().is_none());
    }
}
