//! Flags of `run` and `create` that hold inside, and what they are refused for. Rights, limits of processes and `--init` are
//! in `rights.rs`.

use std::fs;

use crate::harness::{Home, assert_ext4_clean, eventually, tool};

/// One VM for all that a program can see of its flags.
#[test]
fn what_the_line_says_holds_inside() {
    let home = Home::new();
    let env = home.path("env");
    fs::write(
        &env,
        "# for the test\nFROM_FILE=two  words \nQ=\"x\"\nOVER=file\n",
    )
    .expect("a file");
    let env_flag = format!("--env-file={}", env.display());
    let script = "hostname; grep -c box /etc/hosts; pwd; echo \"[$FROM_FILE][$Q][$OVER]\"; \
                  id -G; cat /proc/self/oom_score_adj; \
                  cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni; \
                  grep -E '^tmpfs (/scratch|/dev/shm) ' /proc/mounts | cut -d' ' -f2,4; \
                  stat -c %a /scratch; touch /scratch/x && echo written";
    let out = home
        .gourd(&[
            "run",
            "--rm",
            "-h",
            "box",
            "-w",
            "/made/on/the/way",
            &env_flag,
            "-e",
            "OVER=line",
            "--group-add",
            "77",
            "--oom-score-adj",
            "55",
            "--sysctl",
            "net.core.somaxconn=77",
            "--sysctl",
            "kernel.shmmni=99",
            "--tmpfs",
            "/scratch:size=2m,mode=1770",
            "--shm-size",
            "8m",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok()
        .text();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[..4],
        ["box", "1", "/made/on/the/way", "[two  words ][\"x\"][line]"],
        "{out}"
    );
    assert!(lines[4].split(' ').any(|group| group == "77"), "{out}");
    assert_eq!(lines[5..8], ["55", "77", "99"], "{out}");
    assert!(
        lines[8..10]
            .iter()
            .any(|line| line.starts_with("/dev/shm ") && line.contains("size=8192k")),
        "{out}"
    );
    assert!(
        lines[8..10].iter().any(|line| line.starts_with("/scratch ")
            && line.contains("size=2048k")
            && line.contains("noexec")),
        "{out}"
    );
    assert_eq!(lines[10..], ["1770", "written"], "{out}");
    home.assert_nothing_left();
}

#[test]
fn the_control_group_has_the_limits_and_tells_of_memory_that_ran_out() {
    let home = Home::new();
    let read =
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max; nproc";
    let line = [
        "run",
        "--name",
        "hungry",
        "-m",
        "160m",
        "--pids-limit",
        "50",
        "--cpus",
        "0.5",
        "busybox",
        "sh",
        "-c",
    ];
    let script = format!("{read}; tail /dev/zero");
    let mut args = line.to_vec();
    args.push(&script);
    let out = home.gourd(&args).exits(137);
    assert_eq!(out.text(), format!("{}\n50\n50000 100000\n1", 160 << 20));
    assert_eq!(
        home.inspect(
            "hungry",
            "{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Status}}"
        ),
        "true 137 exited"
    );
}

/// Oracles: e2fsck on the clone, and the image's bytes.
#[test]
fn a_private_copy_of_the_image_is_written_and_kept() {
    let home = Home::new();
    let args = [
        "run",
        "--name",
        "own",
        "--rootfs",
        "clone",
        "--storage-opt",
        "size=1g",
        "busybox",
    ];
    let image = home.root().join("rootfs");
    let sum = || {
        tool(
            "sh",
            &[
                &"-c",
                &format!("cat '{}'/*/rootfs.ext4 | sha256sum", image.display()),
            ],
        )
        .text()
    };
    let before = sum();
    let script = "mount | head -1 | cut -d' ' -f5; echo kept > /etc/note; df -m / | tail -1 | awk '{print $2}'; \
                  df -i / | tail -1 | awk '{print $4}'";
    let mut line = args.to_vec();
    line.extend(["sh", "-c", script]);
    let out = home.gourd(&line).ok().text();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "ext4", "{out}");
    let number = |at: usize| lines[at].parse::<u64>().expect("a number");
    assert!((900..=1024).contains(&number(1)), "{out}");
    assert!(number(2) > 10_000, "{out}");
    assert_ext4_clean(
        &home
            .container(&home.inspect("own", "{{.Id}}"))
            .join("upper.ext4"),
    );
    let found = home.path("note");
    home.gourd(&["cp", "own:/etc/note", &found.display().to_string()])
        .ok();
    assert_eq!(fs::read_to_string(&found).expect("a file"), "kept\n");
    assert_eq!(sum(), before, "the image was written to");
    assert_eq!(home.inspect("own", "{{.Driver}}"), "clone");
    home.gourd(&["rm", "own"]).ok();
    home.assert_nothing_left();
}

#[test]
fn the_id_is_written_once() {
    let home = Home::new();
    let file = home.path("cid");
    let flag = format!("--cidfile={}", file.display());
    let id = home.gourd(&["create", &flag, "busybox"]).ok().text();
    assert_eq!(fs::read_to_string(&file).expect("a file"), id);
    home.gourd(&["create", &flag, "busybox"])
        .exits(125)
        .says(&["cannot write the container's id", "hint:"]);
    assert_eq!(home.gourd(&["ps", "-aq", "--no-trunc"]).text(), id);
    // Nothing is left of it where there is no container.
    let other = home.path("other");
    let flag = format!("--cidfile={}", other.display());
    home.gourd(&["create", &flag, "--pull=never", "absent"])
        .exits(125);
    assert!(!other.exists());
}

#[test]
fn only_what_is_attached_to_comes() {
    let home = Home::new();
    let script = "echo out; echo err >&2";
    let out = home
        .gourd(&["run", "--rm", "-a", "stderr", "busybox", "sh", "-c", script])
        .ok();
    assert_eq!((out.text().as_str(), out.stderr.as_str()), ("", "err\n"));
    let out = home
        .gourd(&["run", "--rm", "-a", "STDOUT", "busybox", "sh", "-c", script])
        .ok();
    assert_eq!((out.text().as_str(), out.stderr.as_str()), ("out", ""));
    home.gourd(&["run", "-d", "-a", "stdout", "busybox"])
        .exits(125)
        .says(&["--detach", "--attach"]);
    home.assert_nothing_left();
}

#[test]
fn the_stop_signal_and_its_time() {
    let home = Home::new();
    let script = "trap 'echo asked; sleep 1; exit 9' USR1; trap '' TERM; echo set; while :; do sleep 0.1; done";
    home.gourd(&[
        "run",
        "-d",
        "--name",
        "polite",
        "--stop-signal",
        "SIGUSR1",
        "--stop-timeout",
        "0",
        "-e",
        "GOURD_NOT_SET=1",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    // Nobody here has it: it is taken out, as with Docker.
    let tell = ["sh", "-c", "echo ${GOURD_NOT_SET-unset}"];
    let exec = |flags: &[&str]| {
        let line = [&["exec"], flags, &["polite"], &tell].concat();
        home.gourd(&line).ok().text()
    };
    assert_eq!(exec(&[]), "1");
    assert_eq!(exec(&["-e", "GOURD_NOT_SET"]), "unset");
    // Until then the kernel keeps the signal from the first process of a namespace.
    eventually("the trap is set", || {
        home.gourd(&["logs", "polite"]).text() == "set"
    });
    // Its own time is up at once; -1 is all the time that it wants.
    home.gourd(&["stop", "-t", "-1", "polite"]).ok();
    assert_eq!(
        home.inspect("polite", "{{.State.ExitCode}} {{.Config.StopSignal}}"),
        "9 SIGUSR1"
    );
    home.gourd(&[
        "run",
        "-d",
        "--name",
        "deaf",
        "--stop-timeout",
        "1",
        "busybox",
        "sh",
        "-c",
        "trap '' TERM; while :; do sleep 0.1; done",
    ])
    .ok();
    home.gourd(&["stop", "deaf"]).ok();
    assert_eq!(home.inspect("deaf", "{{.State.ExitCode}}"), "137");
}

/// Each names the flag, the value, and what would be right; nothing is made.
#[test]
fn what_is_refused_names_flag_and_value() {
    let home = Home::new();
    for (flags, words) in [
        (
            &["--ulimit", "nofile=3:2"][..],
            &["--ulimit", "nofile=3:2", "smaller one first"][..],
        ),
        (
            &["--ulimit", "files=3"],
            &["--ulimit", "\"files\"", "nofile"],
        ),
        (&["--cpus", "many"], &["--cpus", "\"many\"", "1.5"]),
        (
            &["--cpus", "4000"],
            &["number of cpus", "4000", "this host has"],
        ),
        (&["-m", "1k"], &["memory", "1024", "6 MiB"]),
        (
            &["--cap-add", "FLY"],
            &["--cap-add", "\"FLY\"", "NET_ADMIN"],
        ),
        (
            &["--security-opt", "seccomp=x"],
            &["--security-opt", "seccomp", "kernel of its own"],
        ),
        (
            &["--sysctl", "vm.swappiness=1"],
            &["sysctl", "vm.swappiness", "net.*"],
        ),
        (
            &["--tmpfs", "/x:colour=red"],
            &["tmpfs", "colour=red", "size="],
        ),
        (&["--tmpfs", "x"], &["--tmpfs", "absolute path"]),
        (
            &["--restart", "always:3"],
            &["--restart", "always:3", "on-failure"],
        ),
        (
            &["--restart", "always", "--rm"],
            &["restart policy", "--rm"],
        ),
        (
            &["--health-interval", "30"],
            &["--health-interval", "\"30\"", "1m30s"],
        ),
        (
            &["--no-healthcheck", "--health-cmd", "x"],
            &["--no-healthcheck", "--health-cmd"],
        ),
        (
            &["--storage-opt", "colour=red"],
            &["--storage-opt", "colour=red", "size="],
        ),
        (
            &["--log-opt", "max-file=0"],
            &["--log-opt", "\"0\"", "1 or more"],
        ),
        (
            &["--oom-score-adj", "2000"],
            &["--oom-score-adj", "2000", "1000"],
        ),
        (&["--stop-signal", "WAT"], &["--stop-signal", "\"WAT\""]),
        (&["--env-file", "/nope"], &["/nope", "No such file"]),
        (&["-a", "stdlog"], &["--attach", "\"stdlog\"", "STDERR"]),
        (&["--memory-swap", "1g"], &["--memory-swap"]),
    ] {
        let mut line = vec!["create"];
        line.extend(flags);
        line.push("busybox");
        home.gourd(&line).exits(125).says(words).says(&["hint:"]);
    }
    assert_eq!(home.gourd(&["ps", "-aq"]).text(), "");
}
