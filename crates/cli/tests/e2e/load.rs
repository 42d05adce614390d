//! Networks under load: much data, many connections, hostile guests. Sizes are small unless `GOURD_E2E_LOAD` is `full`.
//!
//! The oracles are Debian's: nginx and `sha256sum` in the guest, `nc -N`, `wrk` and `sha256sum` on the host. Nothing leaves the host's loopback.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Home, cache, eventually, tool};
use crate::network::gourd_net;

/// Small, or what the full run takes.
fn size(small: usize, full: usize) -> usize {
    match std::env::var("GOURD_E2E_LOAD") {
        Ok(word) if word == "full" => full,
        Ok(word) => panic!("GOURD_E2E_LOAD={word}: it can be full"),
        Err(_) => small,
    }
}

/// With nginx, nc and ip beside the others.
fn home() -> Home {
    let home = Home::new();
    let image = cache().join("images/network.tar");
    let image = image.to_str().expect("a path in UTF-8");
    home.gourd(&["load", "-q", "-i", image]).ok();
    home
}

/// The published address of the only port of a container.
fn address(home: &Home, name: &str) -> String {
    home.gourd(&["port", name])
        .ok()
        .text()
        .rsplit(' ')
        .next()
        .expect("an address")
        .to_owned()
}

/// Waits until a program in the container listens, without a connection to it.
fn listens(home: &Home, name: &str, port: u16) {
    let filter = format!("sport = :{port}");
    eventually("the guest listens", || {
        let out = home.gourd(&["exec", name, "ss", "-Hltn", &filter]);
        out.code == 0 && !out.text().is_empty()
    });
}

const MIB: usize = 1 << 20;

/// Bytes that no two places of a stream share (xorshift).
fn pattern(mib: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (mib as u64 + 1);
    let mut bytes = Vec::with_capacity(MIB);
    while bytes.len() < MIB {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

/// What `sha256sum` says about so much of the pattern.
fn sum(mib: usize) -> String {
    let mut command = Command::new("sha256sum");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum");
    let mut input = child.stdin.take().expect("piped");
    (0..mib).for_each(|mib| input.write_all(&pattern(mib)).expect("sha256sum reads"));
    drop(input);
    let out = child.wait_with_output().expect("sha256sum ends");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// Sends back what comes, past sha256sum, and says that it has no more when the other side has no more. (nc as a server leaves when its client
/// has said its last, and what its own input still holds is lost.) The VM ends with it, and so would what is not acknowledged: its end waits for that.
const ECHO: &str = r#"
use Socket;
socket(my $server, AF_INET, SOCK_STREAM, 0) or die "socket: $!";
bind($server, sockaddr_in(9000, INADDR_ANY)) && listen($server, 1) or die "listen: $!";
accept(my $client, $server) or die "accept: $!";
open(my $sum, "|-", "sha256sum") or die "sha256sum: $!";
while (sysread($client, my $bytes, 1 << 16)) {
    print $sum $bytes;
    for (my $at = 0; $at < length $bytes;) { $at += syswrite($client, $bytes, length($bytes) - $at, $at) // die "send: $!" }
}
shutdown($client, 1);
close $sum;
setsockopt($client, SOL_SOCKET, SO_LINGER, pack("ii", 1, 60)) or die "linger: $!";
close $client;
"#;

/// A guest sends back what the host's `nc -N` sent it, and sha256sum in the guest sees it pass. nc half-closes when it has said its last, and what
/// comes back is still on its way then. The guest's network is made worse by `first` before.
fn echo(home: &Home, name: &str, mib: usize, first: &str) -> Duration {
    let flags = ["run", "-d", "--name", name, "-p", "127.0.0.1:0:9000"];
    let rights: &[&str] = match first {
        "" => &[],
        _ => &["--cap-add", "NET_ADMIN"],
    };
    let script = format!("{first} exec perl -e '{ECHO}'");
    let rest = ["network", "sh", "-ec", &script];
    home.gourd(&[&flags[..], rights, &rest[..]].concat()).ok();
    listens(home, name, 9000);
    let address = address(home, name);
    let (host, port) = address.rsplit_once(':').expect("an address and a port");
    let begin = Instant::now();
    let mut child = Command::new("nc")
        .args(["-N", host, port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("netcat-openbsd is installed");
    let (mut input, mut output) = (
        child.stdin.take().expect("piped"),
        child.stdout.take().expect("piped"),
    );
    std::thread::scope(|scope| {
        scope.spawn(move || {
            (0..mib).for_each(|mib| input.write_all(&pattern(mib)).expect("nc reads"));
        });
        let mut bytes = vec![0; MIB];
        for number in 0..mib {
            output.read_exact(&mut bytes).expect("as much comes back");
            assert!(bytes == pattern(number), "MiB {number} came back changed");
        }
        assert_eq!(
            output.read(&mut bytes).expect("the end"),
            0,
            "more came back"
        );
    });
    assert!(child.wait().expect("nc ends").success());
    let took = begin.elapsed();
    home.gourd(&["wait", name]).ok();
    assert_eq!(
        home.gourd(&["logs", name]).ok().text(),
        sum(mib),
        "what the guest saw"
    );
    home.gourd(&["rm", name]).ok();
    took
}

#[test]
fn much_goes_both_ways_whole() {
    let home = home();
    let mib = size(24, 1024);
    let took = echo(&home, "whole", mib, "");
    println!("{mib} MiB there and back in {took:?}");
    home.assert_nothing_left();
}

/// Packets of Ethernet's size that are lost, doubled and overtaken in the guest, on their way out and on their way in, where they go through
/// another device so that there is a queue.
const BAD_LINK: &str = "
ip link set eth0 mtu 1500
ip link add before type veth peer name behind
ip link set behind address $(cat /sys/class/net/eth0/address)
ip link set before up
ip link set behind up
trouble='netem limit 10000 delay 1ms loss 1% duplicate 1% reorder 90%'
tc qdisc add dev eth0 root $trouble
tc qdisc add dev before root $trouble
tc qdisc add dev eth0 ingress
tc filter add dev eth0 parent ffff: protocol ip u32 match u32 0 0 action mirred egress redirect dev before
";

#[test]
fn a_guest_with_a_bad_link_gets_all() {
    let home = home();
    let mib = size(4, 64);
    let took = echo(&home, "bad", mib, BAD_LINK);
    println!("{mib} MiB there and back over a bad link in {took:?}");
    home.assert_nothing_left();
}

/// nginx on port 80.
fn nginx(home: &Home, name: &str) -> String {
    let script = "echo 'error_log /dev/null; events { worker_connections 4096; } http { access_log off; server { \
                  listen 80 backlog=4096; location / { return 200 \"hello\\n\"; } } }' >/n && exec nginx -c /n -g 'daemon off;'";
    let flags = [
        "run",
        "-d",
        "--name",
        name,
        "-p",
        "127.0.0.1:0:80",
        "--ulimit",
        "nofile=8192:8192",
    ];
    home.gourd(&[&flags[..], &["network", "sh", "-c", script]].concat())
        .ok();
    listens(home, name, 80);
    address(home, name)
}

/// What the process of a network holds: descriptors, and KiB of memory.
fn held(home: &Home) -> (usize, usize) {
    let pid = gourd_net(home)[0];
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its descriptors")
        .count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    (fds, kib.expect("VmRSS"))
}

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

fn answered(mut stream: TcpStream) {
    let mut answer = String::new();
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("a time-out");
    stream
        .read_to_string(&mut answer)
        .expect("an answer and its end");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello\n"),
        "{answer}"
    );
}

#[test]
fn a_thousand_at_once_and_many_in_a_row_leave_nothing() {
    const AT_ONCE: usize = 1000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)
        .expect("more descriptors");
    let home = home();
    let address = nginx(&home, "web");
    let one = || TcpStream::connect(&address).expect("it is published");
    let ask = |mut stream: TcpStream| {
        stream.write_all(REQUEST).expect("it takes a request");
        stream
    };
    answered(ask(one()));
    let (fds, _) = held(&home);

    let all: Vec<TcpStream> = (0..AT_ONCE).map(|_| one()).collect();
    let all: Vec<TcpStream> = all.into_iter().map(ask).collect();
    all.into_iter().for_each(answered);
    eventually("connections are forgotten", || held(&home).0 <= fds);

    // The first ones grow what later ones use again.
    let many = size(1000, 10_000);
    let mut before = held(&home);
    for number in 0..many {
        answered(ask(one()));
        if number == many / 10 {
            before = held(&home);
        }
    }
    eventually("connections are forgotten", || held(&home).0 <= fds);
    let after = held(&home);
    println!("{many} in a row: {before:?} before and {after:?} after (descriptors, KiB)");
    assert!(after.1 <= before.1 + 1024, "{before:?} {after:?}");

    let seconds = size(2, 60);
    let length = format!("{seconds}s");
    let url = format!("http://{address}/");
    let said = tool(
        "wrk",
        &[&"-t1", &"-c16", &"-d", &length, &"--latency", &url],
    )
    .ok()
    .text();
    println!("{said}");
    assert!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "{said}"
    );
    home.gourd(&["rm", "-f", "web"]).ok();
    home.assert_nothing_left();
}

/// Frames as fast as perl makes them, of each kind for as long: SYNs to the gateway (the host's loopback, where nobody listens, and somebody
/// who never accepts), ARP for everybody, questions, fragments that never end.
const FLOOD: &str = r#"
use Socket; use strict;
my ($seconds, $port) = @ARGV;
socket(my $s, 17, SOCK_RAW, 0) or die "socket: $!";
sub of { open my $f, "<", "/sys/class/net/eth0/$_[0]" or die; my $t = <$f>; chomp $t; $t }
my $mac = pack "(H2)*", split /:/, of("address");
my ($ip) = `ip -4 -o address show eth0` =~ m{inet ([\d.]+)/};
my ($src, $gw) = (inet_aton($ip), inet_aton("10.219.0.1"));
my $gmac = "\2gourd";
my $ll = pack "S n i S C C a8", 17, 0, of("ifindex"), 1, 0, 6, $gmac;
sub sum { my $t = 0; $t += $_ for unpack "n*", $_[0] . (length($_[0]) & 1 ? "\0" : ""); $t = ($t >> 16) + ($t & 65535) while $t > 65535; 65535 - $t }
sub ip { my ($proto, $fragment, $payload) = @_;
  my $h = pack "C C n n n C C n a4 a4", 0x45, 0, 20 + length $payload, int rand 65536, $fragment, 64, $proto, 0, $src, $gw;
  substr($h, 10, 2) = pack "n", sum($h); $gmac . $mac . "\x08\0" . $h . $payload }
sub syn { my $t = pack "n n N N C C n n n", 1024 + int rand 64000, $_[0], int rand 4294967296, 0, 0x50, 2, 1, 0, 0;
  my $sum = sum($src . $gw . pack("n n", 6, 20) . $t); substr($t, 16, 2) = pack "n", $sum; ip(6, 0, $t) }
sub udp { my ($to, $payload) = @_; ip(17, 0, pack("n n n n", 1024 + int rand 64000, $to, 8 + length $payload, 0) . $payload) }
my @kinds = (
  sub { syn($port) }, sub { syn(1) },
  sub { "\xff" x 6 . $mac . "\x08\x06" . pack "n n C C n a6 a4 a6 a4", 1, 0x800, 6, 4, 1, $mac, $src, "\0" x 6, pack "N", int rand 4294967296 },
  sub { my $name = join "", map { chr 97 + rand 26 } 1 .. 12; udp(53, pack("n n n n n n", int rand 65536, 0x100, 1, 0, 0, 0) . chr(12) . $name . "\0\0\1\0\1") },
  sub { ip(17, 0x2000 | int rand 8000, "x" x 1400) },
);
my $sent = 0;
for my $kind (@kinds) { my $end = time + $seconds; while (time < $end) { send($s, $kind->(), 0, $ll) and $sent++ for 1 .. 50 } }
print "$sent frames\n";
"#;

#[test]
fn floods_are_bounded_and_harm_nobody() {
    let home = home();
    // It never accepts: what the guest begins there stays half open.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("its address").port().to_string();
    let address = nginx(&home, "web");
    let before = held(&home);
    let seconds = size(1, 10).to_string();
    let flags = [
        "run",
        "--name",
        "hostile",
        "--cap-add",
        "NET_RAW",
        "--network",
        "default,host=allow",
        "--dns",
        "127.0.0.1",
    ];
    let flood = home.start(
        &[
            &flags[..],
            &["network", "perl", "-e", FLOOD, &seconds, &port],
        ]
        .concat(),
    );
    let mut flood = Some(flood);
    let (mut most, mut slowest, mut served) = (before.1, Duration::ZERO, 0);
    while let Some(child) = &mut flood {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(&address).expect("it is published");
        stream.write_all(REQUEST).expect("it takes a request");
        answered(stream);
        slowest = slowest.max(begin.elapsed());
        served += 1;
        most = most.max(held(&home).1);
        if child.try_wait().expect("its state").is_some() {
            let said = flood
                .take()
                .expect("it is there")
                .wait_with_output()
                .expect("its words");
            assert!(said.status.success(), "{said:?}");
            println!("{}", String::from_utf8_lossy(&said.stdout).trim());
        }
    }
    println!(
        "{served} requests beside it, the slowest {slowest:?}; {} KiB of memory, {most} at most",
        before.1
    );
    assert!(most < before.1 + 64 * 1024, "{before:?}, then {most} KiB");
    eventually("what the guest began ends with it", || {
        held(&home).0 <= before.0 + 8
    });
    home.gourd(&["rm", "-f", "web", "hostile"]).ok();
    home.assert_nothing_left();
}
