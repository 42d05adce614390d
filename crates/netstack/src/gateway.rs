//! The gateway that guests see: ARP, neighbours of IPv6, ICMP, DHCP, and what may go on to the host's side.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::questions::Asker;
use crate::stack::{PortId, Stack};
use crate::table::Ends;
use crate::wire::ipv6::{self, Neighbour};
use crate::wire::{self, Arp, Echo, Ethernet, Mac, Packet, Unreachable, ether_type, protocol};
use crate::{dhcp, limit};

/// The ports that the gateway itself serves.
pub(crate) mod service {
    pub const DNS: u16 = 53;
    pub const DHCP_SERVER: u16 = 67;
    pub const DHCP_CLIENT: u16 = 68;
}

/// What everybody of IPv6 on the link listens to.
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

impl Stack {
    pub(crate) fn for_gateway(&mut self, id: PortId, frame: &Ethernet<'_>, now: Duration) {
        let packet = match frame.ether_type {
            ether_type::ARP => return self.on_arp(id, frame),
            ether_type::IPV4 => wire::parse_ipv4(frame.payload),
            ether_type::IPV6 if self.config.ipv6.is_some() => wire::parse_ipv6(frame.payload),
            _ => return,
        };
        let Some(packet) = packet else {
            self.counters.malformed += 1;
            return;
        };
        match packet.protocol {
            protocol::ICMP if packet.source.is_ipv4() => self.on_icmp(id, frame, &packet, now),
            protocol::ICMPV6 if packet.source.is_ipv6() => self.on_icmpv6(id, frame, &packet, now),
            protocol::UDP => self.on_udp(id, frame, &packet, now),
            protocol::TCP if frame.destination == self.config.mac && is_somebody(packet.source) => {
                self.on_tcp(id, frame.source, &packet, now);
            }
            _ => {}
        }
    }

    fn on_arp(&mut self, id: PortId, frame: &Ethernet<'_>) {
        let Some(arp) = wire::parse_arp(frame.payload) else {
            self.counters.malformed += 1;
            return;
        };
        if !arp.request || arp.target != self.config.gateway {
            return;
        }
        let mut reply = self.buffer();
        wire::put_ethernet(&mut reply, frame.source, self.config.mac, ether_type::ARP);
        let answer = Arp {
            request: false,
            sender_mac: self.config.mac,
            sender: self.config.gateway,
            target_mac: arp.sender_mac,
            target: arp.sender,
        };
        wire::put_arp(&mut reply, &answer);
        self.enqueue(id, reply);
    }

    /// Where a packet of a guest goes on the host's side. An echo's port is 0.
    pub(crate) fn outside(
        &self,
        id: PortId,
        to: SocketAddr,
        now: Duration,
    ) -> Result<SocketAddr, Unreachable> {
        let port = self.ports.get(&id);
        if self.config.is_gateway(to.ip()) {
            let loopback: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            return match port {
                Some(port) if port.endpoint.host => Ok(SocketAddr::new(loopback, to.port())),
                _ => Err(Unreachable::Port),
            };
        }
        if self.config.internal {
            return Err(Unreachable::Prohibited);
        }
        let within = embedded(to.ip()).is_some_and(|address| self.config.contains(address.into()));
        if !is_outside(to.ip()) || self.config.contains(to.ip()) || within {
            return Err(Unreachable::Host);
        }
        let mut rules = self.config.allow.iter();
        let allowed = self.config.allow.is_empty()
            || rules.any(|rule| rule.covers(to))
            || port.is_some_and(|port| port.opened.allows(to, now));
        match allowed {
            true => Ok(to),
            false => Err(Unreachable::Prohibited),
        }
    }

    fn on_icmp(&mut self, id: PortId, frame: &Ethernet<'_>, packet: &Packet<'_>, now: Duration) {
        if let Some(echo) = wire::parse_echo(packet.payload).filter(|echo| echo.request) {
            self.on_echo(id, frame, packet, &echo, now);
        }
    }

    fn on_icmpv6(&mut self, id: PortId, frame: &Ethernet<'_>, packet: &Packet<'_>, now: Duration) {
        match ipv6::parse_neighbour(packet) {
            Some(Neighbour::RouterSolicitation) => return self.advertise_to(id),
            Some(Neighbour::Solicitation(target)) => {
                return self.on_solicitation(id, frame.source, packet.source, target);
            }
            Some(_) => return,
            None => {}
        }
        if let Some(echo) = ipv6::parse_echo(packet.payload).filter(|echo| echo.request) {
            self.on_echo(id, frame, packet, &echo, now);
        }
    }

    /// Who has this address of the gateway's?
    fn on_solicitation(&mut self, id: PortId, mac: Mac, source: IpAddr, target: Ipv6Addr) {
        let IpAddr::V6(source) = source else {
            return;
        };
        if !self.config.is_gateway(target.into()) {
            return;
        }
        // One that asks for an address that it wants for itself has none yet.
        let (mac, to) = match source.is_unspecified() {
            true => (ALL_NODES_MAC, ipv6::ALL_NODES),
            false => (mac, source),
        };
        let own = self.config.mac;
        let mut reply = self.buffer();
        wire::put_ethernet(&mut reply, mac, own, ether_type::IPV6);
        ipv6::put_advertisement(&mut reply, (target, to), target, own);
        self.enqueue(id, reply);
    }

    /// Tells a guest that there is a router.
    fn advertise_to(&mut self, id: PortId) {
        let Some((gateway, prefix)) = self.config.ipv6 else {
            return;
        };
        let router = ipv6::Router {
            gateway,
            prefix,
            mac: self.config.mac,
            mtu: self.config.mtu,
        };
        let mut frame = self.buffer();
        wire::put_ethernet(&mut frame, ALL_NODES_MAC, router.mac, ether_type::IPV6);
        ipv6::put_router_advertisement(&mut frame, ipv6::ALL_NODES, &router);
        self.enqueue(id, frame);
    }

    /// Tells all guests.
    pub(crate) fn advertise(&mut self) {
        let all: Vec<PortId> = self.ports.keys().copied().collect();
        for id in all {
            self.advertise_to(id);
        }
    }

    fn on_echo(
        &mut self,
        id: PortId,
        frame: &Ethernet<'_>,
        packet: &Packet<'_>,
        echo: &Echo<'_>,
        now: Duration,
    ) {
        if !is_somebody(packet.source) {
            return;
        }
        if self.config.is_gateway(packet.destination) {
            let reply = Echo {
                request: false,
                ..*echo
            };
            let ends = (packet.destination, packet.source);
            self.send_echo(id, frame.source, ends, &reply);
        } else if frame.destination == self.config.mac {
            self.echo_outside(id, frame.source, packet, echo, now);
        }
    }

    /// Sends an echo to a guest, from and to these addresses.
    pub(crate) fn send_echo(
        &mut self,
        id: PortId,
        mac: Mac,
        (from, to): (IpAddr, IpAddr),
        echo: &Echo<'_>,
    ) {
        let mut message = Vec::with_capacity(echo.payload.len() + 8);
        let protocol = match (from, to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ipv6::put_echo(&mut message, (from, to), echo);
                protocol::ICMPV6
            }
            _ => {
                wire::put_echo(&mut message, echo);
                protocol::ICMP
            }
        };
        self.send_packet(id, mac, (from, to), protocol, &message);
    }

    /// Sends a packet to a guest.
    fn send_packet(
        &mut self,
        id: PortId,
        mac: Mac,
        (from, to): (IpAddr, IpAddr),
        protocol: u8,
        payload: &[u8],
    ) {
        let mut reply = self.buffer();
        wire::put_ethernet(&mut reply, mac, self.config.mac, wire::ether_type_of(to));
        wire::put_ip(&mut reply, from, to, protocol, payload.len());
        reply.extend_from_slice(payload);
        self.enqueue(id, reply);
    }

    /// Says that a packet can't go where it wants to.
    pub(crate) fn refuse(&mut self, id: PortId, mac: Mac, packet: &Packet<'_>, why: Unreachable) {
        let (from, to) = (self.config.gateway_for(packet.source), packet.source);
        let mut message = Vec::new();
        let protocol = match (from, to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ipv6::put_unreachable(&mut message, (from, to), why, packet.packet);
                protocol::ICMPV6
            }
            _ => {
                wire::put_unreachable(&mut message, why, packet.packet);
                protocol::ICMP
            }
        };
        self.send_packet(id, mac, (from, to), protocol, &message);
    }

    fn on_udp(&mut self, id: PortId, frame: &Ethernet<'_>, packet: &Packet<'_>, now: Duration) {
        let Some(udp) = wire::parse_udp(packet.payload) else {
            self.counters.malformed += 1;
            return;
        };
        if udp.destination == service::DHCP_SERVER && packet.source.is_ipv4() {
            return self.on_dhcp(id, frame.source, udp.payload, now);
        }
        if frame.destination != self.config.mac || !is_somebody(packet.source) {
            return;
        }
        let ends = Ends {
            guest: SocketAddr::new(packet.source, udp.source),
            remote: SocketAddr::new(packet.destination, udp.destination),
        };
        if self.config.is_gateway(packet.destination) && udp.destination == service::DNS {
            let asker = Asker {
                port: id,
                mac: frame.source,
                ends,
                stream: None,
            };
            self.on_question(asker, udp.payload, now);
        } else {
            self.on_datagram(id, frame.source, packet, ends, udp.payload, now);
        }
    }

    fn on_dhcp(&mut self, id: PortId, mac: Mac, payload: &[u8], now: Duration) {
        let Some(message) = dhcp::parse(payload).filter(|message| message.mac == mac) else {
            self.counters.malformed += 1;
            return;
        };
        let own = self.ports.get(&id).map(|port| &port.endpoint);
        let own = own.filter(|endpoint| endpoint.mac == mac);
        let (address, lease) = match own.map(|endpoint| endpoint.address) {
            Some(address) => (Some(address), dhcp::LEASE),
            None => (self.lease(id, mac, message.kind, now), limit::LEASE),
        };
        let Some((reply, to)) = dhcp::answer(&message, address, &self.offer(lease)) else {
            return;
        };
        let destination = if to == Ipv4Addr::BROADCAST {
            Mac::BROADCAST
        } else {
            mac
        };
        let ends = Ends {
            guest: SocketAddr::new(to.into(), service::DHCP_CLIENT),
            remote: SocketAddr::new(self.config.gateway.into(), service::DHCP_SERVER),
        };
        self.put_udp(id, destination, ends, &reply);
    }

    /// The address of somebody behind a guest: the same each time, until it is not asked for any more. Nobody has a wish, because guests that join
    /// later have theirs; and a guest that makes up others gets a few addresses, and none of the last quarter.
    fn lease(&mut self, id: PortId, mac: Mac, kind: dhcp::Kind, now: Duration) -> Option<Ipv4Addr> {
        let (mut known, mut count) = (None, 0);
        for address in self.leases.keys() {
            if let Some((owner, holder)) = self.owners.get(&IpAddr::from(*address))
                && *owner == id
            {
                count += 1;
                known = known.or((*holder == mac).then_some(*address));
            }
        }
        if kind == dhcp::Kind::Release {
            self.end_lease(known?);
            return None;
        }
        if known.is_none() && kind == dhcp::Kind::Discover && count < limit::LEASES {
            let used = 1 + self.owners.keys().filter(|owned| owned.is_ipv4()).count();
            let all = usize::try_from(!self.config.mask().to_bits()).unwrap_or(usize::MAX);
            known = self
                .unused_address()
                .filter(|_| (used + 1) * 4 <= (all - 1) * 3);
        }
        let address = known?;
        let held = match kind {
            dhcp::Kind::Request => limit::LEASE,
            _ => limit::OFFER,
        };
        self.owners.insert(address.into(), (id, mac));
        let until = self.leases.entry(address).or_default();
        *until = (*until).max(now + held);
        Some(address)
    }

    fn end_lease(&mut self, address: Ipv4Addr) {
        self.leases.remove(&address);
        self.owners.remove(&address.into());
    }

    /// Forgets leases that nobody has asked for again.
    pub(crate) fn sweep_leases(&mut self, now: Duration) {
        let over = self.leases.iter().filter(|(_, until)| **until < now);
        let over: Vec<Ipv4Addr> = over.map(|(address, _)| *address).collect();
        for address in over {
            self.end_lease(address);
        }
    }
}

/// Whether an address may be a sender's who hears answers.
fn is_somebody(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

/// Whether an address is one machine's outside: not what the host's kernel takes for itself, or for several. 0.0.0.0 is
/// its own loopback, too; IPv4's addresses in IPv6's clothes would go around every rule about them.
pub(crate) fn is_outside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(inner) => {
            let segments = inner.segments();
            let closed = match segments {
                // Mapped and compatible (RFC 4291, 2.5.5), those that SIIT translated (RFC 2765), and the unspecified one and the loopback.
                [0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => true,
                // A network's own translator, wherever in it the address stands (RFC 8215).
                [0x64, 0xff9b, 1, ..] => true,
                _ => inner.is_multicast() || segments[0] & 0xffc0 == 0xfe80,
            };
            !closed && embedded(address).is_none_or(|inner| is_outside(inner.into()))
        }
    }
}

/// The address of IPv4 that a packet to an address of IPv6 ends up at, behind the well-known translator (RFC 6052) or 6to4's relay (RFC 3056).
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let (high, low) = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}
