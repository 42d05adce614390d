//! Frames in and out, with their checksums and without.

use super::*;
use crate::virtio::driver::{DATA, Driver, readable, writable};
use crate::virtio::mmio::Registers;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

fn driver() -> (Driver<Net>, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
    (
        Driver::new(Net::new(theirs, [2, 0, 0, 0, 0, 7], 9000)),
        ours,
    )
}

/// A frame whose checksum is there.
fn send(link: &OwnedFd, frame: &[u8]) {
    let datagram = [&[0; HEADER_LEN], frame].concat();
    rustix::net::send(link, &datagram, SendFlags::empty()).unwrap();
}

#[test]
fn says_who_it_is() {
    let (driver, _link) = driver();
    let bytes = [0x100, 0x104, 0x108].map(|at| driver.register(at).to_le_bytes());
    assert_eq!(bytes.concat(), [2, 0, 0, 0, 0, 7, 0, 0, 1, 0, 0x28, 0x23]);
}

#[test]
fn a_frame_goes_out_behind_its_header() {
    let (mut driver, link) = driver();
    driver.put(DATA, &[0; HEADER_LEN]);
    driver.put(DATA + 100, b"a frame");
    // The header may share a buffer with the frame, or not.
    driver.request(1, &[readable(DATA, 12), readable(DATA + 100, 7)]);
    driver.put(DATA + 12, b"other");
    driver.request(1, &[readable(DATA, 17)]);
    let mut bytes = [0; 99];
    for expect in [&b"a frame"[..], b"other"] {
        let (count, _) = rustix::net::recv(&link, &mut bytes[..], RecvFlags::empty()).unwrap();
        assert_eq!(bytes[..count], [&[0; HEADER_LEN], expect].concat());
    }
    driver.request(1, &[readable(DATA, 12)]);
    assert_eq!(driver.slot.lock().device.counters.violations, 1);
}

/// What follows `VIRTIO_NET_HDR_F_NEEDS_CSUM`: lengths of headers, `csum_start` 1, `csum_offset` 2, and what is not a driver's to say.
const LEFT_OUT: [u8; HEADER_LEN] = [0xfd, 0, 7, 7, 7, 7, 1, 0, 2, 0, 9, 9];
const PASSED_ON: [u8; HEADER_LEN] = [1, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0];

#[test]
fn a_checksum_may_be_left_out_on_the_way_out() {
    let (mut driver, link) = driver();
    let mut bytes = [0; 99];
    driver.put(DATA, &[&LEFT_OUT[..], b"frame"].concat());
    driver.request(1, &[readable(DATA, 17)]);
    let (count, _) = rustix::net::recv(&link, &mut bytes[..], RecvFlags::empty()).unwrap();
    assert_eq!(bytes[..count], [&PASSED_ON[..], b"frame"].concat());
    // Beyond the frame; segmentation; a driver that did not take the feature.
    driver.request(1, &[readable(DATA, 16)]);
    driver.put(DATA + 1, &[3]);
    driver.request(1, &[readable(DATA, 17)]);
    driver.put(DATA + 1, &[0]);
    driver.slot.lock().device.leaves = false;
    driver.request(1, &[readable(DATA, 17)]);
    assert_eq!(driver.slot.lock().device.counters.violations, 3);
    assert!(rustix::net::recv(&link, &mut bytes[..], RecvFlags::empty()).is_err());
}

#[test]
fn a_checksum_may_be_left_out_on_the_way_in() {
    let (mut driver, link) = driver();
    // A word that is summed, and the pseudo header's sum in the checksum's place.
    let frame = [0xaa, 0x12, 0x34, 0x11, 0x11];
    for takes in [true, false] {
        driver.slot.lock().device.takes = takes;
        let datagram = [&LEFT_OUT[..], &frame].concat();
        rustix::net::send(&link, &datagram, SendFlags::empty()).unwrap();
        while driver.slot.serve(&driver.mem) {}
        assert_eq!(driver.request(0, &[writable(DATA, 0x100)]), 17);
        let mut expect = [PASSED_ON, [0; HEADER_LEN]][usize::from(!takes)].to_vec();
        expect[10] = 1;
        expect.extend([0xaa, 0x12, 0x34]);
        let sum = !(0x1234_u16 + 0x1111);
        expect.extend(if takes { [0x11; 2] } else { sum.to_be_bytes() });
        assert_eq!(driver.get(DATA, 17), expect);
    }
}

#[test]
fn what_is_no_frame_does_not_come_in() {
    let (mut driver, link) = driver();
    let beyond = [&PASSED_ON[..], b"fra"].concat();
    let segmented = [&[0, 1][..], &[0; 20]].concat();
    let frame = [&[0; HEADER_LEN][..], b"frame"].concat();
    for datagram in [
        &[][..],
        &[7; 11],
        &[0; HEADER_LEN],
        &beyond,
        &segmented,
        &frame,
    ] {
        rustix::net::send(&link, datagram, SendFlags::empty()).unwrap();
    }
    while driver.slot.serve(&driver.mem) {}
    assert_eq!(driver.request(0, &[writable(DATA, 0x100)]), 17);
    assert_eq!(driver.get(DATA + 12, 5), b"frame");
}

#[test]
fn a_frame_comes_in_when_there_is_a_buffer() {
    let (mut driver, link) = driver();
    send(&link, b"hello");
    while driver.slot.serve(&driver.mem) {}
    let used = driver.request(0, &[writable(DATA, 12), writable(DATA + 50, 90)]);
    assert_eq!(used, 17);
    assert_eq!(driver.get(DATA + 10, 2), 1_u16.to_le_bytes());
    assert_eq!(driver.get(DATA + 50, 5), b"hello");
}

/// Nothing of a longer frame before it.
#[test]
fn a_short_frame_after_a_long_one_is_short() {
    let (mut driver, link) = driver();
    send(&link, &[7; 9000]);
    while driver.slot.serve(&driver.mem) {}
    assert_eq!(driver.request(0, &[writable(DATA, 0x4000)]), 9012);
    driver.put(DATA, &[0xee; 0x4000]);
    send(&link, b"short");
    while driver.slot.serve(&driver.mem) {}
    assert_eq!(driver.request(0, &[writable(DATA, 0x4000)]), 17);
    assert_eq!(
        driver.get(DATA, HEADER_LEN),
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    );
    assert_eq!(driver.get(DATA + 12, 7), b"short\xee\xee");
}

/// The ring is one behind the other, and a buffer that nobody can write into lies between two that are of use: none is lost and none is used twice.
#[test]
fn a_useless_buffer_between_others_does_no_harm() {
    let (mut driver, link) = driver();
    driver.offer(0, 0, &[writable(DATA, 20)]);
    driver.offer(0, 1, &[readable(DATA + 0x100, 50)]);
    send(&link, b"twenty-two bytes of it");
    assert!(driver.used(0).is_empty(), "there is not room enough");
    driver.offer(0, 2, &[writable(DATA + 0x200, 90)]);
    assert_eq!(driver.used(0), [(1, 0), (0, 20), (2, 14)]);
    assert_eq!(driver.get(DATA + 10, 2), 2_u16.to_le_bytes());
    assert_eq!(driver.get(DATA + 12, 8), b"twenty-t");
    assert_eq!(driver.get(DATA + 0x200, 14), b"wo bytes of it");
    assert_eq!(driver.slot.counters().violations, 1);
    // A driver that takes a frame in one buffer has one that is too small: it loses the frame, and the next buffer is the next frame's.
    driver.slot.lock().device.mergeable = false;
    send(&link, b"lost");
    driver.offer(0, 3, &[writable(DATA, 13)]);
    driver.offer(0, 4, &[writable(DATA, 99)]);
    assert_eq!(driver.used(0), [(3, 0)]);
    send(&link, b"kept");
    assert_eq!(driver.used(0), [(4, 16)]);
}
