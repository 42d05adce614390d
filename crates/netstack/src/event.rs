//! What the stack says to its owner: what the host's sockets are to do, and what people may want to know.

use std::net::{IpAddr, SocketAddr};

#[cfg(doc)]
use crate::Stack;
use crate::stack::PortId;
use crate::table::FlowId;
use crate::wire::Unreachable;

/// Where a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// There.
    Address(SocketAddr),
    /// To a resolver of the host's, or of the port's own.
    Resolver,
}

/// What the host's sockets are to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Connect, then say [`Stack::tcp_connected`] or [`Stack::tcp_abort`].
    Dial {
        /// The flow.
        flow: FlowId,
        /// To where.
        to: SocketAddr,
    },
    /// Look at the flow: there may be input, its end, or room for output.
    Look(FlowId),
    /// Both halves have ended in peace, and all input was taken. The flow is no more.
    Done(FlowId),
    /// The guest has reset it, or is gone. The flow is no more.
    Reset(FlowId),
    /// Send a datagram.
    Datagram {
        /// The flow.
        flow: FlowId,
        /// Whose it is.
        port: PortId,
        /// To where; the same for all of a flow.
        to: Target,
        /// What.
        payload: Vec<u8>,
    },
    /// A question about a name that nobody here has, of a guest that is on other networks, too ([`Stack::set_elsewhere`]): ask
    /// these, and say [`Stack::elsewhere_answer`].
    Elsewhere {
        /// The flow.
        flow: FlowId,
        /// Whose it is.
        port: PortId,
        /// The whole message.
        question: Vec<u8>,
    },
    /// Ask a resolver over a connection, because that is how the guest asks, and say [`Stack::udp_answer`] or
    /// [`Stack::flow_failed`].
    Query {
        /// The flow.
        flow: FlowId,
        /// Whose it is.
        port: PortId,
        /// The question.
        payload: Vec<u8>,
    },
    /// Send a datagram from a published port.
    Reply {
        /// The port's number, as [`Stack::udp_inbound`] was told it.
        published: u64,
        /// To whom.
        peer: SocketAddr,
        /// What.
        payload: Vec<u8>,
    },
    /// Send an echo request, and say [`Stack::echo_answer`] or [`Stack::flow_failed`].
    Echo {
        /// The flow: one for each of the guest's identifiers and destinations.
        flow: FlowId,
        /// To whom.
        to: IpAddr,
        /// Which of the flow's requests.
        sequence: u16,
        /// What comes back.
        payload: Vec<u8>,
    },
    /// The flow of datagrams is over.
    Forgotten(FlowId),
    /// For people.
    Note(PortId, Note),
}

/// What people may want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A flow begins.
    Flow {
        /// See [`crate::wire::protocol`].
        protocol: u8,
        /// The guest's end; an echo's port is its identifier.
        guest: SocketAddr,
        /// The other end as the guest sees it.
        remote: SocketAddr,
        /// Who began it: a client outside, by its own address.
        client: Option<SocketAddr>,
    },
    /// One does not.
    Refused {
        /// See [`crate::wire::protocol`].
        protocol: u8,
        /// The guest's end.
        guest: SocketAddr,
        /// Where it wanted to go.
        remote: SocketAddr,
        /// Why it may not.
        why: Unreachable,
    },
    /// A question about a name.
    Question {
        /// The name.
        name: String,
        /// A, AAAA, … by number.
        kind: u16,
        /// It is no name of the allow-list.
        refused: bool,
    },
}
