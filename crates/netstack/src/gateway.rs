//! What the gateway does with frames that are for it: ARP, ICMP, UDP (DHCP, DNS, flows to the host's side), and who may
//! reach what.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::stack::{Event, PortId, Stack, Target};
use crate::table::{Ends, FlowId, Side, UdpFlow};
use crate::wire::{self, Arp, Ethernet, Ipv4, Mac, Unreachable, ether_type, protocol};
use crate::{dhcp, dns, limit};

/// The ports that the gateway itself serves.
mod service {
    pub const DNS: u16 = 53;
    pub const DHCP_SERVER: u16 = 67;
    pub const DHCP_CLIENT: u16 = 68;
}

impl Stack {
    pub(crate) fn for_gateway(&mut self, id: PortId, frame: &Ethernet<'_>, now: Duration) {
        match frame.ether_type {
            ether_type::ARP => self.on_arp(id, frame),
            ether_type::IPV4 => {
                let Some(packet) = wire::parse_ipv4(frame.payload) else {
                    self.counters.malformed += 1;
                    return;
                };
                match packet.protocol {
                    protocol::ICMP => self.on_icmp(id, frame, &packet),
                    protocol::UDP => self.on_udp(id, frame, &packet, now),
                    protocol::TCP if frame.destination == self.config.mac => {
                        self.on_tcp(id, frame.source, &packet, now);
                    }
                    _ => {}
                }
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

    /// Where a packet of a guest goes on the host's side.
    pub(crate) fn outside(
        &self,
        id: PortId,
        destination: Ipv4Addr,
        port: u16,
    ) -> Result<SocketAddr, Unreachable> {
        let there = |address: Ipv4Addr| SocketAddr::new(IpAddr::V4(address), port);
        let endpoint = self.ports.get(&id).map(|port| &port.endpoint);
        if destination == self.config.gateway {
            return match endpoint {
                Some(endpoint) if endpoint.host => Ok(there(Ipv4Addr::LOCALHOST)),
                _ => Err(Unreachable::Port),
            };
        }
        if self.config.internal {
            return Err(Unreachable::Prohibited);
        }
        // What the host's kernel takes for itself, or for several: 0.0.0.0 is its own loopback, too.
        let first = destination.octets()[0];
        if first == 0 || first == 127 || first >= 224 || self.config.contains(destination) {
            return Err(Unreachable::Host);
        }
        Ok(there(destination))
    }

    fn on_icmp(&mut self, id: PortId, frame: &Ethernet<'_>, packet: &Ipv4<'_>) {
        let Some(echo) = wire::parse_echo(packet.payload).filter(|echo| echo.request) else {
            return;
        };
        if packet.destination == self.config.gateway {
            let mut message = Vec::with_capacity(packet.payload.len());
            let reply = wire::Echo {
                request: false,
                ..echo
            };
            wire::put_echo(&mut message, &reply);
            let to = (frame.source, packet.source);
            self.send_packet(id, to, packet.destination, protocol::ICMP, &message);
        } else if frame.destination == self.config.mac {
            self.refuse(id, frame.source, packet, Unreachable::Prohibited);
        }
    }

    /// Sends an IPv4 packet to a guest.
    fn send_packet(
        &mut self,
        id: PortId,
        (mac, to): (Mac, Ipv4Addr),
        from: Ipv4Addr,
        protocol: u8,
        payload: &[u8],
    ) {
        let mut reply = self.buffer();
        wire::put_ethernet(&mut reply, mac, self.config.mac, ether_type::IPV4);
        wire::put_ipv4(&mut reply, from, to, protocol, payload.len());
        reply.extend_from_slice(payload);
        self.enqueue(id, reply);
    }

    /// Says that a packet can't go where it wants to.
    fn refuse(&mut self, id: PortId, mac: Mac, packet: &Ipv4<'_>, why: Unreachable) {
        self.counters.refused += 1;
        let mut message = Vec::new();
        wire::put_unreachable(&mut message, why, packet.packet);
        let (gateway, to) = (self.config.gateway, (mac, packet.source));
        self.send_packet(id, to, gateway, protocol::ICMP, &message);
    }

    fn on_udp(&mut self, id: PortId, frame: &Ethernet<'_>, packet: &Ipv4<'_>, now: Duration) {
        let Some(udp) = wire::parse_udp(packet.payload) else {
            self.counters.malformed += 1;
            return;
        };
        if udp.destination == service::DHCP_SERVER {
            return self.on_dhcp(id, frame.source, udp.payload);
        }
        if frame.destination != self.config.mac {
            return;
        }
        let ends = Ends {
            guest: SocketAddrV4::new(packet.source, udp.source),
            remote: SocketAddrV4::new(packet.destination, udp.destination),
        };
        if packet.destination == self.config.gateway && udp.destination == service::DNS {
            return self.on_question(id, frame.source, ends, udp.payload, now);
        }
        let known = self.table.udp_by_ends.get(&ends).copied();
        let flow = match known {
            Some(flow) => flow,
            None => match self.outside(id, packet.destination, udp.destination) {
                Ok(to) => {
                    let side = Side::Out(Target::Address(to));
                    self.new_udp(id, frame.source, ends, side, now)
                }
                Err(why) => return self.refuse(id, frame.source, packet, why),
            },
        };
        let Some(known) = self.table.udp.get_mut(&flow).filter(|flow| flow.port == id) else {
            return;
        };
        known.used = now;
        let payload = udp.payload.to_vec();
        self.events.push_back(match known.side {
            Side::In { published, peer } => Event::Reply {
                published,
                peer,
                payload,
            },
            Side::Out(to) => Event::Datagram {
                flow,
                port: id,
                to,
                payload,
            },
            Side::Question => return,
        });
    }

    fn new_udp(&mut self, id: PortId, mac: Mac, ends: Ends, side: Side, now: Duration) -> FlowId {
        let question = side == Side::Question;
        let Some(port) = self.ports.get_mut(&id) else {
            return FlowId(0);
        };
        let (count, most) = if question {
            (&mut port.questions, limit::QUESTIONS)
        } else {
            (&mut port.udp_flows, limit::UDP_FLOWS)
        };
        *count += 1;
        if *count > most
            && let Some(oldest) = self.table.oldest_udp(id, question)
        {
            self.forget_udp(oldest);
        }
        self.table.insert_udp(UdpFlow {
            port: id,
            mac,
            ends,
            side,
            used: now,
            question: Vec::new(),
        })
    }

    /// A flow of datagrams is over.
    fn forget_udp(&mut self, flow: FlowId) {
        let Some(known) = self.table.remove_udp(flow) else {
            return;
        };
        if let Some(port) = self.ports.get_mut(&known.port) {
            let count = match known.side {
                Side::Question => &mut port.questions,
                _ => &mut port.udp_flows,
            };
            *count = count.saturating_sub(1);
        }
        self.events.push_back(Event::Forgotten(flow));
    }

    /// A datagram for a flow, from the host's side.
    pub fn udp_answer(&mut self, flow: FlowId, payload: &[u8], now: Duration) {
        let Some(known) = self.table.udp.get_mut(&flow) else {
            return;
        };
        if known.side == Side::Question {
            if dns::answers(payload, &known.question) {
                self.send_udp(flow, payload);
                self.forget_udp(flow);
            }
            return;
        }
        known.used = now;
        self.send_udp(flow, payload);
    }

    /// The host's side can't deliver what a flow sends.
    pub fn udp_failed(&mut self, flow: FlowId) {
        let Some(known) = self.table.udp.get(&flow) else {
            return;
        };
        if known.side == Side::Question {
            if let Some(reply) = dns::refuse(&known.question, dns::Code::ServFail) {
                self.send_udp(flow, &reply);
            }
            return self.forget_udp(flow);
        }
        // The packet is gone; its header is what matters.
        let (id, mac, ends) = (known.port, known.mac, known.ends);
        let mut datagram = Vec::new();
        let (guest, remote) = (ends.guest, ends.remote);
        let from = (*guest.ip(), guest.port());
        let to = (*remote.ip(), remote.port());
        wire::put_ipv4(&mut datagram, from.0, to.0, protocol::UDP, wire::UDP_LEN);
        wire::put_udp(&mut datagram, from, to, &[]);
        if let Some(packet) = wire::parse_ipv4(&datagram) {
            self.refuse(id, mac, &packet, Unreachable::Port);
        }
    }

    fn send_udp(&mut self, flow: FlowId, payload: &[u8]) {
        let Some(known) = self.table.udp.get(&flow) else {
            return;
        };
        let (id, mac, ends) = (known.port, known.mac, known.ends);
        self.put_udp(id, mac, ends, payload);
    }

    fn put_udp(&mut self, id: PortId, mac: Mac, ends: Ends, payload: &[u8]) {
        // What a link can't carry in one piece is lost; the largest datagram of IPv4 is 15 bytes longer than that.
        if wire::IPV4_LEN + wire::UDP_LEN + payload.len() > usize::from(self.config.mtu) {
            self.counters.dropped += 1;
            return;
        }
        let mut frame = self.buffer();
        let (from, to) = (ends.remote, ends.guest);
        wire::put_ethernet(&mut frame, mac, self.config.mac, ether_type::IPV4);
        let len = wire::UDP_LEN + payload.len();
        wire::put_ipv4(&mut frame, *from.ip(), *to.ip(), protocol::UDP, len);
        wire::put_udp(
            &mut frame,
            (*from.ip(), from.port()),
            (*to.ip(), to.port()),
            payload,
        );
        self.enqueue(id, frame);
    }

    /// A datagram from `peer` for a published port of a guest.
    pub fn udp_inbound(
        &mut self,
        id: PortId,
        published: u64,
        peer: SocketAddr,
        guest_port: u16,
        payload: &[u8],
        now: Duration,
    ) {
        let side = Side::In { published, peer };
        let flow = match self.table.udp_by_peer.get(&(published, peer)) {
            Some(flow) => *flow,
            None => {
                let Some(port) = self.ports.get(&id) else {
                    return;
                };
                let guest = SocketAddrV4::new(port.endpoint.address, guest_port);
                let mac = port.endpoint.mac;
                let remote = self.client(peer);
                self.new_udp(id, mac, Ends { guest, remote }, side, now)
            }
        };
        self.udp_answer(flow, payload, now);
    }

    /// How a guest sees a client: by its own address where an answer to it would come to us.
    pub(crate) fn client(&mut self, peer: SocketAddr) -> SocketAddrV4 {
        if let SocketAddr::V4(peer) = peer {
            let first = peer.ip().octets()[0];
            if first != 0 && first != 127 && first < 224 && !self.config.contains(*peer.ip()) {
                return peer;
            }
        }
        let port = self.client_port();
        SocketAddrV4::new(self.config.gateway, port)
    }

    fn on_question(&mut self, id: PortId, mac: Mac, ends: Ends, message: &[u8], now: Duration) {
        let Some(question) = dns::parse_query(message) else {
            self.counters.malformed += 1;
            return;
        };
        let own = |address| self.config.contains(address);
        if let Some(reply) = self.names.answer(message, &question, own) {
            return self.put_udp(id, mac, ends, &reply);
        }
        let internal = question.name.ends_with("gourd.internal") || !question.name.contains('.');
        if self.config.internal || internal {
            // Names without a dot are containers'. The host's resolvers would only look in their search list.
            if let Some(reply) = dns::refuse(message, dns::Code::NxDomain) {
                self.put_udp(id, mac, ends, &reply);
            }
            return;
        }
        let flow = self.new_udp(id, mac, ends, Side::Question, now);
        if let Some(known) = self.table.udp.get_mut(&flow) {
            known.question = message.to_vec();
        }
        self.events.push_back(Event::Datagram {
            flow,
            port: id,
            to: Target::Resolver,
            payload: message.to_vec(),
        });
    }

    fn on_dhcp(&mut self, id: PortId, mac: Mac, payload: &[u8]) {
        let Some(message) = dhcp::parse(payload).filter(|message| message.mac == mac) else {
            self.counters.malformed += 1;
            return;
        };
        let address = self.address_of(id, mac, message.requested);
        let Some((reply, to)) = dhcp::answer(&message, address, &self.offer()) else {
            return;
        };
        let destination = if to == Ipv4Addr::BROADCAST {
            Mac::BROADCAST
        } else {
            mac
        };
        let ends = Ends {
            guest: SocketAddrV4::new(to, service::DHCP_CLIENT),
            remote: SocketAddrV4::new(self.config.gateway, service::DHCP_SERVER),
        };
        self.put_udp(id, destination, ends, &reply);
    }

    /// The address of who is behind a port: it is the same each time.
    fn address_of(&mut self, id: PortId, mac: Mac, wish: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let known = self.owners.iter().find(|(_, owner)| **owner == (id, mac));
        if let Some((address, _)) = known {
            return Some(*address);
        }
        let leases = self.owners.values().filter(|(owner, _)| *owner == id);
        if leases.count() >= limit::MACS {
            return None;
        }
        let address = self.free_address(wish)?;
        self.owners.insert(address, (id, mac));
        Some(address)
    }

    /// Forgets flows of datagrams that are idle.
    pub(crate) fn sweep_udp(&mut self, now: Duration) {
        let idle = |flow: &UdpFlow| now.saturating_sub(flow.used) > limit::UDP_IDLE;
        let flows = self.table.udp.iter().filter(|(_, flow)| idle(flow));
        let flows: Vec<FlowId> = flows.map(|(id, _)| *id).collect();
        for flow in flows {
            self.forget_udp(flow);
        }
    }
}
