//! TCP, UDP and the switch against smoltcp's, with and without faults.

mod world;

use std::net::SocketAddr;
use std::time::Duration;

use netstack::{Event, Stack, Target};
use proptest::prelude::*;
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{IpAddress, IpCidr, IpEndpoint};
use world::{Faults, GATEWAY, GUEST, Guest, OTHER, SERVER, World, config};

fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 31 + (at >> 8) * 7 + salt) as u8)
        .collect()
}

/// Both sides send all that they have and then end their half; both must get what the other sent, whole.
fn exchange(faults: Faults, up: usize, down: usize, buffer: usize, sip: usize) {
    let mut world = World::new(faults);
    let handle = world.guests[0].tcp(buffer);
    world.guests[0].dial(handle, (SERVER, 80), 40000);
    let (flow, to) = world.dialled();
    assert_eq!(to, SocketAddr::from((SERVER, 80)));
    world.stack.tcp_connected(flow);
    let (up, down) = (pattern(up, 1), pattern(down, 2));
    let (mut sent_up, mut sent_down) = (0, 0);
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let mut finished = false;
    let mut steps = 0;
    let done = |event: &Event| *event == Event::Done(flow);
    while !world.events.iter().any(done) || world.guests[0].socket(handle).may_recv() {
        steps += 1;
        assert!(
            steps < 3_000_000,
            "stuck: {} of {} up, {} of {} down",
            got_up.len(),
            up.len(),
            got_down.len(),
            down.len()
        );
        assert!(!world.events.contains(&Event::Reset(flow)));
        world.turn();
        let socket = world.guests[0].socket(handle);
        if socket.may_send() && sent_up < up.len() {
            sent_up += socket.send_slice(&up[sent_up..]).unwrap();
        }
        while socket.can_recv() {
            let read = |bytes: &mut [u8]| (bytes.len(), bytes.to_vec());
            got_down.extend(socket.recv(read).unwrap());
        }
        if sent_up == up.len() && socket.send_queue() == 0 && socket.may_send() {
            socket.close();
        }
        if let Some((front, _, _)) = world.stack.tcp_input(flow) {
            let take = front.len().min(sip);
            got_up.extend_from_slice(&front[..take]);
            world.stack.tcp_consume(flow, take);
        }
        let room = world.stack.tcp_room(flow).min(down.len() - sent_down);
        if room > 0 {
            let bytes = &down[sent_down..sent_down + room];
            world.stack.tcp_write(flow, bytes, world.now);
            sent_down += room;
        }
        if sent_down == down.len() && !finished {
            world.stack.tcp_finish(flow);
            finished = true;
        }
    }
    assert!(got_up == up && got_down == down);
}

#[test]
fn much_goes_both_ways_whole() {
    exchange(Faults::default(), 3 << 20, 3 << 20, 256 << 10, usize::MAX);
}

#[test]
fn small_buffers_and_slow_readers_lose_nothing() {
    exchange(Faults::default(), 300_000, 300_000, 2000, 700);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn what_a_bad_link_does_is_mended(
        lost in 0_u8..30, doubled in 0_u8..60, swapped in 0_u8..60, seed: u64,
        up in 0_usize..60_000, down in 0_usize..60_000, buffer in 600_usize..40_000, sip in 1000_usize..80_000,
    ) {
        exchange(Faults { lost, doubled, swapped, seed }, up, down, buffer, sip);
    }
}

#[test]
fn a_half_that_ends_leaves_the_other_open() {
    let mut world = World::new(Faults::default());
    let handle = world.guests[0].tcp(4096);
    world.guests[0].dial(handle, (SERVER, 80), 40000);
    let (flow, _) = world.dialled();
    world.stack.tcp_connected(flow);
    while !world.guests[0].socket(handle).may_send() {
        world.turn();
    }
    world.guests[0].socket(handle).close();
    while !world.stack.tcp_input(flow).unwrap().2 {
        world.turn();
    }
    // An hour later the answer still arrives.
    world.now += Duration::from_secs(3600);
    for _ in 0..100 {
        world.turn();
    }
    world.stack.tcp_write(flow, b"late", world.now);
    while !world.guests[0].socket(handle).can_recv() {
        world.turn();
    }
    let mut bytes = [0; 8];
    assert_eq!(world.guests[0].socket(handle).recv_slice(&mut bytes), Ok(4));
    world.stack.tcp_finish(flow);
    while world.event() != Event::Done(flow) {}
}

/// As when the host has slept: nothing was said for eight hours, and what was on its way is old.
#[test]
fn a_clock_that_jumps_ends_nothing_that_stands() {
    let mut world = World::new(Faults::default());
    let handle = world.guests[0].tcp(64 << 10);
    world.guests[0].dial(handle, (SERVER, 80), 40000);
    let (flow, _) = world.dialled();
    world.stack.tcp_connected(flow);
    while !world.guests[0].socket(handle).may_send() {
        world.turn();
    }
    let sent = pattern(30_000, 3);
    for jump in [8 * 3600, 1, 23 * 3600] {
        // On its way both ways when it happens.
        world.guests[0].socket(handle).send_slice(&sent).unwrap();
        world.stack.tcp_write(flow, &sent, world.now);
        world.now += Duration::from_secs(jump);
        let (mut up, mut down) = (Vec::new(), Vec::new());
        while up.len() < sent.len() || down.len() < sent.len() {
            world.turn();
            let (front, back, _) = world.stack.tcp_input(flow).expect("it stands");
            up.extend([front, back].concat());
            let count = front.len() + back.len();
            world.stack.tcp_consume(flow, count);
            let read = |bytes: &mut [u8]| (bytes.len(), bytes.to_vec());
            down.extend(world.guests[0].socket(handle).recv(read).unwrap());
        }
        assert!(up == sent && down == sent);
    }
}

/// A day of silence ends a connection, two hours of it one whose half has ended; a guest's keep-alives are no silence.
#[test]
fn silence_ends_a_connection_in_time() {
    const HOUR: Duration = Duration::from_secs(3600);
    for (half, alive, silence) in [
        (false, false, 24 * HOUR),
        (true, false, 2 * HOUR),
        (false, true, 24 * HOUR),
    ] {
        let mut world = World::new(Faults::default());
        let handle = world.guests[0].tcp(4096);
        world.guests[0].dial(handle, (SERVER, 80), 40000);
        let (flow, _) = world.dialled();
        world.stack.tcp_connected(flow);
        while !world.guests[0].socket(handle).may_send() {
            world.turn();
        }
        if half {
            world.guests[0].socket(handle).close();
        }
        if alive {
            let every = smoltcp::time::Duration::from_secs(3600);
            world.guests[0].socket(handle).set_keep_alive(Some(every));
        }
        for _ in 0..100 {
            world.turn();
        }
        let begun = world.now;
        let passed = |world: &World| world.now - begun;
        world.events.clear();
        // An hour at a time, up to a minute before the end.
        while passed(&world) + HOUR < silence {
            world.now += HOUR;
            (0..20).for_each(|_| world.turn());
        }
        world.now = begun + silence - Duration::from_secs(60);
        (0..20).for_each(|_| world.turn());
        assert!(
            !world.events.contains(&Event::Reset(flow)),
            "{half} {alive}"
        );
        world.now = begun + silence + Duration::from_secs(60);
        (0..20).for_each(|_| world.turn());
        let over = world.events.contains(&Event::Reset(flow));
        assert_eq!(over, !alive, "{half} {alive}");
    }
}

/// Clients that the guest sees as the gateway, one port after the other around the circle; and one to whose own address it speaks already.
#[test]
fn clients_of_datagrams_are_told_apart() {
    const PORTS: u16 = 32768;
    let mut world = World::new(Faults::default());
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(53).unwrap();
    let handle = world.guests[0].sockets.add(socket);
    let outside = SocketAddr::from((SERVER, 7));
    let socket = world.guests[0].sockets.get_mut::<udp::Socket<'_>>(handle);
    let to = IpEndpoint::new(IpAddress::Ipv4(SERVER), 7);
    socket.send_slice(b"hello", to).unwrap();
    assert!(matches!(world.event(), Event::Datagram { .. }));
    let mut now = world.now;
    let mut from = |peer: SocketAddr| {
        now += Duration::from_millis(1);
        while world.stack.event().is_some() {}
        world.stack.udp_inbound(1, 1, peer, 53, b"?", now);
        let mut frame = Vec::new();
        assert!(world.stack.transmit(1, &mut frame, now));
        let packet = netstack::wire::parse_ipv4(&frame[14..]).unwrap();
        let udp = netstack::wire::parse_udp(packet.payload).unwrap();
        SocketAddr::new(packet.source, udp.source)
    };
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let first = from(local(1));
    assert_ne!(from(outside), outside);
    // Others come and go, each at the next port, until the first's has its turn again.
    for port in 2..=PORTS + 2 {
        assert_ne!(from(local(port)), first, "{port}");
        if port % 500 == 0 {
            assert_eq!(from(local(1)), first);
        }
    }
}

#[test]
fn nobody_there_is_a_reset() {
    let mut world = World::new(Faults::default());
    let handle = world.guests[0].tcp(4096);
    world.guests[0].dial(handle, (SERVER, 81), 40000);
    let (flow, _) = world.dialled();
    world.stack.tcp_abort(flow);
    while world.guests[0].socket(handle).state() != tcp::State::Closed {
        world.turn();
    }
    // The gateway's own ports are closed where the host may not be reached.
    world.guests[0].dial(handle, (GATEWAY, 22), 40001);
    while world.guests[0].socket(handle).state() != tcp::State::Closed {
        world.turn();
    }
    assert_eq!(world.events, []);
    let handle = world.guests[1].tcp(4096);
    world.guests[1].dial(handle, (GATEWAY, 22), 40001);
    let (_, to) = world.dialled();
    assert_eq!(to, SocketAddr::from(([127, 0, 0, 1], 22)));
}

#[test]
fn a_client_reaches_a_guest() {
    let mut world = World::new(Faults::default());
    let handle = world.guests[0].tcp(4096);
    world.guests[0].socket(handle).listen(80).unwrap();
    let client = SocketAddr::from(([127, 0, 0, 1], 5555));
    let flow = world.stack.tcp_dial(1, client, 80, world.now).unwrap();
    assert_eq!(world.event(), Event::Look(flow));
    world.stack.tcp_write(flow, b"hello", world.now);
    while !world.guests[0].socket(handle).can_recv() {
        world.turn();
    }
    let socket = world.guests[0].socket(handle);
    let remote = socket.remote_endpoint().unwrap();
    assert_eq!(remote.addr, IpAddress::Ipv4(GATEWAY));
    // Where nobody listens.
    let other = SocketAddr::from(([198, 51, 100, 4], 5555));
    let flow = world.stack.tcp_dial(1, other, 81, world.now).unwrap();
    while world.event() != Event::Reset(flow) {}
}

#[test]
fn guests_reach_each_other_past_the_gateway() {
    let mut world = World::new(Faults::default());
    world.connect_neighbours(OTHER);
    assert_eq!(world.events, []);
}

#[test]
fn datagrams_go_out_and_come_back() {
    let mut world = World::new(Faults::default());
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(4000).unwrap();
    let to = IpEndpoint::new(IpAddress::Ipv4(SERVER), 7);
    socket.send_slice(b"ping", to).unwrap();
    let handle = world.guests[0].sockets.add(socket);
    let Event::Datagram {
        flow,
        payload,
        to: target,
        ..
    } = world.event()
    else {
        panic!("no datagram");
    };
    assert_eq!(
        (payload, target),
        (
            b"ping".to_vec(),
            Target::Address(SocketAddr::from((SERVER, 7)))
        )
    );
    world.stack.udp_answer(flow, b"pong", world.now);
    loop {
        world.turn();
        let socket = world.guests[0].sockets.get_mut::<udp::Socket<'_>>(handle);
        if let Ok((bytes, from)) = socket.recv() {
            assert_eq!((bytes, from.endpoint), (&b"pong"[..], to));
            break;
        }
    }
    world.now += Duration::from_secs(300);
    assert_eq!(world.event(), Event::Forgotten(flow));
}

#[test]
fn a_guest_that_goes_takes_its_flows_along() {
    let mut world = World::new(Faults::default());
    let handle = world.guests[0].tcp(4096);
    world.guests[0].dial(handle, (SERVER, 80), 40000);
    let (flow, _) = world.dialled();
    world.stack.detach(1);
    assert_eq!(world.stack.event(), Some(Event::Reset(flow)));
    assert!(world.stack.is_free(GUEST));
    assert_eq!(world.stack.free_address(Some(OTHER)), Some(GUEST));
}

#[test]
fn nobody_speaks_from_an_address_that_is_not_his() {
    let mut stack = Stack::new(config());
    let mut liar = Guest::new(&mut stack, 1, GUEST, false);
    Guest::new(&mut stack, 2, OTHER, false);
    liar.interface.update_ip_addrs(|addresses| {
        addresses.clear();
        addresses
            .push(IpCidr::new(IpAddress::Ipv4(OTHER), 16))
            .unwrap();
    });
    let handle = liar.tcp(4096);
    liar.dial(handle, (SERVER, 80), 40000);
    for ms in 0..100 {
        liar.interface
            .poll(Instant::from_millis(ms), &mut liar.link, &mut liar.sockets);
        for frame in liar.link.from_guest.drain(..) {
            stack.receive(1, &frame, Duration::from_millis(ms as u64));
        }
    }
    assert!(stack.counters.spoofed > 0);
    assert_eq!(stack.event(), None);
    let mut buffer = Vec::new();
    assert!(!stack.transmit(1, &mut buffer, Duration::ZERO));
    assert!(!stack.transmit(2, &mut buffer, Duration::ZERO));
}

proptest! {
    /// Frames that are nearly right, for every parser behind the switch.
    #[test]
    fn no_frame_is_too_strange(
        frames in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..90), 0_usize..5, any::<bool>()), 1..40),
    ) {
        let mut stack = Stack::new(config());
        Guest::new(&mut stack, 1, GUEST, true);
        for (number, (bytes, kind, broadcast)) in frames.iter().enumerate() {
            let now = Duration::from_millis(number as u64 * 400);
            let mut frame = vec![if *broadcast { 0xff } else { 2 }];
            frame.extend(if *broadcast { [0xff; 5] } else { [0, 0, 0, 0, 0xff] });
            frame.extend([2, 0, 0, 0, 0, 1]);
            match kind {
                0 => frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]),
                kind => {
                    frame.extend([8, 0]);
                    let protocol = [1, 6, 17, 99][kind - 1];
                    netstack::wire::put_ipv4(&mut frame, GUEST, SERVER, protocol, bytes.len());
                }
            }
            frame.extend(bytes);
            stack.receive(1, &frame, now);
            stack.on_time(now);
            let mut buffer = Vec::new();
            while stack.transmit(1, &mut buffer, now) {}
            while let Some(event) = stack.event() {
                if let Event::Dial { flow, .. } = event {
                    stack.tcp_connected(flow);
                }
            }
        }
    }
}
