//! The block device (virtio 1.2, section 5.2) on a raw file or block device of the host.
//!
//! One thread serves one disk, synchronously: `preadv` and `pwritev` go straight between guest memory and the host's page
//! cache. A flush is `fdatasync`, but for a volatile disk, which nobody wants after the VM.

mod disk;

use virtio_queue::Queue;

use super::buffers::{Buffers, Piece, copy_in, length, take_front, take_last};
use super::{Counters, Device, Work, drain};
use crate::machine::OPTIMAL_READ;
use crate::vsock::Memory;

pub use disk::Disk;

/// Bytes of a sector: the unit of every address and length of the protocol.
pub const SECTOR: u64 = 512;
/// Bytes of a serial number (section 5.2.6.1).
pub const ID_LEN: usize = 20;
const QUEUE_SIZE: u16 = 256;
/// Pieces of one request's data, beside header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Ranges in one discard or write-zeroes request, and sectors in one range: 2 GiB less one sector.
const MAX_RANGES: u32 = 32;
const MAX_RANGE_SECTORS: u32 = (1 << 22) - 1;

mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

mod request {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// A request's last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok = 0,
    IoErr = 1,
    Unsupp = 2,
}

/// The device.
pub struct Block {
    disk: Disk,
    id: [u8; ID_LEN],
    discard: bool,
    volatile: bool,
    /// The driver knows of no flush: each write is to be durable when it is answered.
    write_through: bool,
    /// See [`Counters`].
    pub counters: Counters,
}

impl Block {
    /// A disk with a serial number, cut at 20 bytes.
    pub fn new(disk: Disk, id: &str, discard: bool, volatile: bool) -> Block {
        let mut padded = [0; ID_LEN];
        for (to, from) in padded.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Block {
            discard: discard && !disk.read_only(),
            disk,
            id: padded,
            volatile,
            write_through: false,
            counters: Counters::default(),
        }
    }

    /// Does what a chain asks; says how many bytes of it were written.
    fn serve(
        &self,
        buffers: Result<Buffers<'_>, super::buffers::Malformed>,
        counters: &mut Counters,
    ) -> u32 {
        let Ok(mut buffers) = buffers else {
            counters.violations += 1;
            return 0;
        };
        let header = take_front::<16>(&mut buffers.readable);
        let (Some(header), Some(status)) = (header, take_last(&mut buffers.writable)) else {
            counters.violations += 1;
            return 0;
        };
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        let (result, written) = self.answer(word(0), sector, &mut buffers, counters);
        status.copy_from(&[result as u8]);
        written as u32 + 1
    }

    fn answer(
        &self,
        kind: u32,
        sector: u64,
        buffers: &mut Buffers<'_>,
        counters: &mut Counters,
    ) -> (Status, usize) {
        let host = |result: std::io::Result<()>, counters: &mut Counters| match result {
            Ok(()) => Status::Ok,
            Err(_) => {
                counters.failures += 1;
                Status::IoErr
            }
        };
        match kind {
            request::IN => {
                let Some(offset) = self.place(sector, &buffers.writable) else {
                    counters.violations += 1;
                    return (Status::IoErr, 0);
                };
                let result = host(self.disk.read(&buffers.writable, offset), counters);
                match result {
                    Status::Ok => (result, length(&buffers.writable)),
                    _ => (result, 0),
                }
            }
            request::OUT => {
                let place = self.place(sector, &buffers.readable);
                let Some(offset) = place.filter(|_| !self.disk.read_only()) else {
                    counters.violations += 1;
                    return (Status::IoErr, 0);
                };
                let mut result = self.disk.write(&buffers.readable, offset);
                if self.write_through && !self.volatile {
                    result = result.and_then(|()| self.disk.flush());
                }
                (host(result, counters), 0)
            }
            request::FLUSH if self.volatile || self.disk.read_only() => (Status::Ok, 0),
            request::FLUSH => (host(self.disk.flush(), counters), 0),
            request::GET_ID => (Status::Ok, copy_in(&buffers.writable, &self.id)),
            request::DISCARD | request::WRITE_ZEROES if self.discard => {
                (self.ranges(kind, buffers, counters), 0)
            }
            _ => (Status::Unsupp, 0),
        }
    }

    /// Where on the disk a request's data belongs, in bytes. `None`: not on it, or no whole sectors.
    fn place(&self, sector: u64, data: &[Piece<'_>]) -> Option<u64> {
        let len = length(data) as u64;
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(len)?;
        (len.is_multiple_of(SECTOR) && end <= self.disk.sectors() * SECTOR).then_some(offset)
    }

    fn ranges(&self, kind: u32, buffers: &mut Buffers<'_>, counters: &mut Counters) -> Status {
        const UNMAP: u32 = 1;
        let count = length(&buffers.readable) / 16;
        if count == 0 || count > MAX_RANGES as usize {
            counters.violations += 1;
            return Status::IoErr;
        }
        while let Some(range) = take_front::<16>(&mut buffers.readable) {
            let word = |at: usize| {
                u32::from_le_bytes([range[at], range[at + 1], range[at + 2], range[at + 3]])
            };
            let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
            let (sectors, flags) = (word(8), word(12));
            let end = sector.checked_add(u64::from(sectors));
            let inside = end.is_some_and(|end| end <= self.disk.sectors());
            let allowed = if kind == request::WRITE_ZEROES {
                UNMAP
            } else {
                0
            };
            if !inside || sectors > MAX_RANGE_SECTORS || flags & !allowed != 0 {
                counters.violations += 1;
                return if inside {
                    Status::Unsupp
                } else {
                    Status::IoErr
                };
            }
            let (offset, len) = (sector * SECTOR, u64::from(sectors) * SECTOR);
            let result = match kind {
                request::DISCARD => self.disk.discard(offset, len),
                _ => self.disk.zero(offset, len, flags & UNMAP != 0),
            };
            if result.is_err() {
                counters.failures += 1;
                return Status::IoErr;
            }
        }
        Status::Ok
    }
}

impl Device for Block {
    fn id(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        let mut features = feature::SEG_MAX | feature::BLK_SIZE;
        if !self.volatile {
            features |= feature::FLUSH;
        }
        if self.disk.read_only() {
            features |= feature::RO | feature::TOPOLOGY;
        }
        if self.discard {
            features |= feature::DISCARD | feature::WRITE_ZEROES;
        }
        features
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    /// `struct virtio_blk_config`, section 5.2.4.
    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; 60];
        let mut put =
            |at: usize, word: u32| config[at..at + 4].copy_from_slice(&word.to_le_bytes());
        put(0, self.disk.sectors() as u32);
        put(4, (self.disk.sectors() >> 32) as u32);
        put(12, SEG_MAX);
        put(20, SECTOR as u32);
        if self.disk.read_only() {
            put(28, OPTIMAL_READ / SECTOR as u32);
        }
        if self.discard {
            put(36, MAX_RANGE_SECTORS);
            put(40, MAX_RANGES);
            // Pages: less than one frees nothing.
            put(44, 8);
            put(48, MAX_RANGE_SECTORS);
            put(52, MAX_RANGES);
            config[56] = 1;
        }
        config
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn start(&mut self, features: u64) {
        self.write_through = features & feature::FLUSH == 0;
    }

    fn run(&mut self, mem: &Memory, queues: &mut [Queue]) -> Work {
        let [queue, ..] = queues else {
            return Work::default();
        };
        let mut counters = self.counters;
        let work = drain(mem, queue, &mut counters, |chain, counters| {
            self.serve(Buffers::of(mem, chain), counters)
        });
        self.counters = counters;
        work
    }
}

#[cfg(test)]
mod tests;
