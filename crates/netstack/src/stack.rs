//! The switch, and what belongs to each port.

mod output;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::allow::Opened;
pub use crate::config::Config;
use crate::dns::Names;
pub use crate::event::{Event, Note, Target};
use crate::table::{FlowId, Table};
use crate::wire::ipv6::{self, Neighbour};
use crate::wire::{self, Ethernet, Fragment, Mac, Partial, ether_type, protocol};
use crate::{dhcp, limit};
pub use output::Transmitted;

/// A guest's place on the switch.
pub type PortId = u32;

/// A guest.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its Ethernet address: nobody else may send from it.
    pub mac: Mac,
    /// Its address: nobody else may send from it, nor from its twin ([`Config::twin`]).
    pub address: Ipv4Addr,
    /// What others call it.
    pub names: Vec<String>,
    /// The gateway's address reaches the host's loopback.
    pub host: bool,
}

/// What has happened, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames from guests.
    pub received: u64,
    /// Frames to guests.
    pub sent: u64,
    /// Frames and packets that made no sense.
    pub malformed: u64,
    /// Frames from an address that is not the sender's.
    pub spoofed: u64,
    /// Frames that found no room.
    pub dropped: u64,
    /// Connections and datagrams that are not allowed.
    pub refused: u64,
}

/// What belongs to a port.
#[derive(Debug)]
pub(crate) struct Port {
    pub endpoint: Endpoint,
    queue: VecDeque<(Vec<u8>, Option<Partial>)>,
    queued_bytes: usize,
    /// A segment is next, if there is one: the last was a frame that had waited.
    segment_next: bool,
    /// Connections that want to speak.
    pub speaking: VecDeque<FlowId>,
    pub tcp_flows: usize,
    pub udp_flows: usize,
    pub questions: usize,
    /// Bytes of memory that its connections take, or have promised.
    pub buffered: usize,
    /// What the allow-list's names have opened.
    pub opened: Opened,
    macs: usize,
    /// It is on other networks, too, whose names it may ask for.
    pub elsewhere: bool,
    /// Its link takes frames whose checksum is left out.
    pub partial: bool,
    /// It stands in the list of ports with output.
    ready: bool,
}

impl Port {
    /// Its connections have to do with what they have.
    pub fn tight(&self) -> bool {
        self.buffered > limit::BUFFERED
    }
}

/// A network.
#[derive(Debug)]
pub struct Stack {
    pub(crate) config: Config,
    pub(crate) ports: BTreeMap<PortId, Port>,
    /// Who has which address of the subnets or of the link; those of guests that asked by DHCP, too.
    pub(crate) owners: HashMap<IpAddr, (PortId, Mac)>,
    /// Those of them that are leased to somebody behind a guest, who is not the guest, and until when.
    pub(crate) leases: HashMap<Ipv4Addr, Duration>,
    /// Behind which port an Ethernet address is.
    macs: HashMap<Mac, PortId>,
    pub(crate) names: Names,
    pub(crate) table: Table,
    pub(crate) events: VecDeque<Event>,
    ready: VecDeque<PortId>,
    pub(crate) timers: BTreeSet<(Duration, FlowId)>,
    next_sweep: Duration,
    next_advertisement: Duration,
    next_client: u16,
    /// Buffers that were frames.
    pool: Vec<Vec<u8>>,
    /// The headers of the segment that is being made.
    pub(crate) header: Vec<u8>,
    /// See [`Counters`].
    pub counters: Counters,
}

/// How often idle flows are looked for.
const SWEEP: Duration = Duration::from_secs(15);

/// How often guests are told that there is a router still.
const ADVERTISEMENT: Duration = Duration::from_secs(600);

/// The name by which guests reach the host.
pub const HOST_NAME: &str = "host.gourd.internal";

/// The gateway's.
const GATEWAY_NAME: &str = "gateway.gourd.internal";

impl Stack {
    /// A network without guests.
    pub fn new(config: Config) -> Stack {
        let mut names = Names::default();
        names.insert(GATEWAY_NAME, config.gateway.into());
        if let Some((gateway, _)) = config.ipv6 {
            names.insert(GATEWAY_NAME, gateway.into());
        }
        // By IPv4 alone: that is where most of what a host serves on its loopback listens.
        names.insert(HOST_NAME, config.gateway.into());
        Stack {
            config,
            ports: BTreeMap::new(),
            owners: HashMap::new(),
            leases: HashMap::new(),
            macs: HashMap::new(),
            names,
            table: Table::default(),
            events: VecDeque::new(),
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            next_sweep: SWEEP,
            next_advertisement: ADVERTISEMENT,
            next_client: 0,
            pool: Vec::new(),
            header: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// The network.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether an address is one that somebody of the subnet may have.
    fn is_usable(&self, address: Ipv4Addr) -> bool {
        let network =
            Ipv4Addr::from_bits(self.config.gateway.to_bits() & self.config.mask().to_bits());
        self.config.contains(address.into())
            && address != network
            && address != self.config.broadcast()
            && address != self.config.gateway
    }

    /// Whether an address is free for a guest, which a lease of somebody behind another guest does not keep from it.
    pub fn is_free(&self, address: Ipv4Addr) -> bool {
        let leased = self.leases.contains_key(&address);
        self.is_usable(address) && (leased || !self.owners.contains_key(&address.into()))
    }

    /// An address for a guest: `wish` if it is free, otherwise the lowest that nobody has at all, or has leased. `None`: there is none left.
    pub fn free_address(&self, wish: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let wish = wish.filter(|wish| self.is_free(*wish));
        wish.or_else(|| self.unused_address())
            .or_else(|| self.leases.keys().min().copied())
    }

    /// The lowest address that nobody has.
    pub(crate) fn unused_address(&self) -> Option<Ipv4Addr> {
        let first = (self.config.gateway.to_bits() & self.config.mask().to_bits()) + 1;
        let last = self.config.broadcast().to_bits();
        // As many as there are guests and one more are enough to look at; the gateway is one of them.
        let mut candidates = (first..last).map(Ipv4Addr::from_bits);
        candidates.find(|address| {
            self.is_usable(*address) && !self.owners.contains_key(&IpAddr::from(*address))
        })
    }

    /// Plugs a guest in. Its Ethernet address must be nobody else's, and its address [free](Stack::is_free): who has leased it has it no more.
    pub fn attach(&mut self, id: PortId, endpoint: Endpoint) {
        self.leases.remove(&endpoint.address);
        let twin = self.config.twin(endpoint.address).map(IpAddr::from);
        let addresses = [Some(endpoint.address.into()), twin];
        for address in addresses.into_iter().flatten() {
            for name in &endpoint.names {
                self.names.insert(name, address);
            }
            self.owners.insert(address, (id, endpoint.mac));
        }
        let on_link = ipv6::link_local(endpoint.mac).into();
        self.owners.insert(on_link, (id, endpoint.mac));
        self.macs.insert(endpoint.mac, id);
        let port = Port {
            endpoint,
            queue: VecDeque::new(),
            queued_bytes: 0,
            segment_next: false,
            speaking: VecDeque::new(),
            tcp_flows: 0,
            udp_flows: 0,
            questions: 0,
            buffered: 0,
            opened: Opened::default(),
            macs: 0,
            elsewhere: false,
            partial: false,
            ready: false,
        };
        self.ports.insert(id, port);
    }

    /// Whether a guest's link takes frames whose checksum is left out. Until this says so it does not.
    pub fn set_partial(&mut self, id: PortId, partial: bool) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.partial = partial;
        }
    }

    /// Whether an Ethernet address is in use.
    pub fn has_mac(&self, mac: Mac) -> bool {
        mac == self.config.mac || self.ports.values().any(|port| port.endpoint.mac == mac)
    }

    /// Pulls a guest's plug: its flows end.
    pub fn detach(&mut self, id: PortId) {
        let Some(port) = self.ports.remove(&id) else {
            return;
        };
        self.names.remove(port.endpoint.address.into());
        if let Some(twin) = self.config.twin(port.endpoint.address) {
            self.names.remove(twin.into());
        }
        self.owners.retain(|_, (owner, _)| *owner != id);
        let owners = &self.owners;
        self.leases
            .retain(|address, _| owners.contains_key(&IpAddr::from(*address)));
        self.macs.retain(|_, owner| *owner != id);
        let of_port = self.table.tcp.iter().filter(|(_, flow)| flow.port == id);
        let ids: Vec<FlowId> = of_port.map(|(id, _)| *id).collect();
        for flow in ids {
            self.table.remove_tcp(flow);
            self.events.push_back(Event::Reset(flow));
        }
        let of_port = self.table.udp.iter().filter(|(_, flow)| flow.port == id);
        let ids: Vec<FlowId> = of_port.map(|(id, _)| *id).collect();
        for flow in ids {
            self.table.remove_udp(flow);
            self.events.push_back(Event::Forgotten(flow));
        }
    }

    /// Whether a guest has few enough frames waiting for it that more datagrams are worth their while.
    pub fn has_room(&self, id: PortId) -> bool {
        const ENOUGH: usize = limit::FRAMES / 16;
        let port = self.ports.get(&id);
        port.is_some_and(|port| port.queue.len() < ENOUGH)
    }

    /// Bytes of memory that a guest's connections take, or have been promised.
    pub fn held_bytes(&self, id: PortId) -> usize {
        self.ports.get(&id).map_or(0, |port| port.buffered)
    }

    /// A guest's TCP connections, and its flows of datagrams with its questions.
    pub fn flows(&self, id: PortId) -> (usize, usize) {
        let port = self.ports.get(&id);
        port.map_or((0, 0), |port| {
            (port.tcp_flows, port.udp_flows + port.questions)
        })
    }

    /// What the host's sockets are to do next.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A frame from a guest.
    pub fn receive(&mut self, id: PortId, bytes: &[u8], now: Duration) {
        self.receive_partial(id, bytes, None, now);
    }

    /// A frame from a guest whose checksum may be left out.
    pub fn receive_partial(
        &mut self,
        id: PortId,
        bytes: &[u8],
        partial: Option<Partial>,
        now: Duration,
    ) {
        let Some(odd) = partial.filter(|partial| !partial.is_plain(bytes)) else {
            return self.take(id, bytes, partial, now);
        };
        // In a tunnel's packet, as a rule; but it may be where an address is: it has to be there before that is looked at.
        let mut whole = self.buffer();
        whole.extend_from_slice(bytes);
        odd.complete(&mut whole);
        self.take(id, &whole, None, now);
        self.recycle(whole);
    }

    fn take(&mut self, id: PortId, bytes: &[u8], partial: Option<Partial>, now: Duration) {
        if !self.ports.contains_key(&id) {
            return;
        }
        self.counters.received += 1;
        let Some(frame) = wire::parse_ethernet(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        if !self.learn(id, frame.source) || self.lies(id, &frame) {
            self.counters.spoofed += 1;
            return;
        }
        if frame.destination == self.config.mac {
            self.for_gateway(id, &frame, now);
        } else if frame.destination.is_multicast() {
            self.flood(id, bytes, partial);
            self.for_gateway(id, &frame, now);
        } else {
            self.pass(id, &frame, bytes, partial);
        }
    }

    /// From one guest to another. Who had an address before it was anybody's may be in the sender's memory still: a packet goes to its address's
    /// owner, or to nobody.
    fn pass(&mut self, id: PortId, frame: &Ethernet<'_>, bytes: &[u8], partial: Option<Partial>) {
        let address = wire::destination(frame);
        let gateways = address.is_some_and(|address| self.config.is_gateway(address));
        let owner = address.and_then(|address| self.owners.get(&address));
        let owner = owner.map(|(owner, _)| *owner);
        match (self.macs.get(&frame.destination).copied(), owner) {
            (Some(to), _) | (None, Some(to)) if to == id => {}
            _ if gateways => self.counters.spoofed += 1,
            (Some(to), Some(owner)) if to != owner => self.counters.spoofed += 1,
            (Some(to), _) | (None, Some(to)) => self.forward(to, bytes, partial),
            (None, None) => self.flood(id, bytes, partial),
        }
    }

    /// Notes behind which port an Ethernet address is. False: it can't be there.
    fn learn(&mut self, id: PortId, mac: Mac) -> bool {
        if mac.is_multicast() || mac == self.config.mac {
            return false;
        }
        match self.macs.get(&mac) {
            Some(known) if *known == id => return true,
            // It may have moved, but a guest's own stays.
            Some(_) if self.ports.values().any(|port| port.endpoint.mac == mac) => return false,
            _ => {}
        }
        let Some(port) = self.ports.get_mut(&id) else {
            return false;
        };
        if port.macs >= limit::MACS {
            return false;
        }
        port.macs += 1;
        if let Some(before) = self.macs.insert(mac, id)
            && let Some(port) = self.ports.get_mut(&before)
        {
            port.macs = port.macs.saturating_sub(1);
        }
        true
    }

    /// Whether a frame says that it is from an address that is somebody else's, or what only the gateway says.
    /// What can't be read might say anything to a guest that is laxer than we are.
    fn lies(&self, id: PortId, frame: &Ethernet<'_>) -> bool {
        let Some((kind, payload)) = wire::behind_tags(frame) else {
            return true;
        };
        match kind {
            ether_type::ARP => {
                wire::parse_arp(payload).is_none_or(|arp| self.is_others(id, arp.sender.into()))
            }
            // Whose ports stand in the first fragment: none that comes later reaches back to them.
            ether_type::IPV4 => {
                wire::parse_ipv4_fragment(payload).is_none_or(|(packet, fragment)| {
                    self.is_others(id, packet.source)
                        || fragment != Fragment::Later && is_servers(&packet)
                })
            }
            // A fragment's headers may go on in the next one.
            ether_type::IPV6 => wire::parse_ipv6(payload).is_none_or(|packet| {
                let lies = match ipv6::parse_neighbour(&packet) {
                    Some(Neighbour::RouterAdvertisement | Neighbour::Redirect) => true,
                    Some(Neighbour::Advertisement(target)) => self.is_others(id, target.into()),
                    _ => false,
                };
                lies || packet.protocol == protocol::FRAGMENT
                    || self.is_others(id, packet.source)
                    || is_servers(&packet)
            }),
            _ => false,
        }
    }

    /// Whether an address is the gateway's, or another guest's.
    fn is_others(&self, id: PortId, address: IpAddr) -> bool {
        let owner = self.owners.get(&address);
        self.config.is_gateway(address) || owner.is_some_and(|(owner, _)| *owner != id)
    }

    fn flood(&mut self, from: PortId, bytes: &[u8], partial: Option<Partial>) {
        let others: Vec<PortId> = self
            .ports
            .keys()
            .copied()
            .filter(|id| *id != from)
            .collect();
        for id in others {
            self.forward(id, bytes, partial);
        }
    }

    fn forward(&mut self, id: PortId, bytes: &[u8], partial: Option<Partial>) {
        let mut buffer = self.buffer();
        buffer.extend_from_slice(bytes);
        self.enqueue_from(false, id, buffer, partial);
    }

    /// A sequence number to begin with (RFC 6528).
    pub(crate) fn initial_sequence(
        &self,
        guest: SocketAddr,
        remote: SocketAddr,
        now: Duration,
    ) -> u32 {
        let mut hasher = DefaultHasher::new();
        (self.config.seed, guest, remote).hash(&mut hasher);
        let ticks = (now.as_micros() / 4) as u32;
        (hasher.finish() as u32).wrapping_add(ticks)
    }

    /// The number of a question as resolvers see it: who can't see the question can't know it (RFC 5452, 9.2).
    pub(crate) fn question_number(&self, flow: FlowId) -> [u8; 2] {
        let mut hasher = DefaultHasher::new();
        (self.config.seed, "question", flow).hash(&mut hasher);
        (hasher.finish() as u16).to_be_bytes()
    }

    /// A port of the gateway's for a client that the guest can't know by its own address.
    pub(crate) fn client_port(&mut self) -> u16 {
        const FIRST: u16 = 32768;
        let port = FIRST + self.next_client % FIRST;
        self.next_client = self.next_client.wrapping_add(1);
        port
    }

    /// When [`Stack::on_time`] wants to be called.
    pub fn deadline(&self) -> Duration {
        let first = self.timers.first().map(|(when, _)| *when);
        first.map_or(self.next_sweep, |first| first.min(self.next_sweep))
    }

    /// Does what is due.
    pub fn on_time(&mut self, now: Duration) {
        while let Some((when, flow)) = self
            .timers
            .first()
            .copied()
            .filter(|(when, _)| *when <= now)
        {
            self.timers.remove(&(when, flow));
            self.on_timer(flow, now);
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.sweep(now);
            self.sweep_leases(now);
        }
        if now >= self.next_advertisement {
            self.next_advertisement = now + ADVERTISEMENT;
            self.advertise();
        }
    }

    /// What DHCP says about the network.
    pub(crate) fn offer(&self, lease: Duration) -> dhcp::Offer {
        dhcp::Offer {
            lease,
            gateway: self.config.gateway,
            mask: self.config.mask(),
            mtu: self.config.mtu,
        }
    }
}

/// Whether a datagram is what DHCP's servers send, of either version: no guest is one. A client takes it from any port.
fn is_servers(packet: &wire::Packet<'_>) -> bool {
    const CLIENTS: [u16; 2] = [68, 546];
    let port = wire::be16(packet.payload, 2);
    packet.protocol == protocol::UDP && port.is_none_or(|port| CLIENTS.contains(&port))
}
