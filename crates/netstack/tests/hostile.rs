//! Guests and resolvers that mean harm: frames and answers that are nearly right. Any outcome will do, but what goes out must be well
//! formed, and what is remembered bounded.

mod play;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use netstack::Mac;
use netstack::wire::{self, ether_type, ipv6, protocol};
use play::{Input, MAC, play, play_by};
use world::{GATEWAY, GATEWAY6, GUEST, GUEST6, OTHER, SERVER, SERVER6};

fn ethernet(to: Mac, kind: u16, rest: &[u8]) -> Input {
    let mut frame = Vec::new();
    wire::put_ethernet(&mut frame, to, MAC, kind);
    frame.extend_from_slice(rest);
    Input::Frame(frame)
}

fn packet(source: impl Into<IpAddr>, to: impl Into<IpAddr>, protocol: u8, payload: &[u8]) -> Input {
    Input::Frame(play::packet(source, to, protocol, payload))
}

fn datagram(source: impl Into<IpAddr>, to: impl Into<IpAddr>, port: u16, payload: &[u8]) -> Input {
    Input::Frame(play::datagram(source, to, port, payload))
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
    // A priority's tag, as a kernel's that asks for a class of service.
    let with_priority = |input: Input| match input {
        Input::Frame(mut frame) => {
            frame.splice(12..12, [0x81, 0, 0xe0, 0]);
            Input::Frame(frame)
        }
        other => other,
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
    // Somebody behind the guest: is there an address? Thank you.
    let behind = |kind: u8, wish: u8| {
        let mut message = dhcp.clone();
        (message[33], message[242], message[248]) = (0x77, kind, wish);
        let frame = play::datagram(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 67, &message);
        Input::Frame([&frame[..11], &[0x77], &frame[12..]].concat())
    };
    let lease = vec![behind(1, 9), behind(3, 4)];
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
    // The checksum is left out; of the packet in a tunnel's, too.
    let offloaded = |start: u8, offset: u8, frame: Vec<u8>| {
        let header = [1, 0, 0, 0, 0, 0, start, 0, offset, 0, 0, 0];
        Input::Offloaded([&header[..], &frame].concat())
    };
    let mut inner = Vec::new();
    wire::put_ipv4(&mut inner, GUEST, OTHER, protocol::UDP, 9);
    inner.extend([0, 7, 0, 7, 0, 9, 0, 0, 1]);
    let none = Ipv4Addr::UNSPECIFIED;
    let all = Ipv4Addr::BROADCAST;
    let icmp6 = protocol::ICMPV6;
    let with_options = [&[icmp6, 0, 1, 4, 0, 0, 0, 0][..], &ping6].concat();
    vec![
        ("arp", vec![arp(GATEWAY), arp(OTHER)]),
        ("priority", vec![with_priority(arp(OTHER))]),
        ("lease", lease),
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
        (
            "offload",
            vec![
                offloaded(34, 6, play::datagram(GUEST, SERVER, 9, b"x")),
                offloaded(34, 6, play::datagram(GUEST, OTHER, 9, b"x")),
                offloaded(34, 16, play::packet(GUEST, SERVER, 6, &syn)),
                offloaded(54, 16, play::packet(GUEST6, SERVER6, 6, &syn)),
                offloaded(54, 6, play::packet(GUEST, OTHER, 4, &inner)),
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

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// `tests/corpus/*.frames`: lines of [`Input`]. A file is called what its seed was, and what came of it.
#[test]
fn the_corpus_is_survived() {
    let mut replayed = 0;
    for entry in fs::read_dir(corpus()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let inputs: Vec<Input> = text.lines().map(Input::read).collect();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let outcome = play(&inputs);
        assert!(
            name.ends_with(&format!(".{outcome}")),
            "{name} says {outcome}"
        );
        // Who computes a checksum changes nothing else.
        assert_eq!(play_by(true, &inputs), outcome, "{name}");
        replayed += 1;
    }
    assert!(replayed > 40, "{replayed} files");
}

/// `tests/corpus/{frames,dhcp,dns}`: programs in bytes, which fuzzing found.
#[test]
fn fuzzed_programs_are_survived() {
    let targets = [
        ("frames", play::frames as fn(&[u8])),
        ("dhcp", play::dhcp),
        ("dns", play::resolving),
    ];
    for (name, target) in targets {
        let mut replayed = 0;
        for entry in fs::read_dir(corpus().join(name)).unwrap() {
            target(&fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed >= 20, "{replayed} files of {name}");
    }
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
