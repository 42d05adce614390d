//! A guest's acts, read from bytes. Whatever the bytes are, they are acts; the functions below write some.

// The fuzz target has its programs from elsewhere.
#![cfg_attr(fuzzing, allow(dead_code))]

use crate::script::Bytes;

/// An address or a length that a guest can come up with: mostly sensible, sometimes at an edge.
#[derive(Debug, Clone, Copy)]
pub struct Odd {
    kind: u8,
    value: u16,
}

impl Odd {
    /// In guest memory of `size` bytes whose buffers begin at `data`.
    pub fn address(self, data: u64, size: u64) -> u64 {
        let value = u64::from(self.value);
        match self.kind & 15 {
            13 => value,
            14 => size.wrapping_sub(value & 0xfff),
            15 => u64::MAX - value,
            _ => data + value * 16,
        }
    }

    /// Of a buffer.
    pub fn length(self) -> u32 {
        let value = u32::from(self.value);
        match self.kind >> 4 {
            13 => 0,
            14 => value << 8,
            15 => u32::MAX - value,
            _ => value,
        }
    }
}

/// One buffer of a chain.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub at: Odd,
    pub len: Odd,
    /// `VIRTQ_DESC_F_*`, before "next".
    pub flags: u8,
}

/// An act.
#[derive(Debug)]
pub enum Act {
    /// A register that exists.
    Register {
        slot: u8,
        register: u8,
        value: u32,
    },
    /// Any address of the slots and a bit beyond, in any width.
    Write {
        offset: u16,
        width: u8,
        value: u64,
    },
    Read {
        offset: u16,
        width: u8,
    },
    /// One descriptor, whatever it belongs to.
    Descriptor {
        slot: u8,
        queue: u8,
        index: u8,
        piece: Piece,
        next: u8,
    },
    /// Descriptors in a row, offered.
    Chain {
        slot: u8,
        queue: u8,
        pieces: Vec<Piece>,
    },
    /// A head that may never have been a chain's.
    Offer {
        slot: u8,
        queue: u8,
        head: u16,
    },
    /// The available ring's index.
    Index {
        slot: u8,
        queue: u8,
        index: u16,
    },
    /// The device's thread gets its turn.
    Serve {
        slot: u8,
    },
    /// A reset and all that a driver does to start, but for features that the mask takes away.
    Start {
        slot: u8,
        mask: u8,
    },
    /// Bytes of buffers.
    Data {
        at: u16,
        bytes: Vec<u8>,
    },
    /// A block request: header, data, status.
    Disk {
        kind: u8,
        sector: Odd,
        len: u16,
    },
    /// A vsock packet.
    Packet {
        op: u8,
        ports: u8,
        len: u16,
        real: u16,
        credit: u32,
        flags: u8,
    },
    /// A request of a file system's: what follows the header, and a length that is another if `lie` is not 0.
    Fuse {
        opcode: u8,
        node: u8,
        lie: u8,
        room: u16,
        body: Vec<u8>,
    },
    /// Something of the host's.
    Host {
        slot: u8,
        what: u8,
        len: u16,
    },
    PortOut {
        port: u16,
        bytes: Vec<u8>,
    },
    PortIn {
        port: u16,
        width: u8,
    },
}

impl Bytes<'_, '_> {
    fn odd(&mut self) -> Odd {
        Odd {
            kind: self.byte(),
            value: self.half(),
        }
    }

    fn piece(&mut self) -> Piece {
        Piece {
            at: self.odd(),
            len: self.odd(),
            flags: self.byte(),
        }
    }
}

impl Act {
    /// The next one. What the bytes do not say is 0.
    pub fn read(rest: &mut &[u8]) -> Option<Act> {
        if rest.is_empty() {
            return None;
        }
        let mut from = Bytes(rest);
        Some(match from.byte() & 15 {
            0 => Act::Register {
                slot: from.byte(),
                register: from.byte(),
                value: from.word(),
            },
            1 => Act::Write {
                offset: from.half(),
                width: from.byte(),
                value: u64::from_le_bytes(from.take()),
            },
            2 => Act::Read {
                offset: from.half(),
                width: from.byte(),
            },
            3 => Act::Descriptor {
                slot: from.byte(),
                queue: from.byte(),
                index: from.byte(),
                piece: from.piece(),
                next: from.byte(),
            },
            kind @ (4 | 15) => {
                let slot = from.byte();
                if kind == 15 && slot >= 0xf0 {
                    return Some(Act::Fuse {
                        opcode: from.byte(),
                        node: from.byte(),
                        lie: from.byte(),
                        room: from.half(),
                        body: from.some(120),
                    });
                }
                let queue = from.byte();
                let count = from.byte() % 17;
                let pieces = (0..count).map(|_| from.piece()).collect();
                Act::Chain {
                    slot,
                    queue,
                    pieces,
                }
            }
            5 => Act::Offer {
                slot: from.byte(),
                queue: from.byte(),
                head: from.half(),
            },
            6 => Act::Index {
                slot: from.byte(),
                queue: from.byte(),
                index: from.half(),
            },
            7 => Act::Serve { slot: from.byte() },
            8 => Act::Start {
                slot: from.byte(),
                mask: from.byte(),
            },
            9 => Act::Data {
                at: from.half(),
                bytes: from.some(64),
            },
            10 => Act::Disk {
                kind: from.byte(),
                sector: from.odd(),
                len: from.half(),
            },
            11 => Act::Packet {
                op: from.byte(),
                ports: from.byte(),
                len: from.half(),
                real: from.half(),
                credit: from.word(),
                flags: from.byte(),
            },
            12 => Act::Host {
                slot: from.byte(),
                what: from.byte(),
                len: from.half(),
            },
            13 => Act::PortOut {
                port: from.half(),
                bytes: from.some(8),
            },
            _ => Act::PortIn {
                port: from.half(),
                width: from.byte(),
            },
        })
    }
}

pub fn start(slot: u8, mask: u8) -> Vec<u8> {
    vec![8, slot, mask]
}

/// Pieces: sixteenth of an address after the buffers' begin, length, whether the device writes.
pub fn chain(slot: u8, queue: u8, pieces: &[(u16, u16, bool)]) -> Vec<u8> {
    let mut bytes = vec![4, slot, queue, pieces.len() as u8];
    for &(at, len, writable) in pieces {
        bytes.push(0);
        bytes.extend(at.to_le_bytes());
        bytes.push(0);
        bytes.extend(len.to_le_bytes());
        bytes.push(if writable { 2 } else { 0 });
    }
    bytes
}

pub fn data(at: u16, bytes: &[u8]) -> Vec<u8> {
    let mut act = vec![9];
    act.extend(at.to_le_bytes());
    act.push(bytes.len() as u8);
    act.extend(bytes);
    act
}

pub fn disk_request(kind: u8, sector: u16, len: u16) -> Vec<u8> {
    let mut act = vec![10, kind, 0];
    act.extend(sector.to_le_bytes());
    act.extend(len.to_le_bytes());
    act
}

pub fn packet(op: u8, len: u16) -> Vec<u8> {
    let mut act = vec![11, op, 0];
    act.extend(len.to_le_bytes());
    act.extend(len.to_le_bytes());
    act.extend(0x1_0000u32.to_le_bytes());
    act.push(3);
    act
}

/// Words, then names that end with a NUL.
pub fn fuse(opcode: u8, node: u8, words: &[u64], names: &[&[u8]]) -> Vec<u8> {
    let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for name in names {
        body.extend(*name);
        body.push(0);
    }
    let mut act = vec![15, 0xff, opcode, node, 0];
    act.extend(4096u16.to_le_bytes());
    act.push(body.len() as u8);
    act.extend(body);
    act
}

pub fn frame(len: u16) -> Vec<u8> {
    let mut act = host(super::surface::NET, 0);
    act.truncate(3);
    act.extend(len.to_le_bytes());
    act
}

pub fn host(slot: u8, what: u8) -> Vec<u8> {
    vec![12, slot, what, 200, 0]
}

pub fn port_out(port: u16, byte: u8) -> Vec<u8> {
    let mut act = vec![13];
    act.extend(port.to_le_bytes());
    act.extend([1, byte]);
    act
}
