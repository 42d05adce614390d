//! `Top`: the container's processes, as /proc tells of them.
//!
//! A process is the container's when it has an id in a PID namespace below the VM's: the container's own is the first
//! one below. Names, arguments and passwd are the container's and so are hostile bytes.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;

use proto::agent::{ProcessInfo, TopReply};

use super::container::Container;
use super::mounts::open_root;
use crate::failure::{Failed, Step};
use crate::{clock, users};

/// Bytes of a command that are shown.
const COMMAND: usize = 4096;

/// Bytes of all commands and names together: what a message holds, with room to spare.
const MESSAGE: usize = 2 << 20;

/// Bytes that a process's numbers take in the message, at most.
const NUMBERS: usize = 128;

const NANOSECONDS: u64 = 1_000_000_000;

/// First and last of the major numbers of UNIX98 terminals (`Documentation/admin-guide/devices.txt`).
const UNIX98_TERMINALS: std::ops::RangeInclusive<u32> = 136..=143;

/// What one process is read with.
struct Reader {
    /// Nanoseconds of a clock tick.
    tick: u64,
    page: u64,
    /// Nanoseconds since 1970 of the kernel's start.
    boot: u64,
    users: HashMap<u32, String>,
}

/// Reads the processes that are there now, ordered by id.
pub(super) fn read(container: &Container) -> Result<TopReply, Failed> {
    if container.running().is_none() {
        return Err(Failed::invalid(
            "list processes of",
            &container.id,
            "it is not running",
        ));
    }
    let reader = Reader {
        tick: NANOSECONDS / rustix::param::clock_ticks_per_second().max(1),
        page: rustix::param::page_size() as u64,
        boot: clock::wall_ns().saturating_sub(clock::boottime_ns()),
        users: names(&container.booted.rootfs),
    };
    reader.list(Path::new("/proc"))
}

/// The users of the container's passwd. Not there, or not readable: none.
fn names(rootfs: &Path) -> HashMap<u32, String> {
    let passwd = open_root(rootfs).and_then(|root| {
        crate::inroot::load(root.as_fd(), Path::new("/etc/passwd")).step("read", "passwd")
    });
    users::names(&passwd.unwrap_or_default())
}

impl Reader {
    fn list(&self, proc: &Path) -> Result<TopReply, Failed> {
        let mut reply = TopReply::default();
        // In the VM's namespace to in the container's.
        let mut ids = HashMap::new();
        let mut room = MESSAGE;
        for entry in std::fs::read_dir(proc).step("list", proc.display())? {
            let entry = entry.step("list", proc.display())?;
            if !entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
            {
                continue;
            }
            let Some((outer, info)) = self.process(&entry.path()) else {
                // The VM's own, or gone again.
                continue;
            };
            let size = NUMBERS + info.command.len() + info.name.len() + info.user.len();
            if size > room {
                reply.truncated = true;
                continue;
            }
            room -= size;
            ids.insert(outer, info.pid);
            reply.processes.push(info);
        }
        for info in &mut reply.processes {
            info.parent = ids.get(&info.parent).copied().unwrap_or(0);
        }
        reply.processes.sort_unstable_by_key(|info| info.pid);
        Ok(reply)
    }

    /// The process's id in the VM, and the rest; its parent's id is the VM's still.
    fn process(&self, directory: &Path) -> Option<(u32, ProcessInfo)> {
        let load = |name: &str| std::fs::read(directory.join(name)).ok();
        let status = load("status")?;
        let status = Status::parse(&status)?;
        let stat = load("stat")?;
        let mut info = self.stat(&stat)?;
        let inner = status.inner?;
        info.pid = inner;
        info.uid = status.uid;
        info.gid = status.gid;
        info.user = match self.users.get(&status.uid) {
            Some(name) => name.clone(),
            None => status.uid.to_string(),
        };
        info.command = match command(&load("cmdline").unwrap_or_default()) {
            command if command.is_empty() => format!("[{}]", info.name),
            command => command,
        };
        Some((status.outer, info))
    }

    /// What `/proc/PID/stat` says (proc_pid_stat(5)).
    fn stat(&self, stat: &[u8]) -> Option<ProcessInfo> {
        // The name may hold anything, parentheses too.
        let open = stat.iter().position(|&byte| byte == b'(')?;
        let close = stat.iter().rposition(|&byte| byte == b')')?;
        let name = stat.get(open + 1..close)?;
        let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // As the manual numbers them: the state is field 3.
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
        let number = |at: usize| field(at).parse::<u64>().unwrap_or(0);
        let ticks = |count: u64| count.saturating_mul(self.tick);
        Some(ProcessInfo {
            state: field(3).to_owned(),
            parent: u32::try_from(number(4)).unwrap_or(0),
            terminal: terminal(field(7).parse::<i32>().unwrap_or(0)),
            cpu_ns: ticks(number(14).saturating_add(number(15))),
            threads: u32::try_from(number(20)).unwrap_or(u32::MAX),
            started_ns: self.boot.saturating_add(ticks(number(22))),
            r#virtual: number(23),
            resident: number(24).saturating_mul(self.page),
            name: String::from_utf8_lossy(name).into_owned(),
            ..ProcessInfo::default()
        })
    }
}

/// "pts/0" for a device number as stat has it.
fn terminal(device: i32) -> String {
    let device = device.cast_unsigned();
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    match (major, device) {
        (_, 0) => "?".to_owned(),
        (major, _) if UNIX98_TERMINALS.contains(&major) => {
            format!("pts/{}", (major - UNIX98_TERMINALS.start()) << 20 | minor)
        }
        (5, _) if minor == 1 => "console".to_owned(),
        _ => format!("{major}:{minor}"),
    }
}

/// The arguments joined by spaces, cut.
fn command(cmdline: &[u8]) -> String {
    let end = cmdline
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    let shown: Vec<u8> = cmdline[..end.min(COMMAND)]
        .iter()
        .map(|&byte| if byte == 0 { b' ' } else { byte })
        .collect();
    String::from_utf8_lossy(&shown).into_owned()
}

/// What is of use in `/proc/PID/status`.
struct Status {
    outer: u32,
    /// In the container's namespace; `None` for a process of the VM.
    inner: Option<u32>,
    uid: u32,
    gid: u32,
}

impl Status {
    fn parse(status: &[u8]) -> Option<Self> {
        let line = |name: &str| {
            // The first line holds the process's name, in which a line feed is escaped.
            status
                .split(|&byte| byte == b'\n')
                .find_map(|line| line.strip_prefix(name.as_bytes()))
                .and_then(|rest| std::str::from_utf8(rest).ok())
                .map(str::split_whitespace)
        };
        let mut ids = line("NSpid:")?;
        let effective = |name| line(name)?.nth(1)?.parse().ok();
        Some(Self {
            outer: ids.next()?.parse().ok()?,
            inner: ids.next().and_then(|id| id.parse().ok()),
            uid: effective("Uid:")?,
            gid: effective("Gid:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> Reader {
        Reader {
            tick: NANOSECONDS / 100,
            page: 4096,
            boot: 1_000,
            users: users::names(b"root:x:0:0::/:\nwww:x:33:33::/:\nagain:x:33:1::/:\n"),
        }
    }

    #[test]
    fn processes_of_the_container_with_its_ids() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: &str, ids: &str, parent: u32, uid: u32, name: &str, cmdline: &[u8]| {
            let directory = proc.path().join(pid);
            std::fs::create_dir(&directory).unwrap();
            let write = |file, bytes: &[u8]| std::fs::write(directory.join(file), bytes).unwrap();
            let status =
                format!("Name:\tx\nUid:\t1\t{uid}\t1\t1\nGid:\t1\t7\t1\t1\nNSpid:\t{ids}\n");
            write("status", status.as_bytes());
            let stat = format!(
                "{pid} ({name}) S {parent} 1 1 34817 1 4194304 1 1 1 1 150 50 0 0 20 0 3 0 700 8192 2 1"
            );
            write("stat", stat.as_bytes());
            write("cmdline", cmdline);
        };
        process("1", "1", 0, 0, "init", b"/init\0");
        process("90", "90\t1", 4, 0, "sh", b"sh\0-c\0a b\0");
        process("97", "97\t12\t1", 90, 33, "x) R 1", b"");
        process("91", "91\t2", 97, 99, "y", b"\xff\0");
        std::fs::create_dir(proc.path().join("sys")).unwrap();
        let reply = reader().list(proc.path()).unwrap();
        let seen: Vec<_> = reply
            .processes
            .iter()
            .map(|info| {
                (
                    info.pid,
                    info.parent,
                    info.user.as_str(),
                    info.command.as_str(),
                )
            })
            .collect();
        let expect = [
            (1, 0, "root", "sh -c a b"),
            (2, 12, "99", "\u{fffd}"),
            (12, 1, "www", "[x) R 1]"),
        ];
        assert_eq!(seen, expect);
        let first = &reply.processes[0];
        assert_eq!(
            (first.terminal.as_str(), first.threads, first.gid),
            ("pts/1", 3, 7)
        );
        assert_eq!(
            (first.cpu_ns, first.started_ns),
            (2_000_000_000, 7_000_001_000)
        );
        assert_eq!(
            (first.resident, first.r#virtual, first.state.as_str()),
            (8192, 8192, "S")
        );
    }

    #[test]
    fn terminals() {
        let names = [0, 0x8800, 0x8801, 0x501, 0x403].map(terminal);
        assert_eq!(names, ["?", "pts/0", "pts/1", "console", "4:3"]);
    }

    #[test]
    fn a_command_is_cut() {
        let long = [b'x'; 2 * COMMAND];
        assert_eq!(command(&long).len(), COMMAND);
        assert_eq!(command(b"\0\0"), "");
    }

    #[test]
    fn this_machines_processes_are_read() {
        // The oracle is this process itself; outside of a container it has no second id.
        let myself = Path::new("/proc").join(std::process::id().to_string());
        let stat = std::fs::read(myself.join("stat")).unwrap();
        let info = reader().stat(&stat).unwrap();
        assert!(info.resident > 0 && info.threads >= 1 && info.r#virtual > info.resident);
        let status = Status::parse(&std::fs::read(myself.join("status")).unwrap()).unwrap();
        assert_eq!(status.uid, rustix::process::geteuid().as_raw());
    }
}
