//! A guest's TCP that knows how to do it right, so that what is wrong gets further than to the first check.

use std::net::{IpAddr, Ipv6Addr};

use netstack::wire::{ether_type, protocol};
use smoltcp::wire::{EthernetFrame, Ipv4Packet, Ipv6Packet, TcpPacket};

use super::{Segment, packet};
use crate::world::{GATEWAY, GATEWAY6, GUEST, GUEST6, SERVER, SERVER6};

/// Connections that are followed.
const MOST: usize = 8;

struct Connection {
    guest: (IpAddr, u16),
    remote: (IpAddr, u16),
    /// The next sequence number of ours.
    next: u32,
    /// The next one of theirs.
    seen: u32,
}

/// Those that the guest dials, of both families, and those that it is dialled by.
pub struct Connections(Vec<Connection>);

impl Connections {
    pub fn new() -> Connections {
        let dialled = |number: u16| {
            // To a server that the allow-list has, and to the gateway's resolver.
            let (guest, remote): (IpAddr, (IpAddr, u16)) = match number {
                0 => (GUEST.into(), (SERVER.into(), 9)),
                1 => (GUEST6.into(), (SERVER6.into(), 9)),
                2 => (GUEST.into(), (GATEWAY.into(), 53)),
                _ => (GUEST6.into(), (GATEWAY6.into(), 53)),
            };
            Connection {
                guest: (guest, 40_000 + number),
                remote,
                next: 1000,
                seen: 0,
            }
        };
        Connections((0..4).map(dialled).collect())
    }

    /// The frame of a segment.
    pub fn segment(&mut self, segment: &Segment) -> Vec<u8> {
        let at = usize::from(segment.connection) % self.0.len();
        let connection = &mut self.0[at];
        let ahead = u32::from_ne_bytes(i32::from(segment.ahead).to_ne_bytes());
        let behind = u32::from_ne_bytes(i32::from(segment.behind).to_ne_bytes());
        let mut bytes = Vec::new();
        bytes.extend(connection.guest.1.to_be_bytes());
        bytes.extend(connection.remote.1.to_be_bytes());
        bytes.extend(connection.next.wrapping_add(ahead).to_be_bytes());
        bytes.extend(connection.seen.wrapping_sub(behind).to_be_bytes());
        let options: &[u8] = match segment.flags & 0x80 {
            0 => &[],
            // Segment size, window scale, selective acknowledgement.
            _ => &[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 0, 0],
        };
        bytes.push((5 + options.len() as u8 / 4) << 4);
        bytes.push(segment.flags & 0x3f);
        bytes.extend(segment.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        let len = usize::from(segment.len).min(9000);
        bytes.resize(bytes.len() + len, 5);
        if segment.ahead == 0 {
            let marks = u32::from(segment.flags & 1) + u32::from(segment.flags >> 1 & 1);
            connection.next = connection.next.wrapping_add(len as u32 + marks);
        }
        packet(
            connection.guest.0,
            connection.remote.0,
            protocol::TCP,
            &bytes,
        )
    }

    /// What the stack sent to the guest.
    pub fn see(&mut self, frame: &[u8]) {
        let Some((ends, segment)) = tcp(frame) else {
            return;
        };
        let tcp = TcpPacket::new_unchecked(segment);
        let guest = (ends.1, tcp.dst_port());
        let remote = (ends.0, tcp.src_port());
        let known = self
            .0
            .iter()
            .position(|known| known.guest == guest && known.remote == remote);
        let known = match known {
            Some(known) => known,
            None if self.0.len() < MOST => {
                self.0.push(Connection {
                    guest,
                    remote,
                    next: 5000,
                    seen: 0,
                });
                self.0.len() - 1
            }
            None => return,
        };
        let end = (tcp.seq_number() + tcp.segment_len()).0;
        self.0[known].seen = u32::from_ne_bytes(end.to_ne_bytes());
    }
}

/// Source, destination and segment.
fn tcp(frame: &[u8]) -> Option<((IpAddr, IpAddr), &[u8])> {
    let ethernet = EthernetFrame::new_unchecked(frame);
    let (source, destination, next, payload): (IpAddr, IpAddr, _, _) =
        match u16::from(ethernet.ethertype()) {
            ether_type::IPV4 => {
                let packet = Ipv4Packet::new_unchecked(ethernet.payload());
                (
                    packet.src_addr().into(),
                    packet.dst_addr().into(),
                    packet.next_header(),
                    packet.payload(),
                )
            }
            ether_type::IPV6 => {
                let packet = Ipv6Packet::new_unchecked(ethernet.payload());
                let (from, to): (Ipv6Addr, Ipv6Addr) = (packet.src_addr(), packet.dst_addr());
                (
                    from.into(),
                    to.into(),
                    packet.next_header(),
                    packet.payload(),
                )
            }
            _ => return None,
        };
    (u8::from(next) == protocol::TCP).then_some(((source, destination), payload))
}
