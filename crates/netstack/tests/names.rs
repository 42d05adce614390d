//! The gateway's DNS over TCP; smoltcp plays the guest, and reads the answers' addresses.

mod world;

use std::net::{IpAddr, Ipv4Addr};

use netstack::{Event, FlowId, Rule, What};
use proptest::prelude::*;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use smoltcp::wire::{DnsPacket, DnsQuestion, DnsRecord, DnsRecordData};
use world::{Faults, GATEWAY, GUEST, OTHER, SERVER, World, config};

/// A question about the addresses of `name`, with its length before it.
fn question(id: u8, name: &str) -> Vec<u8> {
    let mut message = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    framed(&message)
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// An answer to a question without its length: `count` addresses from `first` on.
fn answer(question: &[u8], first: Ipv4Addr, count: u16) -> Vec<u8> {
    let mut message = question.to_vec();
    message[2] = 0x81;
    message[6..8].copy_from_slice(&count.to_be_bytes());
    for number in 0..count {
        let address = Ipv4Addr::from_bits(first.to_bits() + u32::from(number));
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend(address.octets());
    }
    message
}

/// A connection of the first guest's to the gateway's DNS.
fn connect(world: &mut World) -> SocketHandle {
    let handle = world.guests[0].tcp(128 << 10);
    let from = 40_000 + (world.now.as_millis() % 20_000) as u16;
    world.guests[0].dial(handle, (GATEWAY, 53), from);
    while !world.guests[0].socket(handle).may_send() {
        world.turn();
    }
    handle
}

fn send(world: &mut World, handle: SocketHandle, bytes: &[u8]) {
    let socket = world.guests[0].socket(handle);
    assert_eq!(socket.send_slice(bytes).unwrap(), bytes.len());
}

/// The next answer: its number, its code, its addresses of IPv4.
fn next(world: &mut World, handle: SocketHandle) -> (u16, u8, Vec<Ipv4Addr>) {
    let begun = world.now;
    loop {
        world.turn();
        assert!(
            world.now - begun < std::time::Duration::from_secs(10),
            "no answer"
        );
        let socket = world.guests[0].socket(handle);
        let whole = socket
            .peek(2)
            .ok()
            .and_then(|len| Some(u16::from_be_bytes(len.try_into().ok()?)));
        let Some(len) = whole
            .map(usize::from)
            .filter(|len| socket.recv_queue() >= 2 + len)
        else {
            continue;
        };
        let mut message = vec![0; 2 + len];
        socket.recv_slice(&mut message).unwrap();
        let packet = DnsPacket::new_checked(&message[2..]).unwrap();
        let (mut rest, _) = DnsQuestion::parse(packet.payload()).unwrap();
        let mut addresses = Vec::new();
        for _ in 0..packet.answer_record_count() {
            let record;
            (rest, record) = DnsRecord::parse(rest).unwrap();
            if let DnsRecordData::A(address) = record.data {
                addresses.push(address);
            }
        }
        return (packet.transaction_id(), u8::from(packet.rcode()), addresses);
    }
}

/// The question that is passed on.
fn asked(world: &mut World) -> (FlowId, Vec<u8>) {
    match world.event() {
        Event::Query { flow, payload, .. } => (flow, payload),
        other => panic!("{other:?}"),
    }
}

fn is_over(world: &mut World, handle: SocketHandle) -> bool {
    let begun = world.now;
    while world.now - begun < std::time::Duration::from_secs(5) {
        world.turn();
        if !world.guests[0].socket(handle).may_recv() {
            return true;
        }
    }
    false
}

#[test]
fn names_of_ours_and_of_others_one_after_the_other() {
    let mut world = World::new(Faults::default());
    let handle = connect(&mut world);
    // Two at once, then one in pieces.
    let two = [question(1, "guest2"), question(2, "nobody")].concat();
    send(&mut world, handle, &two);
    assert_eq!(next(&mut world, handle), (1, 0, vec![OTHER]));
    assert_eq!(next(&mut world, handle), (2, 3, vec![]));
    for byte in question(3, "guest1") {
        send(&mut world, handle, &[byte]);
        for _ in 0..3 {
            world.turn();
        }
    }
    assert_eq!(next(&mut world, handle), (3, 0, vec![GUEST]));
    // Passed on, and answered in the other order; then the guest's half ends, and ours after the last answer.
    send(&mut world, handle, &question(4, "a.example.org"));
    send(&mut world, handle, &question(5, "b.example.org"));
    world.guests[0].socket(handle).close();
    let (first, second) = (asked(&mut world), asked(&mut world));
    // With the guest's own number it is no answer.
    let own = &question(5, "b.example.org")[2..];
    assert_ne!(own, second.1);
    world
        .stack
        .udp_answer(second.0, &answer(own, SERVER, 1), world.now);
    let large = answer(&second.1, SERVER, 2000);
    world.stack.udp_answer(second.0, &large, world.now);
    let (id, code, addresses) = next(&mut world, handle);
    assert_eq!((id, code, addresses.len()), (5, 0, 2000));
    assert!(world.guests[0].socket(handle).may_recv(), "one waits still");
    world
        .stack
        .flow_failed(first.0, netstack::Unreachable::Port);
    assert_eq!(next(&mut world, handle), (4, 2, vec![]));
    assert!(is_over(&mut world, handle));
}

#[test]
fn an_answer_opens_what_it_opens_in_a_datagram() {
    let mut config = config();
    config.allow = vec![Rule {
        what: What::Name("www.example.org".into()),
        port: Some(80),
    }];
    let mut world = World::with(config, Faults::default());
    let handle = connect(&mut world);
    send(&mut world, handle, &question(1, "other.example.org"));
    assert_eq!(next(&mut world, handle).1, 3);
    send(&mut world, handle, &question(2, "www.example.org"));
    let (flow, payload) = asked(&mut world);
    world
        .stack
        .udp_answer(flow, &answer(&payload, SERVER, 1), world.now);
    assert_eq!(next(&mut world, handle), (2, 0, vec![SERVER]));
    let reaches = |world: &mut World, address: Ipv4Addr, from: u16| {
        let client = world.guests[0].tcp(4096);
        world.guests[0].dial(client, (IpAddr::from(address), 80), from);
        loop {
            world.turn();
            while let Some(event) = world.events.pop_front() {
                if let Event::Dial { .. } = event {
                    return true;
                }
            }
            if world.guests[0].socket(client).state() == tcp::State::Closed {
                return false;
            }
        }
    };
    assert!(reaches(&mut world, SERVER, 41_000));
    let neighbour = Ipv4Addr::from_bits(SERVER.to_bits() + 1);
    assert!(!reaches(&mut world, neighbour, 41_001));
}

/// What nobody here is called is asked for on the guest's other networks, and outside when nobody there is called so either.
#[test]
fn names_of_other_networks() {
    let mut world = World::new(Faults::default());
    world.stack.set_elsewhere(world.guests[0].port, true);
    let handle = connect(&mut world);
    let elsewhere = |world: &mut World| loop {
        match world.event() {
            Event::Elsewhere { flow, question, .. } => return (flow, question),
            Event::Forgotten(_) => {}
            other => panic!("{other:?}"),
        }
    };
    send(&mut world, handle, &question(1, "db"));
    let (flow, message) = elsewhere(&mut world);
    let reply = answer(&message, OTHER, 1);
    world.stack.elsewhere_answer(flow, Some(&reply));
    assert_eq!(next(&mut world, handle), (1, 0, vec![OTHER]));
    send(&mut world, handle, &question(2, "nobody"));
    let (flow, _) = elsewhere(&mut world);
    world.stack.elsewhere_answer(flow, None);
    assert_eq!(next(&mut world, handle), (2, 3, vec![]));
    send(&mut world, handle, &question(3, "www.example.org"));
    let (flow, _) = elsewhere(&mut world);
    world.stack.elsewhere_answer(flow, None);
    let (asked, message) = loop {
        match world.event() {
            Event::Query { flow, payload, .. } => break (flow, payload),
            Event::Forgotten(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked, flow);
    world
        .stack
        .udp_answer(flow, &answer(&message, SERVER, 1), world.now);
    assert_eq!(next(&mut world, handle), (3, 0, vec![SERVER]));
}

#[test]
fn nonsense_ends_the_connection_and_idleness_does_too() {
    let reset = |bytes: &[u8]| {
        let mut world = World::new(Faults::default());
        let handle = connect(&mut world);
        send(&mut world, handle, bytes);
        assert!(is_over(&mut world, handle), "{bytes:?}");
    };
    reset(&[0xff; 100]);
    reset(&framed(&[0; 12]));
    reset(&framed(&[]));
    let mut world = World::new(Faults::default());
    let handle = connect(&mut world);
    let idle = |world: &mut World| {
        world.now += std::time::Duration::from_secs(76);
        world.stack.on_time(world.now);
    };
    idle(&mut world);
    assert!(is_over(&mut world, handle));
}

/// Oracle: RFC 1035, 4.2.1, and RFC 6891: 512 bytes, or what the question says.
#[test]
fn a_datagram_that_does_not_fit_says_so() {
    let plain = question(7, "many.example.org")[2..].to_vec();
    let mut wide = plain.clone();
    wide[11] = 1;
    wide.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    let check = |query: &[u8], count: u16, most: usize, expect: bool| {
        let reply = answer(&plain, SERVER, count);
        let cut = netstack::dns::truncated(query, &reply, most);
        assert_eq!(cut.is_some(), expect, "{count} {most}");
        if let Some(cut) = cut {
            let packet = DnsPacket::new_checked(&cut[..]).unwrap();
            assert!(packet.flags().contains(smoltcp::wire::DnsFlags::TRUNCATED));
            assert_eq!(
                (packet.answer_record_count(), packet.transaction_id()),
                (0, 7)
            );
            DnsQuestion::parse(packet.payload()).unwrap();
        }
    };
    check(&plain, 29, 9000, false);
    check(&plain, 30, 9000, true);
    check(&wide, 30, 9000, false);
    check(&wide, 30, 500, true);
    check(&wide, 253, 9000, false);
    check(&wide, 254, 9000, true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Whatever a guest says: nothing panics, and each question that is whole is answered, passed on, or the end.
    #[test]
    fn any_bytes(pieces in prop::collection::vec(piece(), 1..6)) {
        let mut world = World::new(Faults::default());
        let handle = connect(&mut world);
        for piece in pieces {
            let socket = world.guests[0].socket(handle);
            if socket.may_send() {
                socket.send_slice(&piece).unwrap();
            }
            for _ in 0..5 {
                world.turn();
                while let Some(event) = world.events.pop_front() {
                    if let Event::Query { flow, payload, .. } = event {
                        world.stack.udp_answer(flow, &answer(&payload, SERVER, 3), world.now);
                    }
                }
            }
        }
    }
}

/// Bytes, or a question with some of its bytes changed.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let names = prop::sample::select(vec!["guest2", "www.example.org", "nobody"]);
    let changed = (names, changes).prop_map(|(name, changes)| {
        let mut message = question(9, name);
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        message
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), changed]
}
