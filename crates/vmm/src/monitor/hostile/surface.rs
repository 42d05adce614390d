//! A machine's surface without KVM: the bus, a device of each kind behind it, and the host's ends of them.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect};
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

use super::Reached;
use super::acts::{Act, Piece};
use super::share::Ground;
use crate::monitor::bus::{Bus, End, SERIAL_PORTS};
use crate::monitor::memory::VIRTIO;
use crate::monitor::serial::{Output, Port};
use crate::virtio::balloon::Balloon;
use crate::virtio::block::{Block, Disk};
use crate::virtio::entropy::Entropy;
use crate::virtio::fs::Fs;
use crate::virtio::mmio::{self, Registers, Slot};
use crate::virtio::net::Net;
use crate::virtio::vsock::Vsock;
use crate::virtio::{Counters, Device};
use crate::vsock::{Event, HEADER_LEN, HOST_CID, Header, Memory};

/// Numbers of the slots.
pub const BLOCK: u8 = 0;
pub const NET: u8 = 1;
pub const VSOCK: u8 = 2;
pub const ENTROPY: u8 = 3;
pub const BALLOON: u8 = 4;
pub const FS: u8 = 5;
/// No slot: the serial ports' input.
pub const SERIAL: u8 = 6;
const SLOTS: u8 = 6;
/// Bytes from here on mean [`FS`], the others all before it: older programs mean what they meant.
const FS_BYTES: u8 = 0xf0;
/// Queues of the slot that has most.
const QUEUES: u8 = 3;

/// Bytes of guest memory.
const SIZE: usize = 1 << 20;
/// Bytes that nobody may touch, before it and after it.
const GUARD: usize = 1 << 20;
/// Where buffers lie.
const DATA: u64 = 0x1_0000;
/// Descriptors of each queue.
const QUEUE: u16 = 16;
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
const DISK: u64 = 256 * 1024;
const CID: u64 = 3;
/// A port that the guest may dial.
const LISTENING: u32 = 7;

/// Registers that a driver writes (virtio 1.2, section 4.2.2).
const REGISTERS: [u64; 18] = [
    0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4,
    0x100, 0x104, 0xfc,
];

type Turn = Box<dyn Fn(&Memory) -> bool>;

pub struct Surface {
    bus: Bus,
    turns: Vec<Turn>,
    block: Arc<Slot<Block>>,
    net: Arc<Slot<Net>>,
    vsock: Arc<Slot<Vsock>>,
    entropy: Arc<Slot<Entropy>>,
    balloon: Arc<Slot<Balloon>>,
    fs: Arc<Slot<Fs>>,
    disk: std::fs::File,
    log: std::fs::File,
    frames: UnixDatagram,
    terminal: UnixStream,
    streams: Vec<UnixStream>,
    dials: u32,
    /// Available index of each queue of each slot.
    next: [[u16; QUEUES as usize]; SLOTS as usize],
    turned: u64,
    _ground: Ground,
}

fn rings(slot: u8, queue: u8) -> u64 {
    let page = match slot {
        // Behind most of what is buffers.
        FS => 0xfd + u64::from(queue),
        slot => 1 + u64::from(slot * QUEUES + queue),
    };
    0x1000 * page
}

/// The slot that a byte means.
fn slot_of(byte: u8) -> u8 {
    match byte {
        FS_BYTES.. => FS,
        byte => byte % FS,
    }
}

/// Guest memory between guards, zeros: one for each thread, as it is never unmapped.
fn memory() -> Memory {
    thread_local! {
        static START: usize = {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping, whose guards are closed at once.
            unsafe {
                let whole = mmap_anonymous(
                    std::ptr::null_mut(), SIZE + 2 * GUARD, protection, MapFlags::PRIVATE,
                ).expect("memory");
                for guard in [whole, whole.wrapping_byte_add(GUARD + SIZE)] {
                    mprotect(guard, GUARD, MprotectFlags::empty()).expect("a guard");
                }
                whole.wrapping_byte_add(GUARD).expose_provenance()
            }
        };
    }
    let start = START.with(|start| std::ptr::with_exposed_provenance_mut::<u8>(*start));
    // SAFETY: the range is this thread's, mapped for ever; the guest of before is gone.
    let region = unsafe {
        madvise(start.cast(), SIZE, Advice::LinuxDontNeed).expect("zeros");
        MmapRegion::build_raw(
            start,
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE,
        )
    };
    let region = GuestRegionMmap::new(region.expect("a region"), GuestAddress(0));
    Memory::from_regions(vec![region.expect("a region")]).expect("memory")
}

/// In memory, so that a program costs no disk.
fn file(name: &str) -> std::fs::File {
    memfd_create(name, MemfdFlags::CLOEXEC)
        .expect("a memfd")
        .into()
}

fn slot<D: Device + 'static>(
    device: D,
    slots: &mut Vec<Arc<dyn Registers>>,
    turns: &mut Vec<Turn>,
) -> Arc<Slot<D>> {
    let slot = Arc::new(Slot::new(device).expect("eventfds"));
    slots.push(slot.clone());
    let served = slot.clone();
    turns.push(Box::new(move |mem| served.serve(mem)));
    slot
}

impl Surface {
    pub fn new() -> Surface {
        let disk = file("disk");
        disk.set_len(DISK).expect("a size");
        let log = file("log");
        let image = Disk::new(disk.try_clone().expect("a disk"), false).expect("a disk");
        let (link, frames) = UnixDatagram::pair().expect("a link");
        let (terminal, theirs) = UnixStream::pair().expect("a terminal");
        for end in [&link, &frames] {
            end.set_nonblocking(true).expect("a link");
        }
        terminal.set_nonblocking(true).expect("a terminal");
        let (mut slots, mut turns) = (Vec::new(), Vec::new());
        let block = Block::new(image, "disk", true, true);
        let block = slot(block, &mut slots, &mut turns);
        let net = Net::new(link.into(), [2, 0, 0, 0, 0, 1], 9000);
        let net = slot(net, &mut slots, &mut turns);
        let vsock = slot(Vsock::new(CID).expect("vsock"), &mut slots, &mut turns);
        let entropy = slot(Entropy::default(), &mut slots, &mut turns);
        let balloon = slot(Balloon::new(true), &mut slots, &mut turns);
        let ground = Ground::new();
        let fs = slot(Fs::new(ground.server(), "shares"), &mut slots, &mut turns);
        let line = || EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd");
        let outputs = [
            Output::log(log.try_clone().expect("a log")).expect("a log"),
            Output::stream(std::os::fd::OwnedFd::from(theirs).into()),
        ];
        let serials = outputs.map(|output| Port::new(line(), output).expect("a port"));
        let bus = Bus {
            mem: memory(),
            serials: serials.into(),
            slots,
            end: Arc::new(End::new().expect("an eventfd")),
        };
        vsock.lock().device.device.muxer.listen(LISTENING);
        Surface {
            bus,
            turns,
            block,
            net,
            vsock,
            entropy,
            balloon,
            fs,
            disk,
            log,
            frames,
            terminal,
            streams: Vec::new(),
            dials: 0,
            next: Default::default(),
            turned: 0,
            _ground: ground,
        }
    }

    /// Chains served, violations, failures.
    pub fn counters(&self, slot: u8) -> (u64, u64, u64) {
        let counters = match slot {
            BLOCK => self.block.lock().device.counters,
            NET => self.net.lock().device.counters,
            ENTROPY => self.entropy.lock().device.counters,
            BALLOON => self.balloon.lock().device.counters,
            FS => self.fs.lock().device.counters,
            _ => Counters::default(),
        };
        (counters.served, counters.violations, counters.failures)
    }

    fn register(&self, slot: u8, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        let at = VIRTIO + u64::from(slot) * mmio::SIZE + offset;
        self.bus.memory_read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn set(&self, slot: u8, offset: u64, value: u32) {
        let at = VIRTIO + u64::from(slot) * mmio::SIZE + offset;
        self.bus.memory_write(at, &value.to_le_bytes());
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        // A program's place may be beyond the end.
        let _ = self.bus.mem.write(bytes, GuestAddress(at));
    }

    /// A device gets its turn, as its thread would give it.
    fn serve(&mut self, slot: u8) {
        // No ring pretends to have more than 65,536 chains, at 128 a turn, or one.
        let most = match slot {
            FS | BALLOON => 150_000,
            _ => 600,
        };
        let mut turns = 0;
        while self.turns[usize::from(slot)](&self.bus.mem) {
            turns += 1;
            assert!(turns < most, "slot {slot} is never done");
        }
        self.turned += turns;
        let muxer = &mut self.vsock.lock().device.device.muxer;
        while let Some(event) = muxer.pop_event() {
            if let Event::Dialled { fd, .. } = event {
                let stream = UnixStream::from(fd);
                stream.set_nonblocking(true).expect("a stream");
                self.streams.push(stream);
            }
        }
    }

    fn start(&mut self, slot: u8, mask: u8) {
        self.next[usize::from(slot)] = Default::default();
        self.set(slot, 0x70, 0);
        self.set(slot, 0x70, 3);
        for half in 0..2 {
            self.set(slot, 0x14, half);
            self.set(slot, 0x24, half);
            // RING_INDIRECT_DESC and RING_EVENT_IDX, the device's own in two parts.
            let mut taken = self.register(slot, 0x10);
            if half == 0 {
                for (bit, bits) in [1 << 28, 1 << 29, 0xfff, 0xff_f000].into_iter().enumerate() {
                    if mask >> bit & 1 == 0 {
                        taken &= !bits;
                    }
                }
            }
            self.set(slot, 0x20, taken);
        }
        self.set(slot, 0x70, 11);
        for queue in 0..QUEUES {
            self.set(slot, 0x30, queue.into());
            let at = rings(slot, queue) as u32;
            let words = [
                (0x38, QUEUE.into()),
                (0x80, at),
                (0x84, 0),
                (0x90, at + AVAILABLE as u32),
                (0x94, 0),
                (0xa0, at + USED as u32),
                (0xa4, 0),
                (0x44, 1),
            ];
            for (register, word) in words {
                self.set(slot, register, word);
            }
        }
        // Old indices would be a ring that is far ahead.
        for queue in 0..QUEUES {
            self.put(rings(slot, queue) + AVAILABLE, &[0; 4]);
            self.put(rings(slot, queue) + USED, &[0; 4]);
        }
        self.set(slot, 0x70, 15);
    }

    fn describe(&self, ring: u64, index: u16, piece: (u64, u32, u16), next: u16) {
        let mut descriptor = piece.0.to_le_bytes().to_vec();
        descriptor.extend(piece.1.to_le_bytes());
        descriptor.extend(piece.2.to_le_bytes());
        descriptor.extend(next.to_le_bytes());
        self.put(ring + 16 * u64::from(index), &descriptor);
    }

    fn offer(&mut self, slot: u8, queue: u8, head: u16) {
        let ring = rings(slot, queue) + AVAILABLE;
        let next = &mut self.next[usize::from(slot)][usize::from(queue)];
        let place = ring + 4 + 2 * u64::from(*next % QUEUE);
        *next = next.wrapping_add(1);
        let index = *next;
        self.put(place, &head.to_le_bytes());
        self.put(ring + 2, &index.to_le_bytes());
    }

    /// Descriptors in a row, offered and served. Chains lie where the one before it ended, so that several can be open.
    fn chain(&mut self, slot: u8, queue: u8, pieces: &[(u64, u32, u16)]) {
        const NEXT: u16 = 1;
        let first = self.next[usize::from(slot)][usize::from(queue)].wrapping_mul(3) % QUEUE;
        for (number, piece) in pieces.iter().enumerate() {
            let index = (first + number as u16) % QUEUE;
            let (at, len, flags) = *piece;
            let more = if number + 1 < pieces.len() { NEXT } else { 0 };
            let next = (index + 1) % QUEUE;
            self.describe(rings(slot, queue), index, (at, len, flags ^ more), next);
        }
        self.offer(slot, queue, first);
        self.serve(slot);
    }

    pub fn act(&mut self, act: &Act) {
        let odd = |piece: &Piece| {
            let at = piece.at.address(DATA, SIZE as u64);
            // Only what is asked for: a "next" that nobody meant ends chains early.
            (at, piece.len.length(), u16::from(piece.flags & 7))
        };
        match act {
            Act::Register {
                slot,
                register,
                value,
            } => {
                let register = REGISTERS[usize::from(*register) % REGISTERS.len()];
                self.set(slot_of(*slot), register, *value);
            }
            Act::Write {
                offset,
                width,
                value,
            } => {
                let width = 1 << (width & 3);
                let at = VIRTIO + u64::from(*offset);
                self.bus.memory_write(at, &value.to_le_bytes()[..width]);
            }
            Act::Read { offset, width } => {
                let width = 1 << (width & 3);
                let at = VIRTIO + u64::from(*offset);
                self.bus.memory_read(at, &mut [0; 8][..width]);
            }
            Act::Descriptor {
                slot,
                queue,
                index,
                piece,
                next,
            } => {
                let ring = rings(slot_of(*slot), queue % QUEUES);
                let index = u16::from(*index) % (QUEUE + 1);
                self.describe(ring, index, odd(piece), u16::from(*next));
            }
            Act::Chain {
                slot,
                queue,
                pieces,
            } => {
                let pieces: Vec<_> = pieces.iter().map(odd).collect();
                self.chain(slot_of(*slot), queue % QUEUES, &pieces);
            }
            Act::Offer { slot, queue, head } => self.offer(slot_of(*slot), queue % QUEUES, *head),
            Act::Index { slot, queue, index } => {
                let (slot, queue) = (slot_of(*slot), queue % QUEUES);
                self.next[usize::from(slot)][usize::from(queue)] = *index;
                self.put(rings(slot, queue) + AVAILABLE + 2, &index.to_le_bytes());
            }
            Act::Serve { slot } => self.serve(slot_of(*slot)),
            Act::Start { slot, mask } => self.start(slot_of(*slot), *mask),
            Act::Data { at, bytes } => self.put(DATA + u64::from(*at) * 16, bytes),
            Act::Disk { kind, sector, len } => {
                let sector = sector.address(0, DISK / 512) / 16;
                let mut header = u32::from(*kind).to_le_bytes().to_vec();
                header.extend([0; 4]);
                header.extend(sector.to_le_bytes());
                self.put(DATA, &header);
                // What a discard says is where a write's data would be.
                let range = [&sector.to_le_bytes()[..], &[8, 0, 0, 0, kind & 1, 0, 0, 0]].concat();
                self.put(DATA + 0x1000, &range);
                let len = match kind {
                    4 => 0,
                    11 | 13 => u32::from(*len).min(16),
                    _ => u32::from(*len),
                };
                let data = (
                    DATA + 0x1000,
                    len,
                    if matches!(kind, 0 | 8) { 2 } else { 0 },
                );
                let pieces = [(DATA, 16, 0), data, (DATA + 0x100, 1, 2)];
                self.chain(BLOCK, 0, &pieces);
            }
            Act::Packet {
                op,
                ports,
                len,
                real,
                credit,
                flags,
            } => {
                // Among a few ports, so that packets meet connections.
                let mut header = Header {
                    src_cid: CID,
                    dst_cid: HOST_CID,
                    src_port: 1000 + u32::from(ports & 3),
                    dst_port: LISTENING + u32::from(ports >> 2 & 3),
                    len: u32::from(*len),
                    kind: 1,
                    op: u16::from(*op),
                    flags: u32::from(*flags),
                    buf_alloc: *credit,
                    fwd_cnt: *credit >> 8,
                };
                if ports & 0x80 != 0 {
                    header.src_cid = u64::from(*credit);
                }
                self.put(DATA + 0x4000, &header.to_bytes());
                let len = HEADER_LEN as u32 + u32::from(*real);
                self.chain(VSOCK, 1, &[(DATA + 0x4000, len, 0)]);
            }
            Act::Host { slot, what, len } => {
                let slot = match slot % SERIAL {
                    FS => SERIAL,
                    slot => slot,
                };
                self.host(slot, *what, *len);
            }
            Act::Fuse {
                opcode,
                node,
                lie,
                room,
                body,
            } => {
                let len = crate::fs::IN_HEADER + body.len();
                let mut request = (len as u32 ^ u32::from(*lie)).to_le_bytes().to_vec();
                request.extend(u32::from(*opcode).to_le_bytes());
                for word in [1, u64::from(*node), 0, 0] {
                    request.extend(word.to_le_bytes());
                }
                request.extend(body);
                self.put(DATA + 0x8000, &request);
                let room = (DATA + 0x9000, u32::from(*room), 2);
                self.chain(FS, 1, &[(DATA + 0x8000, len as u32, 0), room]);
            }
            Act::PortOut { port, bytes } => {
                self.bus.port_out(serial(*port), bytes);
                let _ = (&self.terminal).read(&mut [0; 256]);
            }
            Act::PortIn { port, width } => {
                let width = 1 + usize::from(width % 8);
                self.bus.port_in(serial(*port), &mut [0; 8][..width]);
            }
        }
        let _ = self.frames.recv(&mut [0; 64]);
    }

    /// The host's side of a device does something.
    fn host(&mut self, slot: u8, what: u8, len: u16) {
        let bytes = vec![what; usize::from(len)];
        match slot {
            NET => {
                // Whatever it is, or a frame whose checksum is there, or left out.
                let kind = what & 1;
                let header = [kind, 0, 0, 0, 0, 0, what >> 2, 0, 16, 0, 0, 0];
                let header = if what & 2 == 0 { &header[..] } else { &[] };
                let _ = self.frames.send(&[header, &bytes].concat());
            }
            VSOCK => match what % 6 {
                0 if !self.streams.is_empty() => {
                    let at = usize::from(len) % self.streams.len();
                    drop(self.streams.swap_remove(at));
                }
                1 => {
                    let (ours, theirs) = UnixStream::pair().expect("a pair");
                    ours.set_nonblocking(true).expect("a stream");
                    self.dials += 1;
                    let muxer = &mut self.vsock.lock().device.device.muxer;
                    muxer.connect(self.dials, 1000 + u32::from(len & 3), theirs.into());
                    self.streams.push(ours);
                }
                2 => self.vsock.lock().device.device.muxer.unlisten(LISTENING),
                3 => self.vsock.lock().device.device.muxer.listen(LISTENING),
                _ => {
                    if let Some(mut stream) = self.streams.last() {
                        let _ = stream.write(&bytes);
                        let _ = stream.read(&mut [0; 4096]);
                    }
                }
            },
            BALLOON => {
                let want = u64::from(len) << 12;
                self.balloon
                    .config_changed(|balloon| balloon.set_target(want));
            }
            SERIAL => {
                let port = &self.bus.serials[usize::from(what & 1)];
                port.input(&bytes[..bytes.len().min(80)]);
            }
            _ => {}
        }
        if slot < SLOTS {
            self.serve(slot);
        }
    }

    /// The end: every device can be started anew, nothing of the host's has changed its size, and no call of ours went
    /// where it should not.
    pub fn finish(mut self) -> Reached {
        let mut reached = vec![bucket(self.turned)];
        for slot in 0..SLOTS {
            self.serve(slot);
            // FEATURES_OK, DRIVER_OK, NEEDS_RESET.
            reached.push(self.register(slot, 0x70) as u8 & (4 | 8 | 64));
            let (served, violations, failures) = self.counters(slot);
            assert_eq!(failures, 0, "the host refused what slot {slot} did");
            reached.extend([bucket(served), bucket(violations)]);
        }
        {
            let muxer = &self.vsock.lock().device.device.muxer;
            let counters = muxer.counters;
            let words = [
                counters.violations,
                counters.refused,
                counters.opened,
                counters.from_guest,
                counters.to_guest,
                counters.credit_updates,
                muxer.connections() as u64,
            ];
            reached.extend(words.map(bucket));
        }
        reached.push(bucket(self.balloon.lock().device.returned));
        let end = self.bus.end.how();
        reached.push(end.map_or(0, |end| 1 + u8::from(end == crate::monitor::Ended::Reset)));
        for slot in 0..SLOTS {
            self.start(slot, 0xff);
            assert_eq!(
                self.register(slot, 0x70),
                15,
                "slot {slot} does not start anew"
            );
            self.set(slot, 0x70, 0);
            assert_eq!(self.register(slot, 0x70), 0);
        }
        for port in &self.bus.serials {
            port.finish();
        }
        assert_eq!(self.disk.metadata().expect("a disk").len(), DISK);
        let logged = self.log.metadata().expect("a log").len();
        assert!(logged < 5 << 20);
        reached.push(bucket(logged));
        reached
    }
}

fn bucket(count: u64) -> u8 {
    (64 - count.leading_zeros()) as u8
}

/// A port: the two serial ports' registers first, then the numbers as they are.
fn serial(port: u16) -> u16 {
    match port {
        0..16 => SERIAL_PORTS[usize::from(port / 8)].0 + port % 8,
        port => port,
    }
}
