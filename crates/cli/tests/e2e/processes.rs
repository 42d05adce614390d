//! Processes in one container: their surroundings, their stdin, fifty at once.
//!
//! The twins of apple/containerization's *process* and *stdin* cases that `run.rs` and `streams.rs` don't have.

use std::io::{Read, Write};
use std::time::Duration;

use crate::harness::{Home, finish, tool};

/// A container that does nothing, for further processes.
fn idle(args: &[&str]) -> Home {
    let home = Home::new();
    let mut line = vec!["--name", "it"];
    line.extend(args);
    home.sleeper(&line);
    home
}

fn sh<'a>(args: &[&'a str], script: &'a str) -> Vec<&'a str> {
    let mut line = vec!["exec"];
    line.extend(args);
    line.extend(["it", "sh", "-c", script]);
    line
}

#[test]
fn home_is_the_users_unless_somebody_says_otherwise() {
    let home = idle(&["-e", "FROM=container"]);
    let of = |args: &[&str]| home.gourd(&sh(args, "echo $HOME $FROM")).ok().text();
    // The image's /etc/passwd.
    assert_eq!(of(&[]), "/root container");
    assert_eq!(of(&["-u", "user"]), "/home container");
    assert_eq!(of(&["-u", "1000"]), "/home container");
    // Nobody knows this one: as Docker.
    assert_eq!(of(&["-u", "4321"]), "/ container");
    assert_eq!(of(&["-e", "HOME=/by/hand"]), "/by/hand container");
    assert_eq!(
        of(&["-u", "user", "-e", "HOME=/x", "-e", "FROM=exec"]),
        "/x exec"
    );
    let main = [
        "run",
        "--rm",
        "-u",
        "user",
        "busybox",
        "sh",
        "-c",
        "echo $HOME",
    ];
    assert_eq!(home.gourd(&main).ok().text(), "/home");
}

#[test]
fn term_is_set_where_there_is_a_terminal() {
    let home = idle(&[]);
    let of = |args: &[&str]| home.gourd(&sh(args, "echo term=$TERM; tty")).ok().text();
    assert_eq!(of(&["-t"]), "term=xterm\r\n/dev/pts/0");
    assert_eq!(of(&["-t", "-e", "TERM=vt220"]), "term=vt220\r\n/dev/pts/0");
    let without = home.gourd(&sh(&[], "echo term=$TERM; tty"));
    assert_eq!(without.exits(1).text(), "term=\nnot a tty");
}

#[test]
fn programs_are_looked_up_in_the_containers_path() {
    let home = idle(&["-e", "PATH=/opt/tools:/bin"]);
    let make = "mkdir -p /opt/tools && printf '#!/bin/sh\\necho found in $0\\n' > /opt/tools/mine && chmod 755 /opt/tools/mine";
    home.gourd(&sh(&[], make)).ok();
    let found = home.gourd(&["exec", "it", "mine"]).ok();
    assert_eq!(found.text(), "found in /opt/tools/mine");
    home.gourd(&["exec", "-e", "PATH=/bin", "it", "mine"])
        .exits(127)
        .says(&["mine"]);
    home.gourd(&["exec", "-w", "/opt", "it", "tools/mine"]).ok();
}

#[test]
fn stdin_of_an_exec() {
    let home = idle(&[]);
    // Binary: every byte, through and back.
    let bytes: Vec<u8> = (0..=255).cycle().take(65_536).collect();
    let back = home.gourd_with(&["exec", "-i", "it", "cat"], &bytes).ok();
    assert!(back.stdout == bytes, "{} bytes", back.stdout.len());
    // Large; the oracle is coreutils' sha256sum.
    let large: Vec<u8> = bytes.iter().copied().cycle().take(20_000_000).collect();
    let path = home.path("large");
    std::fs::write(&path, &large).expect("a file");
    let expect = tool("sha256sum", &[&path]).ok().text();
    let sum = home.gourd_with(&["exec", "-i", "it", "sha256sum"], &large);
    assert_eq!(sum.ok().text().split(' ').next(), expect.split(' ').next());
    // Closed by hand: the process sees the end while the command lives on.
    let script = "wc -c; echo after the end; sleep 0.2; echo last";
    let out = home.gourd_with(&sh(&["-i"], script), b"12345").ok();
    assert_eq!(out.text(), "5\nafter the end\nlast");
    // Not asked for, not passed on.
    let out = home
        .gourd_with(&["exec", "it", "wc", "-c"], b"unwanted")
        .ok();
    assert_eq!(out.text(), "0");
}

#[test]
fn stdin_arrives_chunk_by_chunk() {
    let home = idle(&[]);
    let mut child = home.start(&["exec", "-i", "it", "cat"]);
    let mut input = child.stdin.take().expect("piped");
    let mut output = child.stdout.take().expect("piped");
    for round in 0..20 {
        let line = format!("chunk {round}\n");
        input.write_all(line.as_bytes()).expect("it is taken");
        // It comes back before the next one goes: nothing waits for more.
        let mut back = vec![0; line.len()];
        output.read_exact(&mut back).expect("it comes back");
        assert_eq!(back, line.as_bytes());
    }
    drop(input);
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).expect("its end");
    assert!(rest.is_empty());
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn large_output_taken_slowly() {
    let home = idle(&[]);
    let mut child = home.start(&["exec", "it", "seq", "1", "400000"]);
    let mut output = child.stdout.take().expect("piped");
    let mut taken = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let count = output.read(&mut buffer).expect("a read");
        if count == 0 {
            break;
        }
        taken.extend_from_slice(&buffer[..count]);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().expect("it ends").success());
    let expect: String = (1..=400_000).map(|i| format!("{i}\n")).collect();
    assert!(taken == expect.as_bytes(), "{} bytes", taken.len());
}

#[test]
fn fifty_at_once_each_with_its_own_output_and_code() {
    let home = idle(&[]);
    let running: Vec<_> = (0..50)
        .map(|i| {
            let script = format!("read line; echo out-$line; echo err-$line >&2; exit {i}");
            (i, home.start(&sh(&["-i"], &script)))
        })
        .collect();
    let outs: Vec<_> = std::thread::scope(|scope| {
        let waiting: Vec<_> = running
            .into_iter()
            .map(|(i, child)| scope.spawn(move || (i, finish(child, format!("{i}\n").as_bytes()))))
            .collect();
        waiting
            .into_iter()
            .map(|thread| thread.join().expect("an exec"))
            .collect()
    });
    for (i, out) in outs {
        assert_eq!(
            (out.code, out.text(), out.stderr.as_str()),
            (i, format!("out-{i}"), format!("err-{i}\n").as_str())
        );
    }
    // Nothing of them is left in the container: sleep and ps.
    let left = home.gourd(&["exec", "it", "ps", "-o", "comm"]).ok().text();
    assert_eq!(left, "COMMAND\nsleep\nps");
}
