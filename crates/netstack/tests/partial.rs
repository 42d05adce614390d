//! Checksums that are left out: who gets a frame without one, who gets it with, and what can't be done with one that is somewhere else.

mod world;

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netstack::wire::{self, Partial, protocol};
use netstack::{Endpoint, Event, Mac, PortId, Stack, Transmitted};
use proptest::prelude::*;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};
use world::{GATEWAY_MAC, GUEST, GUEST6, OTHER, OTHER6, SERVER, SERVER6, World, config};

const NOW: Duration = Duration::ZERO;

fn mac(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0, port as u8])
}

/// Two guests, whose links leave checksums out or not.
fn network(partial: [bool; 2]) -> Stack {
    let mut stack = Stack::new(config());
    for (port, address, partial) in [(1, GUEST, partial[0]), (2, OTHER, partial[1])] {
        let endpoint = Endpoint {
            mac: mac(port),
            address,
            names: Vec::new(),
            host: false,
        };
        stack.attach(port, endpoint);
        stack.set_partial(port, partial);
    }
    stack
}

/// The next frame for a guest as its link gets it.
fn next(stack: &mut Stack, port: PortId) -> Option<(Vec<u8>, Option<Partial>)> {
    let (mut frame, mut left) = (Vec::new(), None);
    let sent = stack.transmit_with(port, NOW, |pieces: &[IoSlice<'_>], partial| {
        pieces
            .iter()
            .for_each(|piece| frame.extend_from_slice(piece));
        left = partial;
        true
    });
    (sent == Transmitted::Sent).then_some((frame, left))
}

/// Oracle: smoltcp's check of a frame's TCP or UDP.
fn is_right(frame: &[u8]) -> bool {
    let packet = &frame[wire::ETHERNET_LEN..];
    let (source, destination, next, payload): (IpAddr, IpAddr, u8, &[u8]) = match packet[0] >> 4 {
        4 => {
            let packet = Ipv4Packet::new_checked(packet).unwrap();
            assert!(packet.verify_checksum());
            let (from, to) = (packet.src_addr(), packet.dst_addr());
            (
                from.into(),
                to.into(),
                packet.next_header().into(),
                packet.payload(),
            )
        }
        _ => {
            let packet = Ipv6Packet::new_checked(packet).unwrap();
            let (from, to) = (packet.src_addr(), packet.dst_addr());
            (
                from.into(),
                to.into(),
                packet.next_header().into(),
                packet.payload(),
            )
        }
    };
    let (from, to) = (source.into(), destination.into());
    match next {
        protocol::TCP => TcpPacket::new_checked(payload)
            .unwrap()
            .verify_checksum(&from, &to),
        _ => UdpPacket::new_checked(payload)
            .unwrap()
            .verify_checksum(&from, &to),
    }
}

/// A datagram from the first guest's card without its checksum.
fn datagram(to: Mac, from: SocketAddr, at: SocketAddr, payload: &[u8]) -> (Vec<u8>, Partial) {
    let mut frame = Vec::new();
    wire::put_ethernet(&mut frame, to, mac(1), wire::ether_type_of(at.ip()));
    let len = wire::UDP_LEN + payload.len();
    wire::put_ip(&mut frame, from.ip(), at.ip(), protocol::UDP, len);
    let partial = wire::put_udp_partial(&mut frame, from, at, payload);
    (frame, partial)
}

fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    match v6 {
        false => ((GUEST, 7).into(), (OTHER, 9).into()),
        true => ((GUEST6, 7).into(), (OTHER6, 9).into()),
    }
}

proptest! {
    /// Any payload: odd lengths, and sums that come out as zero.
    #[test]
    fn a_checksum_is_computed_for_who_needs_it(
        payload in proptest::collection::vec(any::<u8>(), 0..40), v6: bool, takes: bool, floods: bool, zero: bool,
    ) {
        let (from, to) = ends(v6);
        let mut payload = payload;
        if zero {
            // Makes the sum zero: two bytes more that are what is missing.
            payload.resize(payload.len() & !1, 0);
            payload.extend([0, 0]);
            let (frame, partial) = datagram(mac(2), from, to, &payload);
            let whole = partial.completed(&frame);
            let at = usize::from(partial.start + partial.offset);
            let len = payload.len();
            payload[len - 2..].copy_from_slice(&whole[at..at + 2]);
        }
        let receiver = if floods { Mac([2, 9, 9, 9, 9, 9]) } else { mac(2) };
        let (frame, partial) = datagram(receiver, from, to, &payload);
        let mut stack = network([true, takes]);
        stack.receive_partial(1, &frame, Some(partial), NOW);
        let (got, left) = next(&mut stack, 2).expect("it is passed on");
        if takes {
            prop_assert_eq!(&got, &frame);
            prop_assert_eq!(left, Some(partial));
        } else {
            prop_assert_eq!(left, None);
            prop_assert!(is_right(&got));
            // Not "there is none" (RFC 768).
            let at = usize::from(partial.start + partial.offset);
            prop_assert!(got[at..at + 2] != [0, 0]);
        }
        prop_assert_eq!(next(&mut stack, 2), None);
        prop_assert_eq!(is_right(&partial.completed(&frame)), true);
    }

    #[test]
    fn any_header_is_read_or_refused(datagram in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut stack = network([true, false]);
        if let Some((partial, frame)) = wire::partial::parse_header(&datagram) {
            let again = [&wire::partial::header(partial)[..], frame].concat();
            prop_assert_eq!(wire::partial::parse_header(&again), Some((partial, frame)));
            stack.receive_partial(1, frame, partial, NOW);
        }
    }
}

/// "No checksum" is what a program may send; it is passed on as it is.
#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let (from, to) = ends(false);
    let (mut frame, partial) = datagram(mac(2), from, to, b"none");
    let at = usize::from(partial.start + partial.offset);
    frame[at..at + 2].fill(0);
    for takes in [true, false] {
        let mut stack = network([true, takes]);
        stack.receive_partial(1, &frame, None, NOW);
        assert_eq!(next(&mut stack, 2), Some((frame.clone(), None)));
    }
}

/// What follows the address that is looked at must not change it afterwards.
#[test]
fn a_checksum_is_no_way_to_another_address() {
    let (from, to) = ends(false);
    let source = u16::try_from(wire::ETHERNET_LEN + 12).unwrap();
    let partial = Partial {
        start: source + 2,
        offset: 0,
    };
    // The lower half of the sender's address becomes that of the other guest: what is covered sums to its complement.
    let (mut frame, _) = datagram(mac(2), from, to, &[0; 32]);
    let wanted = u16::from_be_bytes([OTHER.octets()[2], OTHER.octets()[3]]);
    let now = u16::from_be_bytes(partial.completed(&frame)[28..30].try_into().unwrap());
    let missing = u64::from(now) + u64::from(!wanted);
    let missing = (missing & 0xffff) + (missing >> 16);
    frame[50..52].copy_from_slice(&(missing as u16).to_be_bytes());
    let forged = partial.completed(&frame);
    assert_eq!(forged[26..30], OTHER.octets());
    for takes in [true, false] {
        let mut stack = network([true, takes]);
        stack.receive_partial(1, &frame, Some(partial), NOW);
        assert_eq!(stack.counters.spoofed, 1);
        assert_eq!(next(&mut stack, 2), None);
    }
    // In a packet that is in a tunnel it is nobody's concern, and is computed at once.
    let (inner, in_it) = datagram(mac(2), (GUEST, 1).into(), (OTHER, 2).into(), b"inner");
    let mut tunnel = Vec::new();
    wire::put_ethernet(&mut tunnel, mac(2), mac(1), wire::ether_type::IPV4);
    let packet = &inner[wire::ETHERNET_LEN..];
    wire::put_ipv4(&mut tunnel, GUEST, OTHER, 4, packet.len());
    tunnel.extend_from_slice(packet);
    let partial = Partial {
        start: in_it.start + 20,
        ..in_it
    };
    let mut stack = network([true, true]);
    stack.receive_partial(1, &tunnel, Some(partial), NOW);
    let (got, left) = next(&mut stack, 2).unwrap();
    assert_eq!((&got, left), (&partial.completed(&tunnel), None));
    assert!(is_right(&[&inner[..14], &got[34..]].concat()));
}

/// What the gateway itself says: segments of TCP from a ring that wraps, datagrams, and what must not be left to anybody.
#[test]
fn the_gateway_leaves_out_what_a_guest_takes() {
    for (partial, v6) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut stack = network([partial, false]);
        let guest: IpAddr = if v6 { GUEST6.into() } else { GUEST.into() };
        let server: IpAddr = if v6 { SERVER6.into() } else { SERVER.into() };
        let (from, to) = (SocketAddr::new(guest, 7), SocketAddr::new(server, 9));
        let (frame, left) = datagram(GATEWAY_MAC, from, to, b"question");
        stack.receive_partial(1, &frame, Some(left), NOW);
        let events = std::iter::from_fn(|| stack.event());
        let flow = events.filter_map(|event| match event {
            Event::Datagram { flow, payload, .. } => Some((flow, payload)),
            _ => None,
        });
        let (flow, payload) = flow.last().expect("it goes out");
        assert_eq!(payload, b"question");
        stack.udp_answer(flow, &[0xa5; 3001], NOW);
        let (mut answer, left) = next(&mut stack, 1).expect("an answer");
        assert_eq!(left.is_some(), partial);
        assert_eq!(is_right(&answer), !partial);
        if let Some(left) = left {
            left.complete(&mut answer);
        }
        assert!(is_right(&answer));
    }
}

/// DHCP's clients read frames, and some believe in what they see.
#[test]
fn dhcp_is_whole() {
    let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4];
    message.resize(28, 0);
    message.extend(mac(1).0);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    let (from, to) = ("0.0.0.0:68".parse().unwrap(), "255.255.255.255:67");
    let (frame, left) = datagram(Mac::BROADCAST, from, to.parse().unwrap(), &message);
    let mut stack = network([true, true]);
    stack.receive_partial(1, &frame, Some(left), NOW);
    let (offer, left) = next(&mut stack, 1).expect("an offer");
    assert_eq!(left, None);
    assert!(is_right(&offer));
}

/// Oracle: smoltcp's TCP, which drops what is not right, behind a link that leaves everything out on our side.
#[test]
fn a_transfer_by_a_link_that_leaves_checksums_out() {
    let mut world = World::new(world::Faults::default());
    world.stack.set_partial(1, true);
    let handle = world.guests[0].tcp(70_000);
    world.guests[0].dial(handle, (SERVER, 80), 40_000);
    let (flow, _) = world.dialled();
    world.stack.tcp_connected(flow);
    let sent: Vec<u8> = (0..300_001_u32).map(|at| (at >> 3) as u8).collect();
    let (mut written, mut got) = (0, Vec::new());
    while got.len() < sent.len() {
        let count = world
            .stack
            .tcp_room(flow)
            .min(sent.len() - written)
            .min(9001);
        world
            .stack
            .tcp_write(flow, &sent[written..written + count], world.now);
        written += count;
        world.turn();
        let socket = world.guests[0].socket(handle);
        while socket.can_recv() {
            let read = |bytes: &mut [u8]| (bytes.len(), bytes.to_vec());
            got.extend(socket.recv(read).unwrap());
        }
    }
    assert!(got == sent);
    // Segments as the link gets them.
    world.stack.tcp_write(flow, &[7; 5000], world.now);
    let (mut segment, left) = next(&mut world.stack, 1).expect("a segment");
    assert!(!is_right(&segment));
    left.expect("left out").complete(&mut segment);
    assert!(is_right(&segment));
}
