//! `Stats`: what the container's control group and network have used since the boot.
//!
//! The files are the kernel's. One that this kernel lacks, or a line that is not there, counts as zero.

use proto::agent::StatsReply;

use super::container::Container;
use crate::cgroup::Cgroup;
use crate::clock;

/// Reads everything now.
pub(super) fn read(container: &Container) -> StatsReply {
    let mut reply = StatsReply {
        read_ns: clock::boottime_ns(),
        online_cpus: online_cpus(),
        ..StatsReply::default()
    };
    group(&container.booted.cgroup, &mut reply);
    let network = match container.running() {
        Some(main) => std::fs::read_to_string(format!("/proc/{}/net/dev", main.pid)),
        None => std::fs::read_to_string("/proc/net/dev"),
    };
    (reply.network_received_bytes, reply.network_sent_bytes) =
        parse_interfaces(&network.unwrap_or_default());
    reply
}

fn group(group: &Cgroup, reply: &mut StatsReply) {
    let cpu = group.get("cpu.stat");
    let microseconds = |name| keyed(&cpu, name).saturating_mul(1000);
    reply.cpu_total_ns = microseconds("usage_usec");
    reply.cpu_user_ns = microseconds("user_usec");
    reply.cpu_system_ns = microseconds("system_usec");
    reply.throttled_ns = microseconds("throttled_usec");
    let number = |file| group.get(file).trim().parse().unwrap_or(0);
    reply.memory_usage = number("memory.current");
    reply.memory_cache = keyed(&group.get("memory.stat"), "inactive_file");
    reply.memory_limit = number("memory.max");
    reply.memory_peak = number("memory.peak").max(reply.memory_usage);
    reply.oom_kills = group.oom_kills();
    reply.pids = number("pids.current");
    reply.pids_limit = number("pids.max");
    let io = group.get("io.stat");
    reply.block_read_bytes = summed(&io, "rbytes");
    reply.block_write_bytes = summed(&io, "wbytes");
    reply.block_reads = summed(&io, "rios");
    reply.block_writes = summed(&io, "wios");
}

fn online_cpus() -> u32 {
    let set = rustix::thread::sched_getaffinity(None);
    set.map_or(1, |set| set.count())
}

/// The number after `name` in a flat keyed file: `name number` lines.
fn keyed(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

/// The sum of `name` over the lines of a nested keyed file: `device name=number …` lines.
fn summed(text: &str, name: &str) -> u64 {
    text.split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| *key == name)
        .filter_map(|(_, value)| value.parse().ok())
        .fold(0, u64::saturating_add)
}

/// Bytes received and sent in `/proc/net/dev`, of all interfaces but `lo`.
fn parse_interfaces(text: &str) -> (u64, u64) {
    let mut sums = (0_u64, 0_u64);
    for line in text.lines().skip(2) {
        let Some((name, columns)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let mut columns = columns
            .split_whitespace()
            .map(|column| column.parse().unwrap_or(0));
        sums.0 = sums.0.saturating_add(columns.next().unwrap_or(0));
        sums.1 = sums.1.saturating_add(columns.nth(7).unwrap_or(0));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_group() {
        let cpu = "usage_usec 12\nuser_usec 7\nsystem_usec 5\n";
        assert_eq!((keyed(cpu, "user_usec"), keyed(cpu, "nope")), (7, 0));
        let io =
            "254:16 rbytes=4096 wbytes=1 rios=1 wios=1 dbytes=0 dios=0\n254:0 rbytes=904 rios=2\n";
        let sums = ["rbytes", "wbytes", "rios"].map(|name| summed(io, name));
        assert_eq!(sums, [5000, 1, 3]);
    }

    #[test]
    fn interfaces_but_lo() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n\
            \x20   lo:    9999      10    0    0    0     0          0         0  9999      10    0    0    0     0       0          0\n\
            \x20 eth0:    1000       8    0    0    0     0          0         0   200       2    0    0    0     0       0          0\n\
            eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(parse_interfaces(text), (1001, 202));
        assert_eq!(parse_interfaces(""), (0, 0));
    }
}
