//! IPv6: neighbours, translation, echoes, published ports, and who may say what. Oracle: smoltcp's stack as the guest.

mod world;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netstack::wire::ipv6::{self, Neighbour};
use netstack::wire::{self, ether_type, protocol};
use netstack::{Event, Mac, Stack, Target, Unreachable};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};
use world::{
    Faults, GATEWAY_MAC, GATEWAY6, GUEST, GUEST6, Guest, OTHER, OTHER6, SERVER, SERVER6, World,
    config,
};

#[test]
fn connections_and_datagrams_go_out_over_ipv6() {
    let mut world = World::new(Faults::default());
    let handle = world.guests[0].tcp(4096);
    world.guests[0].dial(handle, (SERVER6, 80), 40000);
    let (flow, to) = world.dialled();
    assert_eq!(to, SocketAddr::from((SERVER6, 80)));
    world.stack.tcp_connected(flow);
    while !world.guests[0].socket(handle).may_send() {
        world.turn();
    }
    world.guests[0].socket(handle).send_slice(b"hello").unwrap();
    while world
        .stack
        .tcp_input(flow)
        .is_some_and(|(front, ..)| front != b"hello")
    {
        world.turn();
    }
    world.stack.tcp_write(flow, &[7; 20_000], world.now);
    let mut got = 0;
    while got < 20_000 {
        world.turn();
        let socket = world.guests[0].socket(handle);
        if socket.can_recv() {
            got += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
    }
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(4000).unwrap();
    let to = IpEndpoint::new(IpAddress::Ipv6(SERVER6), 7);
    socket.send_slice(b"ping", to).unwrap();
    let handle = world.guests[0].sockets.add(socket);
    let flow = loop {
        match world.event() {
            Event::Datagram { flow, to, .. } => {
                assert_eq!(to, Target::Address(SocketAddr::from((SERVER6, 7))));
                break flow;
            }
            Event::Look(_) => {}
            other => panic!("{other:?}"),
        }
    };
    world.stack.udp_answer(flow, b"pong", world.now);
    loop {
        world.turn();
        let socket = world.guests[0].sockets.get_mut::<udp::Socket<'_>>(handle);
        if let Ok((bytes, from)) = socket.recv() {
            assert_eq!((bytes, from.endpoint), (&b"pong"[..], to));
            return;
        }
    }
}

#[test]
fn guests_are_neighbours_and_clients_find_the_family_that_listens() {
    let mut world = World::new(Faults::default());
    world.connect_neighbours(OTHER6);
    // A client of IPv6 keeps its own address.
    let server = world.guests[0].tcp(4096);
    world.guests[0].socket(server).listen(80).unwrap();
    let outside = SocketAddr::from((SERVER6, 5555));
    let flow = world.stack.tcp_dial(1, outside, 80, world.now).unwrap();
    assert_eq!(world.event(), Event::Look(flow));
    let remote = world.guests[0].socket(server).remote_endpoint().unwrap();
    assert_eq!((remote.addr, remote.port), (IpAddress::Ipv6(SERVER6), 5555));
    // One of the host's own is the gateway; where IPv6 is refused, IPv4 is tried before the client hears anything.
    let server = world.guests[0].tcp(4096);
    let only = IpListenEndpoint {
        addr: Some(IpAddress::Ipv4(GUEST)),
        port: 81,
    };
    world.guests[0].socket(server).listen(only).unwrap();
    let local = SocketAddr::from((Ipv6Addr::LOCALHOST, 5555));
    let flow = world.stack.tcp_dial(1, local, 81, world.now).unwrap();
    assert_eq!(world.event(), Event::Look(flow));
    let remote = world.guests[0].socket(server).remote_endpoint().unwrap();
    assert_eq!(remote.addr, IpAddress::Ipv4(world::GATEWAY));
    let flow = world.stack.tcp_dial(1, local, 82, world.now).unwrap();
    while world.event() != Event::Reset(flow) {}
}

/// Before anything of the client's, once, whichever address the guest takes the connection at.
#[test]
fn a_preface_is_heard_first_and_once() {
    let mut world = World::new(Faults::default());
    let client = SocketAddr::from((Ipv6Addr::LOCALHOST, 5555));
    for (port, only) in [(81, IpAddress::Ipv6(GUEST6)), (82, IpAddress::Ipv4(GUEST))] {
        let server = world.guests[0].tcp(4096);
        let listened = IpListenEndpoint {
            addr: Some(only),
            port,
        };
        world.guests[0].socket(server).listen(listened).unwrap();
        let flow = world.stack.tcp_dial(1, client, port, world.now).unwrap();
        world.stack.tcp_preface(flow, b"who it is, ");
        assert_eq!(world.stack.tcp_room(flow), 0, "the client waits");
        while world.event() != Event::Look(flow) {}
        world.stack.tcp_write(flow, b"and what it says", world.now);
        world.stack.tcp_finish(flow);
        while !world.guests[0].socket(server).may_recv() {
            world.turn();
        }
        let mut heard = Vec::new();
        while world.guests[0].socket(server).may_recv() {
            world.turn();
            let read = |bytes: &mut [u8]| (bytes.len(), bytes.to_vec());
            let socket = world.guests[0].socket(server);
            heard.extend(socket.recv(read).unwrap_or_default());
        }
        assert_eq!(heard, b"who it is, and what it says", "{only}");
    }
}

/// A frame of IPv6 from the first guest.
fn frame(to: Mac, ends: (Ipv6Addr, Ipv6Addr), next: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    wire::put_ethernet(&mut frame, to, Mac([2, 0, 0, 0, 0, 1]), ether_type::IPV6);
    ipv6::put_ipv6(&mut frame, ends.0, ends.1, next, payload.len(), 255);
    frame.extend_from_slice(payload);
    frame
}

fn two_guests() -> Stack {
    let mut stack = Stack::new(config());
    Guest::new(&mut stack, 1, GUEST, false);
    Guest::new(&mut stack, 2, OTHER, false);
    stack
}

fn sent(stack: &mut Stack, id: u32) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut buffer = Vec::new();
    while stack.transmit(id, &mut buffer, Duration::ZERO) {
        frames.push(buffer.clone());
    }
    frames
}

#[test]
fn nobody_is_a_router_or_another_one() {
    let all = Mac([0x33, 0x33, 0, 0, 0, 1]);
    let own = ipv6::link_local(Mac([2, 0, 0, 0, 0, 1]));
    let others = ipv6::link_local(Mac([2, 0, 0, 0, 0, 2]));
    let gateway = ipv6::link_local(GATEWAY_MAC);
    let advertisement = |target: Ipv6Addr| {
        let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        message.extend(target.octets());
        message.extend([2, 1, 2, 0, 0, 0, 0, 1]);
        message
    };
    let behind = |message: &[u8]| {
        // An empty header of destination options before it.
        let mut payload = vec![protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0];
        payload.extend(message);
        payload
    };
    let to = ipv6::ALL_NODES;
    let router = [134, 0, 0, 0, 64, 0, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0];
    let dhcp = [2, 35, 2, 34, 0, 8, 0, 0];
    let icmp = protocol::ICMPV6;
    let lies = [
        frame(all, (own, to), icmp, &router),
        frame(all, (own, to), 60, &behind(&router)),
        frame(all, (own, to), icmp, &[137; 40]),
        frame(all, (own, to), icmp, &advertisement(OTHER6)),
        frame(all, (own, to), 60, &behind(&advertisement(GATEWAY6))),
        frame(all, (own, to), icmp, &advertisement(gateway)),
        frame(all, (OTHER6, to), icmp, &advertisement(GUEST6)),
        frame(all, (others, to), icmp, &advertisement(GUEST6)),
        frame(all, (GATEWAY6, to), 17, &[0; 8]),
        frame(all, (own, to), 17, &dhcp),
        // Headers without an end.
        frame(all, (own, to), 60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(12)),
    ];
    let mut stack = two_guests();
    for (number, lie) in lies.iter().enumerate() {
        stack.receive(1, lie, Duration::ZERO);
        assert_eq!(stack.counters.spoofed, number as u64 + 1, "{number}");
    }
    assert!(sent(&mut stack, 2).is_empty());
    // The same guest about itself.
    stack.receive(
        1,
        &frame(all, (own, to), icmp, &advertisement(GUEST6)),
        Duration::ZERO,
    );
    assert_eq!(sent(&mut stack, 2).len(), 1);
}

#[test]
fn the_gateway_is_a_router_when_it_is_asked() {
    use smoltcp::wire::{Icmpv6Packet, Ipv6Packet, NdiscRepr};
    let mut stack = two_guests();
    let own = ipv6::link_local(Mac([2, 0, 0, 0, 0, 1]));
    let all_routers = "ff02::2".parse().unwrap();
    let to = Mac([0x33, 0x33, 0, 0, 0, 2]);
    let ask = frame(
        to,
        (own, all_routers),
        protocol::ICMPV6,
        &[133, 0, 0, 0, 0, 0, 0, 0],
    );
    stack.receive(1, &ask, Duration::ZERO);
    let answer = sent(&mut stack, 1).pop().unwrap();
    let packet = Ipv6Packet::new_checked(&answer[14..]).unwrap();
    assert_eq!(packet.hop_limit(), 255);
    let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    assert!(icmp.verify_checksum(&packet.src_addr(), &packet.dst_addr()));
    let NdiscRepr::RouterAdvert {
        router_lifetime,
        prefix_info,
        mtu,
        ..
    } = NdiscRepr::parse(&icmp).unwrap()
    else {
        panic!("no advertisement");
    };
    assert_eq!(
        (router_lifetime.secs(), mtu),
        (9000, Some(world::MTU as u32))
    );
    let prefix = prefix_info.unwrap();
    assert_eq!(
        (prefix.prefix, prefix.prefix_len),
        ("fd00::".parse().unwrap(), 64)
    );
    assert!(
        prefix
            .flags
            .contains(smoltcp::wire::NdiscPrefixInfoFlags::ON_LINK)
    );
    assert!(
        !prefix
            .flags
            .contains(smoltcp::wire::NdiscPrefixInfoFlags::ADDRCONF)
    );
    // The option of RFC 8106, which smoltcp's does not show.
    let resolvers = &icmp.payload()[8 + 8 + 32..];
    assert!(resolvers.starts_with(&[25, 3]) && resolvers.ends_with(&GATEWAY6.octets()));
    // The question was for everybody.
    assert_eq!(sent(&mut stack, 2).len(), 1);
    // Without having been asked, now and then.
    let later = Duration::from_secs(601);
    stack.on_time(later);
    let mut buffer = Vec::new();
    for id in [1, 2] {
        assert!(stack.transmit(id, &mut buffer, later));
        let packet = wire::parse_ipv6(&buffer[14..]).unwrap();
        assert_eq!(
            ipv6::parse_neighbour(&packet),
            Some(Neighbour::RouterAdvertisement)
        );
    }
}

#[test]
fn echoes_go_out_and_come_back_in_both_families() {
    let mut stack = two_guests();
    for (guest, server) in [
        (IpAddr::from(GUEST), IpAddr::from(SERVER)),
        (GUEST6.into(), SERVER6.into()),
    ] {
        let echo = wire::Echo {
            request: true,
            identifier: 77,
            sequence: 3,
            payload: b"who is there",
        };
        let (mut message, mut request) = (Vec::new(), Vec::new());
        let next = match (guest, server) {
            (IpAddr::V6(guest), IpAddr::V6(server)) => {
                ipv6::put_echo(&mut message, (guest, server), &echo);
                protocol::ICMPV6
            }
            _ => {
                wire::put_echo(&mut message, &echo);
                protocol::ICMP
            }
        };
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        wire::put_ethernet(&mut request, GATEWAY_MAC, mac, wire::ether_type_of(guest));
        wire::put_ip(&mut request, guest, server, next, message.len());
        request.extend(&message);
        stack.receive(1, &request, Duration::ZERO);
        let events: Vec<Event> = std::iter::from_fn(|| stack.event()).collect();
        let Some(Event::Echo {
            flow,
            to,
            sequence: 3,
            payload,
        }) = events.last().cloned()
        else {
            panic!("{events:?}");
        };
        assert_eq!((to, &payload[..]), (server, echo.payload));
        stack.echo_answer(flow, 3, echo.payload, Duration::ZERO);
        let answer = sent(&mut stack, 1).pop().unwrap();
        let packet = match guest {
            IpAddr::V4(_) => wire::parse_ipv4(&answer[14..]),
            IpAddr::V6(_) => wire::parse_ipv6(&answer[14..]),
        };
        let packet = packet.unwrap();
        assert_eq!((packet.source, packet.destination), (server, guest));
        let reply = match guest {
            IpAddr::V4(_) => wire::parse_echo(packet.payload),
            IpAddr::V6(_) => ipv6::parse_echo(packet.payload),
        };
        assert_eq!(
            reply,
            Some(wire::Echo {
                request: false,
                ..echo
            })
        );
        // Where the host may not, the guest is told, with what it had sent.
        stack.flow_failed(flow, Unreachable::Prohibited);
        let answer = sent(&mut stack, 1).pop().unwrap();
        let (at, expect) = match guest {
            IpAddr::V4(_) => (14 + 20, [3, 13]),
            IpAddr::V6(_) => (14 + 40, [1, 1]),
        };
        assert_eq!(answer[at..at + 2], expect);
    }
}

#[test]
fn addresses_in_disguise_lead_nowhere() {
    let mut world = World::new(Faults::default());
    for (to, reached) in [
        ("::1", false),
        ("::ffff:127.0.0.1", false),
        ("::127.0.0.1", false),
        ("::", false),
        ("fd00::dead", false),
        ("::ffff:192.0.2.9", false),
        ("::ffff:0:192.0.2.9", false),
        ("64:ff9b::127.0.0.1", false),
        ("64:ff9b::0.0.0.0", false),
        ("64:ff9b::10.88.0.3", false),
        ("64:ff9b::192.0.2.9", true),
        ("64:ff9b:1::192.0.2.9", false),
        ("2002:7f00:1::1", false),
        ("2002:a58:3::1", false),
        ("2002:c000:209::1", true),
        ("2001:db8::7f00:1", true),
    ] {
        let to: Ipv6Addr = to.parse().unwrap();
        let source = (GUEST6, to);
        let syn = [
            0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
        ];
        world.stack.receive(
            1,
            &frame(GATEWAY_MAC, source, protocol::TCP, &syn),
            world.now,
        );
        world.turn();
        let dialled = |event: &Event| matches!(event, Event::Dial { .. });
        assert_eq!(world.events.iter().any(dialled), reached, "{to}");
        world.events.clear();
    }
    let handle = world.guests[0].tcp(4096);
    world.guests[0].dial(handle, (GATEWAY6, 22), 40001);
    while world.guests[0].socket(handle).state() != tcp::State::Closed {
        world.turn();
    }
}
