//! What the guest does: descriptors, chains, registers and packets that no driver sends, to each device.

use super::{Bus, DONE, Op};

/// Slots that are attacked: as many as a container's VM has, and one that is not there.
const MMIO_SLOTS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// The functions of QEMU's that `gourd-vmm` serves, vsock and shared folders, behind two disks and a network. QEMU's own devices are QEMU's
/// to defend (7.2's disks can be brought to wait for ever in its main loop, which stops that VM and nobody else).
const PCI_SLOTS: [u32; 2] = [4, 5];
/// Queues of each.
const QUEUES: u16 = 3;
/// Descriptors of a queue.
const SIZE: u16 = 16;

/// What devices are shown. Everything of one device lies in a piece of its own.
const SHOWN: u32 = 0x100_0000;
const PIECE: u32 = 0x10_0000;
/// In a piece: one table of descriptors for all queues, their rings, then indirect tables and buffers.
const AVAILABLE: u32 = 0x1000;
const USED: u32 = 0x2000;
const RINGS: u32 = 0x4000;
const INDIRECT: u32 = 0x2_0000;
const DATA: u32 = 0x4_0000;

const SLOTS: u32 = 0xd000_0000;
/// Where PCI functions' registers are put: below the I/O APIC, above the window for configuration.
const FUNCTIONS: u32 = 0xe000_0000;

/// Chains of each message.
const VARIANTS: u16 = 6;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const TABLE: u16 = 4;

/// A descriptor: address, bytes, flags, next.
type Descriptor = (u64, u32, u16, u16);

/// A device, and where its part of memory is.
#[derive(Clone, Copy)]
struct Device {
    bus: Bus,
    registers: u32,
    piece: u32,
}

/// All of it.
pub fn list(bus: Bus) -> Vec<Op> {
    let mut list = Vec::new();
    say(&mut list, "the attack begins\r\n");
    for &slot in bus.slots() {
        let device = Device::new(bus, slot);
        if bus == Bus::Pci {
            place(&mut list, slot, device.registers);
        }
        device.be_attacked(&mut list, slot);
    }
    if bus == Bus::Mmio {
        say(&mut list, "wild accesses\r\n");
        wild_accesses(&mut list);
    }
    say(&mut list, "random stores\r\n");
    random(&mut list, bus);
    say(&mut list, &format!("{DONE}\r\n"));
    // The keyboard controller's reset, then the chipset's: one of them is there.
    list.extend([Op::Out8(0x64, 0xfe), Op::Out8(0xcf9, 6), Op::End]);
    list
}

fn say(list: &mut Vec<Op>, words: &str) {
    list.extend(words.bytes().map(|byte| Op::Out8(0x3f8, byte)));
}

/// Gives the function of a slot of PCI's first bus the registers that virtio has behind its fifth base address (QEMU's
/// `virtio-pci`, without reading the capabilities that say so), and the right to read and write memory.
fn place(list: &mut Vec<Op>, slot: u32, at: u32) {
    for (register, value) in [(0x20, at), (0x24, 0), (0x04, 6)] {
        let address = 1 << 31 | slot << 11 | register;
        list.extend([Op::Out32(0xcf8, address), Op::Out32(0xcfc, value)]);
    }
}

impl Bus {
    fn slots(self) -> &'static [u32] {
        match self {
            Bus::Mmio => &MMIO_SLOTS,
            Bus::Pci => &PCI_SLOTS,
        }
    }
}

impl Device {
    fn new(bus: Bus, slot: u32) -> Device {
        Device {
            bus,
            registers: match bus {
                Bus::Mmio => SLOTS + slot * 0x1000,
                Bus::Pci => FUNCTIONS + slot * 0x1_0000,
            },
            piece: SHOWN + slot * PIECE,
        }
    }

    fn available(self, queue: u16) -> u32 {
        self.piece + u32::from(queue) * RINGS + AVAILABLE
    }

    fn used(self, queue: u16) -> u32 {
        self.piece + u32::from(queue) * RINGS + USED
    }

    fn status(self, list: &mut Vec<Op>, status: u8) {
        list.push(match self.bus {
            Bus::Mmio => Op::Store32(self.registers + 0x70, status.into()),
            Bus::Pci => Op::Store8(self.registers + 0x14, status),
        });
    }

    /// Takes the features that the device offers, but for those that a mask takes away.
    fn features(self, list: &mut Vec<Op>, half: u32, mask: u32) {
        let (select, offered, taken_select, taken) = match self.bus {
            Bus::Mmio => (0x14, 0x10, 0x24, 0x20),
            Bus::Pci => (0x00, 0x04, 0x08, 0x0c),
        };
        list.extend([
            Op::Store32(self.registers + select, half),
            Op::Store32(self.registers + taken_select, half),
            Op::Copy(self.registers + offered, mask, self.registers + taken),
        ]);
    }

    /// Sets a queue up: where its three parts are, and how many descriptors it has.
    fn queue(self, list: &mut Vec<Op>, queue: u16, size: u16, parts: [u64; 3]) {
        let at = self.registers;
        let (first, step) = match self.bus {
            Bus::Mmio => {
                list.push(Op::Store32(at + 0x30, queue.into()));
                list.push(Op::Store32(at + 0x38, size.into()));
                (0x80, 0x10)
            }
            Bus::Pci => {
                list.push(Op::Store16(at + 0x16, queue));
                list.push(Op::Store16(at + 0x18, size));
                (0x20, 0x08)
            }
        };
        for (number, part) in (0..).zip(parts) {
            let register = at + first + number * step;
            list.push(Op::Store32(register, part as u32));
            list.push(Op::Store32(register + 4, (part >> 32) as u32));
        }
        list.push(match self.bus {
            Bus::Mmio => Op::Store32(at + 0x44, 1),
            Bus::Pci => Op::Store16(at + 0x1c, 1),
        });
    }

    fn notify(self, list: &mut Vec<Op>, queue: u16) {
        list.push(match self.bus {
            Bus::Mmio => Op::Store32(self.registers + 0x50, queue.into()),
            Bus::Pci => Op::Store16(self.registers + 0x3000 + 4 * u32::from(queue), queue),
        });
    }

    /// A reset, and all that a driver does to start.
    fn start(self, list: &mut Vec<Op>) {
        for step in [0, 3] {
            self.status(list, step);
        }
        self.features(list, 0, u32::MAX);
        self.features(list, 1, u32::MAX);
        self.status(list, 11);
        for queue in 0..QUEUES {
            let rings = [self.available(queue), self.used(queue)];
            let parts = [self.piece, rings[0], rings[1]].map(u64::from);
            self.queue(list, queue, SIZE, parts);
            list.extend(rings.map(|ring| Op::Store32(ring, 0)));
        }
        self.status(list, 15);
    }

    fn describe(self, list: &mut Vec<Op>, at: u32, number: u32, descriptor: Descriptor) {
        let (address, len, flags, next) = descriptor;
        let words = [
            address as u32,
            (address >> 32) as u32,
            len,
            u32::from(flags) | u32::from(next) << 16,
        ];
        for (word, value) in (0..).zip(words) {
            list.push(Op::Store32(at + 16 * number + 4 * word, value));
        }
    }

    /// Offers these heads at once, says so, and waits a while.
    fn offer(self, list: &mut Vec<Op>, queue: u16, heads: &[u16], index: u16) {
        let ring = self.available(queue);
        let first = index.wrapping_sub(heads.len() as u16);
        for (number, head) in (0..).zip(heads) {
            let place = u32::from(first.wrapping_add(number) % SIZE);
            list.push(Op::Store16(ring + 4 + 2 * place, *head));
        }
        list.push(Op::Store16(ring + 2, index));
        self.notify(list, queue);
        list.push(Op::Wait(self.used(queue) + 2, index));
    }

    /// From a fresh start: these descriptors, and these heads for each queue.
    fn attack(self, list: &mut Vec<Op>, descriptors: &[Descriptor], heads: &[u16], index: u16) {
        self.start(list);
        for (number, descriptor) in (0..).zip(descriptors) {
            self.describe(list, self.piece, number, *descriptor);
        }
        for queue in 0..QUEUES {
            self.offer(list, queue, heads, index);
        }
    }

    /// As [`Device::attack`], of one chain.
    fn chain(self, list: &mut Vec<Op>, pieces: &[(u64, u32, u16)]) {
        self.attack(list, &chained(pieces), &[0], 1);
    }

    /// Each act is announced: should the guest stand still, the console's log says where.
    fn be_attacked(self, list: &mut Vec<Op>, slot: u32) {
        let data = u64::from(self.piece + DATA);
        let act = |list: &mut Vec<Op>, name: &str| say(list, &format!("slot {slot}: {name}\r\n"));
        act(list, "buffers");
        self.wild_buffers(list, data);
        act(list, "chains");
        self.wild_chains(list, data);
        act(list, "tables");
        self.wild_tables(list, data);
        act(list, "set-up");
        self.wild_set_up(list);
        act(list, "messages");
        for (number, bytes) in messages().iter().enumerate() {
            if number % 10 == 0 {
                self.start(list);
            }
            self.message(list, bytes, data, (number % 10) as u16 * VARIANTS);
        }
    }

    fn wild_buffers(self, list: &mut Vec<Op>, data: u64) {
        let registers = u64::from(self.registers);
        for (address, len) in [
            (u64::MAX - 15, 32),
            (u64::MAX, 1),
            (1 << 63, 4096),
            (1 << 40, 4096),
            // The device's own registers, the interrupt controllers', the rings.
            (registers, 0x1000),
            (0xfec0_0000, 0x1000),
            (0xfee0_0000, 0x1000),
            (u64::from(self.piece), 0x4000),
            (u64::from(self.used(0)), 0x1000),
            // Over memory's end, wherever that is.
            (0x7ff_f000, 0x8000_0000),
            (data, u32::MAX),
            (data, 0x8000_0000),
            (data, 0),
            (data, 1),
            (data, 11),
            (data, 43),
        ] {
            for flags in [0, WRITE] {
                self.chain(list, &[(address, len, flags)]);
                // Behind something that may be a header, before something that may be a status.
                let pieces = [(data, 16, 0), (address, len, flags), (data + 64, 1, WRITE)];
                self.chain(list, &pieces);
            }
        }
    }

    fn wild_chains(self, list: &mut Vec<Op>, data: u64) {
        let loops: [&[Descriptor]; 5] = [
            &[(data, 16, NEXT, 0)],
            &[(data, 16, NEXT, 1), (data, 16, NEXT | WRITE, 0)],
            &[(data, u32::MAX, NEXT, 1), (data, u32::MAX, NEXT, 0)],
            &[(data, 16, NEXT, SIZE)],
            &[(data, 16, NEXT, u16::MAX)],
        ];
        for descriptors in loops {
            self.attack(list, descriptors, &[0], 1);
        }
        // Together more bytes than 32 bits can say; writable ones before readable ones.
        let many: Vec<_> = (0..SIZE).map(|_| (data, u32::MAX / 8, 0)).collect();
        self.chain(list, &many);
        let turns: Vec<_> = (0..SIZE).map(|n| (data, 64, n % 2 * WRITE)).collect();
        self.chain(list, &turns);
        let some = [(data, 512, WRITE, 0), (data + 512, 16, 0, 0)];
        // Heads that are none, one for all, and an index that is far ahead, goes back, or wraps.
        self.attack(list, &some, &[SIZE, u16::MAX, 0x8000, 17], 4);
        self.attack(list, &some, &[0; SIZE as usize], SIZE);
        for index in [0x8000, u16::MAX, SIZE + 1, 1000] {
            self.attack(list, &some, &[0, 1], index);
        }
        self.offer(list, 0, &[0], 0);
        self.offer(list, 1, &[1], u16::MAX);
    }

    /// Indirect tables.
    fn wild_tables(self, list: &mut Vec<Op>, data: u64) {
        let at = self.piece + INDIRECT;
        let table = u64::from(at);
        let entries: [Descriptor; 4] = [
            (table, 64, TABLE, 0),
            (data, 16, NEXT, 1),
            (data, 16, NEXT, 2),
            (data, u32::MAX, NEXT | WRITE, 40_000),
        ];
        for (number, entry) in (0..).zip(entries) {
            self.describe(list, at, number, entry);
        }
        for descriptor in [
            (table, 64, TABLE, 0),
            (table + 16, 48, TABLE, 0),
            (table, 15, TABLE, 0),
            (table, 17, TABLE, 0),
            (table, 0, TABLE, 0),
            (table + 1, 32, TABLE, 0),
            (table, u32::MAX, TABLE, 0),
            (table, 64, TABLE | NEXT, 0),
            (table, 64, TABLE | WRITE, 0),
            (u64::MAX - 15, 64, TABLE, 0),
            (u64::from(self.registers), 64, TABLE, 0),
            (u64::from(self.piece), 256, TABLE, 0),
        ] {
            self.attack(list, &[descriptor], &[0], 1);
        }
    }

    /// Queues that can't be, resets in the middle, registers while it runs.
    fn wild_set_up(self, list: &mut Vec<Op>) {
        let table = u64::from(self.piece);
        let good = [table, self.available(0).into(), self.used(0).into()];
        for (size, parts) in [
            (0, good),
            (3, good),
            (0x8000, good),
            (u16::MAX, good),
            (SIZE, [0, 0, 0]),
            (SIZE, [u64::MAX, u64::MAX, u64::MAX]),
            (SIZE, [u64::MAX - 15, good[1], good[2]]),
            (SIZE, [good[0], u64::MAX - 1, good[2]]),
            (SIZE, [good[0], good[1], u64::MAX - 3]),
            (SIZE, [good[0] + 1, good[1] + 1, good[2] + 1]),
            (SIZE, [good[0]; 3]),
            (SIZE, [self.registers.into(); 3]),
            (SIZE, [good[0], good[1], 0xfee0_0000]),
            (256, [0x7ff_f000, 0x7ff_f000, 0x7ff_ff00]),
        ] {
            // An odd place ends a VM on QEMU, and so comes last there, in `random`.
            if self.bus == Bus::Pci && parts[0] % 16 == 1 {
                continue;
            }
            for status in [0, 3] {
                self.status(list, status);
            }
            self.features(list, 0, 0);
            self.features(list, 1, 1);
            self.status(list, 11);
            for queue in 0..QUEUES {
                self.queue(list, queue, size, parts);
            }
            self.status(list, 15);
            for queue in 0..QUEUES + 1 {
                self.notify(list, queue);
            }
        }
        // Features that were not offered; a start without any.
        for (mask, steps) in [(0, [0, 1, 15]), (u32::MAX, [0, 4, 7])] {
            for step in steps {
                self.status(list, step);
            }
            self.features(list, 0, mask);
            self.notify(list, 0);
        }
        let data = u64::from(self.piece + DATA);
        for pieces in [
            &[(data, 16, 0), (data + 64, 0x2_0000, WRITE)][..],
            &[(data, 0x2_0000, 0), (data, 1, WRITE)],
        ] {
            self.start(list);
            for (number, descriptor) in (0..).zip(chained(pieces)) {
                self.describe(list, self.piece, number, descriptor);
            }
            for queue in [0, 1] {
                let ring = self.available(queue);
                list.push(Op::Store32(ring + 4, 0));
                list.push(Op::Store16(ring + 2, 1));
                self.notify(list, queue);
            }
            // While it may be at it.
            self.queue(list, 0, SIZE, [0; 3]);
            self.status(list, 0);
        }
    }

    /// Bytes that may mean something to it, whole and cut, with room for an answer and with too little: [`VARIANTS`] chains, the first of which is
    /// the queues' `index`th.
    fn message(self, list: &mut Vec<Op>, bytes: &[u8], data: u64, index: u16) {
        for (word, four) in (0..).zip(bytes.chunks(4)) {
            let mut value = [0; 4];
            value[..four.len()].copy_from_slice(four);
            list.push(Op::Store32(
                data as u32 + 4 * word,
                u32::from_le_bytes(value),
            ));
        }
        let len = bytes.len() as u32;
        let mut variants: Vec<Vec<(u64, u32, u16)>> = Vec::new();
        for (len, room) in [
            (len, 4096),
            (len, 0),
            (len, 7),
            (len / 2, 4096),
            (len + 4096, 16),
        ] {
            let room = (data + 0x8000, room, WRITE);
            variants.push(vec![(data, len, 0), room, (data + 0x1_8000, 1, WRITE)]);
        }
        // In pieces of one byte, as far as the table goes.
        variants.push(
            (0..u64::from(SIZE))
                .map(|byte| (data + byte, 1, 0))
                .collect(),
        );
        for (number, pieces) in (index + 1..).zip(&variants) {
            for (place, descriptor) in (0..).zip(chained(pieces)) {
                self.describe(list, self.piece, place, descriptor);
            }
            for queue in 0..QUEUES {
                self.offer(list, queue, &[0], number);
            }
        }
    }
}

/// In a row.
fn chained(pieces: &[(u64, u32, u16)]) -> Vec<Descriptor> {
    let last = pieces.len().saturating_sub(1);
    let descriptor = |(number, &(address, len, flags)): (usize, &(u64, u32, u16))| {
        let more = if number < last { NEXT } else { 0 };
        (address, len, flags | more, number as u16 + 1)
    };
    pieces.iter().enumerate().map(descriptor).collect()
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Requests of all the kinds of devices that there are: each is nonsense to the others.
fn messages() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    // Blocks (virtio 1.2, section 5.2.6): type, sector.
    for kind in [0, 1, 4, 8, 11, 13, 99] {
        for sector in [0, 8, u64::MAX, u64::MAX / 512, 1 << 54] {
            let mut request = bytes(&[kind, sector]);
            // Segments to discard: sector, how many, flags.
            request.extend(bytes(&[sector, u64::from(u32::MAX) | 1 << 32]));
            all.push(request);
        }
    }
    // Vsock (section 5.10.6): CIDs, ports, length, type and operation, flags and credit, count.
    for (cid, ports) in [(2, 1), (2, 0x400), (0, 1), (1, 7), (99, 7), (u64::MAX, 0)] {
        for operation in [0, 1, 2, 3, 4, 5, 6, 7, 77] {
            let mut packet = bytes(&[3, cid, 1000 | ports << 32]);
            for word in [u32::MAX, 1 | operation << 16, 3, 0, u32::MAX] {
                packet.extend(word.to_le_bytes());
            }
            all.push(packet);
        }
    }
    // FUSE (`linux/fuse.h`): length and operation, unique, node, who; then arguments of any kind.
    let greeting = (
        26,
        1,
        vec![7 | 38 << 32, 1 << 20 | u64::from(u32::MAX) << 32],
    );
    let wild = (1..50).map(|operation| (operation, 1 + operation % 3, vec![u64::MAX; 6]));
    let names =
        (1..14).map(|operation| (operation, 1, vec![u64::from_le_bytes(*b"../..\0\0\0"); 6]));
    for (operation, node, arguments) in std::iter::once(greeting).chain(wild).chain(names) {
        let len = 40 + 8 * arguments.len() as u64;
        let mut request = bytes(&[len | operation << 32, 1, node, 0, 0]);
        request.extend(bytes(&arguments));
        all.push(request);
    }
    all
}

/// Addresses and ports where nothing is, or not what is meant.
fn wild_accesses(list: &mut Vec<Op>) {
    for slot in 0..24 {
        let at = SLOTS + slot * 0x1000;
        for register in (0..0x140).step_by(4) {
            list.extend([
                Op::Load32(at + register),
                Op::Load32(at + register + 1),
                Op::Store32(at + register, u32::MAX),
                Op::Store16(at + register + 2, u16::MAX),
                Op::Store8(at + register + 3, u8::MAX),
            ]);
        }
        list.push(Op::Store32(at + 0x70, 0));
        // Over the border of a slot.
        list.extend([Op::Load32(at + 0xffe), Op::Store32(at + 0xffe, u32::MAX)]);
    }
    for at in [
        0xc000_0000,
        0xcfff_fffc,
        0xdfff_f000,
        0xf000_0000,
        0xfed0_0000,
    ] {
        list.extend([Op::Load32(at), Op::Store32(at, u32::MAX), Op::Store8(at, 1)]);
    }
    for port in (0..0x700).chain([0xcf8, 0xcfc, 0xffff]) {
        // Nothing that means a reset or sleep, and no noise on the console.
        if !(0x3f8..0x400).contains(&port) {
            list.extend([Op::In32(port), Op::Out8(port, 0x5a)]);
        }
        if !(0x3f4..0x400).contains(&port) {
            list.push(Op::Out32(port, 0x5a5a_5a5a));
        }
    }
}

/// A few thousand stores to registers and rings, from a fixed seed.
fn random(list: &mut Vec<Op>, bus: Bus) {
    const COUNT: u32 = 4000;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        // xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..COUNT {
        let slot = bus.slots()[next() as usize % bus.slots().len()];
        let device = Device::new(bus, slot);
        let value = next() as u32;
        let registers = device.registers
            + match bus {
                Bus::Mmio => (next() as u32 % 0x110) & !3,
                Bus::Pci => (next() as u32 % 0x38) & !1,
            };
        match next() % 8 {
            0 => device.start(list),
            1 | 2 => list.push(Op::Store32(registers, value)),
            3 => list.push(Op::Store16(registers, value as u16)),
            4 => device.notify(list, value as u16 % (QUEUES + 1)),
            _ => {
                let at = device.piece + ((next() as u32 % 0xc000) & !3);
                // Small numbers are more often something.
                let value = if next() % 2 == 0 { value % 64 } else { value };
                list.push(Op::Store32(at, value));
            }
        }
    }
}
