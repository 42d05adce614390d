//! What a guest may not say of itself, in whichever wrapping, and what it can't do to who comes later.

mod world;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use netstack::wire::{self, ether_type, protocol};
use netstack::{Event, Mac, Stack};
use world::{GATEWAY, GATEWAY_MAC, GUEST, GUEST6, Guest, OTHER, OTHER6, SERVER, config};

const NOW: Duration = Duration::ZERO;
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OTHERS: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn two_guests() -> Stack {
    let mut stack = Stack::new(config());
    Guest::new(&mut stack, 1, GUEST, false);
    Guest::new(&mut stack, 2, OTHER, false);
    stack
}

/// Frames for a guest.
fn sent(stack: &mut Stack, id: u32) -> Vec<Vec<u8>> {
    let mut buffer = Vec::new();
    let next = || stack.transmit(id, &mut buffer, NOW).then(|| buffer.clone());
    std::iter::from_fn(next).collect()
}

fn frame(to: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    wire::put_ethernet(&mut frame, to, MAC, kind);
    frame.extend_from_slice(payload);
    frame
}

/// The first guest says in ARP's words that it has an address.
fn arp(hardware: u8, sender: Ipv4Addr) -> Vec<u8> {
    let mut packet = Vec::new();
    let arp = wire::Arp {
        request: false,
        sender_mac: MAC,
        sender,
        target_mac: OTHERS,
        target: OTHER,
    };
    wire::put_arp(&mut packet, &arp);
    packet[1] = hardware;
    packet
}

/// The same behind tags of VLANs.
fn tagged(tags: &[(u16, u16)], kind: u16, payload: &[u8]) -> Vec<u8> {
    let kinds = tags.iter().skip(1).map(|(kind, _)| *kind).chain([kind]);
    let mut packet = Vec::new();
    for ((_, vlan), next) in tags.iter().zip(kinds) {
        packet.extend(vlan.to_be_bytes());
        packet.extend(next.to_be_bytes());
    }
    packet.extend(payload);
    frame(OTHERS, tags[0].0, &packet)
}

fn check(stack: &mut Stack, what: &str, frame: &[u8], passes: bool) {
    sent(stack, 2);
    let before = stack.counters.spoofed;
    stack.receive(1, frame, NOW);
    let passed = !sent(stack, 2).is_empty();
    assert_eq!(passed, passes, "{what}");
    assert_eq!(stack.counters.spoofed > before, !passes, "{what}");
}

/// Oracle: Linux's `arp_process` takes hardware types 1 and 6, and its `vlan_do_receive` takes tags of VLAN 0 off.
#[test]
fn arp_of_any_kind_and_behind_any_tags_says_no_lies() {
    let mut stack = two_guests();
    let mut check = |what, frame: &[u8], passes| check(&mut stack, what, frame, passes);
    let plain = |packet: &[u8]| frame(OTHERS, ether_type::ARP, packet);
    check("its own", &plain(&arp(1, GUEST)), true);
    check(
        "nobody's",
        &plain(&arp(1, Ipv4Addr::new(10, 88, 3, 3))),
        true,
    );
    check("the gateway's", &plain(&arp(1, GATEWAY)), false);
    check("another's", &plain(&arp(1, OTHER)), false);
    check("IEEE 802's", &plain(&arp(6, GATEWAY)), false);
    check("half of it", &plain(&arp(1, GUEST)[..20]), false);
    for kind in [
        ether_type::VLAN,
        ether_type::PROVIDER_VLAN,
        ether_type::OLD_PROVIDER_VLAN,
    ] {
        // A priority of 7, no VLAN.
        let none = (kind, 0xe000);
        let behind = |tags: &[_], sender| tagged(tags, ether_type::ARP, &arp(1, sender));
        check("a priority", &behind(&[none], GUEST), true);
        check("a lie with priority", &behind(&[none], GATEWAY), false);
        check("with several", &behind(&[none; 4], GATEWAY), false);
        check("several", &behind(&[none; 4], GUEST), true);
        check("too many", &behind(&[none; 5], GUEST), false);
        // Who listens on a VLAN has a device for it.
        check("a VLAN's", &behind(&[none, (kind, 7)], GATEWAY), true);
        check("half a tag", &frame(OTHERS, kind, &[0]), false);
        let mut packet = Vec::new();
        wire::put_ipv4(&mut packet, GATEWAY, OTHER, protocol::UDP, 8);
        packet.extend([0; 8]);
        check(
            "an address",
            &tagged(&[none], ether_type::IPV4, &packet),
            false,
        );
    }
}

#[test]
fn nobody_is_a_dhcp_server_from_any_port_and_in_any_piece() {
    const MORE: u8 = 0x20;
    let mut stack = two_guests();
    let mut check = |what, frame: &[u8], passes| check(&mut stack, what, frame, passes);
    let packet = |place: [u8; 2], payload: &[u8]| {
        let mut packet = Vec::new();
        wire::put_ipv4(&mut packet, GUEST, OTHER, protocol::UDP, payload.len());
        packet[6..8].copy_from_slice(&place);
        packet.extend(payload);
        frame(OTHERS, ether_type::IPV4, &packet)
    };
    let to = |port: u8, from: u8| [0, from, 0, port, 0, 8, 0, 0];
    check("a datagram", &packet([0, 0], &to(9, 67)), true);
    check("a server's", &packet([0, 0], &to(68, 67)), false);
    check("from another port", &packet([0, 0], &to(68, 9)), false);
    check(
        "longer than it is",
        &packet([0, 0], &[0, 67, 0, 68, 1, 0, 0, 0]),
        false,
    );
    check("its first piece", &packet([MORE, 0], &to(68, 67)), false);
    check("too small to say", &packet([MORE, 0], &[0, 67, 0]), false);
    check(
        "another's first piece",
        &packet([MORE, 0], &to(9, 67)),
        true,
    );
    check("a later piece", &packet([0, 1], &to(68, 67)), true);
    let mut cut = packet([0, 0], &to(9, 67));
    cut.truncate(14 + 24);
    check("half a packet", &cut, false);
    let six = |next: u8, payload: &[u8]| {
        let mut packet = Vec::new();
        wire::ipv6::put_ipv6(&mut packet, GUEST6, OTHER6, next, payload.len(), 64);
        packet.extend(payload);
        frame(OTHERS, ether_type::IPV6, &packet)
    };
    check(
        "IPv6's",
        &six(protocol::UDP, &[0, 9, 2, 34, 0, 8, 0, 0]),
        false,
    );
    check(
        "to 547",
        &six(protocol::UDP, &[2, 34, 2, 35, 0, 8, 0, 0]),
        true,
    );
    // Neighbours' words begin in the first piece and end in the second.
    let advertisement = [
        protocol::ICMPV6,
        0,
        0,
        1,
        0,
        0,
        0,
        1,
        136,
        0,
        0,
        0,
        0x20,
        0,
        0,
        0,
    ];
    check(
        "a fragment",
        &six(protocol::FRAGMENT, &advertisement),
        false,
    );
}

/// Who took an address before it was anybody's has it no more, for itself and in other's memory.
#[test]
fn an_address_that_was_used_before_is_free_of_it() {
    let mut stack = Stack::new(config());
    Guest::new(&mut stack, 1, GUEST, false);
    let syn = |from: Mac| {
        let header = netstack::tcp::Header {
            source: 40_000,
            destination: 80,
            sequence: 1,
            flags: netstack::tcp::flag::SYN,
            window: 1000,
            ..Default::default()
        };
        let mut segment = Vec::new();
        netstack::tcp::put(&mut segment, &header);
        let mut frame = Vec::new();
        wire::put_ethernet(&mut frame, GATEWAY_MAC, from, ether_type::IPV4);
        wire::put_ipv4(&mut frame, OTHER, SERVER, protocol::TCP, segment.len());
        frame.extend(segment);
        frame
    };
    let datagram = |from: Mac| {
        let ends: [SocketAddr; 2] = [(OTHER, 4000).into(), (SERVER, 53).into()];
        let mut udp = Vec::new();
        wire::put_udp(&mut udp, ends[0], ends[1], b"hello");
        let mut frame = Vec::new();
        wire::put_ethernet(&mut frame, GATEWAY_MAC, from, ether_type::IPV4);
        wire::put_ipv4(&mut frame, OTHER, SERVER, protocol::UDP, udp.len());
        frame.extend(udp);
        frame
    };
    let begun = |stack: &mut Stack| {
        let events = std::iter::from_fn(|| stack.event());
        let flows = events.filter_map(|event| match event {
            Event::Dial { flow, .. } | Event::Datagram { flow, .. } => Some(flow),
            _ => None,
        });
        flows.collect::<Vec<_>>()
    };
    stack.receive(1, &syn(MAC), NOW);
    stack.receive(1, &datagram(MAC), NOW);
    let before = begun(&mut stack);
    assert_eq!(before.len(), 2);
    Guest::new(&mut stack, 2, OTHER, false);
    Guest::new(&mut stack, 3, Ipv4Addr::new(10, 88, 0, 4), false);
    stack.receive(2, &syn(OTHERS), NOW);
    stack.receive(2, &datagram(OTHERS), NOW);
    let after = begun(&mut stack);
    assert_eq!(after.len(), 2);
    assert!(
        after
            .iter()
            .all(|flow| stack.flows(2) == (1, 1) && !before.contains(flow))
    );
    // The third believes still that the second's address is at the first's, or at a card that is gone.
    let third = Mac([2, 0, 0, 0, 0, 3]);
    let mut packet = Vec::new();
    wire::put_ipv4(&mut packet, Ipv4Addr::new(10, 88, 0, 4), OTHER, 99, 0);
    let mut gateways = packet.clone();
    gateways[16..20].copy_from_slice(&GATEWAY.octets());
    for (to, packet, expect) in [
        (MAC, &packet, 0),
        (Mac([2, 0, 0, 0, 9, 9]), &packet, 1),
        (MAC, &gateways, 0),
        (OTHERS, &packet, 1),
    ] {
        let mut frame = Vec::new();
        wire::put_ethernet(&mut frame, to, third, ether_type::IPV4);
        frame.extend(packet);
        stack.receive(3, &frame, NOW);
        assert_eq!(sent(&mut stack, 1).len(), 0, "{to}");
        assert_eq!(sent(&mut stack, 2).len(), expect, "{to}");
    }
}

/// A message of DHCP from behind the first guest; the kind of the answer and its address.
fn dhcp(stack: &mut Stack, mac: Mac, kind: u8, wish: Option<Ipv4Addr>) -> Option<(u8, Ipv4Addr)> {
    let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4];
    message.resize(28, 0);
    message.extend(mac.0);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, kind]);
    if let Some(wish) = wish {
        message.extend([50, 4]);
        message.extend(wish.octets());
    }
    message.push(255);
    let ends: [SocketAddr; 2] = [([0; 4], 68).into(), ([255; 4], 67).into()];
    let mut udp = Vec::new();
    wire::put_udp(&mut udp, ends[0], ends[1], &message);
    let mut frame = Vec::new();
    wire::put_ethernet(&mut frame, Mac::BROADCAST, mac, ether_type::IPV4);
    let (none, all) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    wire::put_ipv4(&mut frame, none, all, protocol::UDP, udp.len());
    frame.extend(udp);
    stack.receive(1, &frame, NOW);
    let answer = sent(stack, 1).pop()?;
    let answer = &answer[14 + 28..];
    let kind = answer[240..]
        .windows(3)
        .find(|option| option[..2] == [53, 1])?[2];
    Some((kind, <[u8; 4]>::try_from(&answer[16..20]).unwrap().into()))
}

const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;
const RELEASE: u8 = 7;
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// A guest with an Ethernet of its own behind it, and one that makes one up.
#[test]
fn who_is_behind_a_guest_has_few_addresses_and_no_wishes() {
    let mut stack = Stack::new(config());
    Guest::new(&mut stack, 1, GUEST, false);
    let at = |last: u8| Ipv4Addr::new(10, 88, 0, last);
    let inner = |number: u8| Mac([2, 0, 0, 0, 7, number]);
    // The guest itself has what it was given.
    assert_eq!(
        dhcp(&mut stack, MAC, DISCOVER, Some(OTHER)),
        Some((OFFER, GUEST))
    );
    assert_eq!(
        dhcp(&mut stack, MAC, REQUEST, Some(GUEST)),
        Some((ACK, GUEST))
    );
    // Another one is not asked.
    let wish = Some(Ipv4Addr::new(10, 88, 9, 9));
    assert_eq!(dhcp(&mut stack, inner(0), REQUEST, wish).unwrap().0, NAK);
    for number in 0..netstack::limit::LEASES as u8 {
        let given = dhcp(&mut stack, inner(number), DISCOVER, wish).unwrap();
        assert_eq!(given, (OFFER, at(3 + number)));
    }
    assert_eq!(dhcp(&mut stack, inner(99), DISCOVER, None), None);
    // The same each time.
    assert_eq!(
        dhcp(&mut stack, inner(2), REQUEST, Some(at(5))),
        Some((ACK, at(5)))
    );
    assert_eq!(
        dhcp(&mut stack, inner(2), DISCOVER, None),
        Some((OFFER, at(5)))
    );
    // A guest that joins comes before them, and elsewhere first when it does not mind.
    assert_eq!(stack.free_address(None), Some(at(11)));
    assert_eq!(stack.free_address(Some(at(5))), Some(at(5)));
    assert!(stack.is_free(at(5)) && !stack.is_free(GUEST));
    Guest::new(&mut stack, 2, at(5), false);
    assert!(!stack.is_free(at(5)));
    assert_eq!(
        dhcp(&mut stack, inner(2), REQUEST, Some(at(5))).unwrap().0,
        NAK
    );
    let mut packet = Vec::new();
    wire::put_ipv4(&mut packet, at(5), SERVER, 99, 0);
    check(
        &mut stack,
        "has it no more",
        &frame(OTHERS, ether_type::IPV4, &packet),
        false,
    );
    // Who is done with one has room for another; and so has who was silent, but not for one that was taken.
    assert_eq!(dhcp(&mut stack, inner(0), RELEASE, None), None);
    assert_eq!(
        dhcp(&mut stack, inner(20), DISCOVER, None),
        Some((OFFER, at(3)))
    );
    assert_eq!(
        dhcp(&mut stack, inner(1), REQUEST, Some(at(4))),
        Some((ACK, at(4)))
    );
    stack.on_time(Duration::from_secs(90));
    assert_eq!(stack.free_address(None), Some(at(3)));
    stack.on_time(Duration::from_secs(3700));
    assert_eq!(
        dhcp(&mut stack, inner(1), REQUEST, Some(at(4))).unwrap().0,
        NAK
    );
    // The guest goes, and all behind it.
    stack.detach(1);
    assert_eq!(stack.free_address(None), Some(GUEST));
}

#[test]
fn a_small_subnet_is_not_leased_whole() {
    for (prefix, most) in [(30, 0), (29, 2), (28, 8), (27, 8)] {
        let mut stack = Stack::new(netstack::Config { prefix, ..config() });
        Guest::new(&mut stack, 1, GUEST, false);
        let leased = (0..20).filter(|number| {
            let inner = Mac([2, 0, 0, 0, 7, *number]);
            dhcp(&mut stack, inner, DISCOVER, None).is_some()
        });
        assert_eq!(leased.count(), most, "{prefix}");
        // When all others are gone, leases are.
        for id in 2.. {
            let Some(address) = stack.free_address(None) else {
                assert_eq!(id, (1 << (32 - prefix)) - 2, "{prefix}");
                break;
            };
            Guest::new(&mut stack, id, address, false);
        }
    }
}

/// TCP, datagrams, echoes and names, of both families: what is outside is refused, and never in silence.
#[test]
fn an_internal_network_leads_nowhere() {
    use netstack::wire::ipv6;
    use world::{GATEWAY6, SERVER6};
    let mut stack = Stack::new(netstack::Config {
        internal: true,
        ..config()
    });
    Guest::new(&mut stack, 1, GUEST, true);
    Guest::new(&mut stack, 2, OTHER, false);
    let mut refused = |ends: [IpAddr; 2], next: u8, payload: &[u8]| {
        let mut frame = Vec::new();
        wire::put_ethernet(&mut frame, GATEWAY_MAC, MAC, wire::ether_type_of(ends[0]));
        wire::put_ip(&mut frame, ends[0], ends[1], next, payload.len());
        frame.extend(payload);
        stack.receive(1, &frame, NOW);
        while let Some(event) = stack.event() {
            assert!(matches!(event, Event::Note(..)), "{event:?}");
        }
        let answer = sent(&mut stack, 1).pop().expect("an answer");
        answer[14 + wire::ip_len(ends[0])..].to_vec()
    };
    let question = |name: &[u8]| {
        [
            &[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
            name,
            &[0, 0, 1, 0, 1],
        ]
        .concat()
    };
    for v6 in [false, true] {
        let (guest, server, gateway): (IpAddr, IpAddr, IpAddr) = match v6 {
            false => (GUEST.into(), SERVER.into(), GATEWAY.into()),
            true => (GUEST6.into(), SERVER6.into(), GATEWAY6.into()),
        };
        let (icmp, prohibited) = match v6 {
            false => (protocol::ICMP, [3, 13]),
            true => (protocol::ICMPV6, [1, 1]),
        };
        let to = [guest, server];
        let mut syn = vec![
            0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff,
        ];
        syn.resize(20, 0);
        let answer = refused(to, protocol::TCP, &syn);
        assert_eq!(
            answer[13],
            netstack::tcp::flag::RST | netstack::tcp::flag::ACK
        );
        let ends = |remote, port| (SocketAddr::new(guest, 4000), SocketAddr::new(remote, port));
        let mut udp = Vec::new();
        wire::put_udp(&mut udp, ends(server, 9).0, ends(server, 9).1, b"hello");
        assert_eq!(refused(to, protocol::UDP, &udp)[..2], prohibited);
        let request = wire::Echo {
            request: true,
            identifier: 7,
            sequence: 1,
            payload: b"ping",
        };
        let mut echo = Vec::new();
        match (guest, server) {
            (IpAddr::V6(guest), IpAddr::V6(server)) => {
                ipv6::put_echo(&mut echo, (guest, server), &request);
            }
            _ => wire::put_echo(&mut echo, &request),
        }
        assert_eq!(refused(to, icmp, &echo)[..2], prohibited);
        // A name of outside is none; one of the network's own is there.
        for (name, code) in [(&b"\x03www\x07example\x03org"[..], 3), (b"\x06guest2", 0)] {
            let mut udp = Vec::new();
            let (from, at) = ends(gateway, 53);
            wire::put_udp(&mut udp, from, at, &question(name));
            let answer = refused([guest, gateway], protocol::UDP, &udp);
            assert_eq!(answer[8 + 3] & 15, code);
        }
    }
}
