//! Containers among others: names, lists, changes, many of them, and what becomes of them when the host goes down.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{Home, eventually, tool};

#[test]
fn renamed_updated_and_restarted_while_it_runs() {
    let home = Home::new();
    let id = home.sleeper(&["--name", "one", "-m", "256m"]);
    home.gourd(&["create", "--name", "two", "busybox"]).ok();
    home.gourd(&["rename", "one", "two"])
        .exits(125)
        .says(&["in use", "hint:"]);
    home.gourd(&["rename", "one", "uno"]).ok();
    assert_eq!(
        home.inspect("uno", "{{.Id}} {{.Name}}"),
        format!("{id} /uno")
    );
    home.gourd(&["exec", "one", "true"])
        .exits(125)
        .says(&["no such container: one"]);

    home.gourd(&[
        "update",
        "-m",
        "128m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "40",
        "--restart",
        "always",
        "uno",
    ])
    .ok();
    let limits = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max";
    let inside = || home.gourd(&["exec", "uno", "sh", "-c", limits]).ok().text();
    let expect = format!("{}\n50000 100000\n40", 128 << 20);
    assert_eq!(inside(), expect);
    home.gourd(&["update", "-m", "8g", "uno"])
        .exits(125)
        .says(&["MiB", "stop the container first"]);
    let host = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}";
    let kept = format!("{} 500000000 40 always", 128 << 20);
    assert_eq!(home.inspect("uno", host), kept);

    let before = home.inspect("uno", "{{.State.Pid}}");
    home.gourd(&["restart", "-t", "0", "uno"]).ok();
    assert_ne!(home.inspect("uno", "{{.State.Pid}}"), before);
    assert_eq!(inside(), expect);
    home.gourd(&["update", "uno"])
        .exits(125)
        .says(&["nothing to update"]);
    home.gourd(&["rm", "-fv", "uno", "two"]).ok();
    home.assert_nothing_left();
}

#[test]
fn what_goes_at_its_end_is_not_restarted() {
    let home = Home::new();
    home.sleeper(&["--rm", "--name", "brief"]);
    home.gourd(&["restart", "brief"])
        .exits(125)
        .says(&["brief", "--rm"]);
    assert_eq!(home.inspect("brief", "{{.State.Running}}"), "true");
}

#[test]
fn listed_and_pruned_as_asked() {
    let home = Home::new();
    for (name, label) in [
        ("web-1", "tier=web"),
        ("web-2", "tier=web"),
        ("db-1", "tier=db"),
    ] {
        home.gourd(&["create", "--name", name, "-l", label, "busybox", "true"])
            .ok();
    }
    home.sleeper(&["--name", "up"]);
    let listed = |args: &[&str]| {
        let mut line = vec!["ps", "--format", "{{.Names}}"];
        line.extend(args);
        home.gourd(&line).ok().text().replace('\n', " ")
    };
    assert_eq!(listed(&[]), "up");
    assert_eq!(listed(&["-a"]), "up db-1 web-2 web-1");
    assert_eq!(listed(&["-n", "2"]), "up db-1");
    assert_eq!(listed(&["-l"]), "up");
    assert_eq!(listed(&["-a", "-f", "name=^web"]), "web-2 web-1");
    assert_eq!(listed(&["-a", "-f", "label=tier=db"]), "db-1");
    assert_eq!(
        listed(&["-f", "status=created", "-f", "name=1$"]),
        "db-1 web-1"
    );
    assert_eq!(listed(&["-a", "-f", "before=web-2"]), "web-1");
    assert_eq!(listed(&["-a", "-f", "since=web-2"]), "up db-1");
    assert_eq!(
        listed(&["-a", "-f", "ancestor=busybox", "-f", "name=up"]),
        "up"
    );
    assert_eq!(listed(&["-a", "-f", "ancestor=debian"]), "");
    home.gourd(&["ps", "-f", "since=nobody"])
        .exits(125)
        .says(&["no such container: nobody"]);
    home.gourd(&["ps", "-f", "name=["])
        .exits(125)
        .says(&["regular expression"]);
    let row = home.gourd(&["ps", "-s", "--format", "json"]).ok().text();
    let row: serde_json::Value = serde_json::from_str(&row).expect("JSON");
    for key in [
        "Command",
        "CreatedAt",
        "ID",
        "Image",
        "Labels",
        "LocalVolumes",
        "Mounts",
        "Names",
        "Networks",
        "Ports",
        "RunningFor",
        "Size",
        "State",
        "Status",
    ] {
        assert!(row.get(key).is_some(), "{key} is not in {row}");
    }
    assert!(
        row["Size"]
            .as_str()
            .is_some_and(|size| size.contains("(virtual ")),
        "{row}"
    );

    let refused = home.gourd_with(&["container", "prune"], b"n\n").ok();
    assert!(
        refused.stderr.contains("Are you sure"),
        "{}",
        refused.stderr
    );
    assert_eq!(listed(&["-a"]), "up db-1 web-2 web-1");
    let pruned = home
        .gourd(&["container", "prune", "-f", "--filter", "label!=tier=db"])
        .ok()
        .text();
    assert!(
        pruned.starts_with("Deleted Containers:\n") && pruned.contains("Total reclaimed space:"),
        "{pruned}"
    );
    assert_eq!(listed(&["-a"]), "up db-1");
    home.gourd_with(&["container", "prune"], b"y\n").ok();
    assert_eq!(listed(&["-a"]), "up");
}

/// Everything of gourd is killed and its sockets are gone, as after a reboot; `system boot` is what the unit runs.
#[test]
fn after_a_reboot_policies_are_applied() {
    let home = Home::new();
    for (name, policy) in [
        ("plain", "no"),
        ("always", "always"),
        ("unless", "unless-stopped"),
        ("stopped", "unless-stopped"),
    ] {
        home.sleeper(&["--name", name, "--restart", policy]);
    }
    home.gourd(&["stop", "-t", "0", "stopped"]).ok();
    for name in ["plain", "always", "unless"] {
        let id = home.inspect(name, "{{.Id}}");
        let pid = home.processes(&id).supervisor;
        tool("kill", &[&"-9", &pid.to_string()]).ok();
    }
    eventually("nothing lives", || home.leftovers().is_empty());
    for entry in fs::read_dir(home.root().join("run"))
        .expect("run")
        .flatten()
    {
        fs::remove_file(entry.path()).expect("removed");
    }
    let states = || {
        let states = home
            .gourd(&["ps", "-a", "--format", "{{.Names}}={{.State}}"])
            .ok()
            .text();
        let mut states: Vec<String> = states.lines().map(str::to_owned).collect();
        states.sort();
        states.join(" ")
    };
    assert_eq!(
        states(),
        "always=exited plain=exited stopped=exited unless=exited"
    );
    assert_eq!(home.inspect("plain", "{{.State.ExitCode}}"), "255");
    let started = home.gourd(&["system", "boot"]).ok().text();
    let mut started: Vec<&str> = started.lines().collect();
    started.sort_unstable();
    assert_eq!(started, ["always", "unless"]);
    assert_eq!(
        states(),
        "always=running plain=exited stopped=exited unless=running"
    );
    assert_eq!(home.gourd(&["system", "boot"]).ok().text(), "");
}

/// What the unit runs when it is stopped: those of its control group end as by themselves, and the next boot starts them.
#[test]
fn a_shutdown_is_no_stop() {
    let home = Home::new();
    let polite = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    for (name, policy) in [("plain", "no"), ("unless", "unless-stopped")] {
        let line = ["run", "-d", "--name", name, "--restart", policy, "busybox"];
        home.gourd(&[&line[..], &["sh", "-c", polite]].concat())
            .ok();
        eventually("it listens to signals", || {
            home.gourd(&["logs", name]).text() == "ready"
        });
    }
    let sorted = |args: &[&str]| {
        let text = home.gourd(args).ok().text();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(sorted(&["system", "shutdown", "--cgroup"]), "plain unless");
    assert_eq!(home.leftovers(), Vec::<String>::new());
    let states = ["ps", "-a", "--format", "{{.Names}} {{.Status}}"];
    let ended = sorted(&states);
    assert_eq!(ended.matches("Exited (3)").count(), 2, "{ended}");
    assert_eq!(sorted(&["system", "shutdown"]), "");
    assert_eq!(sorted(&["system", "boot"]), "unless");
    assert_eq!(sorted(&["system", "shutdown"]), "unless");
}

/// Without a systemd of the user's, as here, the files are written all the same.
#[test]
fn a_unit_is_installed_and_removed() {
    let home = Home::new();
    let config = home.path("config");
    let run = |verb: &str| {
        let output = home
            .command(&["system", verb])
            .env("XDG_CONFIG_HOME", &config)
            .output()
            .expect("gourd starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let unit = config.join("systemd/user/gourd.service");
    let wanted = config.join("systemd/user/default.target.wants/gourd.service");
    for _ in 0..2 {
        let said = run("enable");
        assert!(said.contains(&unit.display().to_string()), "{said}");
    }
    let text = fs::read_to_string(&wanted).expect("a link that leads to the unit");
    let root = home.root().display().to_string();
    assert!(
        text.contains(&format!("--root \"{root}\" system boot")),
        "{text}"
    );
    assert!(text.contains("system shutdown --cgroup\n"), "{text}");
    run("disable");
    assert!(!unit.exists() && fs::symlink_metadata(&wanted).is_err());
    assert!(run("disable").contains("nothing to do"));
}

/// The figure of the issue: 500 containers made by a shell's loop and listed, against one start in the same run.
#[test]
fn five_hundred_containers_are_made_and_listed() {
    let home = Home::new();
    let start = (0..3)
        .map(|_| {
            let begun = Instant::now();
            home.gourd(&["run", "--rm", "busybox", "true"]).ok();
            begun.elapsed()
        })
        .min()
        .unwrap_or(Duration::MAX);
    let begun = Instant::now();
    let program = home.command(&[]).get_program().to_owned();
    let script = "for i in $(seq 500); do \"$0\" create --name box-$i busybox true || exit 1; done";
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(&program)
        .env("GOURD_ROOT", home.root())
        .output()
        .expect("sh starts");
    let created = begun.elapsed();
    assert!(output.status.success(), "{output:?}");
    let listed = home.gourd(&["ps", "-aq"]).ok().text();
    let all = begun.elapsed();
    assert_eq!(listed.lines().count(), 500);
    println!(
        "500 containers made in {created:?} and listed in {:?}; one start takes {start:?}: ratio {:.2}",
        all - created,
        all.as_secs_f64() / start.as_secs_f64()
    );
    // With a machine that does other things as well; more would be something quadratic.
    assert!(all < 8 * start, "{all:?} against {start:?}");
    home.gourd(&["container", "prune", "-f"]).ok();
    home.assert_nothing_left();
}
