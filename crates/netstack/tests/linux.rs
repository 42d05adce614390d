//! TCP against Linux's: transfers over a link that loses, doubles and reorders, both ways at once, whole, with halves that end apart from each other.
//!
//! The oracle is this machine's kernel, at the end of a TAP device (see `tap`). To leave it out by name, where neither root nor user
//! namespaces are to be had: `cargo nextest run -E 'not binary(linux)'`. `GOURD_TEST_SEEDS=100` tries as many links instead of a few.

mod tap;
mod world;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netstack::{Endpoint, Event, FlowId, Mac, Stack};
use tap::{Pair, Rates, Tap, Trouble};
use world::{GATEWAY, GUEST, SERVER, SERVER6};

/// A transfer that takes longer has stalled: what Linux waits for after several losses in a row is seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that no two places share.
fn pattern(len: usize, salt: u64) -> Arc<Vec<u8>> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    Arc::new(bytes)
}

/// What goes over one connection.
#[derive(Clone, Debug)]
struct Transfer {
    /// From Linux.
    up: Arc<Vec<u8>>,
    /// To it.
    down: Arc<Vec<u8>>,
    /// Bytes that the host takes at a time.
    sip: usize,
}

/// The host's end of a connection, which reads and writes at once what it can.
struct Host {
    transfer: Transfer,
    received: usize,
    sent: usize,
    finished: bool,
}

impl Host {
    fn work(&mut self, stack: &mut Stack, flow: FlowId, now: Duration) {
        if let Some((front, back, ended)) = stack.tcp_input(flow) {
            let count = front.len().min(self.transfer.sip);
            let expect = self.transfer.up.get(self.received..self.received + count);
            assert!(
                expect == Some(&front[..count]),
                "changed after {}",
                self.received
            );
            self.received += count;
            let all = ended && count == front.len() && back.is_empty();
            assert!(!all || self.received == self.transfer.up.len());
            if count > 0 {
                stack.tcp_consume(flow, count);
            }
        }
        let rest = &self.transfer.down[self.sent..];
        let count = stack.tcp_room(flow).min(rest.len());
        if count > 0 {
            stack.tcp_write(flow, &rest[..count], now);
            self.sent += count;
        }
        if self.sent == self.transfer.down.len() && !self.finished {
            stack.tcp_finish(flow);
            self.finished = true;
        }
    }
}

/// Linux's end: a thread that sends, and one that receives. Each half ends when all of it is sent.
fn linux(mut stream: TcpStream, transfer: Transfer) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let up = transfer.up;
    let sender = thread::spawn(move || {
        sender.write_all(&up).expect("all of it is taken");
        sender.shutdown(Shutdown::Write).expect("the end");
    });
    let mut received = Vec::with_capacity(transfer.down.len());
    stream.read_to_end(&mut received).expect("all of it comes");
    assert!(received == *transfer.down, "it came changed");
    sender.join().expect("it was sent");
}

/// The network that Linux is on.
struct Link {
    tap: Tap,
    stack: Stack,
    up: Trouble,
    down: Trouble,
    start: Instant,
    hosts: HashMap<FlowId, Host>,
    /// By the server's port.
    dialled: HashMap<u16, Transfer>,
    done: usize,
}

impl Link {
    fn new(tap: Tap, mtu: u16, rates: Rates, seed: u64) -> Link {
        let mut config = world::config();
        config.mtu = mtu;
        let mut stack = Stack::new(config);
        let endpoint = Endpoint {
            mac: Mac(tap::MAC),
            address: GUEST,
            names: Vec::new(),
            host: false,
        };
        stack.attach(1, endpoint);
        Link {
            tap,
            stack,
            up: Trouble::new(rates, seed),
            down: Trouble::new(rates, seed + 1_000_000),
            start: Instant::now(),
            hosts: HashMap::new(),
            dialled: HashMap::new(),
            done: 0,
        }
    }

    /// A client of the host's side dials Linux.
    fn dial(&mut self, port: u16, transfer: Transfer) {
        let client = SocketAddr::from(([127, 0, 0, 1], 40_000 + port));
        let now = self.start.elapsed();
        let flow = self.stack.tcp_dial(1, client, port, now).unwrap();
        self.insert(flow, transfer);
    }

    fn insert(&mut self, flow: FlowId, transfer: Transfer) {
        let host = Host {
            transfer,
            received: 0,
            sent: 0,
            finished: false,
        };
        self.hosts.insert(flow, host);
    }

    fn turn(&mut self) {
        const AT_ONCE: usize = 64;
        let now = self.start.elapsed();
        for _ in 0..AT_ONCE {
            let Some(frame) = self.tap.receive() else {
                break;
            };
            self.up
                .pass(frame, |frame| self.stack.receive(1, frame, now));
        }
        self.up.release(|frame| self.stack.receive(1, frame, now));
        if self.stack.deadline() <= now {
            self.stack.on_time(now);
        }
        while let Some(event) = self.stack.event() {
            match event {
                Event::Dial { flow, to, .. } => {
                    let transfer = self.dialled.remove(&to.port()).expect("nobody there");
                    self.insert(flow, transfer);
                    self.stack.tcp_connected(flow);
                }
                Event::Done(flow) => {
                    let host = self.hosts.remove(&flow).expect("it was there");
                    assert_eq!(host.received, host.transfer.up.len());
                    assert!(host.finished);
                    self.done += 1;
                }
                Event::Reset(flow) => {
                    let host = self.hosts.remove(&flow).expect("it was there");
                    panic!("reset after {} and {}", host.received, host.sent);
                }
                _ => {}
            }
        }
        for (flow, host) in &mut self.hosts {
            host.work(&mut self.stack, *flow, now);
        }
        while let Some(id) = self.stack.ready_port() {
            let mut frame = Vec::new();
            while self.stack.transmit(id, &mut frame, now) {
                let tap = &mut self.tap;
                self.down.pass(frame.clone(), |frame| tap.send(frame));
            }
        }
        let tap = &mut self.tap;
        self.down.release(|frame| tap.send(frame));
        // A moment is also when the host looks again.
        let idle = self.stack.deadline().saturating_sub(now);
        let moment = Duration::from_millis(1);
        self.tap.wait(idle.min(moment));
    }

    /// Until so many connections have ended in peace.
    fn run(&mut self, count: usize) {
        while self.done < count {
            if self.start.elapsed() > PATIENCE {
                let left = self.hosts.values();
                let left = left.map(|host| (host.received, host.sent, host.finished));
                panic!("stalled (received, sent): {:?}", left.collect::<Vec<_>>());
            }
            self.turn();
        }
    }

    /// Answers what Linux says last, until its own ends are closed.
    fn join(&mut self, linux: Vec<JoinHandle<()>>) {
        for thread in linux {
            while !thread.is_finished() {
                self.turn();
            }
            thread.join().expect("Linux's end");
        }
        assert_eq!(
            (self.stack.flows(1).0, self.stack.held_bytes(1)),
            (0, 0),
            "left over"
        );
    }
}

/// Connections of every kind at once over one link; how long it took.
fn exchange(seed: u64, mtu: u16, rates: Rates) -> Duration {
    const SIZES: [(usize, usize); 4] = [
        (300_000, 300_000),
        (500_000, 100),
        (100, 500_000),
        (70_000, 0),
    ];
    // Linux's own ways to find losses. Without the first it waits for a time-out for many, so a few links have to do.
    tap::sysctl("tcp_sack", if seed % 4 == 1 { "0" } else { "1" });
    tap::sysctl(
        "tcp_timestamps",
        if seed.is_multiple_of(3) { "1" } else { "0" },
    );
    let tap = tap::guest(mtu);
    let mut link = Link::new(tap, mtu, rates, seed);
    let (mut threads, mut count) = (Vec::new(), 0);
    for (number, (up, down)) in (0..).zip(SIZES) {
        let transfer = Transfer {
            up: pattern(up, seed * 100 + u64::from(number)),
            down: pattern(down, seed * 100 + u64::from(number) + 50),
            sip: if number % 2 == 0 { usize::MAX } else { 4000 },
        };
        for server in [IpAddr::from(SERVER), SERVER6.into()] {
            let port = 80 + 2 * number + u16::from(server.is_ipv6());
            let to = SocketAddr::new(server, port);
            link.dialled.insert(port, transfer.clone());
            let transfer = transfer.clone();
            threads.push(thread::spawn(move || {
                let stream = TcpStream::connect_timeout(&to, PATIENCE);
                linux(stream.expect("it is answered"), transfer);
            }));
            count += 1;
        }
        let listener = TcpListener::bind((GUEST, 1000 + number)).unwrap();
        link.dial(1000 + number, transfer.clone());
        threads.push(thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            linux(stream, transfer);
        }));
        count += 1;
    }
    let begin = Instant::now();
    link.run(count);
    link.join(threads);
    tap::ip("link delete guest");
    begin.elapsed()
}

#[test]
fn what_a_bad_link_does_to_linux_is_mended() {
    if !tap::inside("what_a_bad_link_does_to_linux_is_mended") {
        return;
    }
    let seeds = std::env::var("GOURD_TEST_SEEDS");
    let seeds: u64 = seeds.map_or(6, |seeds| seeds.parse().expect("a number of links"));
    for seed in 0..seeds {
        let rates = Rates {
            lost: seed * 7 % 30,
            doubled: seed * 13 % 50,
            late: seed * 17 % 50,
        };
        let mtu = [1500, 9000, 65520][seed as usize % 3];
        let took = exchange(seed, mtu, rates);
        println!("link {seed}, packets of {mtu}, of a thousand {rates:?}: {took:?}");
    }
}

/// One connection, one way, over a link that loses one frame of a hundred each way.
const LOSSY: Rates = Rates {
    lost: 10,
    doubled: 0,
    late: 0,
};

/// Bytes a second from or to Linux through the stack.
fn alone(seed: u64, up: usize, down: usize) -> f64 {
    let tap = tap::guest(1500);
    let mut link = Link::new(tap, 1500, LOSSY, seed);
    let transfer = Transfer {
        up: pattern(up, seed),
        down: pattern(down, seed),
        sip: usize::MAX,
    };
    link.dialled.insert(80, transfer.clone());
    let begin = Instant::now();
    let thread = thread::spawn(move || {
        linux(
            TcpStream::connect((SERVER, 80)).expect("it is answered"),
            transfer,
        );
    });
    link.run(1);
    let rate = (up + down) as f64 / begin.elapsed().as_secs_f64();
    link.join(vec![thread]);
    tap::ip("link delete guest");
    rate
}

/// The same from one Linux to another.
fn between_linuxes(seed: u64, len: usize) -> f64 {
    let mut pair = Pair::new(1500);
    let transfer = |up: &Arc<Vec<u8>>| Transfer {
        up: Arc::clone(up),
        down: Arc::default(),
        sip: usize::MAX,
    };
    let (all, none) = (pattern(len, seed), Arc::default());
    let listener = pair.other.run(|| TcpListener::bind((GATEWAY, 80)).unwrap());
    let (ours, theirs) = (
        transfer(&all),
        Transfer {
            down: all,
            ..transfer(&none)
        },
    );
    let begin = Instant::now();
    let threads = [
        thread::spawn(move || linux(TcpStream::connect((GATEWAY, 80)).unwrap(), ours)),
        thread::spawn(move || linux(listener.accept().unwrap().0, theirs)),
    ];
    let (mut up, mut down) = (
        Trouble::new(LOSSY, seed),
        Trouble::new(LOSSY, seed + 1_000_000),
    );
    while threads.iter().any(|thread| !thread.is_finished()) {
        pair.turn(&mut up, &mut down);
    }
    let rate = len as f64 / begin.elapsed().as_secs_f64();
    for thread in threads {
        thread.join().expect("Linux's ends");
    }
    tap::ip("link delete guest");
    rate
}

/// Not a race. Without segments out of order being kept it was 20 KiB/s.
#[test]
fn one_loss_in_a_hundred_is_no_stall() {
    if !tap::inside("one_loss_in_a_hundred_is_no_stall") {
        return;
    }
    const MIB: usize = 1 << 20;
    let len: usize = std::env::var("GOURD_TEST_MIB").map_or(2, |mib| mib.parse().expect("MiB"));
    for seed in 1..=3 {
        let all = [
            between_linuxes(seed, len * MIB),
            alone(seed, len * MIB, 0),
            alone(seed, 0, len * MIB),
        ];
        let [linux, up, down] = all.map(|rate| rate / MIB as f64);
        println!("MiB/s: Linux to Linux {linux:.1}, to the stack {up:.1}, from it {down:.1}");
        assert!(up.min(down) > 0.5, "it waits for time-outs");
    }
}
