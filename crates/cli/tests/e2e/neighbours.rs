//! What guests are told on a network, and what they can't take from each other; datagrams that lead in, and what is counted.
//!
//! The other ends are busybox's `udhcpc`, `arping`, `httpd` and `nc`, and this test's own sockets.

use std::net::UdpSocket;
use std::time::Duration;

use crate::harness::{Home, eventually};
use crate::network::server;

/// What `udhcpc` was told, in a line.
const TOLD: &str = r#"cat >/tmp/told <<'END'
#!/bin/sh
[ "$1" = bound ] && echo "$ip $subnet $router $dns"
END
chmod +x /tmp/told
udhcpc -i eth0 -n -q -f -t 20 -s /tmp/told 2>/dev/null
ip -4 -o address show eth0 | awk '{ print $4 }'
cat /sys/class/net/eth0/mtu"#;

/// A container that may do with its card what it likes; the script follows.
const ASKED: [&str; 7] = [
    "run",
    "--rm",
    "--cap-add",
    "NET_ADMIN",
    "busybox",
    "sh",
    "-c",
];

/// Says back what is said to it, in datagrams.
const ECHO: &str = "socket(S, PF_INET, SOCK_DGRAM, 17); bind(S, sockaddr_in(5000, INADDR_ANY)); \
    while (my $peer = recv(S, my $said, 2000, 0)) { send(S, $said, 0, $peer) }";

/// A container that does, and where it is heard.
fn echo(home: &Home) -> String {
    let line = ["run", "-d", "--name", "echo", "-p", "127.0.0.1:0:5000/udp"];
    let perl = ["debian", "perl", "-MSocket", "-e", ECHO];
    home.gourd(&[&line[..], &perl].concat()).ok();
    home.gourd(&["port", "echo", "5000/udp"]).ok().text()
}

#[test]
fn a_guest_is_told_its_address_and_keeps_it() {
    let home = Home::new();
    let port = echo(&home);
    let address = home.inspect("echo", "{{.NetworkSettings.IPAddress}}");
    // Datagrams in, and back to whoever asked.
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    client.connect(&*port).expect("an address");
    let patience = Some(Duration::from_millis(500));
    client.set_read_timeout(patience).expect("a time-out");
    let comes_back = || {
        let (said, mut heard) = ([b'x'; 1200], [0; 2000]);
        client.send(&said).expect("sent");
        client
            .recv(&mut heard)
            .is_ok_and(|count| heard[..count] == said)
    };
    eventually("a datagram comes back", comes_back);
    // What came is counted. Oracle: the kernel's own counter in the guest.
    let stats = ["stats", "--no-stream", "--format", "{{.NetIO}}", "echo"];
    let shown = home.gourd(&stats).ok().text();
    let count = [
        "exec",
        "echo",
        "cat",
        "/sys/class/net/eth0/statistics/rx_bytes",
    ];
    let count: u64 = home.gourd(&count).ok().text().parse().expect("a number");
    assert!(count > 1200 && !shown.starts_with("0B"), "{shown}, {count}");

    // By DHCP as by the agent, from the network's server and not from another guest's.
    let told = home.gourd(&[&ASKED[..], &[TOLD]].concat()).ok().text();
    let expect = "10.219.0.3 255.255.0.0 10.219.0.1 10.219.0.1\n10.219.0.3/16\n65520";
    assert_eq!(told, expect);

    // It comes back with its address and its port.
    let other = home.sleeper(&[]);
    home.gourd(&["restart", "-t", "1", "echo"]).ok();
    assert_eq!(
        home.inspect("echo", "{{.NetworkSettings.IPAddress}}"),
        address
    );
    let port = home.gourd(&["port", "echo", "5000/udp"]).ok().text();
    client.connect(&*port).expect("an address");
    eventually("a datagram comes back again", comes_back);
    home.gourd(&["rm", "-f", "echo", &other]).ok();

    // Networks that nobody is on go, and those that somebody could be on stay.
    home.gourd(&["network", "create", "unused"]).ok();
    let list = || {
        let list = ["network", "ls", "--format", "{{.Name}}"];
        home.gourd(&list).ok().text()
    };
    assert_eq!(list(), "default\nunused");
    let pruned = home.gourd(&["network", "prune", "-f"]).ok().text();
    assert!(pruned.contains("unused"), "{pruned}");
    assert_eq!(list(), "default");
    home.assert_nothing_left();
}

/// A guest with all rights on its own card says that it is another one: by its address, and by ARP that nobody asked for.
#[test]
fn nobody_takes_a_neighbours_address() {
    let home = Home::new();
    server(&home, "web", &[]);
    let address = home.inspect("web", "{{.NetworkSettings.IPAddress}}");
    let liar = format!(
        "mkdir -p /www && echo evil >/www/hello && httpd -p 80 -h /www && ip address add {address}/16 dev eth0 && \
         while :; do arping -c 1 -U -I eth0 {address}; arping -c 1 -A -I eth0 10.219.0.1; done >/dev/null 2>&1"
    );
    let flags = ["run", "-d", "--name", "liar", "--cap-add", "NET_ADMIN"];
    home.gourd(&[&flags[..], &["busybox", "sh", "-c", &liar]].concat())
        .ok();
    let own = home.inspect("liar", "{{.NetworkSettings.IPAddress}}");
    let script = format!(
        "until wget -qO- http://{own}/hello; do :; done; for i in 1 2 3 4 5; do ip neigh flush dev eth0; \
         wget -qO- http://{address}/hello; wget -qO- http://web/hello; done; ip neigh"
    );
    let said = home.gourd(&[&ASKED[..], &[&script]].concat()).ok().text();
    assert_eq!(said.matches("evil\n").count(), 1, "{said}");
    assert_eq!(said.matches("hello\n").count(), 10, "{said}");
    // The liar's own words from that address go nowhere.
    let lie = format!("nc -s {address} -w 2 10.219.0.1 53 </dev/null && echo heard");
    let heard = home.gourd(&["exec", "liar", "sh", "-c", &lie]);
    assert!(!heard.text().contains("heard"), "{heard:?}");
    home.gourd(&["rm", "-f", "liar", "web"]).ok();
    home.assert_nothing_left();
}
