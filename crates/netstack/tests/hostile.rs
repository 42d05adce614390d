//! Guests and resolvers that mean harm: frames and answers that are nearly right. Any outcome will do, but what goes out must be well
//! formed, and what is remembered bounded.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netstack::wire::{self, ether_type, ipv6, protocol};
use netstack::{Event, FlowId, Mac, Rule, Stack, What, limit};
use smoltcp::wire::{
    ArpPacket, EthernetFrame, Icmpv4Packet, Icmpv6Packet, Ipv4Packet, Ipv6Packet, TcpPacket,
    UdpPacket,
};
use world::{GATEWAY, GATEWAY_MAC, GATEWAY6, GUEST, GUEST6, Guest, OTHER, SERVER, SERVER6, config};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// What comes in: a guest's frame, or a resolver's answer to the last question.
#[derive(Clone)]
enum Input {
    Frame(Vec<u8>),
    Answer(Vec<u8>),
}

/// A line of a corpus file: `frame` or `answer`, and hexadecimal digits.
impl Input {
    fn read(line: &str) -> Input {
        let (kind, digits) = line.split_once(' ').unwrap();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let bytes = digits.as_bytes().chunks(2).map(byte).collect();
        match kind {
            "frame" => Input::Frame(bytes),
            "answer" => Input::Answer(bytes),
            other => panic!("{other}"),
        }
    }

    fn write(&self) -> String {
        let (kind, bytes) = match self {
            Input::Frame(bytes) => ("frame", bytes),
            Input::Answer(bytes) => ("answer", bytes),
        };
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{kind} {digits}\n")
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        match self {
            Input::Frame(bytes) | Input::Answer(bytes) => bytes,
        }
    }
}

fn ethernet(to: Mac, kind: u16, rest: &[u8]) -> Input {
    let mut frame = Vec::new();
    wire::put_ethernet(&mut frame, to, MAC, kind);
    frame.extend_from_slice(rest);
    Input::Frame(frame)
}

fn packet(source: impl Into<IpAddr>, to: impl Into<IpAddr>, protocol: u8, payload: &[u8]) -> Input {
    let (source, to) = (source.into(), to.into());
    let mut bytes = Vec::new();
    wire::put_ip(&mut bytes, source, to, protocol, payload.len());
    bytes.extend_from_slice(payload);
    ethernet(GATEWAY_MAC, wire::ether_type_of(source), &bytes)
}

fn datagram(source: impl Into<IpAddr>, to: impl Into<IpAddr>, port: u16, payload: &[u8]) -> Input {
    let (source, to) = (source.into(), to.into());
    let mut bytes = Vec::new();
    let ends = (SocketAddr::new(source, 68), SocketAddr::new(to, port));
    wire::put_udp(&mut bytes, ends.0, ends.1, payload);
    packet(source, to, protocol::UDP, &bytes)
}

/// Well formed ones, by name.
fn seeds() -> Vec<(&'static str, Vec<Input>)> {
    let arp = |target: Ipv4Addr| {
        let mut bytes = Vec::new();
        let arp = wire::Arp {
            request: true,
            sender_mac: MAC,
            sender: GUEST,
            target_mac: Mac([0; 6]),
            target,
        };
        wire::put_arp(&mut bytes, &arp);
        ethernet(Mac::BROADCAST, ether_type::ARP, &bytes)
    };
    let mut syn = vec![
        0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x80, 2, 0xff, 0xff, 0, 0, 0, 0,
    ];
    syn.extend([2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 0, 0]);
    let mut data = vec![
        0x9c, 0x40, 0, 80, 0, 0, 0, 2, 0, 0, 0, 0, 0x50, 0x19, 0xff, 0xff, 0, 0, 0, 0,
    ];
    data.extend(b"hello");
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(b"\x03www\x07example\x03org\0\0\x01\0\x01");
    let mut answer = question.clone();
    (answer[2], answer[7]) = (0x81, 2);
    answer.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03cdn\xc0\x10");
    answer.extend(b"\xc0\x2d\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x09");
    let mut own = vec![0, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    own.extend(b"\x06guest2\0\0\xff\0\x01");
    let mut dhcp = vec![1, 1, 6, 0, 1, 2, 3, 4];
    dhcp.resize(28, 0);
    dhcp.extend(MAC.0);
    dhcp.resize(236, 0);
    dhcp.extend([
        99, 130, 83, 99, 53, 1, 3, 50, 4, 10, 88, 0, 2, 54, 4, 10, 88, 0, 1, 255,
    ]);
    let echo = wire::Echo {
        request: true,
        identifier: 9,
        sequence: 1,
        payload: b"ping",
    };
    let (mut ping, mut ping6) = (Vec::new(), Vec::new());
    wire::put_echo(&mut ping, &echo);
    ipv6::put_echo(&mut ping6, (GUEST6, SERVER6), &echo);
    let solicit = |target: Ipv6Addr| {
        let mut bytes = vec![135, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(target.octets());
        bytes.extend([1, 1, 2, 0, 0, 0, 0, 1]);
        bytes
    };
    let none = Ipv4Addr::UNSPECIFIED;
    let all = Ipv4Addr::BROADCAST;
    let icmp6 = protocol::ICMPV6;
    let with_options = [&[icmp6, 0, 1, 4, 0, 0, 0, 0][..], &ping6].concat();
    vec![
        ("arp", vec![arp(GATEWAY), arp(OTHER)]),
        (
            "tcp",
            vec![
                packet(GUEST, SERVER, 6, &syn),
                packet(GUEST, SERVER, 6, &data),
            ],
        ),
        (
            "tcp6",
            vec![
                packet(GUEST6, SERVER6, 6, &syn),
                packet(GUEST6, SERVER6, 6, &data),
            ],
        ),
        (
            "udp",
            vec![
                datagram(GUEST, SERVER, 9, b"x"),
                datagram(GUEST, OTHER, 9, b"x"),
            ],
        ),
        ("udp6", vec![datagram(GUEST6, SERVER6, 9, b"x")]),
        (
            "dns",
            vec![
                datagram(GUEST, GATEWAY, 53, &question),
                Input::Answer(answer.clone()),
            ],
        ),
        (
            "dns-opened",
            vec![
                datagram(GUEST, GATEWAY, 53, &question),
                Input::Answer(answer),
                packet(GUEST, SERVER, 6, &syn),
            ],
        ),
        ("dns-own", vec![datagram(GUEST6, GATEWAY6, 53, &own)]),
        ("dhcp", vec![datagram(none, all, 67, &dhcp)]),
        (
            "echo",
            vec![
                packet(GUEST, GATEWAY, 1, &ping),
                packet(GUEST, SERVER, 1, &ping),
            ],
        ),
        (
            "echo6",
            vec![
                packet(GUEST6, SERVER6, icmp6, &ping6),
                packet(GUEST6, GATEWAY6, 60, &with_options),
            ],
        ),
        (
            "ndp",
            vec![
                packet(GUEST6, GATEWAY6, icmp6, &solicit(GATEWAY6)),
                packet(GUEST6, GATEWAY6, icmp6, &[133, 0, 0, 0, 0, 0, 0, 0]),
            ],
        ),
    ]
}

/// What was remembered and what went out: words for a file's name.
fn play(inputs: &[Input]) -> String {
    let mut config = config();
    let rule = |what, port| Rule { what, port };
    config.allow = vec![
        rule(What::Below("example.org".into()), None),
        rule(What::Prefix(SERVER6.into(), 128), None),
        rule(What::Prefix("192.0.2.0".parse().unwrap(), 24), Some(9)),
    ];
    let mut stack = Stack::new(config);
    Guest::new(&mut stack, 1, GUEST, true);
    Guest::new(&mut stack, 2, OTHER, false);
    let mut words = BTreeSet::new();
    let mut question = None;
    for (number, input) in inputs.iter().enumerate() {
        let now = Duration::from_millis(number as u64 * 400);
        match input {
            Input::Frame(frame) => stack.receive(1, frame, now),
            Input::Answer(answer) => {
                if let Some(flow) = question {
                    stack.udp_answer(flow, answer, now);
                }
            }
        }
        stack.on_time(now);
        while let Some(event) = stack.event() {
            words.insert(react(&mut stack, event, &mut question, now));
        }
        for id in [1, 2] {
            let mut buffer = Vec::new();
            let mut count = 0;
            while stack.transmit(id, &mut buffer, now) {
                // What one guest sends another is theirs.
                if id == 1 {
                    check_frame(&buffer);
                }
                words.insert(if id == 1 { "answered" } else { "passed" });
                count += 1;
                assert!(count <= limit::FRAMES);
            }
        }
    }
    let counters = stack.counters;
    let counted = [
        ("malformed", counters.malformed),
        ("spoofed", counters.spoofed),
        ("refused", counters.refused),
        ("dropped", counters.dropped),
    ];
    words.extend(
        counted
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(word, _)| *word),
    );
    let words: Vec<&str> = words.into_iter().collect();
    if words.is_empty() {
        "nothing".to_owned()
    } else {
        words.join("-")
    }
}

fn react(
    stack: &mut Stack,
    event: Event,
    question: &mut Option<FlowId>,
    now: Duration,
) -> &'static str {
    match event {
        Event::Dial { flow, .. } => {
            stack.tcp_connected(flow);
            "dial"
        }
        Event::Look(flow) => {
            let count = stack
                .tcp_input(flow)
                .map_or(0, |(front, back, _)| front.len() + back.len());
            stack.tcp_consume(flow, count);
            "look"
        }
        Event::Datagram { flow, to, .. } => match to {
            netstack::Target::Resolver => {
                *question = Some(flow);
                "question"
            }
            netstack::Target::Address(_) => {
                stack.udp_answer(flow, b"answer", now);
                "datagram"
            }
        },
        Event::Echo {
            flow,
            sequence,
            payload,
            ..
        } => {
            stack.echo_answer(flow, sequence, &payload, now);
            stack.flow_failed(flow, netstack::Unreachable::Host);
            "echo"
        }
        Event::Done(_) | Event::Reset(_) => "ended",
        Event::Elsewhere { .. } => "elsewhere",
        Event::Reply { .. } => "reply",
        Event::Forgotten(_) => "forgotten",
        Event::Note(..) => "noted",
    }
}

/// Oracle: smoltcp's parsers, which check lengths and checksums.
fn check_frame(frame: &[u8]) {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    assert_eq!(ethernet.src_addr().0, GATEWAY_MAC.0);
    let payload = ethernet.payload();
    let (source, destination, next, payload): (IpAddr, IpAddr, _, _) =
        match u16::from(ethernet.ethertype()) {
            ether_type::ARP => {
                ArpPacket::new_checked(payload).unwrap();
                return;
            }
            ether_type::IPV4 => {
                let packet = Ipv4Packet::new_checked(payload).unwrap();
                assert!(packet.verify_checksum());
                assert_eq!(usize::from(packet.total_len()), payload.len());
                (
                    packet.src_addr().into(),
                    packet.dst_addr().into(),
                    packet.next_header(),
                    packet.payload(),
                )
            }
            _ => {
                let packet = Ipv6Packet::new_checked(payload).unwrap();
                assert_eq!(packet.total_len(), payload.len());
                (
                    packet.src_addr().into(),
                    packet.dst_addr().into(),
                    packet.next_header(),
                    packet.payload(),
                )
            }
        };
    let (from, to) = (source.into(), destination.into());
    match (u8::from(next), source, destination) {
        (protocol::TCP, ..) => assert!(
            TcpPacket::new_checked(payload)
                .unwrap()
                .verify_checksum(&from, &to)
        ),
        (protocol::UDP, ..) => assert!(
            UdpPacket::new_checked(payload)
                .unwrap()
                .verify_checksum(&from, &to)
        ),
        (protocol::ICMPV6, IpAddr::V6(from), IpAddr::V6(to)) => {
            assert!(
                Icmpv6Packet::new_checked(payload)
                    .unwrap()
                    .verify_checksum(&from, &to)
            );
        }
        _ => assert!(
            Icmpv4Packet::new_checked(payload)
                .unwrap()
                .verify_checksum()
        ),
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// `tests/corpus/*.frames`: lines of [`Input`]. A file is called what its seed was, and what came of it.
#[test]
fn the_corpus_is_survived() {
    let mut replayed = 0;
    for entry in fs::read_dir(corpus()).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let inputs: Vec<Input> = text.lines().map(Input::read).collect();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let outcome = play(&inputs);
        assert!(
            name.ends_with(&format!(".{outcome}")),
            "{name} says {outcome}"
        );
        replayed += 1;
    }
    assert!(replayed > 40, "{replayed} files");
}

/// Makes corpus files: `GOURD_CORPUS=ROUNDS cargo test -p netstack --test hostile corpus_grows` tries so many random changes of the
/// seeds and keeps the first of each outcome. Without the variable it tries some and keeps none. `GOURD_SEED` chooses others.
#[test]
fn corpus_grows() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let rounds = number("GOURD_CORPUS");
    let mut state = number("GOURD_SEED").unwrap_or(1);
    let mut roll = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % below.max(1)
    };
    let seeds = seeds();
    let mut found = BTreeMap::new();
    for (name, inputs) in &seeds {
        found.insert(format!("{name}.{}", play(inputs)), inputs.clone());
    }
    for _ in 0..rounds.unwrap_or(3000) {
        let (name, inputs) = &seeds[roll(seeds.len())];
        let mut inputs = inputs.clone();
        for _ in 0..=roll(3) {
            let at = roll(inputs.len());
            let bytes = inputs[at].bytes();
            let place = roll(bytes.len());
            match roll(8) {
                0 => bytes.truncate(place),
                1 => bytes.insert(place, roll(256) as u8),
                2 if !bytes.is_empty() => drop(bytes.remove(place)),
                3 => {
                    let again = inputs[at].clone();
                    inputs.insert(at, again);
                }
                _ if !bytes.is_empty() => {
                    bytes[place] = [0, 1, 0x7f, 0x80, 0xc0, 0xff, roll(256) as u8][roll(7)];
                }
                _ => {}
            }
        }
        found
            .entry(format!("{name}.{}", play(&inputs)))
            .or_insert(inputs);
    }
    assert!(found.len() > seeds.len());
    if rounds.is_some() {
        fs::create_dir_all(corpus()).unwrap();
        for (name, inputs) in found {
            let text: String = inputs.iter().map(Input::write).collect();
            fs::write(corpus().join(format!("{name}.frames")), text).unwrap();
        }
    }
}

#[test]
fn seeds_are_well_formed() {
    for (name, inputs) in seeds() {
        let outcome = play(&inputs);
        for word in ["malformed", "spoofed", "dropped"] {
            assert!(!outcome.contains(word), "{name}: {outcome}");
        }
    }
}
