//! Resolvers of the host's as containers see them: all kinds of records, one that is dead, one that is slow. dnsmasq is the resolver, in
//! a network namespace of the test's own.

use crate::harness::{Home, eventually};

/// A resolver with records of all kinds; one that hears and says nothing; and one that stands still for four seconds when `stop` is
/// there, and says so in `stopped`.
const SETUP: &str = "
    ip() { busybox ip \"$@\"; }
    ip link set lo up
    for last in 53 54 55; do ip address add 192.0.2.$last/32 dev lo; done
    serve() {
        last=$1; shift
        dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --bind-interfaces \
            --local=/test/ --listen-address=192.0.2.$last --host-record=web.example.test,198.51.100.$last \"$@\" &
        resolver=$!
        until busybox nslookup web.example.test 192.0.2.$last >/dev/null 2>&1; do kill -0 $resolver; done
    }
    serve 53 --mx-host=example.test,mail.example.test,10 --txt-record=example.test,'v=spf1 -all' \
        --srv-host=_sip._tcp.example.test,sip.example.test,5060,5,7 --cname=www.example.test,web.example.test \
        --ptr-record=9.100.51.198.in-addr.arpa,web.example.test
    serve 54
    kill -STOP $resolver
    serve 55
    (
        while [ ! -e stop ]; do sleep 0.1; done
        kill -STOP $resolver; touch stopped; sleep 4; kill -CONT $resolver
    ) &";

fn ask(home: &Home, resolvers: &[&str], script: &str) -> String {
    let mut line = vec!["run", "--rm"];
    for resolver in resolvers {
        line.extend(["--dns", resolver]);
    }
    line.extend(["busybox", "sh", "-c", script]);
    home.gourd(&line).ok().text()
}

/// Oracle: the same questions, asked of dnsmasq itself.
#[test]
fn records_of_all_kinds_come_through() {
    let home = Home::in_a_network(SETUP);
    let questions = [
        (
            "mx",
            "example.test",
            "mail exchanger = 10 mail.example.test",
        ),
        ("txt", "example.test", "text = \"v=spf1 -all\""),
        (
            "srv",
            "_sip._tcp.example.test",
            "service = 5 7 5060 sip.example.test",
        ),
        ("a", "www.example.test", "Address: 198.51.100.53"),
        (
            "ptr",
            "9.100.51.198.in-addr.arpa",
            "name = web.example.test",
        ),
        ("mx", "none.example.test", "NXDOMAIN"),
    ];
    let script = |server: &str| -> String {
        let line = |(kind, name, _): &(&str, &str, &str)| {
            format!("nslookup -type={kind} {name} {server} 2>&1 | tail -n +3; echo; ")
        };
        questions.iter().map(line).collect()
    };
    let said = ask(&home, &["192.0.2.53"], &script(""));
    for (kind, name, expect) in questions {
        assert!(said.contains(expect), "{kind} {name}: {said}");
    }
    let direct = format!(
        "nslookup() {{ busybox nslookup \"$@\"; }}; {}",
        script("192.0.2.53")
    );
    let direct = home.inside(&direct).ok().text();
    // Two versions of busybox differ in their blank lines.
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(str::to_owned).collect()
    };
    assert_eq!(lines(&said), lines(&direct));
    home.assert_nothing_left();
}

/// busybox's `nslookup` waits for five seconds.
#[test]
fn a_dead_resolver_and_a_slow_one() {
    let home = Home::in_a_network(SETUP);
    // The dead one costs part of the guest's patience, not all of it; what is said at once is found at once.
    let script = "nslookup web.example.test";
    let said = ask(&home, &["192.0.2.54", "192.0.2.53"], script);
    assert!(said.contains("Address: 198.51.100.53"), "{said}");
    // The only one there is may take its time.
    let script = "echo ready; read -r go; nslookup web.example.test";
    let mut line = vec!["run", "-i", "--rm", "--dns", "192.0.2.55"];
    line.extend(["busybox", "sh", "-c", script]);
    let mut child = home.start(&line);
    let mut input = child.stdin.take().expect("piped");
    std::io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut [0; 6])
        .expect("it is there");
    std::fs::write(home.path("stop"), "").expect("written");
    eventually("it stands still", || home.path("stopped").exists());
    std::io::Write::write_all(&mut input, b"go\n").expect("sent");
    drop(input);
    let out = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("Address: 198.51.100.55"), "{said}");
    home.assert_nothing_left();
}
