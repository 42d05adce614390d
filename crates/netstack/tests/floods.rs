//! Guests that ask for as much memory as they can get.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use netstack::tcp::{self, Header, LARGEST_WINDOW, flag};
use netstack::wire::{self, ether_type, protocol};
use netstack::{Config, Endpoint, Event, FlowId, Mac, Stack, limit};

const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 0xff]);
const HOSTILE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// What one port may cost, whatever its guest does.
const MOST: usize = limit::BUFFERED + limit::TCP_FLOWS * (16 << 10) + (LARGEST_WINDOW << 1);

fn stack() -> Stack {
    let mut stack = Stack::new(Config {
        gateway: Ipv4Addr::new(10, 1, 0, 1),
        prefix: 24,
        mac: GATEWAY,
        mtu: 65520,
        internal: false,
        ipv6: None,
        allow: Vec::new(),
        seed: [1; 16],
    });
    for (id, mac, last) in [(1, HOSTILE, 2), (2, OTHER, 3)] {
        let address = Ipv4Addr::new(10, 1, 0, last);
        let names = Vec::new();
        let host = false;
        stack.attach(
            id,
            Endpoint {
                mac,
                address,
                names,
                host,
            },
        );
    }
    stack
}

fn segment(
    number: u32,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut header = Header {
        source: 1024 + (number % 60_000) as u16,
        destination: 80 + (number / 60_000) as u16,
        sequence,
        acknowledgement,
        flags,
        window,
        ..Header::default()
    };
    if flags & flag::SYN != 0 {
        (header.mss, header.window_scale) = (Some(65480), Some(7));
    }
    let mut bytes = Vec::new();
    tcp::put(&mut bytes, &header);
    bytes.extend(payload);
    let mut frame = Vec::new();
    wire::put_ethernet(&mut frame, GATEWAY, HOSTILE, ether_type::IPV4);
    wire::put_ipv4(&mut frame, ADDRESS, SERVER, protocol::TCP, bytes.len());
    frame.extend(bytes);
    frame
}

/// Begins a connection; the flow, and the number after our SYN.
fn open(stack: &mut Stack, number: u32, window: u16, now: Duration) -> Option<(FlowId, u32)> {
    stack.receive(1, &segment(number, flag::SYN, 100, 0, window, &[]), now);
    let mut flow = None;
    while let Some(event) = stack.event() {
        if let Event::Dial { flow: dialled, .. } = event {
            flow = Some(dialled);
        }
    }
    stack.tcp_connected(flow?);
    let mut frame = Vec::new();
    let mut initial = None;
    while stack.transmit(1, &mut frame, now) {
        let (header, _) = tcp::parse(&frame[34..]).unwrap();
        initial = Some(header.sequence.wrapping_add(1));
    }
    let initial = initial?;
    stack.receive(
        1,
        &segment(number, flag::ACK, 101, initial, window, &[]),
        now,
    );
    Some((flow?, initial))
}

/// A guest that begins connections and never acknowledges what it gets.
#[test]
fn tiny_windows_hold_little() {
    let mut stack = stack();
    let now = Duration::ZERO;
    let chunk = vec![7; LARGEST_WINDOW];
    for number in 0..limit::TCP_FLOWS as u32 {
        let (flow, _) = open(&mut stack, number, 1, now).expect("under the limit");
        // The host's side has as much as anybody takes.
        loop {
            let room = stack.tcp_room(flow);
            if room == 0 {
                break;
            }
            stack.tcp_write(flow, &chunk[..room], now);
        }
        let mut frame = Vec::new();
        while stack.transmit(1, &mut frame, now) {}
        assert!(
            stack.held_bytes(1) < MOST,
            "{} after {number}",
            stack.held_bytes(1)
        );
    }
    assert!(open(&mut stack, 59_999, 1, now).is_none(), "one too many");
    assert_eq!(stack.held_bytes(2), 0);
}

/// A guest that first makes all windows grow, and then fills them for a host that takes no more.
#[test]
fn windows_that_grew_are_promised_once() {
    let mut stack = stack();
    let now = Duration::ZERO;
    let chunk = vec![7; 60_000];
    let mut flows = Vec::new();
    for number in 0..512 {
        let (flow, initial) = open(&mut stack, number, 9000, now).unwrap();
        let mut sequence = 101_u32;
        for _ in 0..40 {
            stack.receive(
                1,
                &segment(number, flag::ACK, sequence, initial, 9000, &chunk),
                now,
            );
            let (front, back, _) = stack.tcp_input(flow).unwrap();
            let count = front.len() + back.len();
            sequence = sequence.wrapping_add(count as u32);
            stack.tcp_consume(flow, count);
            let mut frame = Vec::new();
            while stack.transmit(1, &mut frame, now) {}
        }
        flows.push((number, initial, sequence));
    }
    for (number, initial, mut sequence) in flows {
        for _ in 0..20 {
            stack.receive(
                1,
                &segment(number, flag::ACK, sequence, initial, 9000, &chunk),
                now,
            );
            sequence = sequence.wrapping_add(chunk.len() as u32);
        }
        let mut frame = Vec::new();
        while stack.transmit(1, &mut frame, now) {}
        assert!(
            stack.held_bytes(1) < MOST,
            "{} after {number}",
            stack.held_bytes(1)
        );
    }
}

/// Connections on which nothing is said cost next to nothing, and are told that their windows are small.
#[test]
fn who_rests_gives_memory_back() {
    let mut stack = stack();
    let mut now = Duration::ZERO;
    let (flow, initial) = open(&mut stack, 1, 9000, now).unwrap();
    stack.tcp_write(flow, &[1; 500_000], now);
    let mut frame = Vec::new();
    while stack.transmit(1, &mut frame, now) {}
    assert!(stack.held_bytes(1) > 500_000);
    let end = initial.wrapping_add(500_000);
    stack.receive(1, &segment(1, flag::ACK, 101, end, 9000, &[]), now);
    now += Duration::from_secs(60);
    stack.on_time(now);
    assert!(stack.held_bytes(1) <= 64 << 10, "{}", stack.held_bytes(1));
    // It goes on where it was.
    stack.tcp_write(flow, b"again", now);
    assert!(stack.transmit(1, &mut frame, now));
    let (header, payload) = tcp::parse(&frame[34..]).unwrap();
    assert_eq!((header.sequence, payload), (end, &b"again"[..]));
}

/// Of questions, echoes and datagrams to anywhere, ARP for everybody, fragments: the table stays as it is, and so does what
/// waits for the other guest.
#[test]
fn datagrams_and_broadcasts_are_counted() {
    let mut stack = stack();
    let now = Duration::ZERO;
    let mut asked = 0_usize;
    for number in 0..20_000_u32 {
        let [.., a, b] = number.to_be_bytes();
        let mut frame = Vec::new();
        let mut payload = Vec::new();
        let guest = SocketAddr::new(ADDRESS.into(), 1024 + number as u16 % 30_000);
        match number % 4 {
            0 => {
                wire::put_ethernet(&mut frame, Mac::BROADCAST, HOSTILE, ether_type::ARP);
                let target = Ipv4Addr::new(10, 1, a, b);
                let (sender_mac, sender) = (HOSTILE, ADDRESS);
                wire::put_arp(
                    &mut frame,
                    &wire::Arp {
                        request: true,
                        sender_mac,
                        sender,
                        target_mac: Mac([0; 6]),
                        target,
                    },
                );
            }
            1 => {
                let question = [
                    &[
                        a,
                        b,
                        1,
                        0,
                        0,
                        1,
                        0,
                        0,
                        0,
                        0,
                        0,
                        0,
                        2,
                        b'a' + a % 26,
                        b'a' + b % 26,
                    ][..],
                    b"\x04test\0\0\x01\0\x01",
                ]
                .concat();
                wire::put_udp(
                    &mut payload,
                    guest,
                    "10.1.0.1:53".parse().unwrap(),
                    &question,
                );
                wire::put_ethernet(&mut frame, GATEWAY, HOSTILE, ether_type::IPV4);
                wire::put_ipv4(
                    &mut frame,
                    ADDRESS,
                    Ipv4Addr::new(10, 1, 0, 1),
                    protocol::UDP,
                    payload.len(),
                );
            }
            2 => {
                wire::put_udp(
                    &mut payload,
                    guest,
                    SocketAddr::new(SERVER.into(), 9),
                    &[a; 1000],
                );
                wire::put_ethernet(&mut frame, GATEWAY, HOSTILE, ether_type::IPV4);
                wire::put_ipv4(&mut frame, ADDRESS, SERVER, protocol::UDP, payload.len());
            }
            _ => {
                payload = vec![a; 1000];
                wire::put_ethernet(&mut frame, GATEWAY, HOSTILE, ether_type::IPV4);
                wire::put_ipv4(&mut frame, ADDRESS, SERVER, protocol::UDP, payload.len());
                // "More fragments", and somewhere.
                frame[20] = 0x20 | a & 0x1f;
            }
        }
        frame.extend(payload);
        stack.receive(1, &frame, now);
        let mut live = 0;
        while let Some(event) = stack.event() {
            live += usize::from(matches!(event, Event::Datagram { .. }));
        }
        asked += live;
    }
    assert!(asked >= 9000, "{asked}");
    assert!(stack.counters.malformed >= 5000, "{:?}", stack.counters);
    assert_eq!(stack.flows(1).0, 0);
    assert!(stack.flows(1).1 <= limit::UDP_FLOWS + limit::QUESTIONS);
    // Everybody's frames for the other guest, which takes none: the gateway's own have room still.
    let flow = stack.tcp_dial(2, "192.0.2.1:9".parse().unwrap(), 80, now);
    assert!(flow.is_some());
    let client = "192.0.2.1:9".parse().unwrap();
    stack.udp_inbound(2, 7, client, 53, b"a question", now);
    let mut frame = Vec::new();
    let mut kinds = Vec::new();
    while stack.transmit(2, &mut frame, now) {
        let packet = wire::parse_ipv4(&frame[wire::ETHERNET_LEN..]);
        kinds.push(packet.map(|packet| packet.protocol));
    }
    let count = |kind| kinds.iter().filter(|known| **known == kind).count();
    assert_eq!(count(None), limit::FRAMES / 2);
    assert_eq!(count(Some(protocol::UDP)), 1);
    // And a connection's segments don't wait for them: each second one is theirs.
    assert_eq!(kinds[1], Some(protocol::TCP));
}

/// A guest that sends another one more than it takes: half of that one's link is for its connections.
#[test]
fn a_flooded_guest_has_its_connections() {
    let mut stack = stack();
    let now = Duration::ZERO;
    let (flow, _) = open(&mut stack, 1, 9000, now).unwrap();
    stack.tcp_write(flow, &[7; 1 << 20], now);
    let mut flood = Vec::new();
    wire::put_ethernet(&mut flood, HOSTILE, OTHER, 0x88b5);
    flood.extend([0; 1000]);
    let (mut frames, mut bytes) = (0, 0);
    let mut frame = Vec::new();
    for _ in 0..2 * limit::FRAMES {
        stack.receive(2, &flood, now);
    }
    for _ in 0..20 {
        // What the link takes comes again at once.
        (0..4).for_each(|_| stack.receive(2, &flood, now));
        assert!(stack.transmit(1, &mut frame, now));
        match wire::parse_ipv4(&frame[wire::ETHERNET_LEN..]) {
            Some(packet) => bytes += packet.payload.len(),
            None => frames += 1,
        }
    }
    assert_eq!(frames, 10);
    assert!(bytes > 9 * 60_000, "{bytes}");
}
