//! Programs of e2fsprogs that judge what this crate writes. A missing one fails the test.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs a program; sbin is not on every user's path.
pub fn run(program: &str, args: &[&str], input: &str) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new(program)
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot run {program} ({error}): this test needs the package e2fsprogs or mount")
        });
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    output
}

/// Asserts that `e2fsck -fn` finds nothing, and says nothing that it would mend or optimise.
pub fn assert_e2fsck_clean(image: &Path) {
    let output = run("e2fsck", &["-fn", image.to_str().unwrap()], "");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && !text.contains("? no"),
        "e2fsck {}:\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What `dumpe2fs` says.
pub fn dumpe2fs(image: &Path) -> String {
    let output = run("dumpe2fs", &[image.to_str().unwrap()], "");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What one command of `debugfs` prints.
pub fn debugfs(image: &Path, command: &str) -> Vec<u8> {
    let output = run("debugfs", &["-R", command, image.to_str().unwrap()], "");
    assert!(output.status.success(), "{command}: {output:?}");
    output.stdout
}

/// As text.
pub fn debugfs_text(image: &Path, command: &str) -> String {
    String::from_utf8_lossy(&debugfs(image, command)).into_owned()
}
