//! What containers use and do: stats, top, pause, events.

use std::io::{BufRead, BufReader};

use crate::harness::{Home, eventually};

#[test]
fn a_busy_container_shows() {
    let home = Home::new();
    home.gourd(&[
        "run",
        "-d",
        "--name",
        "busy",
        "-m",
        "256m",
        "busybox",
        "sh",
        "-c",
        "while :; do :; done",
    ])
    .ok();
    home.sleeper(&["--name", "idle"]);
    home.gourd(&["create", "--name", "off", "busybox"]).ok();
    let table = home.gourd(&["stats", "--no-stream"]).ok().text();
    assert!(
        table.starts_with("CONTAINER ID   NAME      CPU %"),
        "{table}"
    );
    assert!(table.contains("/ 256MiB"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    let all = home
        .gourd(&[
            "stats",
            "--no-stream",
            "-a",
            "--format",
            "{{.Name}} {{.PIDs}} {{.MemUsage}}",
        ])
        .ok()
        .text();
    assert!(all.lines().any(|line| line == "off 0 0B / 0B"), "{all}");
    assert!(all.lines().any(|line| line.starts_with("idle 1 ")), "{all}");
    let percent = |name: &str| -> f64 {
        let line = home
            .gourd(&["stats", "--no-stream", "--format", "{{.CPUPerc}}", name])
            .ok()
            .text();
        line.trim_end_matches('%').parse().unwrap()
    };
    assert!(percent("busy") > 10.0);
    // Frozen, it uses nothing.
    home.gourd(&["pause", "busy"]).ok();
    assert_eq!(
        home.inspect("busy", "{{.State.Status}} {{.State.Paused}}"),
        "paused true"
    );
    assert_eq!(percent("busy"), 0.0);
    home.gourd(&["pause", "busy"])
        .exits(125)
        .says(&["already paused"]);
    home.gourd(&["unpause", "busy"]).ok();
    home.gourd(&["unpause", "busy"])
        .exits(125)
        .says(&["not paused"]);
    assert_eq!(home.inspect("busy", "{{.State.Status}}"), "running");
    home.gourd(&["stats", "--no-stream", "ghost"])
        .exits(125)
        .says(&["no such container: ghost"]);
    home.gourd(&["pause", "off"])
        .exits(125)
        .says(&["is not running"]);
}

/// Oracle: busybox ps in the container.
#[test]
fn processes_by_columns() {
    let home = Home::new();
    home.gourd(&[
        "run",
        "-d",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "sleep 1001 & exec sleep 1002",
    ])
    .ok();
    home.gourd(&["exec", "-d", "-u", "nobody", "box", "sleep", "1003"])
        .ok();
    let top = || home.gourd(&["top", "box"]).ok().text();
    eventually("three processes", || top().lines().count() == 4);
    let top = top();
    let heading: Vec<_> = top.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        heading,
        ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    );
    let theirs = home
        .gourd(&["exec", "box", "ps", "-o", "pid,user,args"])
        .ok()
        .text();
    let ours = home
        .gourd(&["top", "box", "-o", "pid,user,args"])
        .ok()
        .text();
    for line in ours.lines().skip(1) {
        let words: Vec<_> = line.split_whitespace().collect();
        assert!(
            theirs
                .lines()
                .any(|other| other.split_whitespace().collect::<Vec<_>>() == words),
            "{line}: {theirs}"
        );
    }
    assert!(ours.contains("nobody"), "{ours}");
    let aux = home.gourd(&["top", "box", "aux"]).ok().text();
    assert!(aux.contains("%MEM") && aux.contains("sleep 1002"), "{aux}");
    home.gourd(&["top", "box", "-o", "colour"])
        .exits(125)
        .says(&["no column \"colour\""]);
    home.gourd(&["stop", "-t", "0", "box"]).ok();
    home.gourd(&["top", "box"])
        .exits(125)
        .says(&["is not running"]);
}

#[test]
fn events_as_they_come() {
    let home = Home::new();
    let mut live = home.start(&[
        "events",
        "--filter",
        "type=container",
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}}",
    ]);
    let mut lines = BufReader::new(live.stdout.take().unwrap()).lines();
    // It watches by the time that a first event comes through.
    let mut seen = Vec::new();
    home.gourd(&["create", "--name", "first", "busybox"]).ok();
    home.gourd(&[
        "run", "--name", "box", "--label", "tier=web", "busybox", "sh", "-c", "exit 3",
    ])
    .exits(3);
    home.sleeper(&["--name", "other"]);
    home.gourd(&["exec", "other", "true"]).ok();
    home.gourd(&["pause", "other"]).ok();
    home.gourd(&["unpause", "other"]).ok();
    home.gourd(&["stop", "-t", "0", "other"]).ok();
    home.gourd(&["rm", "other"]).ok();
    while !seen.contains(&"destroy other".to_owned()) {
        seen.push(lines.next().expect("an event").expect("a line"));
    }
    live.kill().unwrap();
    live.wait().unwrap();
    let mut at = 0;
    for expect in [
        "create box",
        "attach box",
        "start box",
        "die box",
        "create other",
        "start other",
        "exec_create: true other",
        "exec_start: true other",
        "exec_die other",
        "pause other",
        "unpause other",
        "stop other",
        "destroy other",
    ] {
        let found = seen[at..].iter().position(|line| line == expect);
        at += found.unwrap_or_else(|| panic!("{expect:?} does not come after {at} in {seen:?}"));
    }
    let past = |args: &[&str]| {
        let mut line = vec!["events", "--since", "1h", "--until", "0s"];
        line.extend(args);
        home.gourd(&line).ok().text()
    };
    let death = past(&[
        "--filter",
        "event=die",
        "--filter",
        "container=box",
        "--format",
        "json",
    ]);
    let death: serde_json::Value = serde_json::from_str(&death).unwrap();
    assert_eq!(death["Actor"]["Attributes"]["exitCode"], "3");
    assert_eq!(death["Actor"]["Attributes"]["tier"], "web");
    assert_eq!(death["from"], "busybox:latest");
    assert!(past(&["--filter", "label=tier=web"]).lines().count() >= 4);
    assert_eq!(
        past(&["--filter", "type=image", "--filter", "event=die"]),
        ""
    );
    assert_eq!(
        home.gourd(&["events", "--since", "1h", "--until", "30m"])
            .ok()
            .text(),
        ""
    );
}
