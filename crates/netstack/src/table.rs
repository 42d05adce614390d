//! The flows of a network: TCP connections and UDP flows, by number and by their ends.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::stack::{PortId, Target};
use crate::tcp::Tcp;
use crate::wire::Mac;

/// A flow's number; none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// Both ends as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub guest: SocketAddr,
    pub remote: SocketAddr,
}

/// A TCP connection.
#[derive(Debug)]
pub(crate) struct TcpFlow {
    pub port: PortId,
    pub mac: Mac,
    pub ends: Ends,
    pub tcp: Tcp,
    /// It stands in its port's list of those that want to speak.
    pub speaking: bool,
    /// The host's side was told to look at it, and has not yet.
    pub told: bool,
    /// The earliest entry of it among the timers.
    pub timer: Option<Duration>,
    /// Where the guest is dialled when it refuses at this address.
    pub other: Option<SocketAddr>,
    /// What the guest hears first, until it has said hello: it may be dialled at its other address still.
    pub preface: Vec<u8>,
    /// The guest asks the gateway for names: so many questions are not answered yet.
    pub names: Option<usize>,
}

impl TcpFlow {
    /// The guest has said hello: nobody has written anything yet.
    pub fn say_preface(&mut self, now: Duration) {
        if self.tcp.is_open() && !self.preface.is_empty() {
            self.tcp.write(&std::mem::take(&mut self.preface), now);
        }
    }
}

/// What a UDP flow is on the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The guest began it: a socket of its own.
    Out(Target),
    /// Somebody sent to a published port.
    In { published: u64, peer: SocketAddr },
    /// A question to the host's resolvers.
    Question,
    /// Echoes of the guest's; their ends are its identifier and port 0, which is no port of UDP's.
    Echo(IpAddr),
}

/// A UDP flow, or a question to the resolvers.
#[derive(Debug)]
pub(crate) struct UdpFlow {
    pub port: PortId,
    pub mac: Mac,
    pub ends: Ends,
    pub side: Side,
    pub used: Duration,
    /// The question, whose answer must fit but for its number ([`crate::Stack::question_number`]).
    pub question: Vec<u8>,
    /// It came over this connection, and so does its answer.
    pub stream: Option<FlowId>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    last: u64,
    pub tcp: HashMap<FlowId, TcpFlow>,
    /// By guest, too: what another one did with an address before it was this one's is nothing to it.
    pub tcp_by_ends: HashMap<(PortId, Ends), FlowId>,
    pub udp: HashMap<FlowId, UdpFlow>,
    pub udp_by_ends: HashMap<(PortId, Ends), FlowId>,
    pub udp_by_peer: HashMap<(u64, SocketAddr), FlowId>,
}

impl Table {
    pub fn id(&mut self) -> FlowId {
        self.last += 1;
        FlowId(self.last)
    }

    pub fn insert_tcp(&mut self, flow: TcpFlow) -> FlowId {
        let id = self.id();
        self.tcp_by_ends.insert((flow.port, flow.ends), id);
        self.tcp.insert(id, flow);
        id
    }

    pub fn remove_tcp(&mut self, id: FlowId) -> Option<TcpFlow> {
        let flow = self.tcp.remove(&id)?;
        self.tcp_by_ends.remove(&(flow.port, flow.ends));
        Some(flow)
    }

    /// A connection has other ends from now on.
    pub fn move_tcp(&mut self, id: FlowId, ends: Ends) {
        if let Some(flow) = self.tcp.get_mut(&id) {
            self.tcp_by_ends.remove(&(flow.port, flow.ends));
            flow.ends = ends;
            self.tcp_by_ends.insert((flow.port, ends), id);
        }
    }

    pub fn insert_udp(&mut self, flow: UdpFlow) -> FlowId {
        let id = self.id();
        // Questions have a flow each: a program may ask several from one port.
        if flow.side != Side::Question {
            self.udp_by_ends.insert((flow.port, flow.ends), id);
        }
        if let Side::In { published, peer } = flow.side {
            self.udp_by_peer.insert((published, peer), id);
        }
        self.udp.insert(id, flow);
        id
    }

    pub fn remove_udp(&mut self, id: FlowId) -> Option<UdpFlow> {
        let flow = self.udp.remove(&id)?;
        let key = (flow.port, flow.ends);
        if self.udp_by_ends.get(&key) == Some(&id) {
            self.udp_by_ends.remove(&key);
        }
        if let Side::In { published, peer } = flow.side {
            self.udp_by_peer.remove(&(published, peer));
        }
        Some(flow)
    }

    /// Those UDP flows (or questions) of a port that were used the longest ago, as many as `count`: the table is looked through once for
    /// all of them.
    pub fn oldest_udp(&self, port: PortId, question: bool, count: usize) -> Vec<FlowId> {
        let of_port = self
            .udp
            .iter()
            .filter(|(_, flow)| flow.port == port && (flow.side == Side::Question) == question);
        let mut all: Vec<_> = of_port.map(|(id, flow)| (flow.used, *id)).collect();
        if count < all.len() {
            all.select_nth_unstable(count);
            all.truncate(count);
        }
        all.into_iter().map(|(_, id)| id).collect()
    }
}
