//! Published ports whose servers learn who their clients are. Oracle: the PROXY protocol's specification, section 2.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::harness::Home;

/// Each connection begins with a line that names its client, or with the same in binary; then comes what the client says.
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
