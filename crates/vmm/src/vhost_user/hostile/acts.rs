//! Acts, read from bytes. Whatever the bytes are, they are acts; what they do not say is 0.

use crate::script::Bytes;

/// A descriptor that comes with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fd {
    /// Guest memory.
    Memory,
    /// An eventfd.
    Event,
    /// A file that is shorter than guest memory.
    Short,
    /// A socket.
    Socket,
}

/// One of a ring's descriptors: sixteenth of an address, length, flags.
pub type Piece = (u16, u16, u8);

/// An act.
#[derive(Debug)]
pub enum Act {
    /// All that a sane front-end says first; the mask takes features away.
    SetUp { mask: u8 },
    /// A message of this kind that is right but for what is said here.
    Ring { index: u8, what: u8, value: u64 },
    /// Regions of memory: guest address, size, user address, offset, each by its place in a list of likely values.
    Memory { regions: Vec<[u8; 4]> },
    /// Any message. With `short` its header says another size than it has; nothing can follow that.
    Message {
        request: u8,
        flags: u8,
        short: bool,
        payload: Vec<u8>,
        fds: Vec<Fd>,
    },
    /// Bytes of guest memory.
    Bytes { at: u16, bytes: Vec<u8> },
    /// A chain, offered and kicked.
    Chain { ring: u8, pieces: Vec<Piece> },
    /// A vsock packet of the guest's.
    Packet {
        op: u8,
        ports: u8,
        len: u16,
        credit: u32,
    },
    /// The available ring's index, and a kick.
    Index { ring: u8, index: u16 },
    /// A control message.
    Control { kind: u8, words: [u16; 2], fd: bool },
    /// The host's end of a connection writes, reads or closes.
    Host { what: u8, len: u16 },
    /// The front-end goes away.
    Leave,
}

impl Act {
    /// The next one.
    pub fn read(rest: &mut &[u8]) -> Option<Act> {
        if rest.is_empty() {
            return None;
        }
        let mut from = Bytes(rest);
        Some(match from.byte() % 12 {
            0 => Act::SetUp { mask: from.byte() },
            1 => Act::Ring {
                index: from.byte(),
                what: from.byte(),
                value: u64::from_le_bytes(from.take()),
            },
            2 => Act::Memory {
                regions: (0..from.byte() % 5).map(|_| from.take()).collect(),
            },
            3 => {
                let [request, flags, more] = from.take();
                let fds = (0..more % 4).map(|_| match from.byte() & 3 {
                    0 => Fd::Memory,
                    1 => Fd::Event,
                    2 => Fd::Short,
                    _ => Fd::Socket,
                });
                Act::Message {
                    request,
                    flags,
                    short: more & 0x80 != 0,
                    fds: fds.collect(),
                    payload: from.some(80),
                }
            }
            4 => Act::Bytes {
                at: from.half(),
                bytes: from.some(64),
            },
            5 | 11 => {
                let ring = from.byte();
                let count = from.byte() % 9;
                let piece = |_| (from.half(), from.half(), from.byte());
                Act::Chain {
                    ring,
                    pieces: (0..count).map(piece).collect(),
                }
            }
            6 => Act::Packet {
                op: from.byte(),
                ports: from.byte(),
                len: from.half(),
                credit: u32::from_le_bytes(from.take()),
            },
            7 => Act::Index {
                ring: from.byte(),
                index: from.half(),
            },
            8 => Act::Control {
                kind: from.byte(),
                words: [from.half(), from.half()],
                fd: from.byte() & 1 != 0,
            },
            9 => Act::Host {
                what: from.byte(),
                len: from.half(),
            },
            _ => match from.byte() {
                0x80.. => Act::Leave,
                mask => Act::SetUp { mask },
            },
        })
    }
}
