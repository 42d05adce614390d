//! What a hostile guest, a hostile resolver and the host's sockets do, played to a stack; what goes out must be well formed. Shared by
//! `tests/hostile.rs` and the fuzz targets.

// Each of those who share this uses a part of it.
#![allow(dead_code)]

mod check;
mod tcp;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use netstack::wire::{self, protocol};
use netstack::{Endpoint, Event, FlowId, Mac, Rule, Stack, Target, Unreachable, What, dns};

use crate::world::{GATEWAY, GATEWAY_MAC, GATEWAY6, GUEST, GUEST6, OTHER, SERVER, SERVER6, config};
use tcp::Connections;

pub const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// The most that comes out at once: what waits, and what connections make of the room.
const FRAMES: usize = netstack::limit::FRAMES + 4096;

/// What comes in.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A guest's frame.
    Frame(Vec<u8>),
    /// A guest's frame behind its header, which may leave its checksum out.
    Offloaded(Vec<u8>),
    /// A resolver's answer to the last question.
    Answer(Vec<u8>),
    /// A guest's TCP segment, right but for what is said here.
    Segment(Segment),
    /// The host's side does something.
    Host { what: u8, amount: u16 },
}

/// Of one of the guest's connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    pub connection: u8,
    /// FIN, SYN, RST, PSH, ACK, URG; the highest bit: with options.
    pub flags: u8,
    /// How far the sequence number is ahead.
    pub ahead: i16,
    /// How far the acknowledgement is behind.
    pub behind: i16,
    pub window: u16,
    /// Bytes of payload.
    pub len: u16,
}

impl Input {
    /// The next one of a program in bytes: a kind, then for bytes their length and they. What the program does not say is 0.
    pub fn next(rest: &mut &[u8]) -> Option<Input> {
        /// The frame has one before it.
        const HEADER: u8 = 4;
        let (whole, mut from) = rest.split_first()?;
        let input = match whole & 3 {
            kind @ (0 | 1) => {
                let len = usize::from(half(&mut from)).min(from.len());
                let (bytes, behind) = from.split_at(len);
                from = behind;
                match (kind, whole & HEADER) {
                    (0, 0) => Input::Frame(bytes.to_vec()),
                    (0, _) => Input::Offloaded(bytes.to_vec()),
                    _ => Input::Answer(bytes.to_vec()),
                }
            }
            2 => {
                let [connection, flags] = half(&mut from).to_le_bytes();
                Input::Segment(Segment {
                    connection,
                    flags,
                    ahead: half(&mut from).cast_signed(),
                    behind: half(&mut from).cast_signed(),
                    window: half(&mut from),
                    len: half(&mut from),
                })
            }
            _ => Input::Host {
                what: half(&mut from) as u8,
                amount: half(&mut from),
            },
        };
        *rest = from;
        Some(input)
    }

    /// A whole program.
    pub fn program(mut bytes: &[u8]) -> Vec<Input> {
        std::iter::from_fn(|| Input::next(&mut bytes)).collect()
    }

    /// The bytes of a program of frames and answers.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, bytes) = match self {
            Input::Frame(bytes) => (0, bytes),
            Input::Offloaded(bytes) => (4, bytes),
            Input::Answer(bytes) => (1, bytes),
            Input::Segment(_) | Input::Host { .. } => return Vec::new(),
        };
        let len = u16::try_from(bytes.len()).unwrap().to_le_bytes();
        [&[kind][..], &len, bytes].concat()
    }

    /// A line of a corpus file: `frame`, `offloaded` or `answer`, and hexadecimal digits.
    pub fn read(line: &str) -> Input {
        let (kind, digits) = line.split_once(' ').unwrap();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let bytes = digits.as_bytes().chunks(2).map(byte).collect();
        match kind {
            "frame" => Input::Frame(bytes),
            "offloaded" => Input::Offloaded(bytes),
            "answer" => Input::Answer(bytes),
            other => panic!("{other}"),
        }
    }

    /// The same way back.
    pub fn write(&self) -> String {
        let (kind, bytes) = match self {
            Input::Frame(bytes) => ("frame", bytes),
            Input::Offloaded(bytes) => ("offloaded", bytes),
            Input::Answer(bytes) => ("answer", bytes),
            other => panic!("{other:?}"),
        };
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{kind} {digits}\n")
    }

    /// What can be damaged.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        match self {
            Input::Frame(bytes) | Input::Offloaded(bytes) | Input::Answer(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }
}

fn half(from: &mut &[u8]) -> u16 {
    let mut bytes = [0; 2];
    let len = from.len().min(2);
    bytes[..len].copy_from_slice(&from[..len]);
    *from = &from[len..];
    u16::from_le_bytes(bytes)
}

/// A frame to the gateway.
pub fn packet(
    source: impl Into<IpAddr>,
    to: impl Into<IpAddr>,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let (source, to) = (source.into(), to.into());
    let mut frame = Vec::new();
    wire::put_ethernet(&mut frame, GATEWAY_MAC, MAC, wire::ether_type_of(source));
    wire::put_ip(&mut frame, source, to, protocol, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// A UDP datagram to the gateway, from port 68.
pub fn datagram(
    source: impl Into<IpAddr>,
    to: impl Into<IpAddr>,
    port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let (source, to) = (source.into(), to.into());
    let mut bytes = Vec::new();
    let ends = (SocketAddr::new(source, 68), SocketAddr::new(to, port));
    wire::put_udp(&mut bytes, ends.0, ends.1, payload);
    packet(source, to, protocol::UDP, &bytes)
}

/// One that was passed on to a resolver.
#[derive(Clone, Copy)]
struct Question {
    flow: FlowId,
    /// Its number as the guest has it: an answer with that gets the one that it was asked by. Without one each does.
    said: Option<[u8; 2]>,
    asked: [u8; 2],
}

/// The number of the question in a datagram.
fn number(frame: &[u8]) -> Option<[u8; 2]> {
    let ethernet = wire::parse_ethernet(frame)?;
    let packet =
        wire::parse_ipv4(ethernet.payload).or_else(|| wire::parse_ipv6(ethernet.payload))?;
    let udp = wire::parse_udp(packet.payload)?;
    udp.payload.first_chunk().copied()
}

/// The host's side of the stack, and what has come of it.
struct Player {
    stack: Stack,
    now: Duration,
    /// What was remembered and what went out.
    words: BTreeSet<&'static str>,
    question: Option<Question>,
    /// The number of the guest's last one.
    number: [u8; 2],
    connections: Connections,
    /// Connections and flows of datagrams, the oldest first.
    streams: Vec<FlowId>,
    datagrams: Vec<FlowId>,
    /// The host's side does not read, or refuses.
    holds: bool,
    refuses: bool,
    /// The guests' links leave checksums out.
    partial: bool,
}

/// Plays it; says in words for a file's name what was remembered and what went out.
pub fn play(inputs: &[Input]) -> String {
    play_by(false, inputs)
}

/// The same by links that leave checksums out, or not.
pub fn play_by(partial: bool, inputs: &[Input]) -> String {
    let mut config = config();
    let rule = |what, port| Rule { what, port };
    config.allow = vec![
        rule(What::Below("example.org".into()), None),
        rule(What::Prefix(SERVER6.into(), 128), None),
        rule(What::Prefix("192.0.2.0".parse().unwrap(), 24), Some(9)),
    ];
    play_with(config, partial, inputs)
}

/// The same on a network without an allow-list.
pub fn play_openly(partial: bool, inputs: &[Input]) -> String {
    play_with(config(), partial, inputs)
}

/// A program in bytes, on a network with an allow-list or without, by links that leave checksums out or not. A fuzz target.
pub fn frames(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let inputs = Input::program(rest);
    let partial = kind & 2 != 0;
    match kind & 1 {
        0 => play_by(partial, &inputs),
        _ => play_openly(partial, &inputs),
    };
}

/// A program whose frames are DHCP messages. A fuzz target.
pub fn dhcp(bytes: &[u8]) {
    let mut inputs = Input::program(bytes);
    for input in &mut inputs {
        if let Input::Frame(message) = input {
            *message = datagram(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 67, message);
        }
    }
    play(&inputs);
}

/// A program whose frames are questions. A fuzz target.
pub fn resolving(bytes: &[u8]) {
    let mut inputs = Input::program(bytes);
    let mut last = Vec::new();
    for (number, input) in inputs.iter_mut().enumerate() {
        match input {
            Input::Frame(question) => {
                let frame = match number & 2 {
                    0 => datagram(GUEST, GATEWAY, 53, question),
                    _ => datagram(GUEST6, GATEWAY6, 53, question),
                };
                last = std::mem::replace(question, frame);
            }
            Input::Answer(answer) => {
                dns::answers(answer, &last);
                dns::addresses(answer);
            }
            _ => {}
        }
    }
    play(&inputs);
    play_openly(true, &inputs);
}

fn play_with(config: netstack::Config, partial: bool, inputs: &[Input]) -> String {
    let mut stack = Stack::new(config);
    stack.attach(1, endpoint(1, GUEST, true));
    stack.attach(2, endpoint(2, OTHER, false));
    stack.set_partial(1, partial);
    stack.set_partial(2, partial);
    let mut player = Player {
        stack,
        partial,
        now: Duration::ZERO,
        words: BTreeSet::new(),
        question: None,
        number: [0; 2],
        connections: Connections::new(),
        streams: Vec::new(),
        datagrams: Vec::new(),
        holds: false,
        refuses: false,
    };
    for (number, input) in inputs.iter().enumerate() {
        if number > 0 {
            player.now += Duration::from_millis(400);
        }
        player.take(input);
        player.settle();
    }
    player.summary()
}

fn endpoint(port: u8, address: Ipv4Addr, host: bool) -> Endpoint {
    Endpoint {
        mac: Mac([2, 0, 0, 0, 0, port]),
        address,
        names: vec![format!("guest{port}")],
        host,
    }
}

impl Player {
    fn take(&mut self, input: &Input) {
        match input {
            Input::Frame(frame) => {
                self.number = number(frame).unwrap_or(self.number);
                self.stack.receive(1, frame, self.now);
            }
            Input::Offloaded(datagram) => match wire::partial::parse_header(datagram) {
                Some((partial, frame)) => {
                    self.number = number(frame).unwrap_or(self.number);
                    self.stack.receive_partial(1, frame, partial, self.now);
                }
                None => self.stack.counters.malformed += 1,
            },
            Input::Answer(answer) => {
                if let Some(question) = self.question {
                    let mut answer = answer.clone();
                    if let Some(number) = answer.first_chunk_mut()
                        && question.said.is_none_or(|said| said == *number)
                    {
                        *number = question.asked;
                    }
                    self.stack.udp_answer(question.flow, &answer, self.now);
                }
            }
            Input::Segment(segment) => {
                let frame = self.connections.segment(segment);
                self.stack.receive(1, &frame, self.now);
            }
            Input::Host { what, amount } => self.host(*what, *amount),
        }
    }

    fn host(&mut self, what: u8, amount: u16) {
        let pick = |flows: &[FlowId]| {
            let at = usize::from(amount >> 12) % flows.len().max(1);
            flows.get(at).copied()
        };
        let (stream, datagram) = (pick(&self.streams), pick(&self.datagrams));
        let client = |address: IpAddr| SocketAddr::new(address, 1000 + (amount & 3));
        let client = match amount & 4 {
            0 => client(SERVER.into()),
            _ => client(SERVER6.into()),
        };
        match (what % 11, stream, datagram) {
            (0, Some(flow), _) => {
                let len = self.stack.tcp_room(flow).min(usize::from(amount) * 16);
                self.stack.tcp_write(flow, &vec![7; len], self.now);
            }
            (1, Some(flow), _) => self.stack.tcp_finish(flow),
            (2, Some(flow), _) => self.stack.tcp_abort(flow),
            (3, ..) => {
                let flow = self.stack.tcp_dial(1, client, 80 + (amount & 1), self.now);
                self.streams.extend(flow);
            }
            (4, ..) => {
                let payload = vec![7; usize::from(amount)];
                self.stack
                    .udp_inbound(1, (amount & 1).into(), client, 53, &payload, self.now);
            }
            (5, ..) => self.now += Duration::from_millis(u64::from(amount) * 100),
            (6, ..) => self.holds = !self.holds,
            (7, ..) => self.refuses = !self.refuses,
            (8, _, Some(flow)) => self.stack.flow_failed(flow, Unreachable::Host),
            (9, _, Some(flow)) => {
                let payload = vec![7; usize::from(amount)];
                self.stack.udp_answer(flow, &payload, self.now);
            }
            (10, ..) => {
                self.stack.detach(1);
                self.settle();
                self.stack.attach(1, endpoint(1, GUEST, amount & 1 == 0));
                self.stack.set_partial(1, self.partial);
            }
            _ => {}
        }
    }

    /// Until nothing more happens.
    fn settle(&mut self) {
        self.stack.on_time(self.now);
        while let Some(event) = self.stack.event() {
            let word = self.react(event);
            self.words.insert(word);
        }
        for id in [1, 2] {
            let mut buffer = Vec::new();
            let mut count = 0;
            while self.stack.transmit(id, &mut buffer, self.now) {
                // What one guest sends another is theirs.
                if id == 1 {
                    check::frame(&buffer);
                    self.connections.see(&buffer);
                }
                self.words
                    .insert(if id == 1 { "answered" } else { "passed" });
                count += 1;
                assert!(count <= FRAMES, "{count} frames at once");
            }
        }
    }

    fn react(&mut self, event: Event) -> &'static str {
        match event {
            Event::Dial { flow, .. } => {
                self.streams.push(flow);
                match self.refuses {
                    true => self.stack.tcp_abort(flow),
                    false => self.stack.tcp_connected(flow),
                }
                "dial"
            }
            Event::Look(flow) => {
                let input = self.stack.tcp_input(flow);
                let count = input.map_or(0, |(front, back, _)| front.len() + back.len());
                if !self.holds {
                    self.stack.tcp_consume(flow, count);
                }
                "look"
            }
            Event::Datagram {
                flow, to, payload, ..
            } => match to {
                Target::Resolver => {
                    self.question = Some(Question {
                        flow,
                        said: Some(self.number),
                        asked: [payload[0], payload[1]],
                    });
                    "question"
                }
                Target::Address(_) => {
                    self.datagrams.push(flow);
                    self.stack.udp_answer(flow, b"answer", self.now);
                    "datagram"
                }
            },
            Event::Echo {
                flow,
                sequence,
                payload,
                ..
            } => {
                self.stack.echo_answer(flow, sequence, &payload, self.now);
                self.stack.flow_failed(flow, Unreachable::Host);
                "echo"
            }
            Event::Done(_) | Event::Reset(_) => "ended",
            Event::Reply { .. } => "reply",
            Event::Elsewhere { .. } => "elsewhere",
            Event::Query { flow, payload, .. } => {
                self.question = Some(Question {
                    flow,
                    said: None,
                    asked: [payload[0], payload[1]],
                });
                let mut answer = payload;
                if let Some(flags) = answer.get_mut(2) {
                    *flags |= 0x80;
                }
                if !self.holds {
                    self.stack.udp_answer(flow, &answer, self.now);
                }
                "query"
            }
            Event::Forgotten(_) => "forgotten",
            Event::Note(..) => "noted",
        }
    }

    fn summary(mut self) -> String {
        let counters = self.stack.counters;
        let counted = [
            ("malformed", counters.malformed),
            ("spoofed", counters.spoofed),
            ("refused", counters.refused),
            ("dropped", counters.dropped),
        ];
        let counted = counted.iter().filter(|(_, count)| *count > 0);
        self.words.extend(counted.map(|(word, _)| *word));
        let words: Vec<&str> = self.words.into_iter().collect();
        if words.is_empty() {
            "nothing".to_owned()
        } else {
            words.join("-")
        }
    }
}
