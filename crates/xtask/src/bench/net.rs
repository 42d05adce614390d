//! `net`: TCP, UDP and requests through `gourd-net`, beside passt and QEMU's own user network, in the same VM, in turns.
//!
//! It runs in a network namespace of its own: nothing leaves its loopback. `GOURD_BENCH_PAIRS` turns of `GOURD_BENCH_SECONDS` (2) each;
//! `GOURD_BENCH_ROWS` chooses the rows that have these words in their names.

mod guest;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use self::guest::{Computed, GATEWAY, Guest, Kind, Parts, Ports};
use super::{Row, Times};

/// As fast as passt.
const PASST_BUDGET: f64 = 1.0;
/// Twice as fast as QEMU's own network.
const USER_BUDGET: f64 = 0.5;

/// The interface of the namespace that passt takes for the way out.
const INTERFACE: &str = "way-out";

/// Where the host listens for what guests send.
const HOST_PORT: u16 = 15200;

/// Bits a second that the host sends in datagrams: more than any of these networks takes to a translated guest. Without a limit the sender takes
/// one of two processors, and what is lost is measured more than what arrives.
const OFFERED: &str = "300M";

/// What is measured: its name, and what one of it is (bytes of a gigabyte, or a request).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    TcpIn,
    TcpOut,
    UdpIn,
    UdpOut,
    Requests,
    OneByOne,
    Connections,
}

const ALL: [What; 7] = [
    What::TcpIn,
    What::TcpOut,
    What::UdpIn,
    What::UdpOut,
    What::Requests,
    What::OneByOne,
    What::Connections,
];

impl What {
    fn name(self) -> &'static str {
        match self {
            What::TcpIn => "TCP host to guest",
            What::TcpOut => "TCP guest to host",
            What::UdpIn => "UDP host to guest, 1400 B",
            What::UdpOut => "UDP guest to host, 1400 B",
            What::Requests => "requests, 16 connections",
            What::OneByOne => "requests, one by one",
            What::Connections => "a connection per request",
        }
    }

    /// What is counted.
    fn unit(self) -> &'static str {
        match self {
            What::TcpIn | What::TcpOut | What::UdpIn | What::UdpOut => "Gbit",
            _ => "requests",
        }
    }

    /// Of it in a second.
    fn measure(self, guest: &mut Guest) -> Result<f64> {
        let port = guest.ports.iperf.to_string();
        match self {
            What::TcpIn => iperf(&["-c", "127.0.0.1", "-p", &port]),
            What::UdpIn => {
                let flags = ["-u", "-b", OFFERED, "-l", "1400"];
                iperf(&[&["-c", "127.0.0.1", "-p", &port][..], &flags].concat())
            }
            What::TcpOut => outwards(guest, ""),
            What::UdpOut => outwards(guest, "-u -b 0 -l 1400"),
            What::Requests => wrk(guest.ports.http, &["-c", "16"]),
            What::OneByOne => wrk(guest.ports.http, &["-c", "1"]),
            What::Connections => wrk(guest.ports.http, &["-c", "8", "-H", "Connection: close"]),
        }
    }
}

/// Seconds of one measurement.
fn seconds() -> String {
    std::env::var("GOURD_BENCH_SECONDS").unwrap_or_else(|_| "2".to_owned())
}

/// Measures all three; in a namespace, which is made when this is not in it.
pub fn measure(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    const INSIDE: &str = "GOURD_BENCH_NAMESPACE";
    if std::env::var_os(INSIDE).is_none() {
        // From Debian's mirror, which is out of reach in there.
        crate::images::network(cache)?;
        return again_in_a_namespace(INSIDE);
    }
    run("ip", &["link", "set", "lo", "up"])?;
    // passt wants a way out, which leads nowhere.
    let other = "nowhere";
    run(
        "ip",
        &[
            "link", "add", INTERFACE, "type", "veth", "peer", "name", other,
        ],
    )?;
    run(
        "ip",
        &["address", "add", "198.51.100.1/24", "dev", INTERFACE],
    )?;
    run("ip", &["link", "set", other, "up"])?;
    run("ip", &["link", "set", INTERFACE, "up"])?;
    run(
        "ip",
        &[
            "route",
            "add",
            "default",
            "via",
            "198.51.100.2",
            "dev",
            INTERFACE,
        ],
    )?;

    let dir = tempfile::tempdir()?;
    let parts = parts(cache, dir.path())?;
    let kinds = [Kind::Gourd, Kind::Passt, Kind::User];
    let mut guests = Vec::new();
    for (number, kind) in (0..).zip(kinds) {
        let ports = Ports {
            iperf: 15201 + 10 * number,
            http: 15202 + 10 * number,
        };
        guests.push(Guest::start(&parts, kind, ports)?);
    }
    let chosen: Vec<What> = match std::env::var("GOURD_BENCH_ROWS") {
        Ok(words) => ALL
            .into_iter()
            .filter(|what| what.name().contains(&words))
            .collect(),
        Err(_) => ALL.to_vec(),
    };
    let mut rows = Vec::new();
    for what in chosen {
        rows.extend(compare(what, &mut guests, pairs)?);
    }
    Ok(rows)
}

/// One thing on all networks, in turns, after a turn that is thrown away: under translation the first one translates.
fn compare(what: What, guests: &mut [Guest], pairs: usize) -> Result<Vec<Row>> {
    let mut times: Vec<Times> = guests
        .iter()
        .map(|guest| Times::new(guest.kind.name()))
        .collect();
    let mut computed = vec![(Computed::default(), 0.0); guests.len()];
    for pair in 0..=pairs {
        for (index, guest) in guests.iter_mut().enumerate() {
            let before = guest.processor_time()?;
            let rate = what
                .measure(guest)
                .with_context(|| format!("{} through {}", what.name(), guest.kind.name()))?;
            let after = guest.processor_time()?;
            ensure!(
                rate > 0.0,
                "{} through {}: nothing",
                what.name(),
                guest.kind.name()
            );
            if pair > 0 {
                times[index].add(Duration::from_secs_f64(1.0 / rate));
                let sum = &mut computed[index];
                sum.0.network += after.network - before.network;
                sum.0.devices += after.devices - before.devices;
                sum.0.guest += after.guest - before.guest;
                sum.1 += rate;
            }
        }
    }
    println!(
        "\n{} ({} a second; seconds of processor per 1000 of them)",
        what.name(),
        what.unit()
    );
    let length: f64 = seconds().parse().context("GOURD_BENCH_SECONDS")?;
    for (times, (computed, rates)) in times.iter().zip(computed) {
        let rate = |time: Option<&Duration>| time.map_or(0.0, |time| 1.0 / time.as_secs_f64());
        let each = 1000.0 / (rates * length);
        println!(
            "  {:10} {:10.3}  ({:.3} to {:.3})   network {:8.3}  QEMU's loop {:8.3}  guest {:8.3}",
            times.name,
            1.0 / super::median(&times.sorted),
            rate(times.sorted.last()),
            rate(times.sorted.first()),
            computed.network * each,
            computed.devices * each,
            computed.guest * each
        );
    }
    let [ours, passt, user] = &times[..] else {
        bail!("three networks");
    };
    let rows = [(passt, PASST_BUDGET), (user, USER_BUDGET)].map(|(other, budget)| {
        let mut row = ours.against(other, budget);
        row.row = format!("{}: {}", what.name(), row.row);
        println!(
            "  {}: time {:.2}, budget {budget:.2}; {:.2} times as fast",
            row.row,
            row.ratio,
            1.0 / row.ratio
        );
        row
    });
    Ok(rows.into())
}

/// The root as a file, made by gourd itself.
fn parts(cache: &Path, dir: &Path) -> Result<Parts> {
    let kernel = cache.join("kernels/gourd/vmlinux");
    ensure!(
        kernel.is_file(),
        "the gourd kernel is not built: ./dev kernel"
    );
    let programs = super::programs()?;
    let rootfs = super::vm::rootfs(&programs, &cache.join("images/network.tar"), dir)?;
    Ok(Parts {
        dir: dir.to_owned(),
        kernel,
        rootfs,
        programs,
    })
}

fn again_in_a_namespace(inside: &str) -> Result<Vec<Row>> {
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::getuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(inside, "1")
        .status()
        .context("start unshare")?;
    ensure!(status.success(), "in the namespace: {status}");
    std::process::exit(0)
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    super::samples::run(Command::new(program).args(args)).map(drop)
}

/// iperf3 as the client of a guest's server; what arrived, in Gbit/s.
fn iperf(args: &[&str]) -> Result<f64> {
    let mut command = Command::new("iperf3");
    command.args(args).args(["-J", "-t", &seconds()]);
    arrived(&output(&mut command)?)
}

/// iperf3 in the guest as the client of one here.
fn outwards(guest: &mut Guest, flags: &str) -> Result<f64> {
    let port = HOST_PORT.to_string();
    let mut server = Command::new("iperf3");
    server.args(["-s", "-1", "-J", "-B", "127.0.0.1", "-p", &port]);
    let server = server
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let server = Killed(Some(server));
    let length = seconds();
    wait_for(HOST_PORT)?;
    guest.shell(&format!(
        "iperf3 -c {GATEWAY} -p {HOST_PORT} -t {length} {flags} >/dev/null"
    ))?;
    arrived(&String::from_utf8(server.output()?)?)
}

/// Until somebody listens: the kernel's list of sockets says so without a connection, of which the server takes one only.
fn wait_for(port: u16) -> Result<()> {
    let listening = format!("0100007F:{port:04X} 00000000:0000 0A");
    for _ in 0..500 {
        if std::fs::read_to_string("/proc/net/tcp")?.contains(&listening) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("nobody listens on port {port}")
}

/// A child that does not outlive a failure.
struct Killed(Option<Child>);

impl Killed {
    fn output(mut self) -> Result<Vec<u8>> {
        let child = self.0.take().context("a child")?;
        Ok(child.wait_with_output()?.stdout)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What arrived, of iperf3's report of either side, in Gbit/s.
fn arrived(report: &str) -> Result<f64> {
    let report: Value = serde_json::from_str(report).context("iperf3's report")?;
    let end = &report["end"];
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let found = end["sum_received"]["bits_per_second"].as_f64();
    Ok(found.context("iperf3 reports no rate")? / 1e9)
}

/// Requests a second that wrk makes, all of which must be answered.
fn wrk(port: u16, flags: &[&str]) -> Result<f64> {
    let mut command = Command::new("wrk");
    command
        .args(["-t", "1", "-d", &format!("{}s", seconds())])
        .args(flags);
    answered(&output(command.arg(format!("http://127.0.0.1:{port}/")))?)
}

fn answered(report: &str) -> Result<f64> {
    ensure!(
        !report.contains("Socket errors") && !report.contains("Non-2xx"),
        "wrk: {report}"
    );
    let line = report
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    let rate = line.context("wrk reports no rate")?.trim();
    Ok(rate.parse()?)
}

fn output(command: &mut Command) -> Result<String> {
    let out = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8(out.stdout)?;
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{command:?}: {errors}{said}");
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let report = r#"{"end": {"sum_received": {"bits_per_second": 2.5e9}}}"#;
        assert_eq!(arrived(report).unwrap(), 2.5);
        for wrong in [
            "",
            "{}",
            r#"{"error": "refused", "end": {"sum_received": {"bits_per_second": 1}}}"#,
        ] {
            assert!(arrived(wrong).is_err(), "{wrong}");
        }
        let report = "  100 requests in 1.00s\nRequests/sec:   1234.50\nTransfer/sec: 1KB\n";
        assert_eq!(answered(report).unwrap(), 1234.5);
        for wrong in [
            "",
            "Requests/sec: many",
            "  Socket errors: connect 0, read 1\nRequests/sec: 5",
            "  Non-2xx or 3xx responses: 1\nRequests/sec: 5",
        ] {
            assert!(answered(wrong).is_err(), "{wrong}");
        }
    }
}
