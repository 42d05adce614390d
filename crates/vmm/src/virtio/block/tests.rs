//! A driver that behaves, one that doesn't, and the file as judge.

use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;
use crate::virtio::driver::{DATA, Driver, Piece, readable, writable};

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BODY: u64 = DATA + 0x1000;
const DISK: u64 = 1 << 20;

struct Bench {
    driver: Driver<Block>,
    file: std::fs::File,
}

fn bench(read_only: bool) -> Bench {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![0x55; DISK as usize]).unwrap();
    let disk = Disk::new(file.try_clone().unwrap(), read_only).unwrap();
    Bench {
        driver: Driver::new(Block::new(disk, "upper", true, false)),
        file,
    }
}

impl Bench {
    /// Makes a request; returns its status and the used length.
    fn ask(&mut self, kind: u32, sector: u64, body: &[Piece]) -> (u8, u32) {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.driver.put(HEADER, &header);
        self.driver.put(STATUS, &[0xee]);
        let mut pieces = vec![readable(HEADER, 16)];
        pieces.extend(body);
        pieces.push(writable(STATUS, 1));
        let used = self.driver.request(0, &pieces);
        (self.driver.get(STATUS, 1)[0], used)
    }

    fn violations(&self) -> u64 {
        self.driver.slot.lock().device.counters.violations
    }
}

#[test]
fn what_is_written_is_read() {
    let mut bench = bench(false);
    bench.driver.put(BODY, &[7; 1024]);
    let halves = [readable(BODY, 300), readable(BODY + 300, 724)];
    assert_eq!(bench.ask(1, 3, &halves), (0, 1));
    let mut bytes = [0; 1024];
    bench.file.read_exact_at(&mut bytes, 3 * 512).unwrap();
    assert_eq!(bytes, [7; 1024]);
    let (status, used) = bench.ask(0, 2, &[writable(BODY, 1), writable(BODY + 1, 1535)]);
    assert_eq!((status, used), (0, 1537));
    let read = bench.driver.get(BODY, 1536);
    assert!(
        read[..512].iter().all(|&byte| byte == 0x55) && read[512..].iter().all(|&byte| byte == 7)
    );
    assert_eq!(bench.ask(4, 0, &[]), (0, 1));
    assert_eq!(bench.ask(8, 0, &[writable(BODY, 20)]), (0, 21));
    assert_eq!(&bench.driver.get(BODY, 7), b"upper\0\0");
    assert_eq!(bench.violations(), 0);
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &sectors.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

/// Oracle: the file's blocks, which the host's file system counts.
#[test]
fn a_discard_is_a_hole_and_zeroes_are_zeroes() {
    let mut bench = bench(false);
    bench.file.sync_all().unwrap();
    let before = bench.file.metadata().unwrap().blocks();
    bench.driver.put(BODY, &range(0, 1024, 0));
    assert_eq!(bench.ask(11, 0, &[readable(BODY, 16)]), (0, 1));
    let after = bench.file.metadata().unwrap().blocks();
    assert!(after <= before - 1000, "{before} blocks, then {after}");
    for unmap in [0, 1] {
        bench.driver.put(BODY, &range(1100, 8, unmap));
        assert_eq!(bench.ask(13, 0, &[readable(BODY, 16)]), (0, 1));
        // Nothing to do.
        bench.driver.put(BODY, &range(1200, 0, unmap));
        assert_eq!(bench.ask(13, 0, &[readable(BODY, 16)]), (0, 1));
    }
    bench.driver.put(BODY, &range(1200, 0, 0));
    assert_eq!(bench.ask(11, 0, &[readable(BODY, 16)]), (0, 1));
    let mut all = Vec::new();
    bench.file.rewind().unwrap();
    bench.file.read_to_end(&mut all).unwrap();
    assert_eq!(all.len() as u64, DISK);
    let zeros = all.iter().filter(|&&byte| byte == 0).count();
    assert_eq!(zeros, 1032 * 512);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut bench = bench(false);
    let sectors = DISK / 512;
    // Beyond the end, over it, wrapping around, and no whole sectors.
    assert_eq!(bench.ask(0, sectors, &[writable(BODY, 512)]).0, 1);
    assert_eq!(bench.ask(0, sectors - 1, &[writable(BODY, 1024)]).0, 1);
    assert_eq!(bench.ask(0, u64::MAX / 512, &[writable(BODY, 1024)]).0, 1);
    assert_eq!(bench.ask(0, u64::MAX, &[writable(BODY, 512)]).0, 1);
    assert_eq!(bench.ask(1, 0, &[readable(BODY, 100)]).0, 1);
    bench.driver.put(BODY, &range(sectors - 1, 2, 0));
    assert_eq!(bench.ask(11, 0, &[readable(BODY, 16)]).0, 1);
    bench.driver.put(BODY, &range(u64::MAX, 2, 0));
    assert_eq!(bench.ask(13, 0, &[readable(BODY, 16)]).0, 1);
    bench.driver.put(BODY, &range(0, 2, 4));
    assert_eq!(bench.ask(13, 0, &[readable(BODY, 16)]).0, 2);
    assert_eq!(bench.ask(11, 0, &[]).0, 1);
    assert_eq!(bench.ask(99, 0, &[]).0, 2);
    // No header, half a header, no status, memory that is not there.
    assert_eq!(bench.driver.request(0, &[writable(STATUS, 1)]), 0);
    let half = [readable(HEADER, 8), writable(STATUS, 1)];
    assert_eq!(bench.driver.request(0, &half), 0);
    assert_eq!(bench.driver.request(0, &[readable(HEADER, 16)]), 0);
    let outside = [
        readable(HEADER, 16),
        writable(u64::MAX - 100, 512),
        writable(STATUS, 1),
    ];
    assert_eq!(bench.driver.request(0, &outside), 0);
    assert!(bench.violations() >= 10);
    assert_eq!(bench.file.metadata().unwrap().len(), DISK);
}

/// `opt_io_size` of `struct virtio_blk_config`, in sectors.
#[test]
fn a_read_only_disk_says_how_it_is_best_read() {
    for read_only in [true, false] {
        let bench = bench(read_only);
        let device = &bench.driver.slot.lock().device;
        assert_eq!(device.features() & (1 << 10) != 0, read_only);
        let size: [u8; 4] = device.config()[28..32].try_into().unwrap();
        assert_eq!(u32::from_le_bytes(size), if read_only { 2048 } else { 0 });
    }
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut bench = bench(true);
    assert_ne!(bench.driver.slot.lock().device.features() & (1 << 5), 0);
    assert_eq!(bench.ask(1, 0, &[readable(BODY, 512)]).0, 1);
    bench.driver.put(BODY, &range(0, 8, 0));
    assert_eq!(bench.ask(11, 0, &[readable(BODY, 16)]).0, 2);
    let mut first = [0; 512];
    bench.file.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, [0x55; 512]);
}
