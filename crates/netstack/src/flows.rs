//! TCP connections: from a guest's segment to the host's socket, and back.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::gateway::service;
use crate::limit;
use crate::stack::{Event, Note, PortId, Stack};
use crate::table::{Ends, FlowId, TcpFlow};
use crate::tcp::{self, Header, Tcp, flag};
use crate::wire::{self, Mac, Packet, Partial, Unreachable, protocol};

impl Stack {
    pub(crate) fn on_tcp(&mut self, id: PortId, mac: Mac, packet: &Packet<'_>, now: Duration) {
        let Some((header, payload)) = tcp::parse(packet.payload) else {
            self.counters.malformed += 1;
            return;
        };
        let ends = Ends {
            guest: SocketAddr::new(packet.source, header.source),
            remote: SocketAddr::new(packet.destination, header.destination),
        };
        if let Some(flow) = self.table.tcp_by_ends.get(&(id, ends)).copied() {
            let known = self.table.tcp.get(&flow);
            if known.is_some_and(|known| known.tcp.is_stale(&header)) {
                return self.no_connection(id, mac, ends, &header, payload.len());
            }
            let mut changed = false;
            let known = self.with(flow, |known| {
                changed = known.tcp.on_segment(&header, payload, now);
                known.say_preface(now);
            });
            if known.is_some() {
                self.after(flow, changed);
            }
            if changed {
                self.on_names(flow);
            }
            return;
        }
        if header.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN {
            self.on_syn(id, mac, ends, &header, now);
        } else {
            self.no_connection(id, mac, ends, &header, payload.len());
        }
    }

    fn on_syn(&mut self, id: PortId, mac: Mac, ends: Ends, header: &Header, now: Duration) {
        let names = self.config.is_gateway(ends.remote.ip()) && ends.remote.port() == service::DNS;
        let to = match names {
            true => Ok(ends.remote),
            false => self.outside(id, ends.remote, now),
        };
        let full = self
            .ports
            .get(&id)
            .is_none_or(|port| port.tcp_flows >= limit::TCP_FLOWS);
        let (Ok(to), false) = (to, full) else {
            let why = to.err().unwrap_or(Unreachable::Port);
            self.note_refused(id, protocol::TCP, ends, why);
            return self.no_connection(id, mac, ends, header, 0);
        };
        let initial = self.initial_sequence(ends.guest, ends.remote, now);
        let own_mss = self.own_mss(ends.guest.ip());
        let mut tcp = Tcp::held(header, own_mss, initial, now);
        if names {
            // It ends here: questions are answered one by one, as those in datagrams are.
            tcp.accept();
        }
        let flow = self.insert(id, mac, ends, tcp);
        if names {
            self.with(flow, |known| known.names = Some(0));
            return self.after(flow, false);
        }
        self.note_flow(id, protocol::TCP, ends, None);
        self.events.push_back(Event::Dial { flow, to });
    }

    /// Somebody may not go where it wants to.
    pub(crate) fn note_refused(&mut self, id: PortId, protocol: u8, ends: Ends, why: Unreachable) {
        self.counters.refused += 1;
        let note = Note::Refused {
            protocol,
            guest: ends.guest,
            remote: ends.remote,
            why,
        };
        self.events.push_back(Event::Note(id, note));
    }

    /// A flow begins.
    pub(crate) fn note_flow(
        &mut self,
        id: PortId,
        protocol: u8,
        ends: Ends,
        client: Option<SocketAddr>,
    ) {
        let note = Note::Flow {
            protocol,
            guest: ends.guest,
            remote: ends.remote,
            client,
        };
        self.events.push_back(Event::Note(id, note));
    }

    fn own_mss(&self, address: IpAddr) -> u16 {
        self.config.mtu - (wire::ip_len(address) + tcp::HEADER_LEN) as u16
    }

    fn insert(&mut self, id: PortId, mac: Mac, ends: Ends, mut tcp: Tcp) -> FlowId {
        if let Some(port) = self.ports.get_mut(&id) {
            port.tcp_flows += 1;
            if port.buffered > limit::BUFFERED / 2 {
                tcp.keep_small();
            }
            port.buffered += tcp.held_bytes();
        }
        self.table.insert_tcp(TcpFlow {
            port: id,
            mac,
            ends,
            tcp,
            speaking: false,
            told: false,
            timer: None,
            other: None,
            preface: Vec::new(),
            names: None,
        })
    }

    /// Answers a segment of a connection that there isn't (RFC 9293, 3.10.7.1).
    fn no_connection(&mut self, id: PortId, mac: Mac, ends: Ends, header: &Header, len: usize) {
        if header.flags & flag::RST != 0 {
            return;
        }
        let mut reset = Header {
            source: header.destination,
            destination: header.source,
            ..Header::default()
        };
        if header.flags & flag::ACK != 0 {
            reset.sequence = header.acknowledgement;
            reset.flags = flag::RST;
        } else {
            let one = |bit| u32::from(header.flags & bit != 0);
            let count = (len as u32) + one(flag::SYN) + one(flag::FIN);
            reset.acknowledgement = header.sequence.wrapping_add(count);
            reset.flags = flag::RST | flag::ACK;
        }
        self.send_header(id, mac, ends, &reset);
    }

    fn send_header(&mut self, id: PortId, mac: Mac, ends: Ends, header: &Header) {
        let mut frame = self.buffer();
        begin(&mut frame, (self.config.mac, mac), ends);
        tcp::put(&mut frame, header);
        finish(&mut frame, ends, (&[], &[]));
        self.enqueue(id, frame);
    }

    /// Does something to a connection, and keeps count of what waits in it.
    fn with<T>(&mut self, flow: FlowId, work: impl FnOnce(&mut TcpFlow) -> T) -> Option<T> {
        let known = self.table.tcp.get_mut(&flow)?;
        let before = known.tcp.held_bytes();
        let result = work(known);
        let after = known.tcp.held_bytes();
        if let Some(port) = self.ports.get_mut(&known.port) {
            port.buffered = (port.buffered + after).saturating_sub(before);
        }
        Some(result)
    }

    /// After anything has happened to a connection: it may want to speak, want to be looked at, have a timer, or be over.
    fn after(&mut self, flow: FlowId, changed: bool) {
        let Some(known) = self.table.tcp.get_mut(&flow) else {
            return;
        };
        if known.tcp.is_open() {
            known.other = None;
        }
        if known.tcp.is_dead() || known.tcp.is_ignored() && known.other.is_some() {
            if let Some(guest) = known.other.take() {
                return self.dial_again(flow, guest);
            }
            self.remove(flow);
            self.events.push_back(Event::Reset(flow));
            return;
        }
        let id = known.port;
        if let Some(deadline) = known.tcp.deadline()
            && known.timer.is_none_or(|timer| deadline < timer)
        {
            if let Some(timer) = known.timer.replace(deadline) {
                self.timers.remove(&(timer, flow));
            }
            self.timers.insert((deadline, flow));
        }
        let tell = changed && !known.told && known.names.is_none();
        known.told |= tell;
        let speak = known.tcp.wants_to_speak() && !known.speaking;
        known.speaking |= speak;
        // The last acknowledgement goes out before the connection is forgotten.
        let (front, back) = known.tcp.input();
        let over = known.tcp.is_done() && front.is_empty() && back.is_empty();
        if tell {
            self.events.push_back(Event::Look(flow));
        }
        if over && !known.tcp.wants_to_speak() {
            self.remove(flow);
            self.events.push_back(Event::Done(flow));
        } else if speak {
            if let Some(port) = self.ports.get_mut(&id) {
                port.speaking.push_back(flow);
            }
            self.mark_ready(id);
        }
    }

    fn remove(&mut self, flow: FlowId) {
        let Some(known) = self.table.remove_tcp(flow) else {
            return;
        };
        if let Some(timer) = known.timer {
            self.timers.remove(&(timer, flow));
        }
        if let Some(port) = self.ports.get_mut(&known.port) {
            port.tcp_flows = port.tcp_flows.saturating_sub(1);
            port.buffered = port.buffered.saturating_sub(known.tcp.held_bytes());
        }
    }

    /// Offers the next segment of a connection to its guest's link, in pieces; whether it was taken. `None`: it has none after all.
    pub(crate) fn emit(
        &mut self,
        flow: FlowId,
        now: Duration,
        send: &mut impl FnMut(&[IoSlice<'_>], Option<Partial>) -> bool,
    ) -> Option<bool> {
        let mac = self.config.mac;
        let known = self.table.tcp.get_mut(&flow)?;
        if !known.tcp.wants_to_speak() {
            known.speaking = false;
            return None;
        }
        let ends = known.ends;
        let frame = &mut self.header;
        begin(frame, (mac, known.mac), ends);
        let ports = (ends.remote.port(), ends.guest.port());
        let segment = known.tcp.emit(frame, ports);
        let (front, back) = known.tcp.payload(segment);
        let port = self.ports.get(&known.port);
        let partial = match port.is_some_and(|port| port.partial) {
            true => Some(leave(frame, ends, (front, back))),
            false => {
                finish(frame, ends, (front, back));
                None
            }
        };
        let pieces = [IoSlice::new(frame), IoSlice::new(front), IoSlice::new(back)];
        let pieces = match (front.is_empty(), back.is_empty()) {
            (true, _) => &pieces[..1],
            (_, true) => &pieces[..2],
            _ => &pieces[..],
        };
        if !send(pieces, partial) {
            return Some(false);
        }
        known.tcp.sent(segment, now);
        known.speaking = false;
        self.after(flow, false);
        Some(true)
    }

    pub(crate) fn on_timer(&mut self, flow: FlowId, now: Duration) {
        let Some(known) = self.table.tcp.get_mut(&flow) else {
            return;
        };
        known.timer = None;
        known.tcp.on_time(now);
        self.after(flow, false);
    }

    /// Looks for what is idle.
    pub(crate) fn sweep(&mut self, now: Duration) {
        self.sweep_udp(now);
        let idle = |flow: &TcpFlow| {
            let limit = if flow.names.is_some() {
                limit::NAMES_IDLE
            } else if flow.tcp.is_half_closed() {
                limit::TCP_HALF_IDLE
            } else {
                limit::TCP_IDLE
            };
            now.saturating_sub(flow.tcp.heard()) > limit
        };
        let flows = self.table.tcp.iter().filter(|(_, flow)| idle(flow));
        let flows: Vec<FlowId> = flows.map(|(id, _)| *id).collect();
        for flow in flows {
            self.tcp_abort(flow);
            self.events.push_back(Event::Reset(flow));
        }
        let rests = |flow: &TcpFlow| now.saturating_sub(flow.tcp.heard()) > limit::TCP_REST;
        let flows = self.table.tcp.iter().filter(|(_, flow)| rests(flow));
        let flows: Vec<FlowId> = flows.map(|(id, _)| *id).collect();
        for flow in flows {
            self.with(flow, |known| known.tcp.rest());
            self.after(flow, false);
        }
    }

    /// The host's side of a connection that a guest dialled stands.
    pub fn tcp_connected(&mut self, flow: FlowId) {
        self.with(flow, |known| known.tcp.accept());
        self.after(flow, false);
    }

    /// Ends a connection at once: the guest is told so. The flow is no more.
    pub fn tcp_abort(&mut self, flow: FlowId) {
        let reset = self.with(flow, |known| {
            let ports = (known.ends.remote.port(), known.ends.guest.port());
            (known.port, known.mac, known.ends, known.tcp.reset(ports))
        });
        let Some((id, mac, ends, reset)) = reset else {
            return;
        };
        self.send_header(id, mac, ends, &reset);
        self.remove(flow);
    }

    /// What the guest sent, in two pieces, and whether nothing more comes after it. `None`: the flow is no more.
    pub fn tcp_input(&mut self, flow: FlowId) -> Option<(&[u8], &[u8], bool)> {
        let known = self.table.tcp.get_mut(&flow)?;
        known.told = false;
        let (front, back) = known.tcp.input();
        Some((front, back, known.tcp.input_ended()))
    }

    /// So many bytes of the input were taken.
    pub fn tcp_consume(&mut self, flow: FlowId, count: usize) {
        let tight = self.is_tight(flow);
        self.with(flow, |known| known.tcp.consume(count, tight));
        self.after(flow, false);
    }

    fn is_tight(&self, flow: FlowId) -> bool {
        let port = self
            .table
            .tcp
            .get(&flow)
            .and_then(|known| self.ports.get(&known.port));
        port.is_some_and(|port| port.tight())
    }

    /// Bytes that the guest's connection takes now.
    pub fn tcp_room(&self, flow: FlowId) -> usize {
        let tight = self.is_tight(flow);
        let known = self.table.tcp.get(&flow);
        known.map_or(0, |known| known.tcp.room(tight))
    }

    /// Places for bytes for the guest, in two pieces: `most` at most, of which [`Stack::tcp_room`] has some. What was written there is on its
    /// way with [`Stack::tcp_filled`].
    pub fn tcp_space(&mut self, flow: FlowId, most: usize) -> (&mut [u8], &mut [u8]) {
        let most = self.tcp_room(flow).min(most);
        // What it takes is counted; the second time it is there.
        self.with(flow, |known| {
            known.tcp.space(most);
        });
        match self.table.tcp.get_mut(&flow) {
            Some(known) => known.tcp.space(most),
            None => (&mut [], &mut []),
        }
    }

    /// So many bytes stand in the [space](Stack::tcp_space).
    pub fn tcp_filled(&mut self, flow: FlowId, count: usize, now: Duration) {
        self.with(flow, |known| known.tcp.filled(count, now));
        self.after(flow, false);
    }

    /// Bytes for the guest, as many as [`Stack::tcp_room`] said.
    pub fn tcp_write(&mut self, flow: FlowId, bytes: &[u8], now: Duration) {
        self.with(flow, |known| known.tcp.write(bytes, now));
        self.after(flow, false);
    }

    /// The host's side has no more to say.
    pub fn tcp_finish(&mut self, flow: FlowId) {
        self.with(flow, |known| known.tcp.finish());
        self.after(flow, false);
    }

    /// Dials a guest's port for a client of the host's side. It may be looked at when it stands; it is reset when it doesn't.
    /// A client of IPv6 is taken to the guest's address of IPv6, if it has one, and to that of IPv4 when nobody listens there.
    pub fn tcp_dial(
        &mut self,
        id: PortId,
        client: SocketAddr,
        guest_port: u16,
        now: Duration,
    ) -> Option<FlowId> {
        let port = self.ports.get(&id)?;
        if port.tcp_flows >= limit::TCP_FLOWS {
            return None;
        }
        let (mac, address) = (port.endpoint.mac, port.endpoint.address);
        let at_v4 = SocketAddr::new(address.into(), guest_port);
        let twin = self.config.twin(address).filter(|_| client.is_ipv6());
        let guest = twin.map_or(at_v4, |twin| SocketAddr::new(twin.into(), guest_port));
        let ends = self.inbound(id, guest, client);
        let initial = self.initial_sequence(ends.guest, ends.remote, now);
        let tcp = Tcp::dial(self.own_mss(guest.ip()), initial, now);
        let flow = self.insert(id, mac, ends, tcp);
        if let Some(known) = self.table.tcp.get_mut(&flow) {
            known.other = (guest != at_v4).then_some(at_v4);
        }
        self.note_flow(id, protocol::TCP, ends, Some(client));
        self.after(flow, false);
        Some(flow)
    }

    /// What the guest is to hear before anything that the client says. For a flow that was dialled just now.
    pub fn tcp_preface(&mut self, flow: FlowId, bytes: &[u8]) {
        if let Some(known) = self.table.tcp.get_mut(&flow) {
            known.preface = bytes.to_vec();
        }
    }

    /// The ends of a client's connection that no other one has.
    fn inbound(&mut self, id: PortId, guest: SocketAddr, client: SocketAddr) -> Ends {
        let remote = self.client(client, guest.ip());
        let mut ends = Ends { guest, remote };
        // A client port of the gateway's may be in use still.
        for _ in 0..limit::TCP_FLOWS {
            if !self.table.tcp_by_ends.contains_key(&(id, ends)) {
                break;
            }
            ends.remote = self.gateway_client(guest.ip());
        }
        ends
    }

    /// The guest refused a client at one of its addresses: here is the other one.
    fn dial_again(&mut self, flow: FlowId, guest: SocketAddr) {
        let Some(known) = self.table.tcp.get(&flow) else {
            return;
        };
        let (id, now, client) = (known.port, known.tcp.heard(), known.ends.remote);
        let ends = self.inbound(id, guest, client);
        let initial = self.initial_sequence(ends.guest, ends.remote, now);
        let own_mss = self.own_mss(guest.ip());
        self.table.move_tcp(flow, ends);
        self.with(flow, |known| known.tcp = Tcp::dial(own_mss, initial, now));
        self.after(flow, false);
    }
}

/// The Ethernet header, and room for the packet's.
fn begin(frame: &mut Vec<u8>, (from, to): (Mac, Mac), ends: Ends) {
    let address = ends.guest.ip();
    frame.clear();
    wire::put_ethernet(frame, to, from, wire::ether_type_of(address));
    frame.resize(wire::ETHERNET_LEN + wire::ip_len(address), 0);
}

/// Fills in the packet's header; where TCP's is, and the sum of the pseudo header. `payload` follows the frame's bytes, in two pieces.
fn address(frame: &mut [u8], ends: Ends, payload: (&[u8], &[u8])) -> (usize, u64) {
    let (from, to) = (ends.remote.ip(), ends.guest.ip());
    let start = wire::ETHERNET_LEN + wire::ip_len(to);
    let len = frame.len() - start + payload.0.len() + payload.1.len();
    let mut header = Vec::with_capacity(wire::IPV6_LEN);
    wire::put_ip(&mut header, from, to, protocol::TCP, len);
    frame[wire::ETHERNET_LEN..start].copy_from_slice(&header);
    let pseudo = wire::pseudo_header(from, to, protocol::TCP, len);
    (start, pseudo)
}

/// Fills in the packet's header and leaves TCP's checksum out.
fn leave(frame: &mut [u8], ends: Ends, payload: (&[u8], &[u8])) -> Partial {
    let (start, pseudo) = address(frame, ends, payload);
    Partial::of_tcp(frame, start, pseudo)
}

/// Fills in the packet's header and TCP's checksum.
fn finish(frame: &mut [u8], ends: Ends, payload: (&[u8], &[u8])) {
    let (start, pseudo) = address(frame, ends, payload);
    let back = wire::sum(payload.1);
    // Behind an odd number of bytes each one is the other half of its word.
    let back = match payload.0.len() % 2 {
        0 => back,
        _ => back.swap_bytes(),
    };
    let partial = pseudo + u64::from(wire::sum(payload.0)) + u64::from(back);
    let sum = wire::checksum(&frame[start..], partial);
    frame[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
}
