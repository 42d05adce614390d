//! The last lines of the guest's console, for the message about a VM that was lost.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of the log that are looked at.
const TAIL: u64 = 4096;

/// Characters that are quoted.
const QUOTED: usize = 200;

/// The line that says why the kernel gave up, or else the last line; `None` when the console said nothing.
pub fn last_words(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    choose(&String::from_utf8_lossy(&bytes))
}

fn choose(text: &str) -> Option<String> {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = |line: &&str| line.contains("Kernel panic") || line.contains("gourd-init:");
    let line = lines().find(telling).or_else(|| lines().last())?;
    // The guest chooses these bytes: nothing of them may drive a terminal.
    let clean = line.chars().filter(|c| !c.is_control()).take(QUOTED);
    Some(clean.collect())
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn a_panic_says_more_than_what_follows_it() {
        let text = "[1.0] Kernel panic - not syncing: Attempted to kill init!\r\n[1.1] Rebooting\r\n";
        let expect = "[1.0] Kernel panic - not syncing: Attempted to kill init!";
        assert_eq!(choose(text).as_deref(), Some(expect));
    }

    #[test]
    fn else_the_last_line_without_control_characters() {
        assert_eq!(choose("one\ntwo\x1b[31m\n\n").as_deref(), Some("two[31m"));
        assert_eq!(choose("\n\n"), None);
    }
}
