//! What `gourd run` does, as somebody at a prompt sees it.

use crate::harness::{Home, processors};

#[test]
fn the_image_is_the_one_that_was_asked_for() {
    let home = Home::new();
    let busybox = home
        .gourd(&["run", "--rm", "busybox", "cat", "/etc/os-release"])
        .ok();
    assert!(busybox.text().contains("BusyBox"), "{}", busybox.text());
    let debian = home
        .gourd(&["run", "--rm", "debian", "cat", "/etc/os-release"])
        .ok();
    assert!(debian.text().contains("ID=debian"), "{}", debian.text());
    home.assert_nothing_left();
}

#[test]
fn exit_codes_are_dockers() {
    let home = Home::new();
    let run = |args: &[&str]| {
        let mut line = vec!["run", "--rm"];
        line.extend(args);
        home.gourd(&line)
    };
    run(&["busybox", "true"]).exits(0);
    run(&["busybox", "false"]).exits(1);
    run(&["busybox", "sh", "-c", "exit 7"]).exits(7);
    run(&["busybox", "nonesuch"]).exits(127).says(&["nonesuch"]);
    run(&["busybox", "/nonesuch"])
        .exits(127)
        .says(&["/nonesuch"]);
    run(&["busybox", "/etc/passwd"])
        .exits(126)
        .says(&["/etc/passwd"]);
    run(&["busybox", "/etc"]).exits(126).says(&["/etc"]);
    run(&["-m", "1", "busybox", "true"]).exits(125);
    run(&["--nonesuch", "busybox", "true"]).exits(125);
    home.assert_nothing_left();
}

#[test]
fn a_killed_process_is_128_and_the_signal() {
    let home = Home::new();
    let child = home.start(&[
        "run",
        "--name",
        "victim",
        "busybox",
        "sh",
        "-c",
        "echo up; exec sleep 1000",
    ]);
    let waiter = std::thread::spawn(move || crate::harness::finish(child, &[]));
    crate::harness::eventually("the container runs", || {
        home.gourd(&["logs", "victim"]).text().contains("up")
    });
    home.gourd(&["kill", "victim"]).ok();
    waiter.join().expect("run ends").exits(137);
    assert_eq!(home.inspect("victim", "{{.State.ExitCode}}"), "137");
}

#[test]
fn the_process_is_pid_1_with_the_images_surroundings() {
    let home = Home::new();
    let script = "echo pid=$$; hostname; id -u; pwd; echo $PATH; echo $HOME; ls -d /proc/1 /dev/null /dev/pts/ptmx /dev/shm /sys/fs/cgroup/cgroup.procs; cat /sys/block/vda/queue/read_ahead_kb /proc/mounts";
    let out = home
        .gourd(&[
            "run",
            "--rm",
            "--hostname",
            "box",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    let text = out.text();
    for line in [
        "pid=1",
        "box",
        "0",
        "/",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "/root",
        "/proc/1",
        "/dev/null",
        "/dev/pts/ptmx",
        "/dev/shm",
        "/sys/fs/cgroup/cgroup.procs",
        // The image's disk said how it is best read.
        "2048",
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line:?} is not in:\n{text}"
        );
    }
    assert!(text.contains("overlay / overlay"), "{text}");
    assert!(text.contains("cgroup2"), "{text}");
}

#[test]
fn user_directory_environment_and_entry_point() {
    let home = Home::new();
    let run = |args: &[&str]| {
        let mut line = vec!["run", "--rm"];
        line.extend(args);
        home.gourd(&line)
    };
    assert_eq!(
        run(&["-u", "nobody", "debian", "id", "-un"]).ok().text(),
        "nobody"
    );
    assert_eq!(
        run(&["-u", "1234:2345", "debian", "id"]).ok().text(),
        "uid=1234 gid=2345 groups=2345"
    );
    run(&["-u", "nonesuch", "debian", "id"])
        .exits(125)
        .says(&["nonesuch"]);
    assert_eq!(
        run(&["-w", "/made/here", "busybox", "pwd"]).ok().text(),
        "/made/here"
    );
    let out = run(&[
        "-e",
        "A=b c",
        "-e",
        "EMPTY=",
        "busybox",
        "sh",
        "-c",
        "echo \"$A|${EMPTY-unset}|$HOSTNAME\"",
    ])
    .ok();
    assert!(out.text().starts_with("b c||"), "{}", out.text());
    assert_eq!(
        run(&["--entrypoint", "echo", "busybox", "one", "two"])
            .ok()
            .text(),
        "one two"
    );
}

#[test]
fn limits_and_capabilities_are_dockers() {
    let home = Home::new();
    let script = "ulimit -n; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; cat /sys/fs/cgroup/memory.max; nproc; awk '/MemTotal/{print $2}' /proc/meminfo";
    let cpus = processors().to_string();
    let out = home
        .gourd(&[
            "run", "--rm", "-m", "256m", "--cpus", &cpus, "busybox", "sh", "-c", script,
        ])
        .ok();
    let text = out.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "1024");
    assert!(text.contains("CapEff:\t00000000a80425fb"), "{text}");
    assert!(text.contains("CapBnd:\t00000000a80425fb"), "{text}");
    assert!(text.contains(&format!("\n268435456\n{cpus}\n")), "{text}");
    let total: u64 = lines
        .last()
        .and_then(|line| line.parse().ok())
        .expect("a number");
    assert!(
        total > 256 * 1024,
        "the VM has more than the container's limit: {total} KiB"
    );
}

#[test]
fn exec_joins_the_container() {
    let home = Home::new();
    let id = home.sleeper(&["--name", "host", "-e", "WHO=me"]);
    let exec = |args: &[&str]| {
        let mut line = vec!["exec"];
        line.extend(args);
        home.gourd(&line)
    };
    assert_eq!(
        exec(&[
            "host",
            "sh",
            "-c",
            "echo $WHO; cat /proc/1/cmdline | tr '\\0' ' '"
        ])
        .ok()
        .text(),
        "me\nsleep 1000"
    );
    exec(&["host", "sh", "-c", "exit 9"]).exits(9);
    exec(&["host", "nonesuch"]).exits(127);
    exec(&["host", "/etc/passwd"]).exits(126);
    let out = home.gourd_with(
        &["exec", "-i", "host", "sh", "-c", "cat; echo err >&2"],
        b"through",
    );
    assert_eq!(
        (out.text().as_str(), out.stderr.as_str()),
        ("through", "err\n")
    );
    // What one wrote the other sees.
    exec(&["-w", "/", "host", "sh", "-c", "echo kept > /file"]).ok();
    assert_eq!(exec(&[&id[..12], "cat", "/file"]).ok().text(), "kept");
}

#[test]
fn orphans_are_reaped() {
    let home = Home::new();
    let script = "for i in 1 2 3 4 5; do (sleep 0.1 & ) ; done; sleep 1; ps -o stat,comm | grep -c '^Z' || true";
    let out = home
        .gourd(&["run", "--rm", "--entrypoint", "sh", "busybox", "-c", script])
        .ok();
    // Orphans of the container are children of its PID 1, the shell, which reaps them.
    assert_eq!(out.text(), "0");
}

#[test]
fn a_container_that_runs_out_of_memory_says_so() {
    let home = Home::new();
    let script = "a=x; while :; do a=$a$a; done";
    home.gourd(&[
        "run", "--name", "hog", "-m", "128m", "busybox", "sh", "-c", script,
    ])
    .exits(137);
    assert_eq!(home.inspect("hog", "{{.State.OOMKilled}}"), "true");
}

#[test]
fn logs_keep_what_was_written() {
    let home = Home::new();
    home.gourd(&[
        "run",
        "--name",
        "talker",
        "busybox",
        "sh",
        "-c",
        "echo out; echo err >&2; printf 'a\\000b'",
    ])
    .ok();
    let out = home.gourd(&["logs", "talker"]).ok();
    assert_eq!(out.stdout, b"out\na\0b");
    assert_eq!(out.stderr, "err\n");
}

#[test]
fn timings_show_the_way_to_the_first_byte() {
    let home = Home::new();
    let file = home.path("timings.json");
    let flag = format!("--timings={}", file.display());
    home.gourd(&["run", "--rm", &flag, "busybox", "echo", "hello"])
        .ok();
    let text = std::fs::read_to_string(&file).expect("the file");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let names = json.to_string();
    for phase in [
        "supervisor started",
        "agent dialled",
        "process started",
        "first byte",
        "monitor gone",
    ] {
        assert!(names.contains(phase), "{phase} is not in {names}");
    }
    let picture = home
        .gourd(&["run", "--rm", "--timings", "busybox", "echo", "hello"])
        .ok();
    assert_eq!(picture.text(), "hello");
    assert!(picture.stderr.contains("first byte"), "{}", picture.stderr);
}
