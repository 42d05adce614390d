//! The device against a fake driver and real sockets. Oracles: the virtio specification's rules as the fake driver
//! keeps them, and that bytes are the same at both ends.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::Event;
use super::driver::{CID, Driver, SIZE};
use super::muxer::{MAX_CONNECTIONS, MAX_RESETS};
use super::packet::{HEADER_LEN, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND};

fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(len)
    .collect()
}

fn dialled(driver: &mut Driver, guest_port: u32, host_port: u32) -> UnixStream {
    let stream = UnixStream::from(driver.dial(guest_port, host_port));
    stream.set_nonblocking(true).unwrap();
    stream
}

/// Reads what is there. `None`: end of file after it.
fn drain(stream: &mut UnixStream, into: &mut Vec<u8>, at_most: usize) -> Option<usize> {
    let mut buffer = vec![0; at_most];
    match stream.read(&mut buffer) {
        Ok(0) => None,
        Ok(len) => {
            into.extend(&buffer[..len]);
            Some(len)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_port_that_nobody_listens_to_is_refused() {
    let mut driver = Driver::ready();
    driver.send_op(Op::Request, 1000, 7, 0);
    let packets = driver.receive();
    let reset = &packets[0].0;
    assert_eq!((packets.len(), reset.op()), (1, Some(Op::Reset)));
    assert_eq!(
        (reset.src_port, reset.dst_port, reset.dst_cid),
        (7, 1000, CID)
    );
    assert_eq!(driver.device.muxer.connections(), 0);
}

#[test]
fn both_directions_whatever_the_descriptors() {
    for cuts in [
        vec![44],
        vec![],
        vec![1, 43],
        vec![10, 30, 50],
        vec![44, 45],
        vec![43],
    ] {
        let mut driver = Driver::new();
        driver.cuts = cuts.clone();
        driver.post(SIZE);
        let mut host = dialled(&mut driver, 1000, 7);
        let up = noise(1000, 1);
        let header = Header {
            len: 1000,
            ..driver.header(Op::Rw, 1000, 7)
        };
        driver.queue_packet(&header, &up, &cuts);
        driver.run();
        let mut got = Vec::new();
        drain(&mut host, &mut got, 2000);
        assert_eq!(got, up, "{cuts:?}");
        let down = noise(10_000, 2);
        host.write_all(&down).unwrap();
        let got: Vec<u8> = driver
            .receive()
            .into_iter()
            .flat_map(|(_, data)| data)
            .collect();
        assert_eq!(got, down, "{cuts:?}");
    }
}

/// 8 MB to a reader that reads in bursts, by a guest that sends as credit allows.
#[test]
fn bulk_to_a_slow_host_is_held_back_by_credit_and_whole() {
    let mut driver = Driver::ready();
    let mut host = dialled(&mut driver, 1000, 7);
    let all = noise(8_000_000, 3);
    let (mut sent, mut known, mut buf_alloc, mut got) = (0usize, 0usize, 256 * 1024, Vec::new());
    let mut turns = 0;
    while got.len() < all.len() {
        turns += 1;
        assert!(
            turns < 100_000,
            "stalled at {sent} sent, {} read",
            got.len()
        );
        let len = (buf_alloc - (sent - known))
            .min(all.len() - sent)
            .min(60_000);
        if len > 0 {
            driver.send_data(1000, 7, &all[sent..sent + len]);
            sent += len;
        } else {
            assert_ne!(drain(&mut host, &mut got, 50_000), None);
        }
        for (header, _) in driver.receive() {
            known = header.fwd_cnt as usize;
            buf_alloc = header.buf_alloc as usize;
        }
    }
    assert!(got == all);
    assert_eq!(driver.device.muxer.counters.violations, 0);
    assert!(driver.device.muxer.counters.credit_updates < 200);
}

/// 4 MB to a guest that offers few buffers and little credit.
#[test]
fn bulk_to_a_slow_guest_waits_in_the_socket_and_is_whole() {
    let mut driver = Driver::new();
    driver.post(3);
    let mut host = dialled(&mut driver, 1000, 7);
    let all = noise(4_000_000, 4);
    let (mut written, mut got) = (0, Vec::new());
    for turn in 0u32.. {
        assert!(
            turn < 100_000,
            "stalled at {written} written, {} received",
            got.len()
        );
        if written < all.len() {
            match host.write(&all[written..]) {
                Ok(len) => written += len,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        driver.run();
        for (_, data) in driver.take() {
            got.extend(data);
        }
        if got.len() == all.len() {
            break;
        }
        driver.post(1 + (turn % 3) as u16);
        let update = Header {
            buf_alloc: 10_000,
            fwd_cnt: got.len() as u32,
            ..driver.header(Op::CreditUpdate, 1000, 7)
        };
        driver.send(&update, &[]);
    }
    assert!(got == all);
}

#[test]
fn a_guest_that_closes_loses_nothing_in_our_buffer() {
    for reset in [false, true] {
        let mut driver = Driver::ready();
        let mut host = dialled(&mut driver, 1000, 7);
        let all = noise(250_000, 5);
        for part in all.chunks(50_000) {
            driver.send_data(1000, 7, part);
        }
        match reset {
            true => driver.send_op(Op::Reset, 1000, 7, 0),
            false => driver.send_op(Op::Shutdown, 1000, 7, SHUTDOWN_BOTH),
        }
        let resets = driver.ops().iter().filter(|op| op.0 == Op::Reset).count();
        assert_eq!(resets, usize::from(!reset));
        // The ports are free at once, though the host has not read.
        let _again = driver.dial(1000, 7);
        let mut got = Vec::new();
        while drain(&mut host, &mut got, 10_000).is_some() {
            driver.run();
        }
        assert!(got == all);
    }
}

#[test]
fn half_close_by_the_guest() {
    let mut driver = Driver::ready();
    let mut host = dialled(&mut driver, 1000, 7);
    driver.send_data(1000, 7, b"question");
    driver.send_op(Op::Shutdown, 1000, 7, SHUTDOWN_SEND);
    let mut got = Vec::new();
    assert_eq!(drain(&mut host, &mut got, 100), Some(8));
    assert_eq!(drain(&mut host, &mut got, 100), None);
    host.write_all(b"answer").unwrap();
    drop(host);
    let packets = driver.receive();
    assert_eq!(packets[0].1, b"answer");
    assert_eq!(
        (packets[1].0.op(), packets[1].0.flags),
        (Some(Op::Shutdown), SHUTDOWN_BOTH)
    );
    driver.send_op(Op::Reset, 1000, 7, 0);
    assert_eq!(driver.device.muxer.connections(), 0);
}

#[test]
fn half_close_by_the_host() {
    let mut driver = Driver::ready();
    let mut host = dialled(&mut driver, 1000, 7);
    host.write_all(b"question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    let packets = driver.receive();
    assert_eq!(packets[0].1, b"question");
    assert_eq!(
        (packets[1].0.op(), packets[1].0.flags),
        (Some(Op::Shutdown), SHUTDOWN_SEND)
    );
    driver.send_data(1000, 7, b"answer");
    let mut got = Vec::new();
    drain(&mut host, &mut got, 100);
    assert_eq!(got, b"answer");
    drop(host);
    assert_eq!(driver.ops(), [(Op::Shutdown, SHUTDOWN_BOTH)]);
}

#[test]
fn a_guest_that_reads_no_more_is_told_to_the_host() {
    let mut driver = Driver::ready();
    let mut host = dialled(&mut driver, 1000, 7);
    driver.send_op(Op::Shutdown, 1000, 7, SHUTDOWN_RCV);
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    driver.send_data(1000, 7, b"still");
    let mut got = Vec::new();
    drain(&mut host, &mut got, 100);
    assert_eq!(got, b"still");
}

#[test]
fn a_host_that_goes_away_while_the_guest_writes() {
    let mut driver = Driver::ready();
    let host = dialled(&mut driver, 1000, 7);
    for _ in 0..5 {
        driver.send_data(1000, 7, &noise(50_000, 6));
    }
    drop(host);
    driver.send_data(1000, 7, b"in flight");
    assert_eq!(driver.ops().last(), Some(&(Op::Shutdown, SHUTDOWN_BOTH)));
    assert_eq!(driver.device.muxer.counters.violations, 0);
}

#[test]
fn more_than_the_credit_costs_the_connection_and_no_other() {
    let mut driver = Driver::ready();
    let _slow = dialled(&mut driver, 1000, 7);
    let mut other = dialled(&mut driver, 1001, 7);
    for _ in 0..20 {
        driver.send_data(1000, 7, &noise(60_000, 6));
    }
    assert!(driver.device.muxer.counters.violations > 0);
    assert!(
        driver
            .receive()
            .iter()
            .any(|(header, _)| header.op() == Some(Op::Reset) && header.dst_port == 1000)
    );
    driver.send_data(1001, 7, b"fine");
    let mut got = Vec::new();
    drain(&mut other, &mut got, 10);
    assert_eq!(got, b"fine");
}

fn host_dials(driver: &mut Driver, id: u32) -> (UnixStream, u32) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    driver.device.muxer.connect(id, 5000, theirs.into());
    let packets = driver.receive();
    let request = &packets[0].0;
    assert_eq!(
        (packets.len(), request.op(), request.dst_port),
        (1, Some(Op::Request), 5000)
    );
    (ours, request.src_port)
}

fn answered(driver: &mut Driver) -> (u32, i32) {
    match driver.device.muxer.pop_event() {
        Some(Event::Connected { id, errno }) => (id, errno),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_host_dials() {
    let mut driver = Driver::ready();
    let (mut ours, port) = host_dials(&mut driver, 70);
    ours.write_all(b"early").unwrap();
    assert_eq!(driver.ops(), [], "no data before the answer");
    driver.send_op(Op::Response, 5000, port, 0);
    assert_eq!(answered(&mut driver), (70, 0));
    assert_eq!(driver.receive()[0].1, b"early");

    let (mut ours, port) = host_dials(&mut driver, 71);
    driver.send_op(Op::Reset, 5000, port, 0);
    assert_eq!(answered(&mut driver), (71, libc::ECONNREFUSED));
    assert_eq!(drain(&mut ours, &mut Vec::new(), 1), None);

    let (ours, _) = host_dials(&mut driver, 72);
    drop(ours);
    assert_eq!(driver.ops(), [(Op::Reset, 0)]);
    assert_eq!(answered(&mut driver), (72, libc::ECONNABORTED));
}

#[test]
fn a_guest_that_restarts_has_no_connections() {
    let mut driver = Driver::ready();
    let mut host = dialled(&mut driver, 1000, 7);
    driver.send_data(1000, 7, b"last words");
    let _dial = host_dials(&mut driver, 70);
    driver.device.muxer.reset();
    assert_eq!(answered(&mut driver), (70, libc::ECONNRESET));
    let mut got = Vec::new();
    drain(&mut host, &mut got, 100);
    assert_eq!(drain(&mut host, &mut got, 100), None);
    assert_eq!(got, b"last words");
    assert_eq!(
        (driver.device.muxer.connections(), driver.ops()),
        (0, vec![])
    );
}

#[test]
fn hundreds_of_connections_and_no_more_than_the_limit() {
    let mut driver = Driver::ready();
    let mut hosts = Vec::new();
    for guest_port in 0..MAX_CONNECTIONS as u32 {
        hosts.push(dialled(&mut driver, guest_port, 7));
    }
    driver.send_op(Op::Request, 60_000, 7, 0);
    assert_eq!(driver.ops(), [(Op::Reset, 0)]);
    for (guest_port, host) in hosts.iter_mut().enumerate() {
        host.write_all(&guest_port.to_le_bytes()).unwrap();
    }
    let packets = driver.receive();
    assert_eq!(packets.len(), MAX_CONNECTIONS);
    for (header, data) in packets {
        assert_eq!(data, (header.dst_port as usize).to_le_bytes());
    }
    drop(hosts);
    let ends = driver.ops();
    let both = (Op::Shutdown, SHUTDOWN_BOTH);
    assert_eq!(
        ends.iter().filter(|&&op| op == both).count(),
        MAX_CONNECTIONS
    );
}

/// Refusals wait for room in the guest; beyond a bound the guest's packets wait, and none is lost.
#[test]
fn refusals_without_room_hold_the_guest_back() {
    let mut driver = Driver::new();
    let total = MAX_RESETS as u32 + 100;
    let mut sent = 0;
    while sent < total {
        let header = driver.header(Op::Request, sent, 7);
        if !driver.queue_packet(&header, &[], &[]) {
            break;
        }
        sent += 1;
        driver.run();
    }
    assert!(sent < total && sent as usize >= MAX_RESETS);
    let mut refused = 0;
    while refused < total {
        driver.post(5);
        refused += driver.receive().len() as u32;
        while sent < total {
            let header = driver.header(Op::Request, sent, 7);
            if !driver.queue_packet(&header, &[], &[]) {
                break;
            }
            sent += 1;
        }
    }
    assert_eq!(refused, total);
}

#[test]
fn useless_buffers_are_given_back_and_counted() {
    let mut driver = Driver::new();
    // Too short, outside of memory, a loop, and a good one.
    driver.describe(driver.rx.desc, 0, (0x10_0000, 20, 2, 0));
    driver.describe(driver.rx.desc, 1, (1 << 40, 5000, 2, 0));
    driver.describe(driver.rx.desc, 2, (0x10_0000, 1, 3, 2));
    driver.describe(driver.rx.desc, 3, (0x10_2000, 5000, 2, 0));
    // The third's 64 turns make more than a header: it holds 20 bytes of data.
    for (slot, head) in [0u16, 1, 999, 2, 3].into_iter().enumerate() {
        let at = GuestAddress(driver.rx.avail + 4 + 2 * slot as u64);
        driver.mem.write_obj(head, at).unwrap();
    }
    driver
        .mem
        .write_obj(5u16, GuestAddress(driver.rx.avail + 2))
        .unwrap();
    driver.send_op(Op::Request, 1, 7, 0);
    driver.send_op(Op::Request, 2, 7, 0);
    let at = GuestAddress(0x10_2000);
    let mut bytes = [0; HEADER_LEN];
    driver.mem.read_slice(&mut bytes, at).unwrap();
    assert_eq!(Header::parse(&bytes).dst_port, 2);
    assert!(driver.device.muxer.counters.violations >= 3);
}

/// Feeds packets, each a header and its data, to a device where ports 0 to 3 are listened to. Whatever they are, the
/// device comes to rest and its bounds hold.
fn check_packets(packets: &[(Header, Vec<u8>)]) {
    let mut driver = Driver::ready();
    for port in 0..4 {
        driver.device.muxer.listen(port);
    }
    let mut hosts = Vec::new();
    for (header, data) in packets {
        driver.send(header, data);
        driver.receive();
        while let Some(event) = driver.device.muxer.pop_event() {
            if let Event::Dialled { fd, port, .. } = event {
                // Some hosts talk, some hang up, some do nothing.
                let mut stream = UnixStream::from(fd);
                match port {
                    0 => stream.write_all(b"hello").unwrap(),
                    1 => continue,
                    2 => stream.shutdown(Shutdown::Write).unwrap(),
                    _ => {}
                }
                hosts.push(stream);
            }
        }
    }
    drop(hosts);
    driver.receive();
    assert!(driver.device.muxer.connections() <= MAX_CONNECTIONS);
}

fn any_header() -> impl Strategy<Value = Header> {
    let cid = prop_oneof![9 => Just(CID), 1 => any::<u64>()];
    let host = prop_oneof![9 => Just(2u64), 1 => any::<u64>()];
    let kind = prop_oneof![9 => Just(1u16), 1 => any::<u16>()];
    let op = prop_oneof![9 => 0u16..9, 1 => any::<u16>()];
    let len = prop_oneof![5 => 0u32..200, 1 => any::<u32>()];
    let counts = (any::<u32>(), prop_oneof![Just(0u32), any::<u32>()], 0u32..4);
    (cid, host, 0u32..3, 0u32..5, kind, op, len, counts).prop_map(
        |(src_cid, dst_cid, src_port, dst_port, kind, op, len, (buf_alloc, fwd_cnt, flags))| {
            Header {
                src_cid,
                dst_cid,
                src_port,
                dst_port,
                len,
                kind,
                op,
                flags,
                buf_alloc,
                fwd_cnt,
            }
        },
    )
}

/// Writes bytes over the descriptor tables and available rings of both queues, and lets the device have them.
fn check_rings(bytes: &[u8]) {
    let mut driver = Driver::new();
    driver.device.muxer.listen(0);
    let (ours, theirs) = UnixStream::pair().unwrap();
    driver.device.muxer.connect(1, 2, theirs.into());
    let half = bytes.len() / 2;
    for (ring, bytes) in [
        (driver.rx.desc, &bytes[..half]),
        (driver.tx.desc, &bytes[half..]),
    ] {
        let (desc, avail) = bytes.split_at(bytes.len().min(16 * usize::from(SIZE)));
        driver.mem.write_slice(desc, GuestAddress(ring)).unwrap();
        let avail = &avail[..avail.len().min(0x1000)];
        driver
            .mem
            .write_slice(avail, GuestAddress(ring + 0x1000))
            .unwrap();
    }
    driver.run();
    drop(ours);
    driver.run();
}

/// Ring bytes that are wild but not hopeless: addresses and lengths mostly within memory.
fn any_ring() -> impl Strategy<Value = Vec<u8>> {
    let addr = prop_oneof![5 => 0u64..(16 << 20), 1 => any::<u64>()];
    let len = prop_oneof![5 => 0u32..6000, 1 => any::<u32>()];
    let desc = (
        addr,
        len,
        0u16..8,
        prop_oneof![9 => 0..SIZE, 1 => any::<u16>()],
    );
    let descs = prop::collection::vec(desc, usize::from(SIZE));
    let heads = prop::collection::vec(
        prop_oneof![9 => 0..SIZE, 1 => any::<u16>()],
        usize::from(SIZE),
    );
    let index = prop_oneof![9 => 0..=SIZE, 1 => any::<u16>()];
    (descs, heads, index).prop_map(|(descs, heads, index)| {
        let mut bytes = Vec::new();
        for (addr, len, flags, next) in descs {
            bytes.extend(addr.to_le_bytes());
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
        }
        bytes.extend(0u16.to_le_bytes());
        bytes.extend(index.to_le_bytes());
        heads
            .iter()
            .for_each(|head| bytes.extend(head.to_le_bytes()));
        bytes
    })
}

proptest! {
    #[test]
    fn any_packets(packets in prop::collection::vec((any_header(), prop::collection::vec(any::<u8>(), 0..200)), 1..40)) {
        check_packets(&packets);
    }

    #[test]
    fn any_rings(rx in any_ring(), tx in any_ring()) {
        check_rings(&[rx, tx].concat());
    }

    #[test]
    fn any_ring_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2400)) {
        check_rings(&bytes);
    }
}

fn corpus(kind: &str) -> Vec<(String, Vec<u8>)> {
    let folder = format!("{}/tests/corpus/{kind}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

/// A file is packets: 44 bytes of header, two bytes of length, that many bytes of data.
#[test]
fn corpus_of_packets() {
    for (name, bytes) in corpus("packets") {
        let (mut rest, mut packets) = (bytes.as_slice(), Vec::new());
        while let Some((header, after)) = rest.split_first_chunk::<HEADER_LEN>() {
            let (len, after) = after
                .split_first_chunk::<2>()
                .unwrap_or_else(|| panic!("{name} is cut short"));
            let (data, after) =
                after.split_at(usize::from(u16::from_le_bytes(*len)).min(after.len()));
            packets.push((Header::parse(header), data.to_vec()));
            rest = after;
        }
        check_packets(&packets);
    }
}

/// A file is the rx ring's descriptor table and available ring, then the tx ring's.
#[test]
fn corpus_of_rings() {
    for (_, bytes) in corpus("rings") {
        check_rings(&bytes);
    }
}
