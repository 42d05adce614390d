//! Design section 7, "the life of a container": a test for each row that this version has.
//!
//! The row *death* is in `deaths.rs`, *stopped containers* in `copy.rs` and `commit.rs`. *A dirty volume* in `volumes.rs`.

use crate::harness::{Home, assert_ext4_clean, eventually, finish, kill, names, tool};
use crate::network::gourd_net;

/// Perl is in every Debian; it can dial vsock: `sockaddr_vm` is family, 0, port, CID, flags.
fn dial(port: u32, from: Option<u32>, then: &str) -> String {
    let address = |port: u32, cid: u32| format!("pack('SSLLCx3', 40, 0, {port}, {cid}, 0)");
    let bind = from.map_or_else(String::new, |from| {
        format!(
            "bind(S, {}) or die \"bind: $!\\n\";",
            address(from, 0xffff_ffff)
        )
    });
    format!(
        "socket(S, 40, 1, 0) or die \"socket: $!\\n\"; {bind} connect(S, {}) or die \"connect: $!\\n\"; {then}",
        address(port, 2)
    )
}

#[test]
fn handshake_any_later_dial_to_the_agents_port_is_refused() {
    let home = Home::new();
    for (from, port) in [(None, 1), (Some(999), 1), (None, 3), (None, 70_000)] {
        let perl = dial(port, from, "print 'in'");
        let out = home.gourd(&["run", "--rm", "debian", "perl", "-e", &perl]);
        assert_ne!(out.code, 0, "port {port} from {from:?}: {}", out.text());
        assert!(
            out.stderr.contains("connect: Connection reset"),
            "{}",
            out.stderr
        );
    }
}

#[test]
fn stdio_a_process_that_dials_by_itself_takes_nobodys_place() {
    let home = Home::new();
    // It names a stream that nobody expects; the connection ends, and the true stdout goes on.
    let perl = dial(
        2,
        None,
        "syswrite(S, 'x' x 16); my $n = sysread(S, my $b, 1); print defined $n && $n == 0 ? 'closed' : 'odd';",
    );
    let out = home
        .gourd(&["run", "--rm", "debian", "perl", "-e", &perl])
        .ok();
    assert_eq!(out.text(), "closed");
}

#[test]
fn start_returns_when_the_process_runs_or_with_the_step_that_failed() {
    let home = Home::new();
    let id = home
        .gourd(&["run", "-d", "--name", "up", "busybox", "sleep", "1000"])
        .ok()
        .text();
    assert_eq!(id.len(), 64, "{id:?}");
    // It runs: an exec finds it there.
    let seen = home.gourd(&["exec", "up", "cat", "/proc/1/comm"]).ok();
    assert_eq!(seen.text(), "sleep");
    home.gourd(&["run", "-d", "--name", "down", "busybox", "nonesuch"])
        .exits(127)
        .says(&["nonesuch"]);
    home.gourd(&[
        "create",
        "--name",
        "odd",
        "-w",
        "/etc/passwd/x",
        "busybox",
        "true",
    ])
    .ok();
    home.gourd(&["start", "odd"])
        .exits(125)
        .says(&["/etc/passwd/x"]);
}

#[test]
fn exit_a_foreground_run_that_returned_has_left_nothing_50_times() {
    let home = Home::new();
    let before = names(&home.root().join("run"));
    for round in 0..50 {
        let out = home
            .gourd(&["run", "--rm", "--name", "same", "busybox", "echo", "here"])
            .ok();
        assert_eq!(out.text(), "here", "round {round}");
        // At once: nothing here waits.
        assert_eq!(home.leftovers(), Vec::<String>::new(), "round {round}");
        assert_eq!(names(&home.root().join("run")), before, "round {round}");
        assert_eq!(home.gourd(&["ps", "-aq"]).ok().text(), "", "round {round}");
    }
    home.assert_nothing_left();
}

#[test]
fn exit_status_is_written_and_the_upper_disk_unmounted() {
    let home = Home::new();
    let id = {
        home.gourd(&[
            "run",
            "--name",
            "writer",
            "busybox",
            "sh",
            "-c",
            "echo kept > /file; exit 5",
        ])
        .exits(5);
        home.inspect("writer", "{{.Id}}")
    };
    assert_eq!(home.leftovers(), Vec::<String>::new());
    assert_eq!(
        home.inspect("writer", "{{.State.Status}} {{.State.ExitCode}}"),
        "exited 5"
    );
    let upper = home.container(&id).join("upper.ext4");
    let header = tool("dumpe2fs", &[&"-h", &upper]).ok().text();
    assert!(
        header.contains("Filesystem state:         clean"),
        "{header}"
    );
    assert!(
        !header.contains("needs_recovery"),
        "unmounted, so no journal to replay: {header}"
    );
    assert_ext4_clean(&upper);
    // The lease is free: it starts again, and what it wrote is there.
    home.gourd(&["start", "-a", "writer"]).exits(5);
    let file = tool("debugfs", &[&"-R", &"cat /upper/file", &upper]).ok();
    assert_eq!(file.text(), "kept");
}

#[test]
fn stop_sends_the_signal_then_kills() {
    let home = Home::new();
    let polite = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    home.gourd(&[
        "run", "-d", "--name", "polite", "busybox", "sh", "-c", polite,
    ])
    .ok();
    eventually("it is ready", || {
        home.gourd(&["logs", "polite"]).text().contains("ready")
    });
    home.gourd(&["stop", "polite"]).ok();
    // At once, as for a foreground run.
    assert_eq!(home.leftovers(), Vec::<String>::new());
    assert_eq!(home.inspect("polite", "{{.State.ExitCode}}"), "3");
    assert!(home.gourd(&["logs", "polite"]).text().ends_with("bye"));

    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    home.gourd(&["run", "-d", "--name", "deaf", "busybox", "sh", "-c", deaf])
        .ok();
    eventually("it is ready", || {
        home.gourd(&["logs", "deaf"]).text().contains("ready")
    });
    home.gourd(&["stop", "-t", "1", "deaf"]).ok();
    assert_eq!(home.inspect("deaf", "{{.State.ExitCode}}"), "137");
    let id = home.inspect("deaf", "{{.Id}}");
    let header = tool(
        "dumpe2fs",
        &[&"-h", &home.container(&id).join("upper.ext4")],
    )
    .ok();
    assert!(
        header.text().contains("Filesystem state:         clean"),
        "killed, yet unmounted"
    );
}

/// Oracle: systemd.kill(5). A session that ends has all its processes told at once, by TERM, HUP and CONT.
#[test]
fn a_host_that_goes_down_stops_it_in_its_own_way() {
    let home = Home::new();
    // Its last words go by all of the host's processes, after these were told.
    let script = "trap 'sleep 2; nslookup x. >/dev/null 2>&1; echo bye; exit 3' TERM; echo ready; \
                  while :; do sleep 0.1; done";
    home.gourd(&[
        "run",
        "-d",
        "--name",
        "polite",
        "--restart",
        "unless-stopped",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    eventually("it is ready", || {
        home.gourd(&["logs", "polite"]).text().contains("ready")
    });
    let id = home.inspect("polite", "{{.Id}}");
    let processes = home.processes(&id);
    let networks = gourd_net(&home);
    assert_eq!(networks.len(), 1);
    let mut all = vec![processes.qemu, processes.vmm];
    all.extend(&networks);
    all.push(processes.supervisor);
    for signal in ["-TERM", "-HUP", "-CONT"] {
        all.iter().for_each(|pid| kill(*pid, signal));
    }
    eventually("all of it is gone", || home.leftovers().is_empty());
    let log = home.gourd(&["logs", "polite"]).text();
    assert!(log.ends_with("bye"), "{log}");
    let state = home.inspect(
        "polite",
        "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}",
    );
    assert_eq!(state.trim(), "exited 3");
    assert_ext4_clean(&home.container(&id).join("upper.ext4"));
    // Nobody stopped it: it is to run again.
    let text = std::fs::read_to_string(home.container(&id).join("state.json"));
    let state: serde_json::Value = serde_json::from_str(&text.expect("state")).expect("JSON");
    assert_eq!(state["stopped"], false, "{state}");
}

#[test]
fn the_verbs_of_a_life() {
    let home = Home::new();
    let id = home
        .gourd(&[
            "create",
            "--name",
            "it",
            "busybox",
            "sh",
            "-c",
            "echo ran; sleep 1000",
        ])
        .ok()
        .text();
    assert_eq!(home.inspect("it", "{{.State.Status}}"), "created");
    home.gourd(&["start", "it"]).ok();
    let table = home.gourd(&["ps"]).ok().text();
    assert!(
        table.contains(&id[..12]) && table.contains("Up "),
        "{table}"
    );
    // A second start of what runs is fine, as with Docker; removing it is not.
    home.gourd(&["start", "it"]).ok();
    home.gourd(&["rm", "it"]).exits(125).says(&["it", "-f"]);
    home.gourd(&["create", "--name", "it", "busybox"])
        .exits(125)
        .says(&["it", "name"]);
    let waiter = home.start(&["wait", "it"]);
    home.gourd(&["kill", "-s", "KILL", "it"]).ok();
    assert_eq!(finish(waiter, &[]).ok().text(), "137");
    assert_eq!(home.gourd(&["wait", "it"]).ok().text(), "137");
    assert_eq!(home.gourd(&["ps", "-q"]).ok().text(), "");
    assert!(
        home.gourd(&["ps", "-a"])
            .ok()
            .text()
            .contains("Exited (137)")
    );
    home.gourd(&["rm", "it"]).ok();
    home.gourd(&["rm", "it"]).exits(125).says(&["it"]);
    home.assert_nothing_left();
}

#[test]
fn two_commands_at_once_get_one_winner() {
    let home = Home::new();
    let first = home.start(&["run", "-d", "--name", "same", "busybox", "sleep", "1000"]);
    let second = home.start(&["run", "-d", "--name", "same", "busybox", "sleep", "1000"]);
    let codes = [finish(first, &[]).code, finish(second, &[]).code];
    assert!(codes == [0, 125] || codes == [125, 0], "{codes:?}");
    assert_eq!(home.gourd(&["ps", "-q"]).ok().text().lines().count(), 1);
}
