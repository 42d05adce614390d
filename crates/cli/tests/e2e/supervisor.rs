//! The supervisor under what is asked of it at the same time: pauses and ends, transfers and ends, VMs without a process,
//! and how much memory it takes for all that.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Home, eventually, finish, kill};

/// Bytes of private memory that a supervisor may have (design section 10).
const MEMORY: u64 = 2 << 20;

fn state(home: &Home, id: &str) -> Value {
    let text = fs::read_to_string(home.container(id).join("state.json")).expect("state.json");
    serde_json::from_str(&text).expect("JSON")
}

/// RssAnon, in bytes: proc(5).
fn private_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .expect("a line");
    let kilobytes = line.split_whitespace().nth(1).expect("a number");
    kilobytes.parse::<u64>().expect("a number") << 10
}

#[test]
fn a_paused_container_can_be_ended() {
    let home = Home::new();
    for (name, line) in [
        ("stopped", &["stop", "-t", "1"][..]),
        ("killed", &["kill"]),
        ("removed", &["rm", "-f"]),
    ] {
        let id = home.sleeper(&["--name", name]);
        home.gourd(&["pause", name]).ok();
        assert_eq!(state(&home, &id)["status"], "paused");
        let table = home.gourd(&["ps"]).ok().text();
        assert!(table.contains("(Paused)"), "{table}");
        let before = Instant::now();
        let line = [line, &[name]].concat();
        home.gourd(&line).ok();
        eventually("it is over", || {
            home.gourd(&["ps", "-q"]).ok().text().is_empty()
        });
        assert!(before.elapsed() < Duration::from_secs(30), "{name}");
        if name != "removed" {
            assert_eq!(state(&home, &id)["exit_code"], 137, "{name}");
            assert_eq!(state(&home, &id)["stopped"], true, "{name}");
            home.gourd(&["rm", name]).ok();
        }
    }
    eventually("all processes are gone", || home.leftovers().is_empty());
    home.assert_nothing_left();
}

#[test]
fn a_paused_process_stands_still_and_goes_on() {
    let home = Home::new();
    let id = home
        .gourd(&[
            "run",
            "-d",
            "busybox",
            "sh",
            "-c",
            "while :; do echo x; sleep 0.05; done",
        ])
        .ok()
        .text();
    let log = home.container(&id).join("logs/output.log");
    let length = || fs::metadata(&log).map_or(0, |meta| meta.len());
    eventually("it writes", || length() > 0);
    home.gourd(&["pause", &id]).ok();
    // What was on its way may still come.
    std::thread::sleep(Duration::from_millis(500));
    let paused = length();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(length(), paused);
    home.gourd(&["exec", &id, "true"]).says(&["paused"]);
    home.gourd(&["unpause", &id]).ok();
    eventually("it writes again", || length() > paused);
}

#[test]
fn a_reader_that_dies_thaws_what_it_froze() {
    let home = Home::new();
    let id = home
        .gourd(&[
            "run",
            "-d",
            "busybox",
            "sh",
            "-c",
            "dd if=/dev/urandom of=/big bs=1M count=30; while :; do echo x; sleep 0.05; done",
        ])
        .ok()
        .text();
    let log = home.container(&id).join("logs/output.log");
    let text = || String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    eventually("it has written", || text().contains("x\n"));
    // A commit freezes while it reads. Killed in the middle, it leaves nothing frozen.
    for wait in [100, 300, 600] {
        let commit = home.start(&["commit", &id, "half"]);
        let pid = commit.id();
        std::thread::sleep(Duration::from_millis(wait));
        kill(pid, "-9");
        finish(commit, &[]);
        let length = text().len();
        eventually("it goes on", || text().len() > length);
    }
    assert_eq!(state(&home, &id)["status"], "running");
}

#[test]
fn a_container_that_ends_under_a_copy_ends_the_copy() {
    let home = Home::new();
    let id = home
        .gourd(&[
            "run",
            "-d",
            "busybox",
            "sh",
            "-c",
            "dd if=/dev/urandom of=/big bs=1M count=30; echo written; sleep 1000",
        ])
        .ok()
        .text();
    eventually("it has written", || {
        home.gourd(&["logs", &id]).text().contains("written")
    });
    // Nobody reads: the copy stands.
    let mut export = home.start(&["export", &id]);
    let mut first = [0; 1];
    let out = export.stdout.as_mut().expect("a pipe");
    out.read_exact(&mut first).expect("it begins");
    let before = Instant::now();
    home.gourd(&["stop", "-t", "0", &id]).ok();
    assert!(before.elapsed() < Duration::from_secs(20));
    let out = finish(export, &[]);
    assert_ne!(out.code, 0, "a broken archive is no success");
    assert!(!out.stderr.is_empty());
    crate::harness::assert_ext4_clean(&home.container(&id).join("upper.ext4"));
}

#[test]
fn files_of_a_stopped_container_and_a_start_at_the_same_time() {
    let home = Home::new();
    let id = home
        .gourd(&[
            "run",
            "-d",
            "--name",
            "files",
            "busybox",
            "sh",
            "-c",
            "echo kept > /kept",
        ])
        .ok()
        .text();
    home.gourd(&["wait", "files"]).ok();
    eventually("its supervisor is gone", || home.leftovers().is_empty());
    let before = fs::read(home.container(&id).join("state.json")).expect("a state");
    let copies: Vec<_> = (0..3)
        .map(|_| home.start(&["cp", "files:/kept", "-"]))
        .collect();
    let start = home.start(&["start", "-a", "files"]);
    for copy in copies {
        let archive = finish(copy, &[]).ok().stdout;
        assert!(archive.windows(5).any(|word| word == b"kept\n"));
    }
    finish(start, &[]).ok();
    eventually("all processes are gone", || home.leftovers().is_empty());
    // A VM for the files alone leaves the state as it was.
    let after = fs::read(home.container(&id).join("state.json")).expect("a state");
    assert_ne!(before, after, "it was started");
    home.gourd(&["cp", "files:/kept", "-"]).ok();
    assert_eq!(
        fs::read(home.container(&id).join("state.json")).expect("a state"),
        after
    );
    home.gourd(&["exec", "files", "true"])
        .says(&["not running"]);
    home.gourd(&["rm", "files"]).ok();
    eventually("all processes are gone", || home.leftovers().is_empty());
    home.assert_nothing_left();
}

/// The words after a name in one of /proc's files, whose lines begin with it.
fn words_of(text: &str, name: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("{name} is missing: {text}"));
    line[name.len()..]
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// What the kernel says of the monitors of a container that runs: each of their threads is confined, and they have limits.
#[test]
fn the_monitors_of_a_running_container_are_confined() {
    let home = Home::new();
    let id = home.sleeper(&[]);
    let processes = home.processes(&id);
    assert!(processes.vmm > 0 && processes.qemu > 0, "{processes:?}");
    let namespaces = |pid: u32| {
        let link = |name| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("it runs");
        (link("user"), link("ipc"))
    };
    let doctor: Value =
        serde_json::from_slice(&home.gourd(&["system", "doctor", "--format", "json"]).stdout)
            .expect("JSON");
    let checks = doctor.as_array().expect("checks");
    let confinement = checks.iter().find(|check| check["name"] == "confinement");
    let detail = confinement.expect("a check")["detail"].as_str();
    let detail = detail.expect("a detail");
    let allowed = detail.contains("user namespaces") && !detail.contains("no user namespaces");
    for pid in [processes.vmm, processes.qemu] {
        let threads: Vec<_> = fs::read_dir(format!("/proc/{pid}/task"))
            .expect("it runs")
            .map(|thread| thread.expect("an entry").path())
            .collect();
        assert!(!threads.is_empty());
        for thread in threads {
            let status = fs::read_to_string(thread.join("status")).expect("it lives");
            let name = words_of(&status, "Name:");
            assert_eq!(words_of(&status, "Seccomp:"), ["2"], "{pid} {name:?}");
            assert_eq!(words_of(&status, "NoNewPrivs:"), ["1"], "{pid} {name:?}");
            let none = ["0000000000000000"];
            assert_eq!(words_of(&status, "CapEff:"), none, "{pid} {name:?}");
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
        let core = words_of(&limits, "Max core file size");
        assert_eq!(core[..2], ["0", "0"], "{pid}");
        let data = words_of(&limits, "Max data size");
        let hard: u64 = data[1].parse().expect("a limit of memory");
        assert!(hard < 8 << 30, "{pid}: {hard}");
        let (ours, theirs) = (namespaces(std::process::id()), namespaces(pid));
        let apart = (ours.0 != theirs.0, ours.1 != theirs.1);
        assert_eq!(apart, (allowed, allowed), "{pid}: {detail}");
    }
    // In a container that shares a folder `gourd-vmm` keeps the host's users, and is confined all the same.
    let folder = home.path("shared");
    fs::create_dir(&folder).expect("a folder");
    let volume = format!("{}:/shared", folder.display());
    let id = home.sleeper(&["-v", &volume]);
    let vmm = home.processes(&id).vmm;
    for thread in fs::read_dir(format!("/proc/{vmm}/task")).expect("it runs") {
        let path = thread.expect("an entry").path().join("status");
        let status = fs::read_to_string(path).expect("it lives");
        assert_eq!(words_of(&status, "Seccomp:"), ["2"]);
        assert_eq!(words_of(&status, "NoNewPrivs:"), ["1"]);
    }
}

#[test]
fn the_supervisor_stays_small() {
    let home = Home::new();
    let id = home.sleeper(&["--health-cmd", "true", "--health-interval", "100ms"]);
    let pid = home.processes(&id).supervisor;
    let check = |after: &str| {
        eventually(after, || private_memory(pid) <= MEMORY);
    };
    check("the start");
    home.gourd(&[
        "exec",
        &id,
        "dd",
        "if=/dev/zero",
        "of=/big",
        "bs=1M",
        "count=60",
    ])
    .ok();
    home.gourd(&[
        "export",
        "-o",
        &home.path("root.tar").display().to_string(),
        &id,
    ])
    .ok();
    check("60 MB out of it");
    let mut copy = home.start(&["cp", "-", &format!("{id}:/")]);
    let archive = fs::read(home.path("root.tar")).expect("the archive");
    let mut stdin = copy.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || stdin.write_all(&archive));
    let out = copy.wait_with_output().expect("it ends");
    // It may refuse some of it (a running system's own files); what counts is what it took.
    drop(writer.join());
    drop(out);
    check("60 MB into it");
    let execs: Vec<_> = (0..20)
        .map(|_| home.start(&["exec", &id, "cat", "/etc/passwd"]))
        .collect();
    for exec in execs {
        finish(exec, &[]).ok();
    }
    check("20 processes at once");
    println!("RssAnon at the end: {} KiB", private_memory(pid) >> 10);
}

#[test]
fn a_guest_may_have_virtualization_and_does_not_by_itself() {
    let home = Home::new();
    let flags = |args: &[&str]| {
        let mut line = vec!["run", "--rm"];
        line.extend(args);
        line.extend(["busybox", "grep", "-c", "-w", "svm", "/proc/cpuinfo"]);
        home.gourd(&line).text()
    };
    assert_eq!(flags(&["--cpus", "1"]), "0");
    assert_eq!(flags(&["--cpus", "1", "--virtualization"]), "1");
}
