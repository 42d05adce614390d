//! The virtio socket device (virtio 1.2, section 5.10): stream sockets between the guest and the host.
//!
//! ```text
//!   guest memory                                                        host
//!   ┌──────────┐   chain    ┌────────┐   packet   ┌───────┐   bytes   ┌────────┐
//!   │ tx queue │──────────▶│ device │──────────▶│ muxer │─────────▶│ stream │──▶ a socket whose other
//!   │ rx queue │◀──────────│        │◀──────────│       │◀─────────│        │◀── end somebody else has
//!   └──────────┘            └────────┘            └───┬───┘           └────────┘
//!                                                   │ asks
//!                                            ┌──────▼─────┐
//!                                            │ connection │  state and credit, no I/O
//!                                            └────────────┘
//! ```
//!
//! A packet is a 44-byte header and, for `RW`, data. The header names both ends (CID and port), so that many
//! connections share the two queues. Each side tells the other in every header how much it can buffer (`buf_alloc`)
//! and how many bytes have left that buffer (`fwd_cnt`): what a sender may send is its *credit*.
//!
//! Bytes move straight between guest memory and the host's socket. Only what the host will not take yet is kept here,
//! at most `buf_alloc` bytes a connection; towards the guest nothing is kept at all.
//!
//! Nothing here knows how the queues got here: [`Device::run`] takes guest memory and two queues, and says whom to
//! wake. One thread owns a device. The guest is not trusted in anything: its mistakes are counted in [`Counters`].

mod chain;
mod connection;
mod device;
mod muxer;
mod packet;
mod stream;
mod tell;

#[cfg(test)]
mod driver;
#[cfg(test)]
mod tests;

pub use device::{CONFIG_LEN, Device, Progress, QUEUE_SIZE, Queues};
pub use muxer::{Counters, Event, Muxer};
pub use packet::{HEADER_LEN, HOST_CID, Header, Op};
pub use tell::tell;

/// Guest memory as this crate maps it.
pub type Memory = vm_memory::GuestMemoryMmap<()>;
