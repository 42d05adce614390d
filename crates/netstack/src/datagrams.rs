//! Flows of datagrams and of echoes: from a guest to the host's socket, and back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::gateway::{is_outside, service};
use crate::stack::{Event, PortId, Stack, Target};
use crate::table::{Ends, FlowId, Side, UdpFlow};
use crate::wire::{self, Echo, Mac, Packet, Unreachable, protocol};
use crate::{dns, limit};

impl Stack {
    pub(crate) fn on_datagram(
        &mut self,
        id: PortId,
        mac: Mac,
        packet: &Packet<'_>,
        ends: Ends,
        payload: &[u8],
        now: Duration,
    ) {
        // Port 0 is nobody's, and among our flows it is the echoes'.
        if ends.remote.port() == 0 {
            self.note_refused(id, protocol::UDP, ends, Unreachable::Port);
            return self.refuse(id, mac, packet, Unreachable::Port);
        }
        let known = self.table.udp_by_ends.get(&(id, ends)).copied();
        let flow = match known {
            Some(flow) => flow,
            None => match self.outside(id, ends.remote, now) {
                Ok(to) => {
                    self.note_flow(id, protocol::UDP, ends, None);
                    let side = Side::Out(Target::Address(to));
                    self.new_udp(id, mac, ends, side, now)
                }
                Err(why) => {
                    self.note_refused(id, protocol::UDP, ends, why);
                    return self.refuse(id, mac, packet, why);
                }
            },
        };
        let Some(known) = self.table.udp.get_mut(&flow) else {
            return;
        };
        known.used = now;
        let payload = payload.to_vec();
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
            Side::Question | Side::Echo(_) => return,
        });
    }

    /// A guest's echo request to somebody outside.
    pub(crate) fn echo_outside(
        &mut self,
        id: PortId,
        mac: Mac,
        packet: &Packet<'_>,
        echo: &Echo<'_>,
        now: Duration,
    ) {
        let ends = Ends {
            guest: SocketAddr::new(packet.source, echo.identifier),
            remote: SocketAddr::new(packet.destination, 0),
        };
        let flow = match self.table.udp_by_ends.get(&(id, ends)).copied() {
            Some(flow) => flow,
            None => match self.outside(id, ends.remote, now) {
                Ok(to) => {
                    self.note_flow(id, packet.protocol, ends, None);
                    self.new_udp(id, mac, ends, Side::Echo(to.ip()), now)
                }
                Err(why) => {
                    self.note_refused(id, packet.protocol, ends, why);
                    return self.refuse(id, mac, packet, why);
                }
            },
        };
        let Some(known) = self.table.udp.get_mut(&flow) else {
            return;
        };
        known.used = now;
        if let Side::Echo(to) = known.side {
            self.events.push_back(Event::Echo {
                flow,
                to,
                sequence: echo.sequence,
                payload: echo.payload.to_vec(),
            });
        }
    }

    pub(crate) fn new_udp(
        &mut self,
        id: PortId,
        mac: Mac,
        ends: Ends,
        side: Side,
        now: Duration,
    ) -> FlowId {
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
        if *count > most {
            for oldest in self.table.oldest_udp(id, question, most / 32) {
                self.forget_udp(oldest);
            }
        }
        self.table.insert_udp(UdpFlow {
            port: id,
            mac,
            ends,
            side,
            used: now,
            question: Vec::new(),
            stream: None,
        })
    }

    /// A flow of datagrams is over.
    pub(crate) fn forget_udp(&mut self, flow: FlowId) {
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
        if let Some(stream) = known.stream {
            self.names_answered(stream);
        }
        self.events.push_back(Event::Forgotten(flow));
    }

    /// A datagram for a flow, from the host's side.
    pub fn udp_answer(&mut self, flow: FlowId, payload: &[u8], now: Duration) {
        let Some(known) = self.table.udp.get_mut(&flow) else {
            return;
        };
        match known.side {
            Side::Question => self.on_answer(flow, payload, now),
            Side::Echo(_) => {}
            Side::In { .. } | Side::Out(_) => {
                known.used = now;
                self.send_udp(flow, payload);
            }
        }
    }

    /// Whether a flow of datagrams is a guest's.
    pub fn is_of(&self, flow: FlowId, id: PortId) -> bool {
        let known = self.table.udp.get(&flow);
        known.is_some_and(|known| known.port == id)
    }

    /// The answer to an echo request of a flow's.
    pub fn echo_answer(&mut self, flow: FlowId, sequence: u16, payload: &[u8], now: Duration) {
        let Some(known) = self.table.udp.get_mut(&flow) else {
            return;
        };
        if !matches!(known.side, Side::Echo(_)) {
            return;
        }
        known.used = now;
        let (id, mac, ends) = (known.port, known.mac, known.ends);
        let echo = Echo {
            request: false,
            identifier: ends.guest.port(),
            sequence,
            payload,
        };
        // What a link can't carry in one piece is lost.
        if wire::ip_len(ends.guest.ip()) + 8 + payload.len() > usize::from(self.config.mtu) {
            self.counters.dropped += 1;
            return;
        }
        self.send_echo(id, mac, (ends.remote.ip(), ends.guest.ip()), &echo);
    }

    /// The host's side can't deliver what a flow sends.
    pub fn flow_failed(&mut self, flow: FlowId, why: Unreachable) {
        let Some(known) = self.table.udp.get(&flow) else {
            return;
        };
        if known.side == Side::Question {
            if let Some(reply) = dns::refuse(&known.question, dns::Code::ServFail) {
                self.answer(flow, &reply);
            }
            return self.forget_udp(flow);
        }
        // The packet is gone; its header is what matters.
        let (id, mac, ends) = (known.port, known.mac, known.ends);
        let (from, to) = (ends.guest.ip(), ends.remote.ip());
        let mut lost = Vec::new();
        let mut payload = Vec::new();
        let protocol = match (known.side, from, to) {
            (Side::Echo(_), IpAddr::V6(from), IpAddr::V6(to)) => {
                let echo = &echo_of(ends.guest.port());
                wire::ipv6::put_echo(&mut payload, (from, to), echo);
                protocol::ICMPV6
            }
            (Side::Echo(_), ..) => {
                wire::put_echo(&mut payload, &echo_of(ends.guest.port()));
                protocol::ICMP
            }
            _ => {
                wire::put_udp(&mut payload, ends.guest, ends.remote, &[]);
                protocol::UDP
            }
        };
        wire::put_ip(&mut lost, from, to, protocol, payload.len());
        lost.extend_from_slice(&payload);
        self.note_refused(id, protocol, ends, why);
        let packet = Packet {
            source: from,
            destination: to,
            protocol,
            payload: &payload,
            packet: &lost,
        };
        self.refuse(id, mac, &packet, why);
        // The next request is tried anew: the host may have changed its mind.
        if protocol != protocol::UDP {
            self.forget_udp(flow);
        }
    }

    pub(crate) fn send_udp(&mut self, flow: FlowId, payload: &[u8]) {
        let Some(known) = self.table.udp.get(&flow) else {
            return;
        };
        let (id, mac, ends) = (known.port, known.mac, known.ends);
        self.put_udp(id, mac, ends, payload);
    }

    pub(crate) fn put_udp(&mut self, id: PortId, mac: Mac, ends: Ends, payload: &[u8]) {
        let (from, to) = (ends.remote, ends.guest);
        // What a link can't carry in one piece is lost; the largest datagram of IPv4 is 15 bytes longer than that.
        let len = wire::UDP_LEN + payload.len();
        if wire::ip_len(to.ip()) + len > usize::from(self.config.mtu) {
            self.counters.dropped += 1;
            return;
        }
        let mut frame = self.buffer();
        let ether_type = wire::ether_type_of(to.ip());
        wire::put_ethernet(&mut frame, mac, self.config.mac, ether_type);
        wire::put_ip(&mut frame, from.ip(), to.ip(), protocol::UDP, len);
        let partial = wire::put_udp_partial(&mut frame, from, to, payload);
        // DHCP's clients take theirs off the wire, and not all of them know of checksums that are left out.
        if to.port() == service::DHCP_CLIENT {
            partial.complete(&mut frame);
            return self.enqueue(id, frame);
        }
        self.enqueue_partial(id, frame, Some(partial));
    }

    /// A datagram from `peer` for a published port of a guest. It goes to the guest's address of IPv4, whatever the peer's is: nobody
    /// says whether a program listens at the other one.
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
                let guest = SocketAddr::new(port.endpoint.address.into(), guest_port);
                let mac = port.endpoint.mac;
                let remote = self.client(peer, guest.ip());
                let mut ends = Ends { guest, remote };
                // A client port of the gateway's may be in use still; and the guest may speak to the client's own already.
                for _ in 0..=limit::UDP_FLOWS {
                    if !self.table.udp_by_ends.contains_key(&(id, ends)) {
                        break;
                    }
                    ends.remote = self.gateway_client(guest.ip());
                }
                self.note_flow(id, protocol::UDP, ends, Some(peer));
                self.new_udp(id, mac, ends, side, now)
            }
        };
        self.udp_answer(flow, payload, now);
    }

    /// How a guest sees a client at one of its addresses: by the client's own address where an answer to it would come to us.
    pub(crate) fn client(&mut self, peer: SocketAddr, guest: IpAddr) -> SocketAddr {
        let same = peer.is_ipv4() == guest.is_ipv4();
        if same && is_outside(peer.ip()) && !self.config.contains(peer.ip()) {
            return SocketAddr::new(peer.ip(), peer.port());
        }
        self.gateway_client(guest)
    }

    /// A client that the guest can't know by its own address: the gateway stands for it.
    pub(crate) fn gateway_client(&mut self, guest: IpAddr) -> SocketAddr {
        let port = self.client_port();
        SocketAddr::new(self.config.gateway_for(guest), port)
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

fn echo_of(identifier: u16) -> Echo<'static> {
    Echo {
        request: true,
        identifier,
        sequence: 0,
        payload: &[],
    }
}
