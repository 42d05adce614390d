//! This machine's own TCP as the guest: a TAP device in a network namespace, and a relay that loses, doubles and delays frames on their way
//! between it and the other end, which is a [`Stack`] or a second Linux.
//!
//! It takes root, or user namespaces and a `/dev/net/tun` for everybody; unshare(1) and ip(8).

// Each of the tests that share this uses a part of it.
#![allow(dead_code)]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use smoltcp::phy::{Device, Medium, RxToken, TunTapInterface, TxToken};

use crate::world::{GATEWAY, GATEWAY_MAC, GATEWAY6, GUEST, GUEST6};

/// Set where a test runs in a namespace already.
const INSIDE: &str = "GOURD_TEST_NAMESPACE";

/// The guest's Ethernet address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Runs the test of this name in a network namespace of its own, as another process; true in that process.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    command.arg("--net");
    let uid = std::fs::read_to_string("/proc/self/status").expect("who runs this");
    let root = |line: &str| line.starts_with("Uid:\t0\t");
    if !uid.lines().any(root) {
        command.args(["--user", "--map-root-user"]);
    }
    let program = std::env::current_exe().expect("this program");
    let status = command
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare of util-linux");
    assert!(status.success(), "in its namespace {test} failed: {status}");
    false
}

/// A command that has to succeed.
pub fn ip(line: &str) {
    let out = Command::new("ip").args(line.split(' ')).output();
    let out = out.expect("ip of iproute2");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success(),
        "ip {line}: {errors}this takes root, or a /dev/net/tun for everybody"
    );
}

/// The namespace's side of a TAP device: addresses, and the way out.
pub fn address(device: &str, (v4, v6): (&str, &str), way_out: bool) {
    ip(&format!("address add {v4} dev {device}"));
    ip(&format!("-6 address add {v6} dev {device} nodad"));
    if way_out {
        ip(&format!("route add default via {GATEWAY} dev {device}"));
        ip(&format!("-6 route add default via {GATEWAY6} dev {device}"));
    }
}

/// A new TAP device, up, with the guest's addresses.
pub fn guest(mtu: u16) -> Tap {
    ip("link set lo up");
    let tap = Tap::new("guest", MAC, mtu);
    let (v4, v6) = (format!("{GUEST}/16"), format!("{GUEST6}/64"));
    address("guest", (&v4, &v6), true);
    tap
}

/// Sets one of the namespace's own switches.
pub fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv4/{name}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Frames to and from the kernel.
pub struct Tap {
    device: TunTapInterface,
    /// The same descriptor, as one that can be waited for.
    fd: OwnedFd,
}

impl Tap {
    pub fn new(name: &str, mac: [u8; 6], mtu: u16) -> Tap {
        let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        ip(&format!("tuntap add dev {name} mode tap"));
        ip(&format!(
            "link set {name} mtu {mtu} address {}",
            mac.join(":")
        ));
        let device = TunTapInterface::new(name, Medium::Ethernet).expect("a TAP device");
        let (me, flags) = (rustix::process::getpid(), PidfdFlags::empty());
        let me = rustix::process::pidfd_open(me, flags).expect("this process");
        let fd = rustix::process::pidfd_getfd(me, device.as_raw_fd(), PidfdGetfdFlags::empty());
        let fd = fd.expect("its own descriptor");
        ip(&format!("link set {name} up"));
        Tap { device, fd }
    }

    /// The next frame that the kernel has sent.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let (received, _) = self.device.receive(smoltcp::time::Instant::ZERO)?;
        Some(received.consume(<[u8]>::to_vec))
    }

    pub fn send(&mut self, frame: &[u8]) {
        if let Some(token) = self.device.transmit(smoltcp::time::Instant::ZERO) {
            token.consume(frame.len(), |bytes| bytes.copy_from_slice(frame));
        }
    }

    /// Until the kernel has sent something, `limit` at most.
    pub fn wait(&self, limit: Duration) {
        wait(&[self], limit);
    }
}

/// Until the kernel has sent something by one of these, `limit` at most.
fn wait(taps: &[&Tap], limit: Duration) {
    let mut fds: Vec<PollFd<'_>> = taps
        .iter()
        .map(|tap| PollFd::new(&tap.fd, PollFlags::IN))
        .collect();
    let limit = Timespec::try_from(limit).expect("a short time");
    let _ = rustix::event::poll(&mut fds, Some(&limit));
}

/// A second network namespace, which ends with this.
pub struct Other(Child);

impl Other {
    fn new() -> Other {
        let child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.expect("unshare of util-linux");
        // It is there when something is said in it.
        let said = child.stdout.as_mut().expect("piped").read_exact(&mut [0]);
        said.expect("a second namespace");
        Other(child)
    }

    /// Does something in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/proc/{}/ns/net", self.0.id())).expect("its namespace");
        let work = || {
            let network = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(space.as_fd(), network)
                .expect("into the namespace");
            work()
        };
        thread::scope(|scope| scope.spawn(work).join()).expect("what was done there")
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two Linuxes, the guest and who is the gateway to it, with a relay between them.
pub struct Pair {
    guest: Tap,
    gateway: Tap,
    pub other: Other,
}

impl Pair {
    pub fn new(mtu: u16) -> Pair {
        let other = Other::new();
        let gateway = Tap::new("gateway", GATEWAY_MAC.0, mtu);
        ip(&format!("link set gateway netns {}", other.0.id()));
        let (v4, v6) = (format!("{GATEWAY}/16"), format!("{GATEWAY6}/64"));
        other.run(|| {
            ip("link set lo up");
            ip("link set gateway up");
            address("gateway", (&v4, &v6), false);
        });
        let guest = guest(mtu);
        Pair {
            guest,
            gateway,
            other,
        }
    }

    /// Carries frames both ways.
    pub fn turn(&mut self, up: &mut Trouble, down: &mut Trouble) {
        let (guest, gateway) = (&mut self.guest, &mut self.gateway);
        carry(guest, gateway, up);
        carry(gateway, guest, down);
        wait(&[&self.guest, &self.gateway], Duration::from_millis(1));
    }
}

fn carry(from: &mut Tap, to: &mut Tap, trouble: &mut Trouble) {
    while let Some(frame) = from.receive() {
        trouble.pass(frame, |frame| to.send(frame));
    }
    trouble.release(|frame| to.send(frame));
}

/// Of a thousand frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    pub lost: u64,
    pub doubled: u64,
    /// Overtaken by up to eight others.
    pub late: u64,
}

/// What happens to frames on one way.
#[derive(Debug)]
pub struct Trouble {
    rates: Rates,
    state: u64,
    /// How many may still overtake it, when it comes at the latest, and what.
    held: Vec<(u64, Instant, Vec<u8>)>,
    pub passed: u64,
}

/// Nothing is held back for longer, however little goes on.
const LATEST: Duration = Duration::from_millis(2);

impl Trouble {
    pub fn new(rates: Rates, seed: u64) -> Trouble {
        Trouble {
            rates,
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            held: Vec::new(),
            passed: 0,
        }
    }

    /// Xorshift.
    fn roll(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 11
    }

    fn happens(&mut self, rate: u64) -> bool {
        self.roll() % 1000 < rate
    }

    /// One frame begins its way; `arrive` is called for each that ends it.
    pub fn pass(&mut self, frame: Vec<u8>, mut arrive: impl FnMut(&[u8])) {
        self.passed += 1;
        if self.happens(self.rates.lost) {
            return;
        }
        let doubled = self.happens(self.rates.doubled);
        if self.happens(self.rates.late) {
            let overtaken = 1 + self.roll() % 8;
            let latest = Instant::now() + LATEST;
            self.held.push((overtaken, latest, frame));
            return;
        }
        (0..=usize::from(doubled)).for_each(|_| arrive(&frame));
        self.held.retain_mut(|(overtaken, _, frame)| {
            *overtaken -= 1;
            if *overtaken == 0 {
                arrive(frame);
            }
            *overtaken > 0
        });
    }

    /// Those that were held back for long enough.
    pub fn release(&mut self, mut arrive: impl FnMut(&[u8])) {
        let now = Instant::now();
        self.held.retain(|(_, latest, frame)| {
            let due = *latest <= now;
            if due {
                arrive(frame);
            }
            !due
        });
    }

    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }
}
