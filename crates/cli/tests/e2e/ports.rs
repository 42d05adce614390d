//! Published ports: one of a range, and those whose servers learn who their clients are.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::harness::Home;

/// Each connection begins with a line that names its client, or with the same in binary; then comes what the client says. Oracle: the
/// PROXY protocol's specification, section 2.
#[test]
fn a_server_learns_who_its_client_is() {
    let home = Home::new();
    let script = "nc -l -p 81; nc -l -p 82 | od -An -v -tx1 | tr -d ' \\n'";
    let line = [
        "run",
        "-d",
        "--name",
        "told",
        "-p",
        "127.0.0.1:0:81,proxy-protocol=v1",
        "-p",
        "127.0.0.1:0:82/tcp,proxy-protocol=v2",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    home.gourd(&line).ok();
    // The ports of the client that was served, and of the host.
    let hello = |port: &str| {
        let address = home.gourd(&["port", "told", port]).ok().text();
        loop {
            let mut stream = TcpStream::connect(&*address).expect("connects");
            let ports =
                [stream.local_addr(), stream.peer_addr()].map(|it| it.expect("an end").port());
            // One that comes before the server is there is reset.
            let sent = stream.write_all(b"hello\n");
            let ended = sent.and_then(|()| stream.shutdown(Shutdown::Write));
            if ended.is_ok() && matches!(stream.read(&mut [0; 1]), Ok(0)) {
                return ports;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let [from, to] = hello("81");
    let v1 = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\nhello\n");
    let [from, to] = hello("82");
    let v2 =
        format!("0d0a0d0a000d0a515549540a2111000c7f0000017f000001{from:04x}{to:04x}68656c6c6f0a");
    home.gourd(&["wait", "told"]).ok();
    let said = home.gourd(&["logs", "told"]).ok();
    assert_eq!(String::from_utf8_lossy(&said.stdout), v1 + &v2);
    home.gourd(&["rm", "told"]).ok();
    home.assert_nothing_left();
}

/// Of a range the first port that nobody has, at each start anew; and Docker's long form.
#[test]
fn a_port_of_a_range_is_chosen_when_a_container_starts() {
    let home = Home::new();
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let first = held.local_addr().expect("an address").port();
    // The system gives out ports from the upper half, and seldom neighbours.
    let last = first.checked_add(9).expect("room for a range");
    let range = format!("127.0.0.1:{first}-{last}:81/TCP");
    let long = format!("published={first}-{last},target=81,host_ip=127.0.0.1");
    let port = |name: &str| -> u16 {
        let place = home.gourd(&["port", name, "81/TCP"]).ok().text();
        let (_, port) = place.rsplit_once(':').expect("an address and a port");
        port.parse().expect("a number")
    };
    for (name, publish) in [("one", &range), ("two", &long)] {
        let script = "while true; do hostname | nc -l -p 81; done";
        home.gourd(&[
            "run",
            "-d",
            "--name",
            name,
            "--hostname",
            name,
            "-p",
            publish,
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    }
    let ports = [port("one"), port("two")];
    assert!(
        first < ports[0] && ports[0] < ports[1] && ports[1] <= last,
        "{ports:?}"
    );
    for (name, port) in ["one", "two"].into_iter().zip(ports) {
        // One that comes before the server is there is reset.
        let said = loop {
            let mut said = String::new();
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
            if stream.read_to_string(&mut said).is_ok() && !said.is_empty() {
                break said;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(said.trim(), name);
        let word = format!("127.0.0.1:{port}->81/tcp");
        let row = home.gourd(&[
            "ps",
            "--filter",
            &format!("name={name}"),
            "--format",
            "{{.Ports}}",
        ]);
        assert_eq!(row.ok().text(), word);
    }
    let asked = home.inspect("one", "{{json .HostConfig.PortBindings}}");
    let expect = format!("\"HostPort\":\"{first}-{last}\"");
    assert!(asked.contains(&expect), "{asked}");
    // What was taken is free, and the other's first is not.
    drop(held);
    home.gourd(&["restart", "-t", "0", "two"]).ok();
    assert_eq!((port("one"), port("two")), (ports[0], first));
    // Nobody gets what nobody has.
    let all = format!("127.0.0.1:{first}-{}:81", ports[0]);
    let holders: Vec<TcpListener> = (first..=ports[0])
        .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .collect();
    let refused = home.gourd(&["run", "--rm", "-p", &all, "busybox", "true"]);
    assert_ne!(refused.code, 0);
    let object = format!("127.0.0.1:{first}-{}/tcp", ports[0]);
    refused.says(&[&object, "all ports of the range are taken"]);
    drop(holders);
    home.gourd(&["rm", "-f", "one", "two"]).ok();
    home.assert_nothing_left();
}
