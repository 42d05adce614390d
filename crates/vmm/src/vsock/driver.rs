//! A fake driver: a guest's half of the device, over real guest memory and rings that are laid out by hand, so that it
//! can also do what no sane driver does. Tests only.

use std::os::fd::OwnedFd;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::packet::{HEADER_LEN, HOST_CID, Header, Op, TYPE_STREAM};
use super::{Device, Event, Memory, Queues};

pub const CID: u64 = 3;
pub const SIZE: u16 = 64;
const MEM: usize = 16 << 20;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const DATA_ROOM: u32 = 4096;
const TX_SLOT: u64 = 64 * 1024 + 4096;

/// One ring's addresses, and the driver's place in it.
pub struct Ring {
    pub desc: u64,
    pub avail: u64,
    used: u64,
    next_avail: u16,
    next_used: u16,
}

impl Ring {
    fn at(base: u64) -> Ring {
        Ring {
            desc: base,
            avail: base + 0x1000,
            used: base + 0x2000,
            next_avail: 0,
            next_used: 0,
        }
    }

    fn queue(&self) -> Queue {
        let mut queue = Queue::new(SIZE).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(self.desc))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(self.avail))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(self.used))
            .unwrap();
        queue.set_ready(true);
        queue
    }

    fn publish(&mut self, mem: &Memory, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.next_avail % SIZE);
        mem.write_obj(head, GuestAddress(slot)).unwrap();
        self.next_avail = self.next_avail.wrapping_add(1);
        mem.write_obj(self.next_avail, GuestAddress(self.avail + 2))
            .unwrap();
    }

    /// The next used entry: head and length.
    fn take_used(&mut self, mem: &Memory) -> Option<(u32, u32)> {
        let index: u16 = mem.read_obj(GuestAddress(self.used + 2)).unwrap();
        if index == self.next_used {
            return None;
        }
        let entry = self.used + 4 + 8 * u64::from(self.next_used % SIZE);
        self.next_used = self.next_used.wrapping_add(1);
        let head = mem.read_obj(GuestAddress(entry)).unwrap();
        Some((head, mem.read_obj(GuestAddress(entry + 4)).unwrap()))
    }
}

pub struct Driver {
    pub mem: Memory,
    pub device: Device,
    pub rx: Ring,
    pub tx: Ring,
    rx_queue: Queue,
    tx_queue: Queue,
    tx_busy: u16,
    /// rx buffers that the device has.
    pub posted: u16,
    /// Where rx buffers are cut into descriptors.
    pub cuts: Vec<u32>,
}

impl Driver {
    pub fn new() -> Driver {
        let (rx, tx) = (Ring::at(0x1_0000), Ring::at(0x2_0000));
        Driver {
            mem: Memory::from_ranges(&[(GuestAddress(0), MEM)]).unwrap(),
            device: Device::new(CID).unwrap(),
            rx_queue: rx.queue(),
            tx_queue: tx.queue(),
            rx,
            tx,
            tx_busy: 0,
            posted: 0,
            cuts: vec![HEADER_LEN as u32],
        }
    }

    /// With all rx buffers that fit.
    pub fn ready() -> Driver {
        let mut driver = Driver::new();
        driver.post(SIZE / 4);
        driver
    }

    pub fn describe(&self, desc: u64, index: u16, fields: (u64, u32, u16, u16)) {
        let at = desc + 16 * u64::from(index);
        self.mem.write_obj(fields.0, GuestAddress(at)).unwrap();
        self.mem.write_obj(fields.1, GuestAddress(at + 8)).unwrap();
        self.mem.write_obj(fields.2, GuestAddress(at + 12)).unwrap();
        self.mem.write_obj(fields.3, GuestAddress(at + 14)).unwrap();
    }

    /// Lays a chain over `len` bytes at `addr`, cut where asked, in descriptors `head..head + 4`.
    fn chain(&self, desc: u64, head: u16, addr: u64, len: u32, cuts: &[u32], flags: u16) {
        let mut borders: Vec<u32> = cuts
            .iter()
            .copied()
            .filter(|&cut| cut < len)
            .take(3)
            .collect();
        borders.push(len);
        let mut from = 0;
        for (i, &to) in borders.iter().enumerate() {
            let index = head + i as u16;
            let last = i + 1 == borders.len();
            let flags = if last { flags } else { flags | NEXT };
            self.describe(
                desc,
                index,
                (addr + u64::from(from), to - from, flags, index + 1),
            );
            from = to;
        }
    }

    /// Gives the device that many rx buffers more, at most `SIZE / 4` at once.
    pub fn post(&mut self, count: u16) {
        for _ in 0..count.min(SIZE / 4 - self.posted) {
            let slot = self.rx.next_avail % (SIZE / 4);
            let addr = 0x10_0000 + u64::from(slot) * 0x2000;
            let len = HEADER_LEN as u32 + DATA_ROOM;
            self.chain(self.rx.desc, slot * 4, addr, len, &self.cuts.clone(), WRITE);
            self.rx.publish(&self.mem, slot * 4);
            self.posted += 1;
        }
    }

    /// Lets the device work until it has nothing to do. It must come to rest.
    pub fn run(&mut self) {
        for _ in 0..1000 {
            let queues = Queues {
                rx: Some(&mut self.rx_queue),
                tx: Some(&mut self.tx_queue),
            };
            if !self.device.run(&self.mem, queues).again {
                return;
            }
        }
        panic!("the device does not come to rest");
    }

    /// A header of a packet to the host, with plenty of room in the guest.
    pub fn header(&self, op: Op, guest_port: u32, host_port: u32) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: guest_port,
            dst_port: host_port,
            kind: TYPE_STREAM,
            op: op as u16,
            buf_alloc: 1 << 20,
            ..Header::default()
        }
    }

    /// Queues a packet; false if the ring is full.
    pub fn queue_packet(&mut self, header: &Header, data: &[u8], cuts: &[u32]) -> bool {
        while self.tx.take_used(&self.mem).is_some() {
            self.tx_busy -= 1;
        }
        if self.tx_busy == SIZE / 4 {
            return false;
        }
        let slot = self.tx.next_avail % (SIZE / 4);
        let addr = 0x80_0000 + u64::from(slot) * TX_SLOT;
        let bytes = [&header.to_bytes()[..], data].concat();
        self.mem.write_slice(&bytes, GuestAddress(addr)).unwrap();
        self.chain(self.tx.desc, slot * 4, addr, bytes.len() as u32, cuts, 0);
        self.tx.publish(&self.mem, slot * 4);
        self.tx_busy += 1;
        true
    }

    pub fn send(&mut self, header: &Header, data: &[u8]) {
        assert!(self.queue_packet(header, data, &[HEADER_LEN as u32]));
        self.run();
    }

    pub fn send_op(&mut self, op: Op, guest_port: u32, host_port: u32, flags: u32) {
        let header = Header {
            flags,
            ..self.header(op, guest_port, host_port)
        };
        self.send(&header, &[]);
    }

    pub fn send_data(&mut self, guest_port: u32, host_port: u32, data: &[u8]) {
        let header = Header {
            len: data.len() as u32,
            ..self.header(Op::Rw, guest_port, host_port)
        };
        self.send(&header, data);
    }

    /// Packets that came, without giving buffers back.
    pub fn take(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        while let Some((head, len)) = self.rx.take_used(&self.mem) {
            self.posted -= 1;
            let addr = 0x10_0000 + u64::from(head / 4) * 0x2000;
            let mut bytes = vec![0; len as usize];
            self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
            let data = bytes.split_off(HEADER_LEN);
            let header = Header::parse(bytes.as_slice().try_into().unwrap());
            assert_eq!(header.len as usize, data.len());
            packets.push((header, data));
        }
        packets
    }

    /// Runs the device and takes all that it has for the guest.
    pub fn receive(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        loop {
            self.run();
            let more = self.take();
            if more.is_empty() {
                return packets;
            }
            packets.extend(more);
            self.post(SIZE);
        }
    }

    /// What came, as operations and flags.
    pub fn ops(&mut self) -> Vec<(Op, u32)> {
        self.receive()
            .iter()
            .map(|(header, _)| (header.op().unwrap(), header.flags))
            .collect()
    }

    /// Dials a port that is listened to.
    pub fn dial(&mut self, guest_port: u32, host_port: u32) -> OwnedFd {
        self.device.muxer.listen(host_port);
        self.send_op(Op::Request, guest_port, host_port, 0);
        let (answer, _) = self.receive().remove(0);
        assert_eq!(answer.op(), Some(Op::Response));
        match self.device.muxer.pop_event() {
            Some(Event::Dialled { fd, .. }) => fd,
            other => panic!("{other:?}"),
        }
    }
}
