//! Networks: containers and each other, ports, the host, and a network whose process dies. Nothing leaves the host's loopback.
//!
//! The other ends are busybox's `httpd`, `wget`, `nc`, `nslookup` and `tftp`, and this test's own sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::harness::{Home, eventually, finish, kill, tool};

/// A container that serves `hello` at `/hello`.
pub fn server(home: &Home, name: &str, flags: &[&str]) -> String {
    let script = "mkdir -p /www && echo hello >/www/hello && exec httpd -f -p 80 -h /www";
    let mut line = vec!["run", "-d", "--name", name];
    line.extend(flags);
    line.extend(["busybox", "sh", "-c", script]);
    home.gourd(&line).ok().text()
}

/// What a server says; `None` when it can't be reached, or resets.
pub fn get(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("a time-out");
    stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
}

/// The processes of networks.
pub fn gourd_net(home: &Home) -> Vec<u32> {
    let all = home.leftovers().into_iter();
    let own = all.filter(|process| process.ends_with(" gourd-net"));
    own.map(|process| {
        process
            .split(' ')
            .next()
            .and_then(|pid| pid.parse().ok())
            .expect("a pid")
    })
    .collect()
}

#[test]
fn containers_find_each_other_and_networks_do_not() {
    let home = Home::new();
    server(&home, "web", &["--network-alias", "www"]);
    let address = home.inspect("web", "{{.NetworkSettings.IPAddress}}");
    assert_eq!(address, "10.219.0.2");
    let script = format!(
        "wget -qO- http://web/hello && wget -qO- http://www/hello && wget -qO- http://{address}/hello && \
         nslookup web | tail -n 4; nslookup {address} | grep name; cat /etc/resolv.conf; hostname -i; \
         ip route; ping -c 1 -W 5 gateway.gourd.internal | grep received"
    );
    let said = home.gourd(&[
        "run",
        "--rm",
        "--hostname",
        "client",
        "busybox",
        "sh",
        "-c",
        &script,
    ]);
    let said = said.ok().text();
    assert!(said.starts_with("hello\nhello\nhello\n"), "{said}");
    for line in [
        "Address: 10.219.0.2",
        "name = web",
        "nameserver 10.219.0.1",
        "10.219.0.3",
        "default via 10.219.0.1 dev eth0",
        "1 packets transmitted, 1 packets received",
    ] {
        assert!(said.contains(line), "{line:?} is not in: {said}");
    }
    // An address of another network, a name of its, and an address outside: nothing of it from an internal one.
    home.gourd(&[
        "network",
        "create",
        "--internal",
        "--subnet",
        "10.77.0.0/24",
        "apart",
    ])
    .ok();
    let script = format!(
        "ip -4 -o address show eth0; for there in web {address} 198.51.100.7; do \
         nc -w 30 $there 80 </dev/null 2>&1; done; true"
    );
    let flags = [
        "run",
        "--rm",
        "--network",
        "apart,ip=10.77.0.9",
        "busybox",
        "sh",
        "-c",
    ];
    let said = home.gourd(&[&flags[..], &[&script]].concat()).ok().text();
    assert!(said.contains("inet 10.77.0.9/24"), "{said}");
    let refused = |address: &str| format!("({address}): Connection refused");
    let lines = [
        "bad address 'web'".to_owned(),
        refused(&address),
        refused("198.51.100.7"),
    ];
    for line in lines {
        assert!(said.contains(&line), "{line:?} is not in: {said}");
    }
    assert_eq!(said.matches("Connection refused").count(), 2, "{said}");
    let alone = home.gourd(&[
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "ls",
        "/sys/class/net",
    ]);
    assert!(!alone.ok().text().contains("eth0"));
    home.gourd(&["network", "rm", "apart"]).ok();
    home.gourd(&["rm", "-f", "web"]).ok();
    home.assert_nothing_left();
}

#[test]
fn ports_lead_in_and_the_networks_process_may_die() {
    let home = Home::new();
    server(&home, "web", &["-p", "127.0.0.1:0:80"]);
    let address = home.gourd(&["port", "web", "80"]).ok().text();
    eventually("the server answers", || {
        get(&address).as_deref() == Some("hello\n")
    });
    let shown = home
        .gourd(&["ps", "--format", "{{.Ports}} {{.Networks}}"])
        .ok()
        .text();
    assert_eq!(shown, format!("{address}->80/tcp default"));
    let members = home.gourd(&[
        "network",
        "inspect",
        "-f",
        "{{json .Containers}}",
        "default",
    ]);
    assert!(members.ok().text().contains("\"Name\":\"web\""));
    // Taken, and named.
    let port = address.rsplit(':').next().expect("a port");
    let taken = format!("127.0.0.1:{port}:81");
    home.gourd(&["run", "--rm", "-p", &taken, "busybox", "true"])
        .exits(125)
        .says(&[&address, "the port is taken", "hint: choose another port"]);

    // A connection that stands is reset; the port is there again, and so is the network, with the same address.
    let mut standing = TcpStream::connect(&*address).expect("connects");
    let [before] = gourd_net(&home)[..] else {
        panic!("one process of a network: {:?}", home.leftovers());
    };
    kill(before, "-9");
    let mut bytes = [0; 1];
    let patience = Some(Duration::from_secs(60));
    standing.set_read_timeout(patience).expect("a time-out");
    assert!(!matches!(standing.read(&mut bytes), Ok(1..)));
    eventually("the server answers again", || {
        get(&address).as_deref() == Some("hello\n")
    });
    let inside = "wget -qO- http://web/hello";
    let said = home
        .gourd(&["run", "--rm", "busybox", "sh", "-c", inside])
        .ok();
    assert_eq!(said.text(), "hello");
    // Whole, both ways at once: what is sent in comes back.
    home.gourd(&["rm", "-f", "web"]).ok();
    assert_eq!(get(&address), None, "the port outlived its container");
    home.assert_nothing_left();
}

#[test]
fn the_host_is_reached_where_that_is_allowed() {
    let home = Home::new();
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = server.local_addr().expect("an address").port();
    let host = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a connection");
        let mut all = Vec::new();
        // The guest ends its half first, and still gets the answer.
        stream.read_to_end(&mut all).expect("all of it");
        stream.write_all(&all).expect("an answer");
        all.len()
    });
    let names = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let tftp = names.local_addr().expect("an address").port();
    let served = std::thread::spawn(move || {
        let mut bytes = [0; 1024];
        let (count, peer) = names.recv_from(&mut bytes).expect("a request");
        assert!(
            bytes[..count].starts_with(b"\0\x01file\0"),
            "{:?}",
            &bytes[..count]
        );
        // One block, which is the last: shorter than 512 bytes (RFC 1350).
        names
            .send_to(b"\0\x03\0\x01datagrams\n", peer)
            .expect("sent");
        let (count, _) = names.recv_from(&mut bytes).expect("an acknowledgement");
        assert_eq!(bytes[..count], [0, 4, 0, 1]);
    });
    let script = format!(
        "head -c 5000000 /dev/urandom >/tmp/a && nc host.gourd.internal {port} </tmp/a >/tmp/b && cmp /tmp/a /tmp/b && \
         echo whole; tftp -g -r file -l /tmp/c host.gourd.internal {tftp} && cat /tmp/c; cat /etc/hosts | tail -n 2"
    );
    let flags = [
        "run",
        "--rm",
        "--network",
        "default,host=allow",
        "--add-host",
        "me:host-gateway",
    ];
    let said = home.gourd(
        &[
            &flags[..],
            &["--hostname", "box", "busybox", "sh", "-c", &script],
        ]
        .concat(),
    );
    let expect = "whole\ndatagrams\n10.219.0.1\tme\n10.219.0.2\tbox";
    assert_eq!(said.ok().text(), expect);
    assert_eq!(host.join().expect("the server ends"), 5_000_000);
    served.join().expect("the other server ends");
    // Not allowed: refused at once, whatever listens there.
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = server.local_addr().expect("an address").port().to_string();
    let refused = home.gourd(&[
        "run",
        "--rm",
        "busybox",
        "nc",
        "-w",
        "30",
        "host.gourd.internal",
        &port,
    ]);
    refused.exits(1).says(&["Connection refused"]);
    home.assert_nothing_left();
}

/// A file of the pcap format, whole, with frames that hold these texts.
fn assert_frames(file: &[u8], texts: &[&[u8]]) {
    assert_eq!(file[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    let (mut at, mut frames) = (24, Vec::new());
    while let Some(header) = file.get(at..at + 16) {
        let len = u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) as usize;
        frames.push(file.get(at + 16..at + 16 + len).expect("a whole frame"));
        at += 16 + len;
    }
    assert_eq!(at, file.len());
    for text in texts {
        let holds = |frame: &&[u8]| frame.windows(text.len()).any(|part| part == *text);
        assert!(
            frames.iter().any(holds),
            "{:?}",
            String::from_utf8_lossy(text)
        );
    }
}

/// What one container says and hears, and nothing that goes between others. Oracle: tcpdump.
#[test]
fn frames_of_one_container() {
    let home = Home::new();
    server(&home, "web", &[]);
    for name in ["one", "two"] {
        home.sleeper(&["--name", name]);
    }
    let pcap = home.path("frames.pcap").display().to_string();
    let line = [
        "network",
        "logs",
        "-f",
        "--pcap",
        &pcap,
        "--container",
        "one",
        "default",
    ];
    let watch = home.start(&line);
    // The head of the file is written when the network's process has heard of it.
    eventually("it is watched", || {
        std::fs::metadata(&pcap).is_ok_and(|file| file.len() >= 24)
    });
    for name in ["two", "one", "two"] {
        let get = format!("until wget -qO- http://web/hello?from={name}; do :; done");
        let said = home.gourd(&["exec", name, "sh", "-c", &get]).ok();
        assert_eq!(said.text(), "hello");
    }
    let mac = home.inspect("one", "{{.NetworkSettings.MacAddress}}");
    home.gourd(&["rm", "-f", "web", "one", "two"]).ok();
    finish(watch, b"").ok();
    let frames = |filter: &str| tool("tcpdump", &[&"-nnAr", &pcap, &filter]).ok().text();
    let own = frames(&format!("ether host {mac} and tcp port 80"));
    assert!(own.contains("GET /hello?from=one"), "{own}");
    assert!(!frames("").contains("from=two"));
    // What is said to all, it hears as well.
    let others = format!("not ether host {mac} and not ether multicast");
    assert_eq!(frames(&others), "");
    home.assert_nothing_left();
}

/// Servers at two addresses of each family, an address next to each, and a resolver (dnsmasq) that knows the first ones by name.
const SETUP: &str = "
    ip() { busybox ip \"$@\"; }
    ip link set lo up
    for last in 9 10 53; do
        ip address add 192.0.2.$last/32 dev lo
        ip address add 2001:db8::$last/128 dev lo
    done
    echo \"$(id -g) $(id -g)\" >/proc/sys/net/ipv4/ping_group_range
    mkdir www; echo outside >www/hello
    busybox httpd -f -p 80 -h www &
    dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --bind-interfaces \
        --listen-address=192.0.2.53 --host-record=web.example.test,192.0.2.9,2001:db8::9 --local-ttl=60 \
        --cname=www.example.test,web.example.test --host-record=next.example.test,192.0.2.10 \
        $(seq -f '--host-record=big.example.test,203.0.113.%g' 60) &
    until busybox nslookup web.example.test 192.0.2.53 >/dev/null 2>&1; do kill -0 $!; done";

/// The C library of Debian asks over TCP: because it is told to, and because an answer does not fit into a datagram.
fn names_over_tcp(home: &Home, on: &[&str]) {
    let script = "say() { echo \"$1: $(shift; \"$@\" 2>&1 </dev/null | tr '\\n' ' ')\"; }
        tcp() { RES_OPTIONS=use-vc getent ahostsv4 $1 | cut -d ' ' -f 1 | sort -u; }
        dial() { bash -c 'exec 3<>/dev/tcp/192.0.2.9/80 && echo open'; }
        count() { getent ahostsv4 $1 | cut -d ' ' -f 1 | sort -u | wc -l; }
        say unasked dial
        say name tcp www.example.test
        say asked dial
        say own tcp web
        say next tcp next.example.test
        say big count big.example.test";
    let line = [
        &["run", "--rm", "--name", "asker"][..],
        on,
        &["debian", "bash", "-c", script],
    ];
    let said = home.gourd(&line.concat()).ok().text();
    for line in [
        "name: 192.0.2.9",
        "asked: open",
        "own: 10.78.0.2",
        "next:",
        "big: 60",
    ] {
        assert!(
            said.lines().any(|it| it.trim_end() == line),
            "{line:?} is not in: {said}"
        );
    }
    assert!(said.contains("Connection refused"), "{said}");
}

#[test]
fn an_allow_list_and_ipv6() {
    let home = Home::in_a_network(SETUP);
    let create = ["network", "create", "--ipv6", "--subnet", "10.78.0.0/24"];
    let subnet6 = ["--subnet", "fd00:78::/64"];
    let allow = [
        "--allow",
        "www.example.test:80",
        "--allow",
        "192.0.2.53",
        "--allow",
        "2001:db8::53/128",
        "--allow",
        "big.example.test",
    ];
    home.gourd(&[&create[..], &subnet6, &allow, &["guarded"]].concat())
        .ok();
    let shown = home.gourd(&[
        "network",
        "inspect",
        "-f",
        "{{.EnableIPv6}} {{json .Allow}}",
        "guarded",
    ]);
    let expect = "true [\"www.example.test:80\",\"192.0.2.53/32\",\"2001:db8::53/128\",\"big.example.test\"]";
    assert_eq!(shown.ok().text(), expect);
    let on = ["--network", "guarded", "--dns", "192.0.2.53"];
    server(&home, "web", &[&on[..], &["-p", "[::1]:0:80"]].concat());
    let address = home.inspect("web", "{{.NetworkSettings.GlobalIPv6Address}}");
    assert_eq!(address, "fd00:78::a4e:2");
    // In through IPv6 of the host, which only the namespace has.
    let port = home.gourd(&["port", "web", "80"]).ok().text();
    assert!(port.starts_with("[::1]:"), "{port}");
    let inward = format!("until busybox wget -qO- http://{port}/hello; do :; done");
    assert_eq!(home.inside(&inward).ok().text(), "hello");
    let pcap = home.path("frames.pcap").display().to_string();
    let watch = home.start(&["network", "logs", "-f", "--pcap", &pcap, "guarded"]);
    let script = format!(
        "say() {{ echo \"$1: $(shift; \"$@\" 2>&1 </dev/null | tr '\\n' ' ')\"; }}
        get() {{ wget -qO- \"http://$1/hello\"; }}
        say unasked get 192.0.2.9
        say name get www.example.test
        say address get 192.0.2.9
        say six get [2001:db8::9]
        say port nc -w 60 192.0.2.9 81
        say neighbour get 192.0.2.10
        say neighbour-six get [2001:db8::10]
        say next nslookup next.example.test
        say echo ping -c 1 -W 60 192.0.2.53
        say echo-six ping6 -c 1 -W 60 2001:db8::53
        say no-echo ping -c 1 -W 1 192.0.2.9
        say sibling get [{address}]
        say names nslookup web
        say route ip -6 route show default"
    );
    let line = [
        &["run", "--rm", "--name", "client"][..],
        &on,
        &["busybox", "sh", "-c", &script],
    ]
    .concat();
    let said = home.gourd(&line).ok().text();
    let check = |what: &str, expect: &str| {
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("{what}: ")));
        assert!(
            line.is_some_and(|line| line.contains(expect)),
            "{what}: {expect:?} is not in {said}"
        );
    };
    check("unasked", "Connection refused");
    check("name", "outside");
    check("address", "outside");
    check("six", "outside");
    check("port", "Connection refused");
    check("neighbour", "Connection refused");
    check("neighbour-six", "Connection refused");
    check("next", "NXDOMAIN");
    check("echo", "1 packets received");
    check("echo-six", "1 packets received");
    check("no-echo", "0 packets received");
    check("sibling", "hello");
    check("names", &address);
    check("route", "via fd00:78::1 dev eth0");
    names_over_tcp(&home, &on);
    // A container of another network reaches none of it, and has no IPv6 of its own.
    let script = format!("wget -qO- http://[{address}]/hello; nslookup web; true");
    let apart = home
        .gourd(&["run", "--rm", "busybox", "sh", "-c", &script])
        .ok();
    assert!(
        !apart.text().contains("hello") && apart.text().contains("NXDOMAIN"),
        "{apart:?}"
    );
    let log = home.gourd(&["network", "logs", "guarded"]).ok().text();
    for line in [
        " client tcp 10.78.0.3:",
        " -> 192.0.2.10:80 refused: it is not allowed",
        " -> [2001:db8::10]:80 refused: it is not allowed",
        " client dns A next.example.test refused: it is no name of the allow-list",
        " client icmp 10.78.0.3 -> 192.0.2.9 refused: it is not allowed",
    ] {
        assert!(log.contains(line), "{line:?} is not in: {log}");
    }
    assert!(!log.contains("www.example.test"), "{log}");
    home.gourd(&["rm", "-f", "web"]).ok();
    // The watch ends with the network's process.
    let watched = finish(watch, b"").ok().text();
    for line in [
        " client dns A www.example.test",
        " -> 192.0.2.9:80\n",
        " client icmp 10.78.0.3 -> 192.0.2.53",
    ] {
        assert!(watched.contains(line), "{line:?} is not in: {watched}");
    }
    assert_frames(
        &std::fs::read(&pcap).expect("frames"),
        &[b"GET /hello", b"Host: www.example.test"],
    );
    home.gourd(&["network", "create", "--allow", "web", "x1"])
        .exits(125)
        .says(&["names without a dot are containers'"]);
    home.gourd(&["network", "rm", "guarded"]).ok();
    home.assert_nothing_left();
}
