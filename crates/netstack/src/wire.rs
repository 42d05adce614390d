//! The formats of frames: Ethernet II, ARP (RFC 826), IPv4 (RFC 791), UDP (RFC 768), ICMP (RFC 792), and the Internet checksum
//! (RFC 1071). IPv6 is in [`ipv6`], TCP's segments are [`crate::tcp`]'s.
//!
//! `parse_…` takes bytes that a guest wrote and gives `None` for what is not well formed; nothing panics. `put_…` writes
//! into a buffer. Checksums of what guests send are not looked at: a frame comes over a unix socket, which loses and changes
//! nothing, and where it is for another guest that guest looks. They may be [left out](partial) altogether.

pub mod ipv6;
pub mod partial;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub use ipv6::{IPV6_LEN, parse_ipv6};
pub use partial::Partial;

/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of an IPv4 header without options, which is what we write.
pub const IPV4_LEN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;

/// EtherTypes.
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A VLAN's tag (IEEE 802.1Q): four bytes, and the EtherType of what follows at their end.
    pub const VLAN: u16 = 0x8100;
    /// A provider's (802.1ad).
    pub const PROVIDER_VLAN: u16 = 0x88a8;
    /// The same before there was a standard.
    pub const OLD_PROVIDER_VLAN: u16 = 0x9100;
}

/// IP protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// A fragment of IPv6's, whatever it is a part of.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// For several receivers, broadcast included.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet<'a> {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// What the payload is.
    pub ether_type: u16,
    /// The rest.
    pub payload: &'a [u8],
}

/// The two bytes at `at`, in network order.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// The four bytes at `at`, in network order.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The address at `at`.
pub(crate) fn ipv4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    be32(bytes, at).map(Ipv4Addr::from_bits)
}

fn mac_at(bytes: &[u8], at: usize) -> Option<Mac> {
    let bytes = bytes.get(at..at.checked_add(6)?)?;
    bytes.try_into().ok().map(Mac)
}

/// Reads a frame.
pub fn parse_ethernet(frame: &[u8]) -> Option<Ethernet<'_>> {
    Some(Ethernet {
        destination: mac_at(frame, 0)?,
        source: mac_at(frame, 6)?,
        ether_type: be16(frame, 12)?,
        payload: frame.get(ETHERNET_LEN..)?,
    })
}

/// The EtherType and the payload behind a frame's priority tags: those of VLAN 0, which is none, so that kernels take them off. A tag of
/// another VLAN is left: who has no device for that VLAN drops it, and who has one is asked for. `None`: there are more tags than anybody
/// needs, or half of one.
pub fn behind_tags<'a>(frame: &Ethernet<'a>) -> Option<(u16, &'a [u8])> {
    const TAGS: usize = 4;
    const VLAN_ID: u16 = 0x0fff;
    let (mut kind, mut payload) = (frame.ether_type, frame.payload);
    for _ in 0..=TAGS {
        match kind {
            ether_type::VLAN | ether_type::PROVIDER_VLAN | ether_type::OLD_PROVIDER_VLAN => {}
            _ => return Some((kind, payload)),
        }
        if be16(payload, 0)? & VLAN_ID != 0 {
            return Some((kind, payload));
        }
        (kind, payload) = (be16(payload, 2)?, payload.get(4..)?);
    }
    None
}

/// Writes a frame's header.
pub fn put_ethernet(buffer: &mut Vec<u8>, destination: Mac, source: Mac, ether_type: u16) {
    buffer.extend_from_slice(&destination.0);
    buffer.extend_from_slice(&source.0);
    buffer.extend_from_slice(&ether_type.to_be_bytes());
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// A question; otherwise an answer.
    pub request: bool,
    /// Who speaks.
    pub sender_mac: Mac,
    /// Who speaks.
    pub sender: Ipv4Addr,
    /// Whom an answer is for.
    pub target_mac: Mac,
    /// Who is asked for.
    pub target: Ipv4Addr,
}

/// Hardware type Ethernet, protocol type IPv4, lengths 6 and 4.
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Reads an ARP packet.
pub fn parse_arp(packet: &[u8]) -> Option<Arp> {
    if packet.get(..6)? != ARP_KIND {
        return None;
    }
    let request = match be16(packet, 6)? {
        1 => true,
        2 => false,
        _ => return None,
    };
    Some(Arp {
        request,
        sender_mac: mac_at(packet, 8)?,
        sender: ipv4_at(packet, 14)?,
        target_mac: mac_at(packet, 18)?,
        target: ipv4_at(packet, 24)?,
    })
}

/// Writes an ARP packet.
pub fn put_arp(buffer: &mut Vec<u8>, arp: &Arp) {
    buffer.extend_from_slice(&ARP_KIND);
    buffer.extend_from_slice(&[0, if arp.request { 1 } else { 2 }]);
    buffer.extend_from_slice(&arp.sender_mac.0);
    buffer.extend_from_slice(&arp.sender.octets());
    buffer.extend_from_slice(&arp.target_mac.0);
    buffer.extend_from_slice(&arp.target.octets());
}

/// A packet of IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// What the payload is.
    pub protocol: u8,
    /// As long as the header says; padding of the frame is cut off.
    pub payload: &'a [u8],
    /// Headers and payload.
    pub packet: &'a [u8],
}

/// Reads a packet. Fragments are refused: a link carries packets of its MTU whole, and the few datagrams that are longer than the largest
/// MTU, or a guest that lowers its own, are not worth a queue that hostile guests could fill.
pub fn parse_ipv4(packet: &[u8]) -> Option<Packet<'_>> {
    let (packet, fragment) = parse_ipv4_fragment(packet)?;
    (fragment == Fragment::No).then_some(packet)
}

/// What part of a packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// It is none.
    No,
    /// The first: the payload begins with the header of what the packet is about, or with as much of it as its sender liked.
    First,
    /// Another one: its payload begins eight bytes behind that or later.
    Later,
}

/// Reads a packet, or a fragment of one.
pub fn parse_ipv4_fragment(packet: &[u8]) -> Option<(Packet<'_>, Fragment)> {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let first = *packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    let total = usize::from(be16(packet, 2)?);
    if first >> 4 != 4 || header < IPV4_LEN || total < header {
        return None;
    }
    let place = be16(packet, 6)?;
    let fragment = match (place & OFFSET, place & MORE) {
        (0, 0) => Fragment::No,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    let packet = packet.get(..total)?;
    let read = Packet {
        source: ipv4_at(packet, 12)?.into(),
        destination: ipv4_at(packet, 16)?.into(),
        protocol: packet[9],
        payload: packet.get(header..)?,
        packet,
    };
    Some((read, fragment))
}

/// Where a frame's packet goes, if it is one of IPv4 or IPv6; nothing else of it is looked at.
pub fn destination(frame: &Ethernet<'_>) -> Option<IpAddr> {
    match frame.ether_type {
        ether_type::IPV4 => ipv4_at(frame.payload, 16).map(IpAddr::from),
        ether_type::IPV6 => ipv6::ipv6_at(frame.payload, 24).map(IpAddr::from),
        _ => None,
    }
}

/// Writes the header of a packet whose payload has `len` bytes. The payload must fit: 65,515 bytes at most.
pub fn put_ipv4(
    buffer: &mut Vec<u8>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    len: usize,
) {
    const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
    const TTL: u8 = 64;
    let start = buffer.len();
    let total = u16::try_from(IPV4_LEN + len).unwrap_or(u16::MAX);
    buffer.extend_from_slice(&[0x45, 0]);
    buffer.extend_from_slice(&total.to_be_bytes());
    buffer.extend_from_slice(&[0, 0]);
    buffer.extend_from_slice(&DONT_FRAGMENT);
    buffer.extend_from_slice(&[TTL, protocol, 0, 0]);
    buffer.extend_from_slice(&source.octets());
    buffer.extend_from_slice(&destination.octets());
    let sum = checksum(&buffer[start..], 0);
    buffer[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
}

/// Writes the header of a packet of either version; both addresses are of one.
pub fn put_ip(buffer: &mut Vec<u8>, source: IpAddr, destination: IpAddr, protocol: u8, len: usize) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            put_ipv4(buffer, source, destination, protocol, len);
        }
        (source, destination) => {
            let (source, destination) = (ipv6::bits(source), ipv6::bits(destination));
            ipv6::put_ipv6(buffer, source, destination, protocol, len, ipv6::HOPS);
        }
    }
}

/// Bytes of the header that [`put_ip`] writes for an address.
pub fn ip_len(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => IPV4_LEN,
        IpAddr::V6(_) => IPV6_LEN,
    }
}

/// The EtherType of packets with an address.
pub fn ether_type_of(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => ether_type::IPV4,
        IpAddr::V6(_) => ether_type::IPV6,
    }
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp<'a> {
    /// From which port.
    pub source: u16,
    /// To which port.
    pub destination: u16,
    /// The rest.
    pub payload: &'a [u8],
}

/// Reads a datagram.
pub fn parse_udp(segment: &[u8]) -> Option<Udp<'_>> {
    let len = usize::from(be16(segment, 4)?);
    Some(Udp {
        source: be16(segment, 0)?,
        destination: be16(segment, 2)?,
        payload: segment.get(UDP_LEN..len)?,
    })
}

/// Writes a datagram after its packet's header.
pub fn put_udp(buffer: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr, payload: &[u8]) {
    put_udp_partial(buffer, source, destination, payload).complete(buffer);
}

/// The same without the checksum, whose place is counted from the buffer's beginning.
pub fn put_udp_partial(
    buffer: &mut Vec<u8>,
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
) -> Partial {
    let start = buffer.len();
    let len = u16::try_from(UDP_LEN + payload.len()).unwrap_or(u16::MAX);
    buffer.extend_from_slice(&source.port().to_be_bytes());
    buffer.extend_from_slice(&destination.port().to_be_bytes());
    buffer.extend_from_slice(&len.to_be_bytes());
    buffer.extend_from_slice(&[0, 0]);
    buffer.extend_from_slice(payload);
    let len = buffer.len() - start;
    let pseudo = pseudo_header(source.ip(), destination.ip(), protocol::UDP, len);
    Partial::of_udp(buffer, start, pseudo)
}

/// An ICMP echo request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo<'a> {
    /// A question; otherwise an answer.
    pub request: bool,
    /// Which of the sender's programs.
    pub identifier: u16,
    /// Which of its questions.
    pub sequence: u16,
    /// What comes back.
    pub payload: &'a [u8],
}

/// Reads an echo; `None` for other kinds of ICMP.
pub fn parse_echo(message: &[u8]) -> Option<Echo<'_>> {
    echo_of_types(message, 8, 0)
}

/// Reads an echo of ICMP or ICMPv6, which differ in the types of request and reply.
fn echo_of_types(message: &[u8], request: u8, reply: u8) -> Option<Echo<'_>> {
    let request = match *message.get(..2)? {
        [kind, 0] if kind == request => true,
        [kind, 0] if kind == reply => false,
        _ => return None,
    };
    Some(Echo {
        request,
        identifier: be16(message, 4)?,
        sequence: be16(message, 6)?,
        payload: message.get(8..)?,
    })
}

/// Writes an echo.
pub fn put_echo(buffer: &mut Vec<u8>, echo: &Echo<'_>) {
    put_icmp(
        buffer,
        if echo.request { 8 } else { 0 },
        0,
        (u32::from(echo.identifier) << 16) | u32::from(echo.sequence),
        echo.payload,
    );
}

/// ICMP's codes of "destination unreachable" (RFC 792, RFC 1122, RFC 1812).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// There is no way there.
    Network = 0,
    /// Nobody answers.
    Host = 1,
    /// No program listens.
    Port = 3,
    /// It is not allowed.
    Prohibited = 13,
}

/// Writes that a packet could not be delivered.
pub fn put_unreachable(buffer: &mut Vec<u8>, why: Unreachable, packet: &[u8]) {
    // Header and eight bytes are the least that must come back (RFC 792); Linux sends up to 576 in all.
    let quoted = &packet[..packet.len().min(548)];
    put_icmp(buffer, 3, why as u8, 0, quoted);
}

fn put_icmp(buffer: &mut Vec<u8>, kind: u8, code: u8, word: u32, payload: &[u8]) {
    let start = buffer.len();
    buffer.extend_from_slice(&[kind, code, 0, 0]);
    buffer.extend_from_slice(&word.to_be_bytes());
    buffer.extend_from_slice(payload);
    let sum = checksum(&buffer[start..], 0);
    buffer[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
}

/// What checksums of TCP and UDP cover beside their own bytes: a partial sum for [`checksum`].
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    let halves = |address: IpAddr| match address {
        IpAddr::V4(address) => {
            let bits = u64::from(address.to_bits());
            (bits >> 16) + (bits & 0xffff)
        }
        IpAddr::V6(address) => address.segments().iter().copied().map(u64::from).sum(),
    };
    halves(source) + halves(destination) + u64::from(protocol) + len as u64
}

/// The Internet checksum of `bytes` and a partial sum of what is not among them.
pub fn checksum(bytes: &[u8], partial: u64) -> u16 {
    !fold(u64::from(sum(bytes)) + partial)
}

/// The sum of `bytes`, which begin at an even place, as a partial one for [`checksum`].
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum of 16-bit words does not care for their order, and, folded, not for the order of bytes within all of them
    // (RFC 1071, section 2): words of the machine are summed, four at a time, and turned around at the end.
    let mut sums = [0_u64; 4];
    let mut wide = bytes.chunks_exact(16);
    for chunk in &mut wide {
        for (sum, word) in sums.iter_mut().zip(chunk.chunks_exact(4)) {
            *sum += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut sum: u64 = sums.iter().sum();
    let mut narrow = wide.remainder().chunks_exact(2);
    for word in &mut narrow {
        sum += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = narrow.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    fold(sum).to_be()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests;
