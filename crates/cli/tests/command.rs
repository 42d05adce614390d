//! The command as a person runs it, as far as no VM is needed: help, refusals, empty lists, bad input.
//!
//! Each test has a state directory of its own.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn gourd(root: &Path, line: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gourd"))
        .args(line)
        .env("GOURD_ROOT", root)
        .env_remove("GOURD_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("gourd runs")
}

fn root() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A state directory in which a kernel is installed, as far as gourd looks before it boots one.
fn root_with_kernel() -> TempDir {
    let dir = root();
    let file = dir.path().join("image");
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    // As long as the set-up header of a bzImage, which is looked for first.
    bytes.resize(0x210, 0);
    // e_machine (elf(5)): x86-64.
    bytes[18] = 62;
    bytes.extend_from_slice(b"Linux version 6.12.0-test (nobody@nowhere)\0");
    std::fs::write(&file, bytes).expect("a file");
    let path = file.to_str().expect("UTF-8");
    check_in(
        dir.path(),
        &["system", "kernel", "add", "test", path],
        0,
        "test\n",
        &[],
    );
    check_in(
        dir.path(),
        &[
            "system",
            "kernel",
            "ls",
            "--format",
            "{{.Name}} {{.Release}}",
        ],
        0,
        "test 6.12.0-test\n",
        &[],
    );
    dir
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs a line in an empty state directory; checks the code, all of stdout, and what stderr contains.
fn check(line: &[&str], code: i32, stdout: &str, stderr: &[&str]) {
    check_in(root().path(), line, code, stdout, stderr);
}

fn check_in(root: &Path, line: &[&str], code: i32, stdout: &str, stderr: &[&str]) {
    let output = gourd(root, line);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line:?}: {said}");
    assert_eq!(text(&output.stdout), stdout, "{line:?}: {said}");
    for words in stderr {
        assert!(
            said.contains(words),
            "{line:?}: {words:?} is not in:\n{said}"
        );
    }
    if stderr.is_empty() {
        assert_eq!(said, "", "{line:?}");
    }
}

#[test]
fn help_is_a_result() {
    for line in [
        &["--help"][..],
        &["run", "--help"],
        &["system", "kernel", "--help"],
    ] {
        let output = gourd(root().path(), line);
        assert_eq!(output.status.code(), Some(0), "{line:?}");
        assert!(text(&output.stdout).contains("Usage: gourd"), "{line:?}");
        assert!(output.stderr.is_empty(), "{line:?}");
    }
    // Oracle: docker's exit code.
    for line in [&[][..], &["container"], &["system", "kernel"]] {
        let output = gourd(root().path(), line);
        assert_eq!(output.status.code(), Some(0), "{line:?}");
        assert!(text(&output.stdout).contains("Usage: gourd"), "{line:?}");
        assert!(output.stderr.is_empty(), "{line:?}");
    }
    let output = gourd(root().path(), &["--help"]);
    for verb in [
        "run", "create", "exec", "ps", "logs", "images", "pull", "system", "version", "125",
    ] {
        assert!(text(&output.stdout).contains(verb), "{verb}");
    }
}

#[test]
fn a_line_that_cannot_be_read_is_125() {
    check(&["run"], 125, "", &["required"]);
    check(&["run", "--nope", "img"], 125, "", &["--nope"]);
    check(
        &["run", "-m", "lots", "img"],
        125,
        "",
        &["\"lots\" is no size"],
    );
    check(
        &["run", "--rm=perhaps", "img"],
        125,
        "",
        &["invalid value 'perhaps' for '--rm'\n", "true, false"],
    );
    check(
        &["kill", "-s", "WAT", "box"],
        125,
        "",
        &["there is no signal \"WAT\""],
    );
    check(
        &["ps", "--filter", "colour=red"],
        125,
        "",
        &["there is no filter \"colour\""],
    );
    check(&["nope"], 125, "", &["nope"]);
}

#[test]
fn versions() {
    let version = env!("CARGO_PKG_VERSION");
    check(
        &["--version"],
        0,
        &format!("gourd version {version}\n"),
        &[],
    );
    check(&["-v", "ps"], 0, &format!("gourd version {version}\n"), &[]);
    check(
        &["version", "--format", "{{.Client.Version}}"],
        0,
        &format!("{version}\n"),
        &[],
    );
    check(
        &["version", "--format", "{{.Nope}}"],
        125,
        "",
        &["there is no field \".Nope\"; there are .Client"],
    );
}

#[test]
fn nothing_is_listed_as_headings() {
    check(
        &["ps"],
        0,
        "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n",
        &[],
    );
    check(&["ps", "-aq"], 0, "", &[]);
    check(&["ps", "-a=1", "--quiet=true", "-q"], 0, "", &[]);
    check(&["ps", "--format", "json"], 0, "", &[]);
    check(
        &["images"],
        0,
        "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n",
        &[],
    );
    check(&["image", "ls", "-q"], 0, "", &[]);
    check(&["system", "kernel", "ls", "-q"], 0, "", &[]);
}

#[test]
fn what_is_not_there_is_named_with_a_remedy() {
    check(
        &["inspect", "nope"],
        125,
        "[]\n",
        &["gourd: there is no container, no image and no volume \"nope\"\n  hint: "],
    );
    check(
        &["stop", "nope"],
        125,
        "",
        &[
            "no such container: nope",
            "hint: `gourd ps -a` lists the containers",
        ],
    );
    check(&["rm", "nope"], 125, "", &["no such container: nope"]);
    check(&["rm", "-f", "nope"], 0, "", &["no such container: nope"]);
    check(&["logs", "nope"], 125, "", &["no such container: nope"]);
    check(&["wait", "nope"], 125, "", &["no such container: nope"]);
    check(
        &["kill", "one", "two"],
        125,
        "",
        &["no such container: one", "no such container: two"],
    );
    check(
        &["exec", "nope", "true"],
        125,
        "",
        &["no such container: nope"],
    );
    check(&["start", "nope"], 125, "", &["no such container: nope"]);
    check(&["rmi", "nope"], 125, "", &["nope", "hint: "]);
    check(
        &["image", "inspect", "nope"],
        125,
        "[]\n",
        &["nope", "hint: "],
    );
    check_in(
        root_with_kernel().path(),
        &["run", "--pull", "never", "nope", "true"],
        125,
        "",
        &["nope", "hint: "],
    );
    check(
        &["load", "-i", "/no/such.tar"],
        125,
        "",
        &["cannot open /no/such.tar", "caused by No such file"],
    );
}

#[test]
fn bad_references_are_refused_with_the_form() {
    let dir = root_with_kernel();
    for reference in ["UPPER", "a b", "x@sha256:12", "http://x/y", ":tag"] {
        check(
            &["pull", reference],
            125,
            "",
            &["gourd: ", "hint: a reference is"],
        );
        check_in(
            dir.path(),
            &["run", reference],
            125,
            "",
            &["gourd: ", "hint: a reference is"],
        );
    }
}

#[test]
fn an_unreachable_registry_is_named() {
    // Port 9 of loopback (discard) is closed on any machine that runs tests.
    let image = "127.0.0.1:9/nothing:here";
    check(
        &["pull", image],
        125,
        "",
        &["127.0.0.1:9", "caused by", "hint: check the address"],
    );
}

#[test]
fn a_state_directory_that_cannot_be_used_is_named() {
    let dir = root();
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let remedy =
        "hint: make the directory writable, or choose another one with --root or GOURD_ROOT";
    for path in [file.join("below"), "/proc/gourd".into()] {
        let path = path.to_str().expect("UTF-8");
        check(&["--root", path, "ps"], 125, "", &[path, remedy]);
        check_in(Path::new(path), &["run", "img"], 125, "", &[path, remedy]);
    }
}

#[test]
fn a_kernel_that_is_none_is_refused() {
    let dir = root();
    let file = dir.path().join("vmlinux");
    std::fs::write(&file, "not a kernel").expect("a file");
    let path = file.to_str().expect("UTF-8");
    check(
        &["system", "kernel", "add", "mine", path],
        125,
        "",
        &["does not say which release", "--release"],
    );
    check(
        &["system", "kernel", "add", "mine", path, "--release", "6.1"],
        125,
        "",
        &[path, "is not a kernel"],
    );
    check(&["system", "kernel", "rm", "mine"], 125, "", &["mine"]);
}

#[test]
fn a_terminal_is_asked_for_by_it() {
    let words = "gourd: the input device is not a TTY\n  hint: leave out -t when input comes from a pipe or a file\n";
    check(&["run", "-it", "img"], 125, "", &[words]);
    check(&["exec", "-it", "box", "sh"], 125, "", &[words]);
}

#[test]
fn a_missing_kernel_is_named_with_a_remedy() {
    check(
        &["run", "busybox"],
        125,
        "",
        &["no kernel is installed in", "hint: `./dev kernel`"],
    );
    let dir = root_with_kernel();
    let line = ["run", "--kernel", "nonesuch", "busybox"];
    check_in(
        dir.path(),
        &line,
        125,
        "",
        &["nonesuch", "gourd system kernel ls"],
    );
}

/// Oracle: `docker ps | true` says nothing.
#[test]
fn a_reader_who_left_is_no_error_to_talk_about() {
    let dir = root();
    let mut child = Command::new(env!("CARGO_BIN_EXE_gourd"))
        .args(["ps"])
        .env("GOURD_ROOT", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gourd runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("gourd ends");
    // Before or after the pipe was closed: it may have been quicker.
    assert!(
        matches!(output.status.code(), Some(0 | 141)),
        "{:?}",
        output.status
    );
    assert_eq!(text(&output.stderr), "");
}
