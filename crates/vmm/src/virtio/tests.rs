//! Every device against a guest without manners: bytes over the rings, writes to any register, the committed corpus.

use proptest::prelude::*;

use super::balloon::Balloon;
use super::block::{Block, Disk};
use super::driver::{DATA, Driver, hostile, readable, wild_registers, writable};
use super::entropy::Entropy;
use super::mmio::{Registers, Slot, State, Unfit};
use super::net::Net;

const DISK: u64 = 64 * 1024;

fn block() -> (Block, std::fs::File) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(DISK).unwrap();
    let disk = Disk::new(file.try_clone().unwrap(), false).unwrap();
    (Block::new(disk, "disk", true, true), file)
}

/// A network device, and the other end of its link with some frames in it.
fn net() -> (Net, std::os::unix::net::UnixDatagram) {
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    for (kind, len) in [(0, 60), (1, 9000)] {
        // Its checksum is left out, or not.
        let frame = [
            &[kind, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0][..],
            &vec![2; len],
        ]
        .concat();
        ours.send(&frame).unwrap();
    }
    (Net::new(theirs.into(), [2, 0, 0, 0, 0, 1], 9000), ours)
}

fn all(bytes: &[u8]) {
    let (device, file) = block();
    hostile(device, bytes);
    assert_eq!(file.metadata().unwrap().len(), DISK);
    hostile(Balloon::new(true), bytes);
    hostile(Entropy::default(), bytes);
    let (device, _link) = net();
    hostile(device, bytes);
}

/// `tests/corpus/virtio`: the bytes of a descriptor table and an available ring, here put under every queue, then those
/// of the buffers after the queues' pages.
#[test]
fn corpus() {
    const RING: usize = 0x440;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/virtio");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let (ring, buffers) = bytes.split_at(bytes.len().min(RING));
        let mut page = ring.to_vec();
        page.resize(0x1000, 0);
        all(&[&page, &page, &page, buffers].concat());
        replayed += 1;
    }
    assert!(replayed >= 19, "{replayed} files in {folder}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_rings(bytes in proptest::collection::vec(any::<u8>(), 0..0x3000)) {
        all(&bytes);
    }

    /// Rings that say that there is something, over descriptors that are nearly right.
    #[test]
    fn any_descriptors(
        index in 1u16..20,
        heads in proptest::collection::vec(0u16..20, 16),
        table in proptest::collection::vec((0u64..0x20000, 0u32..0x3000, 0u16..8, 0u16..18), 16),
    ) {
        let mut ring = Vec::new();
        for (at, len, flags, next) in table {
            ring.extend(at.to_le_bytes());
            ring.extend(len.to_le_bytes());
            ring.extend(flags.to_le_bytes());
            ring.extend(next.to_le_bytes());
        }
        ring.resize(0x402, 0);
        ring.extend(index.to_le_bytes());
        ring.extend(heads.iter().flat_map(|head| head.to_le_bytes()));
        ring.resize(0x1000, 0);
        all(&[ring.clone(), ring.clone(), ring].concat());
    }

    #[test]
    fn any_registers(writes in proptest::collection::vec((any::<u16>(), any::<u64>(), any::<u8>()), 0..64)) {
        wild_registers(block().0, &writes);
        wild_registers(Balloon::new(true), &writes);
        wild_registers(Entropy::default(), &writes);
    }
}

#[test]
fn random_numbers_come_and_are_not_all_the_same() {
    let mut driver = Driver::new(Entropy::default());
    let used = driver.request(0, &[writable(DATA, 10), writable(DATA + 10, 54)]);
    assert_eq!(used, 64);
    let bytes = driver.get(DATA, 64);
    assert!(bytes.iter().any(|&byte| byte != bytes[0]));
    assert_eq!(driver.request(0, &[readable(DATA, 64)]), 0);
    // More than one request gets.
    assert_eq!(driver.request(0, &[writable(DATA, 0x8000)]), 4096);
}

/// Oracle: the bytes, which are zeros once the host has taken a page.
#[test]
fn inflated_and_reported_pages_go_back() {
    let mut driver = Driver::new(Balloon::new(true));
    driver
        .slot
        .config_changed(|balloon| balloon.set_target(1 << 20));
    assert_eq!(driver.register(0x100), 256);
    driver.put(0x40000, &[9; 0x4000]);
    let pages: Vec<u8> = [0x40u32, 0x41, 0x43]
        .iter()
        .flat_map(|page| page.to_le_bytes())
        .collect();
    driver.put(DATA, &pages);
    driver.request(0, &[readable(DATA, 12)]);
    assert_eq!(driver.get(0x41fff, 1), [0]);
    assert_eq!(driver.get(0x42fff, 1), [9]);
    assert_eq!(driver.get(0x43000, 1), [0]);
    driver.request(2, &[writable(0x42000, 0x1000)]);
    assert_eq!(driver.get(0x42fff, 1), [0]);
    // Half a page, and pages that there are not.
    driver.request(2, &[writable(0x42000, 0x800)]);
    driver.put(DATA, &u32::MAX.to_le_bytes());
    driver.request(0, &[readable(DATA, 4)]);
    let inner = driver.slot.lock();
    assert_eq!(inner.device.returned, 4 * 4096);
    assert_eq!(inner.device.counters.violations, 2);
}

#[test]
fn a_driver_that_takes_what_is_not_offered_is_refused() {
    let driver = Driver::new(Entropy::default());
    driver.set(0x70, 0);
    driver.set(0x70, 3);
    driver.set(0x24, 0);
    driver.set(0x20, u32::MAX);
    driver.set(0x24, 1);
    driver.set(0x20, 1);
    driver.set(0x70, 3 | 8);
    assert_eq!(driver.register(0x70), 3);
    // It goes on regardless: the device does not.
    driver.set(0x70, 3 | 4);
    assert_eq!(driver.register(0x70) & 64, 64);
}

/// Sixteen times what Linux sends is served, more is not looked at: the thread that does it has other things to do.
#[test]
fn a_balloons_chain_is_bounded() {
    let mut driver = Driver::new(Balloon::new(true));
    // All of one page: one range each.
    let numbers = [0x80u32.to_le_bytes(), 0x82u32.to_le_bytes()].concat();
    driver.put(DATA, &numbers.repeat(2048));
    driver.request(
        0,
        &[readable(DATA, 0x3000), readable(DATA + 0x3000, 0x1000)],
    );
    assert_eq!(driver.slot.lock().device.returned, 4096 * 4096);
    assert_eq!(driver.slot.counters().violations, 0);
    for queue in [0, 1] {
        driver.request(queue, &[readable(DATA, 0x4000), readable(DATA, 4)]);
    }
    // In a table beside the ring, where more has room than in the ring: one page, many times.
    let mut table = Vec::new();
    for index in 0..129u16 {
        table.extend(0x80000u64.to_le_bytes());
        table.extend(0x1000u32.to_le_bytes());
        table.extend((if index < 128 { 3u16 } else { 2 }).to_le_bytes());
        table.extend((index + 1).to_le_bytes());
    }
    driver.put(DATA, &table);
    driver.indirect(2, DATA, table.len() as u32);
    assert_eq!(driver.used(2), [(0, 0)]);
    assert_eq!(driver.slot.counters().violations, 3);
    assert_eq!(driver.slot.lock().device.returned, 4096 * 4096);
    // After each others get their turn.
    for head in 0..3 {
        driver.put(DATA, &[0x80, 0, 0, 0]);
        driver.offer(0, head, &[readable(DATA, 4)]);
    }
    assert!(driver.slot.serve(&driver.mem));
    assert_eq!(driver.used(0).len(), 3);
}

#[test]
fn descriptors_of_nothing_are_counted_too() {
    let mut driver = Driver::new(Entropy::default());
    let mut table = Vec::new();
    for index in 0..1025u16 {
        table.extend(DATA.to_le_bytes());
        table.extend((if index < 1024 { 0u32 } else { 4 }).to_le_bytes());
        table.extend((if index < 1024 { 3u16 } else { 2 }).to_le_bytes());
        table.extend((index + 1).to_le_bytes());
    }
    driver.put(DATA, &table);
    driver.indirect(0, DATA, table.len() as u32);
    assert_eq!(driver.used(0), [(0, 0)]);
    assert_eq!(driver.slot.counters().violations, 1);
}

/// Section 4.2.2: what was written to `QueueReady` is read, and a driver that takes a queue away waits for that.
#[test]
fn a_queue_is_stopped_while_the_device_runs() {
    let mut driver = Driver::new(Entropy::default());
    driver.set(0x30, 0);
    assert_eq!(driver.register(0x44), 1);
    driver.set(0x44, 0);
    assert_eq!(driver.register(0x44), 0);
    driver.offer(0, 0, &[writable(DATA, 64)]);
    assert!(driver.used(0).is_empty());
    // Where it is can't be said while the device runs: it begins again with a reset.
    driver.set(0x44, 1);
    assert_eq!(driver.register(0x44), 0);
    driver.negotiate();
    driver.set_up(0, 16);
    driver.set(0x70, 15);
    assert_eq!(driver.used(0), [(0, 64)]);
}

#[test]
fn a_queue_of_a_size_that_none_has_is_never_ready() {
    let mut driver = Driver::new(Entropy::default());
    for size in [0, 3, 128, 0x1_0010] {
        driver.negotiate();
        driver.set_up(0, size);
        assert_eq!(driver.register(0x44), 0, "{size}");
        driver.set_up(0, 16);
        assert_eq!(driver.register(0x44), 0, "{size}");
        driver.set(0x70, 15);
        driver.slot.serve(&driver.mem);
        assert_eq!(driver.register(0x70), 15);
    }
    assert_eq!(driver.slot.counters().violations, 4);
    assert_eq!(driver.slot.trouble().read().unwrap(), 1, "told once");
    driver.negotiate();
    driver.set_up(0, 16);
    driver.set(0x70, 15);
    assert_eq!(driver.request(0, &[writable(DATA, 8)]), 8);
}

/// A ring of far more than it has, one outside of memory; and one to which was added while it was asked not to kick.
#[test]
fn rings_without_sense_are_told() {
    let driver = Driver::new(Entropy::default());
    driver.put(0x1402, &1000u16.to_le_bytes());
    driver.slot.serve(&driver.mem);
    assert_eq!(driver.slot.counters().violations, 1);
    assert_eq!(driver.slot.trouble().read().unwrap(), 1);
    driver.slot.serve(&driver.mem);
    assert!(driver.slot.trouble().read().is_err(), "told again");
    let (device, _link) = net();
    let driver = Driver::new(device);
    driver.put(0x1402, &1000u16.to_le_bytes());
    driver.put(0x2402, &1000u16.to_le_bytes());
    driver.slot.serve(&driver.mem);
    assert_eq!(driver.slot.counters().violations, 2);
    let driver = Driver::new(Entropy::default());
    driver.negotiate();
    driver.set_up(0, 16);
    driver.set(0x80, u32::MAX << 4);
    driver.set(0x70, 15);
    assert_eq!(driver.register(0x70) & 64, 64);
    assert_eq!(driver.slot.counters().violations, 1);
}

/// By way of JSON, as it would be kept: the driver notices nothing.
#[test]
fn a_device_goes_on_where_another_stopped() {
    let mut driver = Driver::new(Balloon::new(true));
    driver
        .slot
        .config_changed(|balloon| balloon.set_target(1 << 20));
    driver.put(DATA, &0x80u32.to_le_bytes());
    driver.request(0, &[readable(DATA, 4)]);
    driver.request(0, &[readable(DATA, 4)]);
    driver.set(0x104, 7);
    let text = serde_json::to_string(&driver.slot.state()).unwrap();
    let state: State = serde_json::from_str(&text).unwrap();
    let slot = Slot::new(Balloon::new(true)).unwrap();
    slot.restore(&state, &driver.mem).unwrap();
    assert_eq!(slot.state(), state);
    let mut driver = driver.moved(slot);
    assert_eq!(
        [0x70, 0x60, 0xfc, 0x100, 0x104].map(|at| driver.register(at)),
        [15, state.interrupt_status, 1, 256, 7]
    );
    driver.request(0, &[readable(DATA, 4)]);
    assert_eq!(driver.slot.lock().device.returned, 4096);
    // Of another device; of memory that is not there.
    let other = Slot::new(Entropy::default()).unwrap();
    assert_eq!(other.restore(&state, &driver.mem), Err(Unfit));
    let slot = Slot::new(Balloon::new(true)).unwrap();
    let mut beyond = state.clone();
    beyond.queues[0].used = 1 << 40;
    assert_eq!(slot.restore(&beyond, &driver.mem), Err(Unfit));
    assert_eq!(slot.state().status, 0);
}
