//! What the tracked files themselves must look like.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::git;

/// Lines of code above which a file is two files.
const LIMIT: usize = 800;

/// Checks each tracked file, and those that will be once they are added.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let list = git(
        root,
        &[
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
    )?;
    // A checkout's place and the caller's own files say nothing to another machine.
    let mut private = vec![root.display().to_string()];
    if let Some(home) = std::env::var("HOME").ok().filter(|home| home.len() > 1) {
        private.push(format!("{home}/."));
    }
    let mut findings = Vec::new();
    for name in list.split('\0').filter(|name| !name.is_empty()) {
        let path = root.join(name);
        if !path.is_file() {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("read {name}"))?;
        let Ok(text) = std::str::from_utf8(&bytes) else {
            continue;
        };
        findings.extend(check_text(name, text, &private));
    }
    Ok(findings)
}

/// A crate that is Linux's, but for a few types: its roots say which.
const LINUX_ONLY: [&str; 3] = [
    "crates/vmm/src/lib.rs",
    "crates/vmm/src/main.rs",
    "crates/vmm/tests/process.rs",
];

fn check_text(name: &str, text: &str, private: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    for private in private.iter().filter(|private| text.contains(*private)) {
        findings.push(format!("{name} names {private}, a path of this machine"));
    }
    if !name.ends_with(".rs") {
        return findings;
    }
    let size = lines_of_code(text);
    if size > LIMIT {
        findings.push(format!(
            "{name} has {size} lines of code, more than {LIMIT}: it does two things"
        ));
    }
    let allowed = name.ends_with("/linux.rs") || name.ends_with("/macos.rs");
    if !allowed && !LINUX_ONLY.contains(&name) {
        for line in host_conditions(text) {
            findings.push(format!(
                "{name}:{line}: a condition on the host outside of linux.rs and macos.rs"
            ));
        }
    }
    findings
}

/// Lines that are neither empty nor a comment, up to the tests at the end of the file.
fn lines_of_code(text: &str) -> usize {
    text.lines()
        .map(str::trim)
        .take_while(|line| *line != "#[cfg(test)]")
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

/// Lines with a condition on the operating system that doesn't just choose `linux.rs` or `macos.rs`.
fn host_conditions(text: &str) -> Vec<usize> {
    // Spelt so that this file is not its own finding.
    let word = concat!("target", "_os");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let chooses = |line: &str| {
        let words = [
            "mod linux;",
            "mod macos;",
            "use linux::",
            "use macos::",
            "\"linux.rs\"",
            "\"macos.rs\"",
        ];
        words.iter().any(|word| line.contains(word))
    };
    (0..lines.len())
        .filter(|&at| lines[at].contains(word) && !lines[at].starts_with("//"))
        .filter(|&at| !chooses(lines[at]) && !lines.get(at + 1).is_some_and(|next| chooses(next)))
        .map(|at| at + 1)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, expect: &[&str]) {
        let private = ["/srv/checkout".to_owned()];
        assert_eq!(check_text(name, text, &private), expect);
    }

    #[test]
    fn private_paths_are_found_in_any_file() {
        check("README.md", "see /srv/elsewhere", &[]);
        check(
            "README.md",
            "see /srv/checkout/x",
            &["README.md names /srv/checkout, a path of this machine"],
        );
    }

    #[test]
    fn only_code_counts_for_the_size() {
        let comments = "// why\n\n".repeat(LIMIT + 1);
        check("a/b.rs", &comments, &[]);
        let tests = format!("#[cfg(test)]\n{}", "let x = 1;\n".repeat(LIMIT + 1));
        check("a/b.rs", &tests, &[]);
        check(
            "a/b.rs",
            &"let x = 1;\n".repeat(LIMIT + 1),
            &["a/b.rs has 801 lines of code, more than 800: it does two things"],
        );
    }

    #[test]
    fn conditions_on_the_host_stay_in_their_files() {
        let word = concat!("target", "_os");
        let condition = format!("#[cfg({word} = \"linux\")]\n");
        check("a/linux.rs", &condition, &[]);
        check("a/lib.rs", &format!("{condition}mod linux;"), &[]);
        check(
            "a/lib.rs",
            &format!("\n{condition}fn f() {{}}"),
            &["a/lib.rs:2: a condition on the host outside of linux.rs and macos.rs"],
        );
    }
}
