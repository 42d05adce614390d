//! Containers on several networks, and those that are put on one and taken off it, while they run and when they don't. The guest's own
//! tools are the oracle.

use crate::harness::{Home, eventually};
use crate::network::{get, server};

/// Names the devices that are there.
const CARDS: &str = "(cd /sys/class/net && echo eth*)";

/// What a shell in a running container says; it must go well.
#[track_caller]
fn inside(home: &Home, container: &str, script: &str) -> String {
    home.gourd(&["exec", container, "sh", "-c", script])
        .ok()
        .text()
}

fn create(home: &Home, subnet: &str, flags: &[&str], name: &str) {
    let line = ["network", "create", "--subnet", subnet];
    home.gourd(&[&line[..], flags, &[name]].concat()).ok();
}

/// Two networks, the first of which is internal: the other leads out, names of both resolve, and nothing goes through.
#[test]
fn a_container_on_two_networks() {
    let home = Home::new();
    create(&home, "10.82.0.0/24", &["--internal"], "back");
    create(&home, "10.81.0.0/24", &["--ipv6"], "front");
    server(&home, "db", &["--network", "back:alias=data"]);
    server(
        &home,
        "web",
        &["--network", "front", "--cap-add", "NET_ADMIN"],
    );
    let on = [
        "--network",
        "back:alias=mid,ip=10.82.0.9",
        "--network",
        "name=front,alias=www",
    ];
    server(
        &home,
        "both",
        &[&on[..], &["--hostname", "both", "-p", "127.0.0.1:0:80"]].concat(),
    );
    let said = inside(
        &home,
        "both",
        "ip -4 -o address show | awk '{print $2, $4}'; ip route show default; cat /etc/resolv.conf; tail -n 3 /etc/hosts; \
         ip -6 route show default; for there in db data web 10.82.0.2 10.81.0.2; do wget -qO- http://$there/hello; done; \
         nslookup 10.82.0.2 | grep name; nslookup nobody 2>&1 | grep NXDOMAIN | head -n 1",
    );
    for line in [
        "eth0 10.82.0.9/24",
        "eth1 10.81.0.3/24",
        "default via 10.81.0.1 dev eth1",
        "nameserver 10.81.0.1",
        "10.82.0.9\tboth",
        "10.81.0.3\tboth",
        "dev eth1",
        "name = db",
        "NXDOMAIN",
    ] {
        assert!(said.contains(line), "{line:?} is not in: {said}");
    }
    assert_eq!(said.matches("default via").count(), 2, "{said}");
    assert_eq!(said.matches("hello").count(), 5, "{said}");
    assert_eq!(inside(&home, "db", "wget -qO- http://mid/hello"), "hello");
    assert_eq!(inside(&home, "web", "wget -qO- http://www/hello"), "hello");
    // Over a connection, too: a question about db (RFC 1035), whose answer ends with the address.
    let question = r"\0\024\0\7\1\0\0\1\0\0\0\0\0\0\2db\0\0\1\0\1";
    let ask =
        format!("printf '{question}' | nc -w 60 10.81.0.1 53 | tail -c 4 | od -An -tu1 | xargs");
    assert_eq!(inside(&home, "both", &ask), "10 82 0 2");
    // Ports lead to the one that leads out.
    let address = home.gourd(&["port", "both", "80"]).ok().text();
    eventually("the server answers", || {
        get(&address).as_deref() == Some("hello\n")
    });
    let shown = home.inspect("both", "{{json .NetworkSettings.Networks}}");
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    for (network, address, gateway, mac) in [
        ("back", "10.82.0.9", "10.82.0.1", "02:"),
        ("front", "10.81.0.3", "10.81.0.1", "06:"),
    ] {
        let there = &shown[network];
        assert_eq!(
            (&there["IPAddress"], &there["Gateway"]),
            (&address.into(), &gateway.into()),
            "{shown}"
        );
        let found = there["MacAddress"].as_str().unwrap_or_default();
        assert!(found.starts_with(mac), "{shown}");
    }
    let members = home.gourd(&["network", "inspect", "-f", "{{json .Containers}}", "back"]);
    let members = members.ok().text();
    assert!(members.contains("\"Name\":\"both\"") && members.contains("\"Name\":\"db\""));
    // A container on both is no way from one to the other, whoever asks it to be: it does not forward.
    let script = "ip route add 10.82.0.0/24 via 10.81.0.3; ping -c 1 -W 2 10.82.0.2; wget -qO- http://db/hello; true";
    let said = inside(&home, "web", script);
    assert!(
        said.contains("0 packets received") && !said.contains("hello"),
        "{said}"
    );
    home.gourd(&["network", "rm", "back"])
        .exits(125)
        .says(&["network back is in use by containers db, both"]);
    home.gourd(&["rm", "-f", "both", "db", "web"]).ok();
    let twice = [
        "run",
        "--rm",
        "--network",
        "back",
        "--network",
        "back",
        "busybox",
        "true",
    ];
    home.gourd(&twice).exits(125).says(&["back is named twice"]);
    home.gourd(&["network", "rm", "back", "front"]).ok();
    home.assert_nothing_left();
}

#[test]
fn networks_come_and_go_while_it_runs() {
    let home = Home::new();
    create(&home, "10.83.0.0/24", &[], "one");
    create(
        &home,
        "10.84.0.0/24",
        &["--ipv6", "--subnet", "fd00:84::/64"],
        "two",
    );
    server(&home, "db", &["--network", "two"]);
    server(&home, "box", &["--network", "one", "-p", "127.0.0.1:0:80"]);
    let address = home.gourd(&["port", "box", "80"]).ok().text();
    let reach = "wget -qO- http://db/hello 2>&1; true";
    let unreached = |home: &Home| {
        let said = inside(home, "box", reach);
        assert!(said.contains("bad address 'db'"), "{said}");
    };
    unreached(&home);
    // What can't be.
    let connect = ["network", "connect"];
    let refuse = |words: &[&str], says: &str| {
        let line = [&connect[..], words].concat();
        home.gourd(&line).exits(125).says(&[says]);
    };
    refuse(
        &["--ip", "10.84.0.2", "two", "box"],
        "10.84.0.2: somebody has it",
    );
    refuse(
        &["--ip", "10.9.0.2", "two", "box"],
        "is none of the network two",
    );
    refuse(
        &["--ip6", "fd00:84::9", "two", "box"],
        "goes with no address of IPv4",
    );
    refuse(&["three", "box"], "no such network: three");
    refuse(&["two", "nobody"], "nobody");
    refuse(
        &["one", "box"],
        "container box is on the network one already",
    );
    home.gourd(&["network", "disconnect", "two", "box"])
        .exits(125)
        .says(&["container box is not on the network two"]);
    assert_eq!(inside(&home, "box", CARDS), "eth0");

    // On.
    let line = ["--alias", "cee", "--ip6", "fd00:84::a54:9", "two", "box"];
    home.gourd(&[&connect[..], &line].concat()).ok();
    let said = inside(
        &home,
        "box",
        "ip -o address show eth1 | awk '{print $4}'; ip route show default; wget -qO- http://db/hello; tail -n 1 /etc/hosts",
    );
    for line in [
        "10.84.0.9/24\n",
        "fd00:84::a54:9/64\n",
        "default via 10.83.0.1 dev eth0",
        "hello",
        "fd00:84::a54:9\t",
    ] {
        assert!(said.contains(line), "{line:?} is not in: {said}");
    }
    assert_eq!(
        inside(
            &home,
            "db",
            "wget -qO- http://cee/hello; wget -qO- http://box/hello"
        ),
        "hello\nhello"
    );
    // Much, whole, both ways; twice at once.
    inside(&home, "db", "head -c 8000000 /dev/urandom >/www/big");
    let sum = inside(&home, "db", "md5sum </www/big");
    let script = "wget -qO /www/big http://db/big & wget -qO- http://db/big | md5sum; wait; md5sum </www/big";
    assert_eq!(inside(&home, "box", script), format!("{sum}\n{sum}"));
    assert_eq!(
        inside(&home, "db", "wget -qO- http://box/big | md5sum"),
        sum
    );
    let shown = home.inspect(
        "box",
        "{{.NetworkSettings.Networks.two.IPAddress}} {{.NetworkSettings.IPAddress}}",
    );
    assert_eq!(shown, "10.84.0.9 10.83.0.2");
    home.gourd(&["network", "rm", "two"]).exits(125).says(&[
        "network two is in use by containers db, box",
        "gourd network disconnect two db",
    ]);

    // Off.
    home.gourd(&["network", "disconnect", "two", "box"]).ok();
    assert_eq!(
        inside(
            &home,
            "box",
            &format!("{CARDS}; grep -c 10.84 /etc/hosts; true")
        ),
        "eth0\n0"
    );
    unreached(&home);
    let script = "nc -w 2 10.84.0.9 80 </dev/null || nslookup box 2>&1 | grep NXDOMAIN | head -n 1";
    assert!(inside(&home, "db", script).contains("NXDOMAIN"));

    // The network that leads out goes: the other one does, with the ports; the card waits for its next network.
    home.gourd(&[&connect[..], &["two", "box"]].concat()).ok();
    home.gourd(&["network", "disconnect", "one", "box"]).ok();
    let said = inside(
        &home,
        "box",
        &format!("{CARDS}; ip route show default; ip -6 route show default; cat /etc/resolv.conf"),
    );
    for line in [
        "eth1\n",
        "default via 10.84.0.1 dev eth1",
        "via fd00:84::1 dev eth1",
        "nameserver 10.84.0.1",
    ] {
        assert!(said.contains(line), "{line:?} is not in: {said}");
    }
    assert_eq!(get(&address).as_deref(), Some("hello\n"));
    assert_eq!(home.gourd(&["port", "box", "80"]).ok().text(), address);
    home.gourd(&[&connect[..], &["one", "box"]].concat()).ok();
    let said = inside(
        &home,
        "box",
        "ip -4 -o address show eth0; readlink /sys/class/net/eth0/device",
    );
    assert!(
        said.contains("inet 10.83.0.2/24") && said.contains("virtio"),
        "{said}"
    );

    // While it does not run; then each network has a card.
    home.gourd(&["stop", "-t", "0", "box"]).ok();
    home.gourd(&["network", "disconnect", "two", "box"]).ok();
    home.gourd(&[&connect[..], &["--alias", "late", "two", "box"]].concat())
        .ok();
    home.gourd(&["start", "box"]).ok();
    let said = inside(
        &home,
        "box",
        "for card in /sys/class/net/eth*; do readlink $card/device; done | grep -c virtio; wget -qO- http://db/hello",
    );
    assert_eq!(said, "2\nhello");
    let address = home.gourd(&["port", "box", "80"]).ok().text();
    eventually("the server answers", || {
        get(&address).as_deref() == Some("hello\n")
    });
    assert_eq!(inside(&home, "db", "wget -qO- http://late/hello"), "hello");
    home.gourd(&["rm", "-f", "box", "db"]).ok();
    home.gourd(&["network", "rm", "one", "two"]).ok();
    home.assert_nothing_left();
}
