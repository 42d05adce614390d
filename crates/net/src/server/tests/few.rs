//! A network whose process has few descriptors. It runs beside the test, which has enough.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use super::*;
use crate::server::Next;

const PROBE: &str = "GOURD_NET_FEW";

/// So many descriptors, an eighth of which no flow gets.
const LIMIT: usize = 128;

/// Turns of the loop that all of this may take. One that turns for nothing has more in a hundredth of a second.
const TURNS: u32 = 5000;

/// This test again, as a process that has [`LIMIT`] descriptors and writes down how often its loop turned. In that process: nothing,
/// when it is over.
fn network(test: &str) -> Option<Network> {
    if let Ok(dir) = std::env::var(PROBE) {
        serve(Path::new(&dir));
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n \"$0\" && exec \"$@\""])
        .arg(LIMIT.to_string())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(PROBE, dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let sock = dir.path().join("sock");
    while !sock.exists() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let thread = std::thread::spawn(move || child.wait().unwrap().success());
    Some(Network { dir, thread })
}

/// The process.
fn serve(dir: &Path) {
    let mut server = server(dir);
    let mut turns = 0;
    while let Next::On = server.turn().unwrap() {
        turns += 1;
    }
    std::fs::write(dir.join("turns"), turns.to_string()).unwrap();
}

/// Ends a network.
fn turns(network: Network) -> u32 {
    assert!(network.thread.join().unwrap());
    let turns = std::fs::read_to_string(network.dir.path().join("turns"));
    turns.unwrap().parse().unwrap()
}

/// A guest says hello to whoever connects.
fn says_hello(guest: &mut Guest) {
    let port = guest.joined.published[0].host_port;
    let handle = guest.tcp();
    let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
    socket.listen(80).unwrap();
    let client = std::thread::spawn(move || {
        let mut said = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.read_to_string(&mut said).map(|_| said)
    });
    guest.until(|sockets| sockets.get_mut::<tcp::Socket<'_>>(handle).can_send());
    let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
    socket.send_slice(b"hello").unwrap();
    socket.close();
    guest.until(|_| client.is_finished());
    assert_eq!(client.join().unwrap().unwrap(), "hello");
}

#[test]
fn a_guest_leaves_descriptors_to_others() {
    let Some(network) = network("server::tests::few::a_guest_leaves_descriptors_to_others") else {
        return;
    };
    let (_greedy, greedy) = network.join(2, &[publish(Protocol::Tcp, 80)]);
    let port = greedy.unwrap().joined.published[0].host_port;
    let (_modest, modest) = network.join(3, &[publish(Protocol::Tcp, 80)]);
    let mut modest = modest.unwrap();
    let clients: Vec<TcpStream> = (0..2 * LIMIT)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    says_hello(&mut modest);
    // Who has none is told at once, and half of what there is are left.
    let open = |mut client: &TcpStream| {
        client.set_nonblocking(true).unwrap();
        let read = client.read(&mut [0]);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    let others = 2 * 2 + 2;
    let half = (LIMIT - LIMIT / 8 - others) / 2;
    modest.until(|_| clients.iter().filter(|client| open(client)).count() <= half);
    assert_eq!(clients.iter().filter(|client| open(client)).count(), half);
    // What is given back is had again.
    drop(clients);
    says_hello(&mut modest);
    drop((_greedy, _modest));
    let turns = turns(network);
    assert!(turns < TURNS, "{turns}");
}

/// More supervisors than there is room for: who is there goes on, and the others come when there is room.
#[test]
fn a_listener_waits_for_descriptors() {
    let Some(network) = network("server::tests::few::a_listener_waits_for_descriptors") else {
        return;
    };
    let (control, guest) = network.join(2, &[publish(Protocol::Tcp, 80)]);
    let mut guest = guest.unwrap();
    let address = SocketAddrUnix::new(network.dir.path().join("sock")).unwrap();
    let mut idle = Vec::new();
    // Until those that wait are as many as may.
    let mut refused = 0;
    while refused < 50 {
        let socket = seqpacket();
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        match rustix::net::connect(&socket, &address) {
            Ok(()) => idle.push(socket),
            Err(rustix::io::Errno::AGAIN) => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(errno) => panic!("{errno}"),
        }
    }
    assert!(idle.len() < LIMIT, "{}", idle.len());
    // The last one waits still.
    let last = idle.pop().unwrap();
    let question = Request::Report { protocol: PROTOCOL };
    network::send(last.as_fd(), &question, None).unwrap();
    let nothing = network::expect::<Reply>(&last).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    drop(idle);
    rustix::io::ioctl_fionbio(&last, false).unwrap();
    let (answer, _) = network::expect::<Reply>(&last).unwrap();
    assert!(matches!(answer, Reply::Report(members) if members.len() == 1));
    says_hello(&mut guest);
    drop((control, last));
    let turns = turns(network);
    assert!(turns < TURNS, "{turns}");
}
