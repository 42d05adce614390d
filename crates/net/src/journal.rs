//! What people are told: refusals in the network's log (`net.log`, our standard error), and everything to those who watch now.
//!
//! A guest decides how often there is something to say. So a second has so many lines for each guest, and the log so many bytes:
//! when it is full, its older half goes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use netstack::wire::protocol;
use netstack::{Note, Unreachable};

/// Lines of one guest in a second.
const LINES: u32 = 100;

/// Bytes of the log.
const LARGEST: u64 = 1 << 20;

/// The log.
#[derive(Debug)]
pub struct Journal {
    file: Option<File>,
    len: u64,
    /// Of each guest, what lasts apart from the rest: which second it is, and how many lines it had.
    spent: HashMap<(u32, bool), (u64, u32)>,
}

impl Journal {
    /// One that writes to this file, which is open for appending and for reading.
    pub fn new(file: Option<File>) -> Journal {
        let len = file.as_ref().and_then(|file| file.metadata().ok());
        Journal {
            len: len.map_or(0, |metadata| metadata.len()),
            file,
            spent: HashMap::new(),
        }
    }

    /// The line about a note of a guest's, for those who watch. `None`: this second has had enough of them.
    pub fn line(&mut self, port: u32, guest: &str, note: &Note, now: Duration) -> Option<String> {
        let (second, lines) = self.spent.entry((port, lasts(note))).or_default();
        if *second != now.as_secs() {
            (*second, *lines) = (now.as_secs(), 0);
        }
        *lines += 1;
        if *lines > LINES {
            return None;
        }
        let more = if *lines == LINES {
            " (and more in this second, which are left out)"
        } else {
            ""
        };
        let words = words(note);
        Some(format!(
            "{} {guest} {words}{more}",
            stamp(SystemTime::now())
        ))
    }

    /// Writes a line into the log.
    pub fn write(&mut self, line: &str) {
        let Some(file) = &mut self.file else {
            return;
        };
        if self.len + line.len() as u64 > LARGEST {
            // One that can't be shortened is no reason to stop.
            self.len = halve(file).unwrap_or(0);
        }
        if writeln!(file, "{line}").is_ok() {
            self.len += line.len() as u64 + 1;
        }
    }

    /// A guest has left.
    pub fn forget(&mut self, port: u32) {
        self.spent.retain(|(known, _), _| *known != port);
    }
}

/// Keeps the newer half of the log, from the beginning of a line on.
fn halve(file: &mut File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    let mut rest = vec![0; usize::try_from(len.min(LARGEST / 2)).unwrap_or(0)];
    let from = len - rest.len() as u64;
    file.read_exact_at(&mut rest, from)?;
    let begin = rest.iter().position(|byte| *byte == b'\n');
    let rest = &rest[begin.map_or(rest.len(), |at| at + 1)..];
    file.set_len(0)?;
    file.write_all(rest)?;
    Ok(rest.len() as u64)
}

/// Whether it belongs into the log, and not only to those who watch.
pub fn lasts(note: &Note) -> bool {
    matches!(
        note,
        Note::Refused { .. } | Note::Question { refused: true, .. }
    )
}

fn words(note: &Note) -> String {
    match note {
        Note::Flow {
            protocol,
            guest,
            remote,
            client,
        } => {
            let name = protocol_name(*protocol);
            match client {
                Some(client) => format!("{name} {client} -> {guest}"),
                None => format!("{name} {}", ends(*protocol, *guest, *remote)),
            }
        }
        Note::Refused {
            protocol,
            guest,
            remote,
            why,
        } => {
            let name = protocol_name(*protocol);
            let why = match why {
                Unreachable::Network => "there is no way there",
                Unreachable::Host => "the host can't be reached",
                Unreachable::Port => "nobody listens there",
                Unreachable::Prohibited => "it is not allowed",
            };
            let ends = ends(*protocol, *guest, *remote);
            format!("{name} {ends} refused: {why}")
        }
        Note::Question {
            name,
            kind,
            refused,
        } => {
            let kind = match kind {
                1 => "A".to_owned(),
                5 => "CNAME".to_owned(),
                12 => "PTR".to_owned(),
                15 => "MX".to_owned(),
                16 => "TXT".to_owned(),
                28 => "AAAA".to_owned(),
                33 => "SRV".to_owned(),
                other => format!("TYPE{other}"),
            };
            let end = if *refused {
                " refused: it is no name of the allow-list"
            } else {
                ""
            };
            format!("dns {kind} {name}{end}")
        }
    }
}

/// From where to where; ICMP has no ports.
fn ends(number: u8, guest: SocketAddr, remote: SocketAddr) -> String {
    match number {
        protocol::ICMP | protocol::ICMPV6 => format!("{} -> {}", guest.ip(), remote.ip()),
        _ => format!("{guest} -> {remote}"),
    }
}

fn protocol_name(number: u8) -> &'static str {
    match number {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::ICMP => "icmp",
        protocol::ICMPV6 => "icmpv6",
        _ => "ip",
    }
}

/// A moment as RFC 3339 has it, in UTC.
fn stamp(time: SystemTime) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    let time = Timestamp::try_from(time).unwrap_or_default();
    PRINTER.timestamp_to_string(&time)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: date(1).
    #[test]
    fn moments() {
        let check = |seconds: u64, expect: &str| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7);
            assert_eq!(stamp(time), expect);
        };
        check(0, "1970-01-01T00:00:00.007Z");
        check(951_782_400, "2000-02-29T00:00:00.007Z");
        check(951_868_799, "2000-02-29T23:59:59.007Z");
        check(1_735_689_599, "2024-12-31T23:59:59.007Z");
        check(4_107_542_400, "2100-03-01T00:00:00.007Z");
    }

    fn refusal() -> Note {
        Note::Refused {
            protocol: 6,
            guest: "10.219.0.2:40000".parse().unwrap(),
            remote: "[2001:db8::9]:80".parse().unwrap(),
            why: Unreachable::Prohibited,
        }
    }

    #[test]
    fn words_for_people() {
        let check = |note: Note, expect: &str| assert_eq!(words(&note), expect);
        let flow = |protocol, guest: &str, remote: &str, client: Option<&str>| Note::Flow {
            protocol,
            guest: guest.parse().unwrap(),
            remote: remote.parse().unwrap(),
            client: client.map(|client| client.parse().unwrap()),
        };
        check(
            flow(58, "[fd00::2]:7", "[2001:db8::9]:0", None),
            "icmpv6 fd00::2 -> 2001:db8::9",
        );
        check(
            flow(17, "10.0.0.2:7", "10.0.0.1:40000", Some("[::1]:5")),
            "udp [::1]:5 -> 10.0.0.2:7",
        );
        let question = Note::Question {
            name: "a.test".to_owned(),
            kind: 65,
            refused: true,
        };
        check(
            question,
            "dns TYPE65 a.test refused: it is no name of the allow-list",
        );
    }

    #[test]
    fn a_second_and_a_file_have_an_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = std::fs::OpenOptions::new()
            .read(true)
            .append(true)
            .open(file.path())
            .unwrap();
        let mut journal = Journal::new(Some(open));
        let mut lines = 0;
        while let Some(line) = journal.line(1, "web", &refusal(), Duration::ZERO) {
            lines += 1;
            assert!(line.contains(
                "Z web tcp 10.219.0.2:40000 -> [2001:db8::9]:80 refused: it is not allowed"
            ));
            assert_eq!(line.ends_with("left out)"), lines == LINES, "{line}");
            journal.write(&line);
        }
        assert_eq!(lines, LINES);
        assert!(journal.line(2, "db", &refusal(), Duration::ZERO).is_some());
        assert!(
            journal
                .line(1, "web", &refusal(), Duration::from_secs(1))
                .is_some()
        );
        for number in 0..20_000 {
            journal.write(&format!("{number:0100}"));
        }
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.len() as u64 <= LARGEST && text.len() as u64 > LARGEST / 2);
        assert!(text.lines().all(|line| line.len() == 100));
        assert!(text.ends_with("19999\n"));
    }
}
