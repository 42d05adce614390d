//! IPv6 (RFC 8200), ICMPv6 (RFC 4443) and what neighbours say to each other (RFC 4861).

use std::net::{IpAddr, Ipv6Addr};

use super::{Echo, Mac, Packet, Unreachable, be16, checksum, protocol, pseudo_header};

/// Bytes of a header without extensions, which is what we write.
pub const IPV6_LEN: usize = 40;

/// How far a packet of ours may go.
pub const HOPS: u8 = 64;

/// The hop limit of what neighbours say: nothing that came through a router has it (RFC 4861, 6.1 and 7.1).
const NEIGHBOUR_HOPS: u8 = 255;

/// Everybody on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Extension headers that stand before what a packet is about, and are as long as they say.
mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const DESTINATION: u8 = 60;
}

/// Types of ICMPv6.
mod kind {
    pub const UNREACHABLE: u8 = 1;
    pub const ECHO_REQUEST: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const ROUTER_SOLICITATION: u8 = 133;
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const SOLICITATION: u8 = 135;
    pub const ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;
}

/// The address at `at`.
pub(crate) fn ipv6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let bytes: [u8; 16] = bytes.get(at..at.checked_add(16)?)?.try_into().ok()?;
    Some(Ipv6Addr::from(bytes))
}

/// An address in the form that IPv6 packets have; IPv4's is mapped (RFC 4291, 2.5.5.2).
pub fn bits(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The address that a machine gives itself on every link (RFC 4291, appendix A).
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(a ^ 2, b),
        pair(c, 0xff),
        pair(0xfe, d),
        pair(e, f),
    )
}

/// Reads a packet. A fragment's protocol is 44 ([`protocol::FRAGMENT`]), which nobody serves and the switch does not pass on.
pub fn parse_ipv6(packet: &[u8]) -> Option<Packet<'_>> {
    /// More than that is an attack on our processor, or on a guard that does not look as far as the guest behind it.
    const EXTENSIONS: usize = 8;
    if *packet.first()? >> 4 != 6 {
        return None;
    }
    let len = usize::from(be16(packet, 4)?);
    let packet = packet.get(..IPV6_LEN + len)?;
    let (mut next, mut at) = (packet[6], IPV6_LEN);
    for _ in 0..=EXTENSIONS {
        match next {
            extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION => {
                let header = packet.get(at..at + 2)?;
                next = header[0];
                at += (usize::from(header[1]) + 1) * 8;
            }
            protocol => {
                return Some(Packet {
                    source: ipv6_at(packet, 8)?.into(),
                    destination: ipv6_at(packet, 24)?.into(),
                    protocol,
                    payload: packet.get(at..)?,
                    packet,
                });
            }
        }
    }
    None
}

/// Writes the header of a packet whose payload has `len` bytes: 65,535 at most.
pub fn put_ipv6(
    buffer: &mut Vec<u8>,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    len: usize,
    hops: u8,
) {
    buffer.extend_from_slice(&[0x60, 0, 0, 0]);
    buffer.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
    buffer.extend_from_slice(&[protocol, hops]);
    buffer.extend_from_slice(&source.octets());
    buffer.extend_from_slice(&destination.octets());
}

/// Reads an echo; `None` for other kinds of ICMPv6.
pub fn parse_echo(message: &[u8]) -> Option<Echo<'_>> {
    super::echo_of_types(message, kind::ECHO_REQUEST, kind::ECHO_REPLY)
}

/// Writes an echo. Both addresses are in its checksum.
pub fn put_echo(buffer: &mut Vec<u8>, ends: (Ipv6Addr, Ipv6Addr), echo: &Echo<'_>) {
    let kind = if echo.request {
        kind::ECHO_REQUEST
    } else {
        kind::ECHO_REPLY
    };
    let word = (u32::from(echo.identifier) << 16) | u32::from(echo.sequence);
    put_icmp(buffer, ends, (kind, 0), word, echo.payload);
}

/// Writes that a packet could not be delivered.
pub fn put_unreachable(
    buffer: &mut Vec<u8>,
    ends: (Ipv6Addr, Ipv6Addr),
    why: Unreachable,
    packet: &[u8],
) {
    let code = match why {
        Unreachable::Network => 0,
        Unreachable::Prohibited => 1,
        Unreachable::Host => 3,
        Unreachable::Port => 4,
    };
    // As much as fits into the smallest packet that every link carries (RFC 4443, 3.1).
    const MOST: usize = 1280 - IPV6_LEN - 8;
    let quoted = &packet[..packet.len().min(MOST)];
    put_icmp(buffer, ends, (kind::UNREACHABLE, code), 0, quoted);
}

fn put_icmp(
    buffer: &mut Vec<u8>,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    (kind, code): (u8, u8),
    word: u32,
    payload: &[u8],
) {
    let start = buffer.len();
    buffer.extend_from_slice(&[kind, code, 0, 0]);
    buffer.extend_from_slice(&word.to_be_bytes());
    buffer.extend_from_slice(payload);
    let len = buffer.len() - start;
    let pseudo = pseudo_header(source.into(), destination.into(), protocol::ICMPV6, len);
    let sum = checksum(&buffer[start..], pseudo);
    buffer[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
}

/// What neighbours say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Which routers are there?
    RouterSolicitation,
    /// I am a router.
    RouterAdvertisement,
    /// Who has this address?
    Solicitation(Ipv6Addr),
    /// I have this address.
    Advertisement(Ipv6Addr),
    /// There is a shorter way.
    Redirect,
}

/// Reads what a neighbour says; `None` for anything else. Whether it came from the link (its hop limit) is not looked at: guests may
/// be laxer than we are.
pub fn parse_neighbour(packet: &Packet<'_>) -> Option<Neighbour> {
    if packet.protocol != protocol::ICMPV6 {
        return None;
    }
    let message = packet.payload;
    Some(match *message.first()? {
        kind::ROUTER_SOLICITATION => Neighbour::RouterSolicitation,
        kind::ROUTER_ADVERTISEMENT => Neighbour::RouterAdvertisement,
        kind::SOLICITATION => Neighbour::Solicitation(ipv6_at(message, 8)?),
        kind::ADVERTISEMENT => Neighbour::Advertisement(ipv6_at(message, 8)?),
        kind::REDIRECT => Neighbour::Redirect,
        _ => return None,
    })
}

/// Options of what neighbours say.
mod option {
    pub const SOURCE_LINK: u8 = 1;
    pub const TARGET_LINK: u8 = 2;
    pub const PREFIX: u8 = 3;
    pub const MTU: u8 = 5;
    /// Resolvers (RFC 8106).
    pub const RESOLVERS: u8 = 25;
}

/// Writes a packet with the answer to a solicitation of `target`, which is a router's.
pub fn put_advertisement(
    buffer: &mut Vec<u8>,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    target: Ipv6Addr,
    mac: Mac,
) {
    // Router, solicited (which an answer to nobody isn't), override.
    let flags: u32 = if destination.is_multicast() {
        0xa000_0000
    } else {
        0xe000_0000
    };
    let mut payload = target.octets().to_vec();
    payload.extend_from_slice(&[option::TARGET_LINK, 1]);
    payload.extend_from_slice(&mac.0);
    let (len, hops) = (8 + payload.len(), NEIGHBOUR_HOPS);
    put_ipv6(buffer, source, destination, protocol::ICMPV6, len, hops);
    let ends = (source, destination);
    put_icmp(buffer, ends, (kind::ADVERTISEMENT, 0), flags, &payload);
}

/// What a router says of itself and of its link.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    /// Its own address on the link, which is the resolver's, too.
    pub gateway: Ipv6Addr,
    /// Bits of the prefix.
    pub prefix: u8,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Bytes of the largest packet.
    pub mtu: u16,
}

/// Writes a packet with a router's advertisement. Nobody makes up an address from it: addresses are given (by the agent).
pub fn put_router_advertisement(buffer: &mut Vec<u8>, destination: Ipv6Addr, router: &Router) {
    /// Seconds for which it is a router: the longest that there is.
    const LIFETIME: u16 = 9000;
    const ON_LINK: u8 = 0x80;
    const FOR_EVER: [u8; 4] = [0xff; 4];
    let source = link_local(router.mac);
    let word = (u32::from(HOPS) << 24) | u32::from(LIFETIME);
    // Reachable and retransmission times: the guest's own.
    let mut payload = vec![0; 8];
    payload.extend_from_slice(&[option::SOURCE_LINK, 1]);
    payload.extend_from_slice(&router.mac.0);
    payload.extend_from_slice(&[option::MTU, 1, 0, 0, 0, 0]);
    payload.extend_from_slice(&router.mtu.to_be_bytes());
    payload.extend_from_slice(&[option::PREFIX, 4, router.prefix, ON_LINK]);
    payload.extend_from_slice(&FOR_EVER);
    payload.extend_from_slice(&FOR_EVER);
    payload.extend_from_slice(&[0; 4]);
    payload.extend_from_slice(&network(router.gateway, router.prefix).octets());
    payload.extend_from_slice(&[option::RESOLVERS, 3, 0, 0]);
    payload.extend_from_slice(&FOR_EVER);
    payload.extend_from_slice(&router.gateway.octets());
    let (len, hops) = (8 + payload.len(), NEIGHBOUR_HOPS);
    put_ipv6(buffer, source, destination, protocol::ICMPV6, len, hops);
    let ends = (source, destination);
    put_icmp(
        buffer,
        ends,
        (kind::ROUTER_ADVERTISEMENT, 0),
        word,
        &payload,
    );
}

/// The first address of those that have so many bits in common with one.
pub fn network(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & mask(prefix))
}

/// The mask of so many bits.
pub fn mask(prefix: u8) -> u128 {
    let bits = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into()));
    bits.unwrap_or(0)
}
