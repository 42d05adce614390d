//! Checksums that a guest and the network leave out between them: whoever looks at one finds it right.
//!
//! The oracles are the guests' kernels, which count what they find wrong, and tcpdump, which looks at all frames of the network.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::harness::{Home, cache, driver, eventually, finish, tool};

/// Whether the card sums what it sends (ethtool's `ETHTOOL_GTXCSUM`); with an argument it is told to leave that to the kernel first
/// (`ETHTOOL_STXCSUM`).
const CARD: &str = r#"
use Socket;
socket(my $any, AF_INET, SOCK_DGRAM, 0) or die "socket: $!";
sub card {
    my $value = pack "LL", @_;
    my $request = pack("a16P", "eth0", $value) . "\0" x 16;
    ioctl($any, 0x8946, $request) or die "SIOCETHTOOL: $!";
    return (unpack "LL", $value)[1];
}
# One that leaves nothing out refuses.
eval { card(0x17, 0) } if @ARGV;
print card(0x16, 0), "\n";
"#;

/// Sends back what comes, over TCP and in datagrams, of both families.
const ECHO: &str = r#"
use Socket qw(:DEFAULT pack_sockaddr_in6);
my $any = pack_sockaddr_in6(9000, Socket::IN6ADDR_ANY);
my ($udp, $tcp);
socket($udp, AF_INET6, SOCK_DGRAM, 0) && bind($udp, $any) or die "datagrams: $!";
socket($tcp, AF_INET6, SOCK_STREAM, 0) && bind($tcp, $any) && listen($tcp, 9) or die "connections: $!";
if (!fork) {
    while (defined(my $from = recv($udp, my $bytes, 1 << 16, 0))) { send($udp, $bytes, 0, $from) // die "send: $!" }
    exit 1;
}
while (accept(my $client, $tcp)) {
    while (sysread($client, my $bytes, 1 << 16)) {
        for (my $at = 0; $at < length $bytes;) { $at += syswrite($client, $bytes, length($bytes) - $at, $at) // die "send: $!" }
    }
    close $client;
}
"#;

/// Says something to each of these, odd in length, and hears the same: over TCP, and in datagrams that have a checksum or (of IPv4) none, of which IPv4's last
/// is fragments. Then what its kernel has found wrong.
const TALK: &str = r#"
use Socket qw(:DEFAULT pack_sockaddr_in6 inet_pton);
my $all = join("", map { pack "N", $_ * 2654435761 % 4294967296 } 0 .. 75_000) . "x";
for my $to (@ARGV) {
    my $there = pack_sockaddr_in6(9000, inet_pton(AF_INET6, $to));
    my ($tcp, $udp);
    socket($tcp, AF_INET6, SOCK_STREAM, 0) && connect($tcp, $there) or die "$to: $!";
    my $writer = fork;
    if (!$writer) {
        for (my $at = 0; $at < length $all;) { $at += syswrite($tcp, $all, length($all) - $at, $at) // die "send: $!" }
        shutdown($tcp, 1);
        exit;
    }
    my $heard = "";
    while (sysread($tcp, $heard, 1 << 16, length $heard)) {}
    waitpid $writer, 0;
    die "$to: changed" if $heard ne $all;
    for my $without (0, 1) {
        socket($udp, AF_INET6, SOCK_DGRAM, 0) && connect($udp, $there) or die "$to: $!";
        setsockopt($udp, SOL_SOCKET, 11, pack "i", $without) or die "SO_NO_CHECK: $!";
        setsockopt($udp, SOL_SOCKET, SO_RCVTIMEO, pack "qq", 60, 0) or die "SO_RCVTIMEO: $!";
        for my $len (1, 3001, $to =~ /^::ffff:/ ? 65507 : 65472) {
            send($udp, substr($all, 0, $len), 0) // die "$to: $!";
            my $heard;
            defined recv($udp, $heard, 1 << 16, 0) or die "$to: $len: $!";
            die "$to: $len: changed" if $heard ne substr($all, 0, $len);
        }
    }
}
exec "nstat", "-asz", "TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors", "TcpInSegs";
"#;

/// Nothing is wrong, and something was looked at.
fn assert_counters(said: &str) {
    for line in said.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (name, count) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        assert_eq!(name == "TcpInSegs", count != "0", "{said}");
    }
    assert!(said.contains("Udp6InCsumErrors"), "{said}");
}

/// The host's side of a published port.
fn assert_echo(home: &Home, name: &str) {
    let address = home.gourd(&["port", name, "9000"]).ok().text();
    let mut stream = TcpStream::connect(&address).expect("the port leads in");
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("a time-out");
    let all: Vec<u8> = (0..200_001_u32)
        .map(|at| (at.wrapping_mul(at) >> 7) as u8)
        .collect();
    let mut writer = stream.try_clone().expect("a duplicate");
    let mut heard = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&all).expect("it is taken");
            writer.shutdown(Shutdown::Write).expect("the end");
        });
        stream.read_to_end(&mut heard).expect("it comes back");
    });
    assert!(heard == all, "it came back changed");
}

#[test]
fn checksums_that_are_left_out_are_right_for_whoever_looks() {
    let home = Home::new();
    let image = cache().join("images/network.tar");
    let image = image.to_str().expect("a path in UTF-8");
    home.gourd(&["load", "-q", "-i", image]).ok();
    let subnets = ["--subnet", "10.79.0.0/24", "--subnet", "fd00:79::/64"];
    let create = [&["network", "create", "--ipv6"][..], &subnets, &["wide"]];
    home.gourd(&create.concat()).ok();
    // One as it comes, one whose kernel is told to compute what it sends.
    for (name, first) in [("left", "perl -e \"$0\""), ("whole", "perl -e \"$0\" off")] {
        let script = format!("{first} && exec perl -e \"$1\"");
        let flags = [
            "--network",
            "wide",
            "-p",
            "127.0.0.1:0:9000",
            "--cap-add",
            "NET_ADMIN",
        ];
        let rest = ["network", "sh", "-ec", &script, CARD, ECHO];
        home.gourd(&[&["run", "-d", "--name", name][..], &flags, &rest].concat())
            .ok();
        eventually("it listens", || {
            home.gourd(&["exec", name, "ss", "-Hltn", "sport = :9000"])
                .text()
                != ""
        });
    }
    let card = |name: &str| home.gourd(&["exec", name, "perl", "-e", CARD]).ok().text();
    let offers = driver().as_deref() == Some("kvm");
    assert_eq!(card("left"), if offers { "1" } else { "0" });
    assert_eq!(card("whole"), "0");
    let pcap = home.path("frames.pcap").display().to_string();
    let watch = home.start(&["network", "logs", "-f", "--pcap", &pcap, "wide"]);
    let whole = ["::ffff:10.79.0.3", "fd00:79::a4f:3"];
    let left = ["::ffff:10.79.0.2", "fd00:79::a4f:2"];
    for (name, others) in [("left", whole), ("whole", left)] {
        let line = [&["exec", name, "perl", "-e", TALK][..], &others];
        assert_counters(&home.gourd(&line.concat()).ok().text());
        assert_echo(&home, name);
    }
    home.gourd(&["rm", "-f", "left", "whole"]).ok();
    finish(watch, b"").ok();
    let seen = tool("tcpdump", &[&"-nvvr", &pcap]).ok().text();
    // A checksum may be 0xabad.
    for wrong in ["incorrect", "bad cksum", "bad udp", "wrong "] {
        let line = seen.lines().find(|line| line.contains(wrong));
        assert_eq!(line, None);
    }
    for right in ["(correct)", "[udp sum ok]", "[no cksum]"] {
        assert!(seen.matches(right).count() > 3, "{right}: {seen}");
    }
    home.gourd(&["network", "rm", "wide"]).ok();
    home.assert_nothing_left();
}
