//! What happens to the host under a network that is in use: its resolvers change, its interface goes and comes back, it sleeps, and the
//! network's process is killed. The other ends are dnsmasq and busybox, in a network namespace of the test's own.

use std::io::{Read, Write};
use std::time::Duration;

use crate::harness::{Home, kill};
use crate::network::gourd_net;

/// Two resolvers that know the same name by different addresses, and a server that says everything again.
const CHANGES: &str = "
    ip() { busybox ip \"$@\"; }
    ip link set lo up
    echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
    for last in 9 53 54; do ip address add 192.0.2.$last/32 dev lo; done
    mkdir www; echo outside >www/hello
    busybox httpd -f -p 80 -h www &
    busybox nc -ll -p 7000 -e cat &
    for last in 53 54; do
        # Not as root, who would want to be somebody else, which nobody here can.
        unshare --map-user=1 --map-group=1 dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= \
            --bind-interfaces --listen-address=192.0.2.$last --host-record=changing.example.test,198.51.100.$last &
        until busybox nslookup changing.example.test 192.0.2.$last 2>&1 | grep -q 198.51; do kill -0 $!; done
    done
    echo nameserver 192.0.2.53 >resolv.conf";

/// Longer than anybody here waits for an answer before something is asked or sent again.
const ASLEEP: Duration = Duration::from_secs(5);

#[test]
fn the_host_changes_under_a_network() {
    let (home, resolv_conf) = Home::in_a_network_with_a_resolver(CHANGES);
    let id = home.sleeper(&["--name", "box"]);
    // The same all the time: what it asks of the kernel is on its list.
    let [before] = gourd_net(&home)[..] else {
        panic!("one process of a network: {:?}", home.leftovers());
    };
    let exec = |script: &str| {
        let line = ["exec", "box", "sh", "-c", script];
        home.gourd(&line).ok().text()
    };
    let resolved = "nslookup changing.example.test 2>&1 | grep -o '198.51.*'";
    assert_eq!(exec(resolved), "198.51.100.53");
    std::fs::write(&resolv_conf, "nameserver 192.0.2.54\n").expect("written");
    assert_eq!(exec(resolved), "198.51.100.54");

    let get = "wget -qO- http://192.0.2.9/hello 2>&1; true";
    assert_eq!(exec(get), "outside");

    // A connection stands while the interface is gone, and goes on when it is back; a new one gets nowhere in between. The host drops
    // what should go out by it and tells nobody, so nobody can be refused: not waiting for long is the guest's to decide.
    let mut standing = home.start(&["exec", "-i", "box", "nc", "192.0.2.9", "7000"]);
    let mut input = standing.stdin.take().expect("piped");
    let mut output = standing.stdout.take().expect("piped");
    let mut echoed = |text: &[u8; 4], between: &dyn Fn()| {
        input.write_all(text).expect("sent");
        between();
        let mut answer = [0; 4];
        output.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, *text);
    };
    echoed(b"one\n", &|| ());
    home.inside("busybox ip link set lo down").ok();
    echoed(b"two\n", &|| {
        assert!(!exec(&format!("timeout 3 {get}")).contains("outside"));
        home.inside("busybox ip link set lo up").ok();
    });
    assert_eq!(exec(get), "outside");

    // Nothing of it runs for a while, and every clock has gone on then: what stands goes on, what is new works.
    let processes = home.processes(&id);
    let all = [processes.qemu, processes.vmm, processes.supervisor, before];
    echoed(b"zzz\n", &|| {
        all.iter().for_each(|pid| kill(*pid, "-STOP"));
        std::thread::sleep(ASLEEP);
        all.iter().for_each(|pid| kill(*pid, "-CONT"));
    });
    assert_eq!(exec(get), "outside");
    assert_eq!(exec(resolved), "198.51.100.54");

    // The network's process is killed with a connection on its way: the guest hears of it, and the next one works.
    assert_eq!(gourd_net(&home), [before]);
    kill(before, "-9");
    // Something has to be said, or nobody would learn that there is no such connection any more.
    input.write_all(b"three\n").expect("sent");
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).expect("the end");
    assert_eq!(rest, b"");
    drop(input);
    standing.wait().expect("nc ends");
    assert_eq!(exec(get), "outside");
    assert_eq!(exec(resolved), "198.51.100.54");
    home.gourd(&["rm", "-f", "box"]).ok();
    home.assert_nothing_left();
}
