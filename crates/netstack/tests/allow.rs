//! Allow-lists: what a name's answer opens, for how long, and what stays closed.

mod world;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use netstack::{Event, FlowId, Note, Rule, Target, Unreachable, What};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{IpAddress, IpEndpoint};
use world::{Faults, GATEWAY, SERVER, SERVER6, World, config};

/// The address next to [`SERVER`].
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

fn rule(what: What, port: Option<u16>) -> Rule {
    Rule { what, port }
}

fn world(rules: &[Rule]) -> World {
    let mut config = config();
    config.allow = rules.to_vec();
    World::with(config, Faults::default())
}

/// A question about `name` with the number 7, and an answer to it with these addresses.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn answer(question: &[u8], seconds: u32, addresses: &[IpAddr]) -> Vec<u8> {
    let mut message = question.to_vec();
    message[2] = 0x81;
    message[7] = addresses.len() as u8;
    for address in addresses {
        let (kind, data) = match address {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (28, address.octets().to_vec()),
        };
        message.extend([0xc0, 12, 0, kind, 0, 1]);
        message.extend(seconds.to_be_bytes());
        message.extend([0, data.len() as u8]);
        message.extend(data);
    }
    message
}

/// The first guest asks the gateway about a name: the question that is passed on with its flow, or the code of the answer.
fn ask(world: &mut World, message: &[u8]) -> Result<(FlowId, Vec<u8>), u8> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(5353).unwrap();
    let to = IpEndpoint::new(IpAddress::Ipv4(GATEWAY), 53);
    socket.send_slice(message, to).unwrap();
    let handle = world.guests[0].sockets.add(socket);
    let outcome = loop {
        world.turn();
        if let Some(Event::Datagram {
            flow, to, payload, ..
        }) = world.events.pop_front()
        {
            assert_eq!(to, Target::Resolver);
            break Ok((flow, payload));
        }
        let socket = world.guests[0].sockets.get_mut::<udp::Socket<'_>>(handle);
        if let Ok((bytes, _)) = socket.recv() {
            break Err(bytes[3] & 15);
        }
    };
    world.guests[0].sockets.remove(handle);
    outcome
}

/// Dials from the first guest; true: it is passed on.
fn reaches(world: &mut World, to: impl Into<IpAddress>, port: u16) -> bool {
    let handle = world.guests[0].tcp(4096);
    let from = 40_000 + (world.now.as_millis() % 20_000) as u16;
    world.guests[0].dial(handle, (to.into(), port), from);
    let begun = world.now;
    loop {
        world.turn();
        assert!(world.now - begun < Duration::from_secs(3), "a hang");
        if let Some(Event::Dial { flow, .. }) = world.events.pop_front() {
            world.stack.tcp_abort(flow);
            return true;
        }
        // Refused at once, by a reset.
        if world.guests[0].socket(handle).state() == tcp::State::Closed {
            return false;
        }
    }
}

#[test]
fn a_name_opens_its_addresses_for_as_long_as_its_answer_holds() {
    let mut world = world(&[rule(What::Name("www.example.org".into()), Some(80))]);
    assert!(!reaches(&mut world, SERVER, 80));
    assert!(matches!(
        world.notes.last(),
        Some(Note::Refused { remote, why: Unreachable::Prohibited, .. })
            if *remote == SocketAddr::from((SERVER, 80))
    ));
    let message = question("WWW.example.org");
    let (flow, message) = ask(&mut world, &message).unwrap();
    // An answer to something else opens nothing.
    let other = answer(&question("evil.example.org"), 60, &[NEIGHBOUR.into()]);
    world.stack.udp_answer(flow, &other, world.now);
    assert!(!reaches(&mut world, NEIGHBOUR, 80));
    let good = answer(
        &message,
        60,
        &[SERVER.into(), SERVER6.into(), GATEWAY.into()],
    );
    world.stack.udp_answer(flow, &good, world.now);
    assert!(reaches(&mut world, SERVER, 80));
    assert!(reaches(&mut world, SERVER6, 80));
    for (address, port) in [(NEIGHBOUR, 80), (SERVER, 81), (GATEWAY, 80)] {
        assert!(!reaches(&mut world, address, port), "{address} {port}");
    }
    // Who did not ask is let nowhere.
    let handle = world.guests[1].tcp(4096);
    world.guests[1].dial(handle, (SERVER, 80), 40000);
    while world.guests[1].socket(handle).state() != tcp::State::Closed {
        world.turn();
    }
    world.now += Duration::from_secs(61);
    assert!(!reaches(&mut world, SERVER, 80));
}

/// RFC 5452, 9.2: who has seen the guest's question, or made it ask, does not know the resolver's.
#[test]
fn resolvers_see_a_number_of_ours() {
    let mut world = world(&[rule(What::Name("www.example.org".into()), None)]);
    let message = question("www.example.org");
    let mut numbers = std::collections::BTreeSet::new();
    for _ in 0..16 {
        let (flow, asked) = ask(&mut world, &message).unwrap();
        assert_eq!(asked[2..], message[2..]);
        numbers.insert(asked[..2].to_vec());
        let sent = |world: &mut World| {
            let mut frame = Vec::new();
            world
                .stack
                .transmit(1, &mut frame, world.now)
                .then_some(frame)
        };
        let forged = answer(&message, 60, &[NEIGHBOUR.into()]);
        world.stack.udp_answer(flow, &forged, world.now);
        world.stack.udp_answer(flow, &[], world.now);
        assert_eq!(sent(&mut world), None);
        let reply = answer(&asked, 60, &[SERVER.into()]);
        world.stack.udp_answer(flow, &reply, world.now);
        let frame = sent(&mut world).expect("an answer");
        assert_eq!(frame[14 + 28..], answer(&message, 60, &[SERVER.into()]));
    }
    assert!(numbers.len() > 14, "{numbers:?}");
}

#[test]
fn other_names_are_not_asked_for() {
    let mut world = world(&[rule(What::Below("example.org".into()), None)]);
    assert_eq!(ask(&mut world, &question("example.com")), Err(3));
    assert_eq!(ask(&mut world, &question("example.org")), Err(3));
    let refused = |note: &&Note| matches!(note, Note::Question { refused: true, .. });
    assert_eq!(world.notes.iter().filter(refused).count(), 2);
    // Names of ours are nobody else's.
    assert_eq!(ask(&mut world, &question("guest2")), Err(0));
    let message = question("a.example.org");
    let (flow, message) = ask(&mut world, &message).unwrap();
    // Zero seconds are enough for a guest to come from the answer to its connection.
    world
        .stack
        .udp_answer(flow, &answer(&message, 0, &[SERVER.into()]), world.now);
    assert!(reaches(&mut world, SERVER, 80));
    world.now += Duration::from_secs(20);
    assert!(!reaches(&mut world, SERVER, 80));
}

#[test]
fn prefixes_are_open_from_the_start_and_loopback_never_is() {
    let all = [
        rule(What::Prefix("192.0.2.8".parse().unwrap(), 31), None),
        rule(What::Prefix("127.0.0.0".parse().unwrap(), 8), None),
        rule(What::Prefix("2001:db8::".parse().unwrap(), 32), Some(443)),
    ];
    let mut world = world(&all);
    assert!(reaches(&mut world, SERVER, 80));
    assert!(!reaches(&mut world, NEIGHBOUR, 80));
    assert!(!reaches(&mut world, Ipv4Addr::LOCALHOST, 80));
    assert!(reaches(&mut world, SERVER6, 443));
    assert!(!reaches(&mut world, SERVER6, 80));
}

/// What nobody on this network is called is asked on the others that the guest is on; only then outside, by the same rules.
#[test]
fn a_guest_of_several_networks_asks_the_others_first() {
    let mut world = world(&[rule(What::Name("www.example.org".into()), Some(80))]);
    assert_eq!(ask(&mut world, &question("db")), Err(3));
    world.stack.set_elsewhere(world.guests[0].port, true);
    let asked = |world: &mut World, name: &str| -> (FlowId, Vec<u8>) {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(5354).unwrap();
        let to = IpEndpoint::new(IpAddress::Ipv4(GATEWAY), 53);
        socket.send_slice(&question(name), to).unwrap();
        let handle = world.guests[0].sockets.add(socket);
        world.events.clear();
        loop {
            world.turn();
            match world.events.pop_front() {
                Some(Event::Elsewhere { flow, question, .. }) => {
                    world.guests[0].sockets.remove(handle);
                    return (flow, question);
                }
                Some(Event::Datagram { .. }) => panic!("asked outside"),
                _ => {}
            }
        }
    };
    // A name of the list, from another network: it opens nothing here.
    let (flow, message) = asked(&mut world, "www.example.org");
    let other = answer(&question("evil.example.org"), 60, &[NEIGHBOUR.into()]);
    let reply = answer(&message, 60, &[SERVER.into()]);
    world.stack.elsewhere_answer(flow, Some(&reply));
    assert!(!reaches(&mut world, SERVER, 80));
    // Nobody is called so there, or the answer is none to this question: it goes outside.
    for nothing in [None, Some(&other[..])] {
        let (flow, _) = asked(&mut world, "www.example.org");
        world.stack.elsewhere_answer(flow, nothing);
        let outside =
            |event: &Event| matches!(event, Event::Datagram { flow: of, .. } if *of == flow);
        world.turn();
        assert!(world.events.iter().any(outside), "{:?}", world.events);
    }
    let (flow, _) = asked(&mut world, "db");
    world.stack.elsewhere_answer(flow, None);
    world.turn();
    let passed_on =
        |event: &Event| matches!(event, Event::Datagram { flow: of, .. } if *of == flow);
    assert!(!world.events.iter().any(passed_on), "{:?}", world.events);
    // Those of this network are at hand, also for who asks from another one.
    assert_eq!(ask(&mut world, &question("guest2")), Err(0));
    let found = world.stack.lookup(&question("guest2")).unwrap();
    assert_eq!((found[3] & 15, found[7]), (0, 1));
    assert_eq!(world.stack.lookup(&question("db")), None);
    assert_eq!(world.stack.lookup(b"nonsense"), None);
}
