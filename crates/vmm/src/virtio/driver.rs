//! For tests: a virtio driver over real guest memory, and one that knows no manners.

use vm_memory::{Bytes, GuestAddress};

use super::Device;
use super::mmio::{Registers, Slot};
use crate::vsock::Memory;

/// Bytes of guest memory.
pub const MEM_SIZE: usize = 1 << 20;
/// Descriptors of each queue.
pub const QUEUE: u16 = 16;
/// Where a queue's rings begin.
fn rings(queue: u64) -> u64 {
    0x1000 * (queue + 1)
}
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// Where buffers may lie.
pub const DATA: u64 = 0x1_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A piece of a chain.
#[derive(Clone, Copy)]
pub struct Piece {
    pub at: u64,
    pub len: u32,
    pub writable: bool,
}

pub fn readable(at: u64, len: u32) -> Piece {
    let writable = false;
    Piece { at, len, writable }
}

pub fn writable(at: u64, len: u32) -> Piece {
    let writable = true;
    Piece { at, len, writable }
}

/// A driver with a device.
pub struct Driver<D: Device> {
    pub mem: Memory,
    pub slot: Slot<D>,
    next: [u16; 3],
    seen: [u16; 3],
}

impl<D: Device> Driver<D> {
    /// Does what the specification asks of a driver (virtio 1.2, section 3.1.1), with every feature that is offered.
    pub fn new(device: D) -> Driver<D> {
        let mem = Memory::from_ranges(&[(GuestAddress(0), MEM_SIZE)]).unwrap();
        let queues = device.queue_sizes().len() as u64;
        let driver = Driver {
            mem,
            slot: Slot::new(device).unwrap(),
            next: [0; 3],
            seen: [0; 3],
        };
        assert_eq!(driver.register(0), u32::from_le_bytes(*b"virt"));
        driver.negotiate();
        for queue in 0..queues {
            driver.set_up(queue, QUEUE.into());
        }
        driver.set(0x70, 1 | 2 | 8 | 4);
        driver
    }

    /// A reset, and all features.
    pub fn negotiate(&self) {
        self.set(0x70, 0);
        self.set(0x70, 1 | 2);
        for half in 0..2 {
            self.set(0x14, half);
            self.set(0x24, half);
            self.set(0x20, self.register(0x10));
        }
        self.set(0x70, 1 | 2 | 8);
        assert_eq!(self.register(0x70), 1 | 2 | 8, "the features are refused");
    }

    /// Says where a queue is.
    pub fn set_up(&self, queue: u64, size: u32) {
        self.set(0x30, queue as u32);
        assert!(self.register(0x34) >= u32::from(QUEUE));
        self.set(0x38, size);
        self.set(0x80, rings(queue) as u32);
        self.set(0x90, (rings(queue) + AVAILABLE) as u32);
        self.set(0xa0, (rings(queue) + USED) as u32);
        self.set(0x44, 1);
    }

    pub fn register(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.slot.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub fn set(&self, offset: u64, word: u32) {
        self.slot.write(offset, &word.to_le_bytes(), &self.mem);
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Offers one chain, its descriptors from `head` on.
    pub fn offer(&mut self, queue: u64, head: u16, pieces: &[Piece]) {
        for (number, piece) in pieces.iter().enumerate() {
            let index = usize::from(head) + number;
            let more = number + 1 < pieces.len();
            let flags = if more { NEXT } else { 0 } | if piece.writable { WRITE } else { 0 };
            let mut descriptor = piece.at.to_le_bytes().to_vec();
            descriptor.extend(piece.len.to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend((index as u16 + 1).to_le_bytes());
            self.put(rings(queue) + 16 * index as u64, &descriptor);
        }
        let next = &mut self.next[queue as usize];
        let entry = rings(queue) + AVAILABLE + 4 + 2 * u64::from(*next % QUEUE);
        *next = next.wrapping_add(1);
        let index = *next;
        self.put(entry, &head.to_le_bytes());
        self.put(rings(queue) + AVAILABLE + 2, &index.to_le_bytes());
    }

    /// Offers a chain whose descriptors are in a table elsewhere.
    pub fn indirect(&mut self, queue: u64, at: u64, len: u32) {
        const INDIRECT: u16 = 4;
        self.offer(queue, 0, &[readable(at, len)]);
        self.put(rings(queue) + 12, &INDIRECT.to_le_bytes());
    }

    /// Has the device serve; says which chains it used that were not seen before, by their heads, and how many bytes it wrote.
    pub fn used(&mut self, queue: u64) -> Vec<(u32, u32)> {
        while self.slot.serve(&self.mem) {}
        let index = self.get(rings(queue) + USED + 2, 2);
        let index = u16::from_le_bytes([index[0], index[1]]);
        let mut used = Vec::new();
        let mut seen = self.seen[queue as usize];
        while seen != index {
            let element = self.get(rings(queue) + USED + 4 + 8 * u64::from(seen % QUEUE), 8);
            let word = |at: usize| u32::from_le_bytes(element[at..at + 4].try_into().unwrap());
            used.push((word(0), word(4)));
            seen = seen.wrapping_add(1);
        }
        self.seen[queue as usize] = seen;
        used
    }

    /// Offers one chain and has it served; says how many bytes the device wrote.
    pub fn request(&mut self, queue: u64, pieces: &[Piece]) -> u32 {
        self.offer(queue, 0, pieces);
        let used = self.used(queue);
        assert_eq!(used.len(), 1, "the chain is not used");
        assert_eq!(used[0].0, 0);
        used[0].1
    }

    /// The same driver with a device that took over from this one's.
    pub fn moved(self, slot: Slot<D>) -> Driver<D> {
        Driver { slot, ..self }
    }
}

/// A guest that writes `bytes` over its rings and buffers, and lets the device look. The device has to come back, and
/// to leave the driver a way to start anew.
pub fn hostile<D: Device>(device: D, bytes: &[u8]) {
    let driver = Driver::new(device);
    let room = MEM_SIZE - 0x1000;
    driver.put(0x1000, &bytes[..bytes.len().min(room)]);
    // No more turns than chains that the ring may pretend to have, and some.
    for _ in 0..300 {
        if !driver.slot.serve(&driver.mem) {
            break;
        }
    }
    driver.set(0x70, 0);
    assert_eq!(driver.register(0x70), 0);
}

/// A guest that writes anything to any register.
pub fn wild_registers<D: Device>(device: D, writes: &[(u16, u64, u8)]) {
    let driver = Driver::new(device);
    for &(offset, value, len) in writes {
        let len = 1 << (len & 3);
        let bytes = value.to_le_bytes();
        let offset = u64::from(offset & 0xfff);
        driver.slot.write(offset, &bytes[..len], &driver.mem);
        driver.slot.read(offset, &mut [0; 8][..len]);
        driver.slot.serve(&driver.mem);
    }
    driver.set(0x70, 0);
    assert_eq!(driver.register(0x70), 0);
}
