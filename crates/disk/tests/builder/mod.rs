//! A small qcow2 image with one of everything that the reader parses, the same bytes each time.

use std::io::Write;
use std::ops::Range;

/// Bytes of the disk: 14 clusters and a part of one.
pub const DISK: usize = 14 * 4096 + 512;
const L1_AT: u64 = 1;
const L2_AT: u64 = 2;

fn cluster(extended: bool) -> usize {
    // Extended L2 entries need 16 KiB.
    if extended { 16 << 10 } else { 4 << 10 }
}

/// Where the L1 table and the first L2 entries lie in the file.
pub fn tables(extended: bool) -> Range<u64> {
    let size = cluster(extended) as u64;
    let entries = 16 * if extended { 16 } else { 8 };
    size * L1_AT..size * L2_AT + entries
}

/// The image, and the disk that is in it.
pub fn image(extended: bool) -> (Vec<u8>, Vec<u8>) {
    let size = cluster(extended);
    let mut disk = vec![0u8; DISK.next_multiple_of(size)];
    let mut file = vec![0u8; 3 * size];
    header(&mut file, extended);
    file[size..size + 8].copy_from_slice(&((1 << 63) | (L2_AT * size as u64)).to_be_bytes());
    let clusters = disk.len() / size;
    for number in 0..clusters {
        let (entry, bitmap) = match number % 4 {
            // Data, of which every second 32nd counts in an extended image.
            0 => {
                let at = file.len();
                file.resize(at + size, 0x30 + number as u8);
                for (part, bytes) in disk[number * size..][..size]
                    .chunks_mut(size / 32)
                    .enumerate()
                {
                    if !extended || part % 2 == 0 {
                        bytes.fill(0x30 + number as u8);
                    }
                }
                (
                    1 << 63 | at as u64,
                    0x0000_0000_5555_5555u64 | 0x0000_aaaa << 32,
                )
            }
            1 => {
                let at = file.len();
                let plain: Vec<u8> = (0..size).map(|i| ((i * i) >> 9) as u8).collect();
                let mut deflate =
                    flate2::write::DeflateEncoder::new(&mut file, flate2::Compression::fast());
                deflate.write_all(&plain).unwrap();
                deflate.finish().unwrap();
                disk[number * size..][..size].copy_from_slice(&plain);
                let sectors = (file.len() - at + at % 512).div_ceil(512) - 1;
                file.resize(file.len().next_multiple_of(size), 0);
                let bits = 62 - (size.trailing_zeros() - 8);
                (1 << 62 | (sectors as u64) << bits | at as u64, 0)
            }
            2 if extended => (0, 0xffff_ffff_0000_0000),
            2 => (1, 0),
            _ => (0, 0),
        };
        let step = if extended { 16 } else { 8 };
        let at = 2 * size + number * step;
        file[at..at + 8].copy_from_slice(&u64::to_be_bytes(entry));
        if extended {
            file[at + 8..at + 16].copy_from_slice(&bitmap.to_be_bytes());
        }
    }
    disk.truncate(DISK);
    (file, disk)
}

fn header(file: &mut [u8], extended: bool) {
    let size = cluster(extended) as u64;
    let mut put32 = |at: usize, value: u32| file[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put32(0, 0x5146_49fb);
    put32(4, 3);
    put32(20, size.trailing_zeros());
    put32(36, 1);
    put32(96, 4);
    put32(100, 112);
    let mut put64 = |at: usize, value: u64| file[at..at + 8].copy_from_slice(&value.to_be_bytes());
    put64(24, DISK as u64);
    put64(40, L1_AT * size);
    put64(72, if extended { 16 } else { 0 });
    // An extension of names of features, and the end of extensions.
    let names = [
        &0x6803_f857u32.to_be_bytes()[..],
        &48u32.to_be_bytes(),
        &[0, 9],
        b"time travel",
    ]
    .concat();
    file[112..112 + names.len()].copy_from_slice(&names);
}
