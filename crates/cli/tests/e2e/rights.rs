//! What a container may do, and what it may use: capabilities, limits, sysctls, file systems, an init of its own.
//!
//! The twins of apple/containerization's *capabilities*, *limits and security*, *rootfs* and *init* cases. Oracles: the guest
//! kernel's own books (/proc/self/status, /proc/self/limits, /proc/sys, statfs), and what it lets happen.

use crate::harness::{Home, assert_ext4_clean, eventually, tool};

/// Capabilities by capabilities(7)'s numbers.
const DEFAULT: u64 = 0xa804_25fb;
const CHOWN: u64 = 1;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;

/// What a few forbidden things come to, and what the kernel's books say.
const PROBE: &str = "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status | tr -d '\\t'; \
    touch /mine; chown 1:1 /mine 2>/dev/null && echo chown; \
    mkdir -p /m; mount -t tmpfs none /m 2>/dev/null && echo mount; \
    ip link set lo mtu 1400 2>/dev/null && echo mtu; true";

fn probe(home: &Home, args: &[&str]) -> String {
    let mut line = vec!["run", "--rm"];
    line.extend(args);
    line.extend(["busybox", "sh", "-c", PROBE]);
    home.gourd(&line).ok().text()
}

#[track_caller]
fn can(text: &str, capabilities: u64, works: &[&str]) {
    let expect = format!("CapEff:{capabilities:016x}\nCapBnd:{capabilities:016x}");
    assert!(text.contains(&expect), "{expect} is not in\n{text}");
    for what in ["chown", "mount", "mtu"] {
        let worked = text.lines().any(|line| line == what);
        assert_eq!(worked, works.contains(&what), "{what}:\n{text}");
    }
}

#[test]
fn capabilities() {
    let home = Home::new();
    let text = probe(&home, &[]);
    can(&text, DEFAULT, &["chown"]);
    assert!(text.contains("NoNewPrivs:0"), "{text}");
    let args = [
        "--cap-add",
        "SYS_ADMIN",
        "--cap-add",
        "cap_net_admin",
        "--cap-drop",
        "CHOWN",
        "--security-opt",
        "no-new-privileges",
    ];
    let text = probe(&home, &args);
    let expect = (DEFAULT | SYS_ADMIN | NET_ADMIN) & !CHOWN;
    can(&text, expect, &["mount", "mtu"]);
    assert!(text.contains("NoNewPrivs:1"), "{text}");
    can(&probe(&home, &["--cap-drop", "ALL"]), 0, &[]);
    // Every one that this kernel has.
    let last = "cat /proc/sys/kernel/cap_last_cap; grep CapEff /proc/self/status";
    let all = home.gourd(&[
        "run",
        "--rm",
        "--cap-add",
        "ALL",
        "busybox",
        "sh",
        "-c",
        last,
    ]);
    let all = all.ok().text();
    let (last, status) = all.split_once('\n').expect("two lines");
    let last: u32 = last.parse().expect("a number");
    let every = (1_u64 << (last + 1)) - 1;
    assert_eq!(status, format!("CapEff:\t{every:016x}"));
    home.assert_nothing_left();
}

#[test]
fn no_new_privileges_holds_for_set_uid_programs() {
    let home = Home::new();
    // /bin/su of Debian is set-uid root.
    let script = "cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id && setpriv --reuid 1000 --clear-groups /tmp/id -u";
    let run = |args: &[&str]| {
        let mut line = vec!["run", "--rm"];
        line.extend(args);
        line.extend(["debian", "sh", "-c", script]);
        home.gourd(&line).ok().text()
    };
    assert_eq!(run(&[]), "0");
    assert_eq!(run(&["--security-opt", "no-new-privileges"]), "1000");
}

#[test]
fn limits_of_the_first_process_and_of_others() {
    let home = Home::new();
    let script = "ulimit -Sn; ulimit -Hn; ulimit -Sc; cat /sys/fs/cgroup/pids.max; sysctl -n net.ipv4.ip_forward; \
                  sysctl -n kernel.msgmax; df -k /dev/shm | awk 'END { print $2 }'; cat /proc/self/oom_score_adj";
    let all = format!("{script}; sleep 1000");
    home.gourd(&[
        "run",
        "-d",
        "--name",
        "it",
        "--ulimit",
        "nofile=2000:3000",
        "--ulimit",
        "core=0",
        "--pids-limit",
        "30",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--sysctl",
        "kernel.msgmax=4096",
        "--shm-size",
        "32m",
        "--oom-score-adj",
        "500",
        "busybox",
        "sh",
        "-c",
        &all,
    ])
    .ok();
    let expect = "2000\n3000\n0\n30\n1\n4096\n32768\n500";
    eventually("it has told", || {
        home.gourd(&["logs", "it"]).text().lines().count() == 8
    });
    assert_eq!(home.gourd(&["logs", "it"]).text(), expect);
    let exec = home.gourd(&["exec", "it", "sh", "-c", script]).ok();
    assert_eq!(exec.text(), expect, "an exec has the same");
    // More processes than that there cannot be; the container lives on.
    let bomb = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo survived";
    let out = home.gourd(&["exec", "it", "sh", "-c", bomb]);
    assert!(out.stderr.contains("fork"), "{out:?}");
    home.gourd(&["kill", "it"]).ok();
    // One that the guest's kernel does not know, and a limit that makes no sense.
    home.gourd(&["run", "--rm", "--sysctl", "net.none=1", "busybox", "true"])
        .exits(125)
        .says(&["net.none"]);
    home.gourd(&["run", "--rm", "--ulimit", "nofile=9:1", "busybox", "true"])
        .exits(125)
        .says(&["nofile"]);
}

#[test]
fn a_read_only_root_with_its_own_hosts_and_scratch() {
    let home = Home::new();
    let script = "touch /new 2>&1; echo more >> /etc/hosts; grep -c box /etc/hosts; cat /etc/hostname; \
                  touch /scratch/ok && echo scratch; touch /dev/shm/ok && echo shm; stat -f -c %T /scratch; \
                  df -k /scratch | awk 'END { print $2 }'";
    let out = home.gourd(&[
        "run",
        "--rm",
        "--read-only",
        "--hostname",
        "box",
        "--tmpfs",
        "/scratch:size=8m,mode=700",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let text = out.ok().text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].contains("Read-only file system"), "{text}");
    assert_eq!(
        lines[1..],
        ["1", "box", "scratch", "shm", "tmpfs", "8192"],
        "{text}"
    );
}

#[test]
fn what_is_masked_and_what_is_read_only() {
    let home = Home::new();
    let script = "ls /sys/firmware | wc -l; wc -c < /proc/interrupts; \
        for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/profiling; do \
        (echo x > $f) 2>/dev/null && echo wrote $f; done; \
        ls /dev/console 2>/dev/null; hostname; grep -c . /etc/hosts; cat /etc/hosts";
    home.gourd(&["run", "--name", "it", "busybox", "sh", "-c", script])
        .ok();
    let text = home.gourd(&["logs", "it"]).ok().text();
    let id = home.inspect("it", "{{.Id}}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["0", "0"], "{text}");
    // Nothing was writable, there is no console, and the host's name is the id's beginning.
    assert_eq!(lines[2], &id[..12], "{text}");
    assert!(text.contains("127.0.0.1\tlocalhost"), "{text}");
    assert!(text.contains(&id[..12]), "{text}");
    // What the kernel said is kept apart from what the process wrote.
    let console = home.container(&id).join("logs/console.log");
    let said = std::fs::read(&console).expect("the console's log");
    let said = String::from_utf8_lossy(&said);
    assert!(!text.contains("Linux version"), "{text}");
    assert!(!said.contains("localhost"), "{said}");
}

#[test]
fn the_upper_disk_in_every_journal_mode() {
    let home = Home::new();
    for mode in ["ordered", "writeback", "journal", "none"] {
        let option = format!("journal={mode}");
        let script = "test -f /kept && exec cat /kept; echo kept > /kept; head -c 5000000 /dev/zero > /large; sync";
        home.gourd(&[
            "run",
            "--name",
            mode,
            "--storage-opt",
            &option,
            "--storage-opt",
            "size=300m",
            "busybox",
            "sh",
            "-c",
            &format!("df -k / | awk 'END {{ print $2 }}'; {script}"),
        ]);
        let size: u64 = home.gourd(&["logs", mode]).text().parse().expect("KiB");
        assert!((250_000..=307_200).contains(&size), "{mode}: {size} KiB");
        let id = home.inspect(mode, "{{.Id}}");
        let upper = home.container(&id).join("upper.ext4");
        let header = tool("dumpe2fs", &[&"-h", &upper]).ok().text();
        assert_eq!(header.contains("has_journal"), mode != "none", "{header}");
        assert_ext4_clean(&upper);
        let again = home.gourd(&["start", "-a", mode]).ok().text();
        assert!(again.ends_with("kept"), "{mode}: {again}");
        home.gourd(&["rm", mode]).ok();
    }
}

#[test]
fn a_disk_is_no_larger_than_was_asked_for() {
    let home = Home::new();
    let script = "dd if=/dev/zero of=/large bs=1M count=100; echo code=$?; rm /large; echo small > /small && cat /small";
    let out = home.gourd(&[
        "run",
        "--name",
        "it",
        "--storage-opt",
        "size=64m",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let out = out.ok();
    assert!(out.stderr.contains("No space left on device"), "{out:?}");
    assert_eq!(out.text(), "code=1\nsmall");
    let id = home.inspect("it", "{{.Id}}");
    let upper = home.container(&id).join("upper.ext4");
    assert_eq!(
        std::fs::metadata(&upper).expect("it is there").len(),
        64 << 20
    );
    assert_ext4_clean(&upper);
}

#[test]
fn an_init_of_its_own() {
    let home = Home::new();
    home.gourd(&["run", "--rm", "--init", "busybox", "sh", "-c", "exit 9"])
        .exits(9);
    let out = home.gourd_with(
        &[
            "run",
            "--rm",
            "-i",
            "--init",
            "busybox",
            "sh",
            "-c",
            "cat; echo $$",
        ],
        b"in\n",
    );
    let out = out.ok().text();
    assert!(out.starts_with("in\n") && out != "in\n1", "{out}");
    let out = home.gourd(&["run", "--rm", "-t", "--init", "busybox", "tty"]);
    assert_eq!(out.ok().text(), "/dev/pts/0");
    // A process that would let its orphans rot, and ends as it is told.
    let script = "trap 'exit 4' TERM; (sleep 0.2 &); echo up; while :; do sleep 0.1; done";
    home.gourd(&[
        "run", "-d", "--init", "--name", "it", "busybox", "sh", "-c", script,
    ])
    .ok();
    eventually("it is up", || {
        home.gourd(&["logs", "it"]).text().contains("up")
    });
    for _ in 0..5 {
        home.gourd(&["exec", "it", "sh", "-c", "(sleep 0.1 & sleep 0.1 &)"])
            .ok();
    }
    eventually("no zombie stays", || {
        let stats = home.gourd(&["exec", "it", "ps", "-o", "stat"]).ok();
        !stats.text().lines().any(|stat| stat.starts_with('Z'))
    });
    home.gourd(&["stop", "it"]).ok();
    assert_eq!(home.inspect("it", "{{.State.ExitCode}}"), "4");
}
