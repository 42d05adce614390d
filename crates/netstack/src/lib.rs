//! A network in user space, without I/O: a switch between guests, and the gateway that they all see at one address.
//!
//! ```text
//!   guest ── port ──┐                      ┌── ARP and neighbours of IPv6, ICMP echo, DHCP, DNS
//!   guest ── port ──┤ switch ── gateway ───┼── TCP: ends here ([`tcp`]), goes on as a socket of the host's
//!   guest ── port ──┘                      └── UDP: a flow each, goes on as a socket of the host's
//! ```
//!
//! [`Stack`] takes frames in ([`Stack::receive`]), gives frames out when a link has room ([`Stack::transmit_with`]), and says what the
//! host's sockets are to do ([`Event`]). It reads no clock: every call says when it is. Owned by one thread of `gourd-net`.
//!
//! The guests are hostile, their kernels included. Every parser is total; what makes no sense is dropped and counted. What a guest
//! makes us remember is bounded ([`limit`]), and one guest's excess takes nothing from others: queues, flows and bytes are
//! counted for each port.

pub mod allow;
mod config;
mod datagrams;
pub mod dhcp;
pub mod dns;
mod event;
mod flows;
mod gateway;
mod questions;
mod stack;
mod table;
pub mod tcp;
pub mod wire;

pub use allow::{Rule, What};
pub use stack::{Config, Counters, Endpoint, Event, Note, PortId, Stack, Target, Transmitted};
pub use table::FlowId;
pub use wire::{Mac, Partial, Unreachable};

/// How much a guest may make us remember.
pub mod limit {
    use std::time::Duration;

    /// TCP connections of a port.
    pub const TCP_FLOWS: usize = 4096;
    /// UDP flows of a port: those that were used the longest ago make room, a few at once.
    pub const UDP_FLOWS: usize = 1024;
    /// DNS questions of a port that wait for a resolver.
    pub const QUESTIONS: usize = 256;
    /// Addresses that the allow-list's names have opened for a port: the one that closes first makes room.
    pub const OPENED: usize = 1024;
    /// The least that one is open: a guest that is slow has to come from the answer to its connection.
    pub const OPEN_LEAST: Duration = Duration::from_secs(10);
    /// The longest, whatever the answer says.
    pub const OPEN_MOST: Duration = Duration::from_secs(24 * 3600);
    /// Frames that wait for a port's link, TCP's left out (which are made when there is room). More are dropped, and another guest's when there
    /// are half as many: the gateway's own have the rest.
    pub const FRAMES: usize = 1024;
    /// Bytes of them.
    pub const FRAME_BYTES: usize = 8 << 20;
    /// Bytes that a port's connections may take, or promise, before their windows stop to grow; new ones are small after half of it.
    pub const BUFFERED: usize = 64 << 20;
    /// Addresses that are leased to others behind a port than its guest.
    pub const LEASES: usize = 8;
    /// How long each of them is kept when it is not asked for again.
    pub const LEASE: Duration = Duration::from_secs(3600);
    /// The same when it was offered, and not taken yet.
    pub const OFFER: Duration = Duration::from_secs(60);
    /// Ethernet addresses behind a port.
    pub const MACS: usize = 64;
    /// A TCP connection on which nothing is said gives its buffers back.
    pub const TCP_REST: Duration = Duration::from_secs(10);
    /// Bytes of a question over a connection.
    pub const QUESTION_BYTES: usize = 4096;
    /// A connection to the gateway's DNS on which nothing is said (RFC 7766, 6.2.3).
    pub const NAMES_IDLE: Duration = Duration::from_secs(60);
    /// A TCP connection on which nothing is said.
    pub const TCP_IDLE: Duration = Duration::from_secs(24 * 3600);
    /// One of which one half has ended.
    pub const TCP_HALF_IDLE: Duration = Duration::from_secs(2 * 3600);
    /// A UDP flow on which nothing is said.
    pub const UDP_IDLE: Duration = Duration::from_secs(120);
}
