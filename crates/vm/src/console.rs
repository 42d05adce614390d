//! The last lines of the guest's console, for the message about a VM that was lost.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of the log that are looked at: a kernel's last report, registers and all, takes five thousand or so.
const TAIL: u64 = 16384;

/// Characters that are quoted.
const QUOTED: usize = 300;

/// How a line begins that says what went wrong before the kernel gave up.
const CAUSES: [&str; 5] = [
    "BUG: ",
    "kernel BUG at ",
    "watchdog: BUG: ",
    "general protection fault",
    "Oops: ",
];

/// How the line begins that says where.
const PLACE: &str = "RIP: ";

/// The line that says that the kernel gave up, with what led to it, or else the last line; `None` when the console
/// said nothing.
pub fn last_words(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    choose(&String::from_utf8_lossy(&bytes))
}

fn choose(text: &str) -> Option<String> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let panic = |line: &&str| line.contains("Kernel panic");
    let telling =
        |line: &&str| panic(line) || line.contains("gourd-init:") || line.contains("gourd-agent:");
    let words = match lines.iter().position(telling) {
        Some(index) if panic(&lines[index]) => {
            let causes = causes(&lines[..index]);
            if causes.is_empty() {
                lines[index].to_owned()
            } else {
                format!("{} ({})", lines[index], causes.join("; "))
            }
        }
        Some(index) => lines[index].to_owned(),
        None => (*lines.last()?).to_owned(),
    };
    // The guest chooses these bytes: nothing of them may drive a terminal.
    let clean = words.chars().filter(|c| !c.is_control()).take(QUOTED);
    Some(clean.collect())
}

/// What went wrong first, and where. What goes wrong after it is a consequence more often than not.
fn causes<'a>(before: &[&'a str]) -> Vec<&'a str> {
    let messages = || before.iter().map(|line| message(line));
    let begins = |line: &&str| CAUSES.iter().any(|cause| line.starts_with(cause));
    let Some(first) = messages().position(|line| begins(&line)) else {
        return Vec::new();
    };
    let mut causes: Vec<&str> = messages().skip(first).take(1).collect();
    causes.extend(messages().skip(first).find(|line| line.starts_with(PLACE)));
    causes
}

/// A kernel's line without the time, and whatever else it has in brackets in front.
fn message(line: &str) -> &str {
    let mut rest = line;
    while let Some((_, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        rest = after.trim_start();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn a_panic_says_more_than_what_follows_it() {
        let text =
            "[1.0] Kernel panic - not syncing: Attempted to kill init!\r\n[1.1] Rebooting\r\n";
        let expect = "[1.0] Kernel panic - not syncing: Attempted to kill init!";
        assert_eq!(choose(text).as_deref(), Some(expect));
    }

    /// As Linux 6.12 printed them, shortened: QEMU 7.2's stale translation, and a null pointer.
    #[test]
    fn a_panic_comes_with_its_cause() {
        let interrupt = "[    2.0] Kernel panic - not syncing: Fatal exception in interrupt";
        let check = |before: &str, expect: &str| {
            let text = format!("{before}\n{interrupt}\n[    2.1] Rebooting\n");
            assert_eq!(choose(&text), Some(format!("{interrupt}{expect}")));
        };
        check(
            "[    2.0][    C1] Oops: int3: 0000 [#1] SMP\r\n[    2.0] CPU: 1 UID: 0 PID: 0 Comm: swapper/1\r\n\
             [    2.0] RIP: 0010:netif_rx_internal+0x5/0x120\r\n[    2.0] RIP: 0010:pv_native_safe_halt+0xf/0x20",
            " (Oops: int3: 0000 [#1] SMP; RIP: 0010:netif_rx_internal+0x5/0x120)",
        );
        check(
            "[    1.0] RIP: 0033:0x1\n[    2.0] BUG: kernel NULL pointer dereference, address: 0000000000000008\n\
             [    2.0] #PF: supervisor read access in kernel mode\n[    2.0] Oops: Oops: 0000 [#1] SMP\n\
             [    2.0] RIP: 0010:f+0x1/0x2",
            " (BUG: kernel NULL pointer dereference, address: 0000000000000008; RIP: 0010:f+0x1/0x2)",
        );
        check("[    1.9] no BUG: here", "");
    }

    #[test]
    fn else_the_last_line_without_control_characters() {
        assert_eq!(choose("one\ntwo\x1b[31m\n\n").as_deref(), Some("two[31m"));
        assert_eq!(choose("\n\n"), None);
    }
}
