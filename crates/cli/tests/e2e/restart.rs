//! Restart policies, as Docker has them: who is started again, after how long, and what ends it.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Home, eventually, kill};

/// Says how often it ran, and ends.
const COUNT: &str = "echo run; echo x >> /runs; exit 3";

fn state(home: &Home, id: &str) -> Value {
    let text = fs::read_to_string(home.container(id).join("state.json")).expect("state.json");
    serde_json::from_str(&text).expect("JSON")
}

fn is(home: &Home, id: &str, status: &str, restarts: u64) -> bool {
    let state = state(home, id);
    state["status"] == status && state["restarts"] == restarts
}

fn runs(home: &Home, id: &str) -> usize {
    home.gourd(&["logs", id]).ok().text().matches("run").count()
}

#[test]
fn on_failure_tries_as_often_as_it_says() {
    let home = Home::new();
    let id = home
        .gourd(&[
            "run",
            "-d",
            "--restart",
            "on-failure:2",
            "busybox",
            "sh",
            "-c",
            COUNT,
        ])
        .ok()
        .text();
    // Wait answers at the end of all runs.
    assert_eq!(home.gourd(&["wait", &id]).ok().text(), "3");
    assert!(is(&home, &id, "exited", 2), "{}", state(&home, &id));
    assert_eq!(runs(&home, &id), 3);
    assert_eq!(state(&home, &id)["stopped"], false);
    eventually("all processes are gone", || home.leftovers().is_empty());
    let table = home.gourd(&["ps", "-a"]).ok().text();
    assert!(table.contains("Exited (3)"), "{table}");
    // A person's start begins anew.
    home.gourd(&["start", &id]).ok();
    assert_eq!(home.gourd(&["wait", &id]).ok().text(), "3");
    assert_eq!(state(&home, &id)["restarts"], 2);
    assert_eq!(runs(&home, &id), 6);
}

#[test]
fn on_failure_leaves_success_alone() {
    let home = Home::new();
    let id = home
        .gourd(&["run", "-d", "--restart", "on-failure", "busybox", "true"])
        .ok()
        .text();
    assert_eq!(home.gourd(&["wait", &id]).ok().text(), "0");
    assert!(is(&home, &id, "exited", 0), "{}", state(&home, &id));
}

#[test]
fn a_lost_vm_is_a_failure_and_a_stop_is_the_end() {
    let home = Home::new();
    let id = home.sleeper(&["--restart", "unless-stopped"]);
    let before = home.processes(&id);
    kill(before.qemu, "-9");
    eventually("it runs again", || is(&home, &id, "running", 1));
    // One that boots is running; its process answers a little later.
    assert_eq!(
        home.gourd(&["exec", &id, "echo", "there"]).ok().text(),
        "there"
    );
    let after = home.processes(&id);
    assert_eq!(after.supervisor, before.supervisor);
    assert_ne!(after.qemu, before.qemu);
    home.gourd(&["stop", "-t", "1", &id]).ok();
    let end = state(&home, &id);
    assert_eq!(
        (&end["status"], &end["stopped"]),
        (&"exited".into(), &true.into()),
        "{end}"
    );
    eventually("all processes are gone", || home.leftovers().is_empty());
    assert!(is(&home, &id, "exited", 1));
    home.gourd(&["start", &id]).ok();
    assert_eq!(state(&home, &id)["stopped"], false);
}

#[test]
fn a_signal_that_ends_it_is_a_stop_and_another_is_not() {
    let home = Home::new();
    let script = "trap 'echo reloaded' HUP; trap 'exit 0' INT; echo up; while [ ! -e /end ]; do sleep 0.1; done; rm /end";
    let id = home
        .gourd(&[
            "run",
            "-d",
            "--restart",
            "always",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok()
        .text();
    let says = |word: &str| home.gourd(&["logs", &id]).ok().text().contains(word);
    eventually("it is up", || says("up"));
    home.gourd(&["kill", "-s", "HUP", &id]).ok();
    eventually("it has reloaded", || says("reloaded"));
    // Long after the signal: nobody takes it for its consequence.
    std::thread::sleep(Duration::from_secs(11));
    home.gourd(&["exec", &id, "touch", "/end"]).ok();
    eventually("it runs again", || is(&home, &id, "running", 1));
    eventually("it is up again", || {
        home.gourd(&["logs", &id]).ok().text().matches("up").count() == 2
    });
    home.gourd(&["kill", "-s", "INT", &id]).ok();
    assert_eq!(home.gourd(&["wait", &id]).ok().text(), "0");
    assert_eq!(state(&home, &id)["stopped"], true);
    eventually("all processes are gone", || home.leftovers().is_empty());
}

#[test]
fn a_stop_ends_the_wait_between_two_runs() {
    let home = Home::new();
    let id = home
        .gourd(&["run", "-d", "--restart", "always", "busybox", "false"])
        .ok()
        .text();
    // The waits double: by then there is one of at least 0.8 s.
    eventually("it waits", || is(&home, &id, "restarting", 4));
    let table = home.gourd(&["ps"]).ok().text();
    assert!(table.contains("Restarting (1)"), "{table}");
    home.gourd(&["exec", &id, "true"]).says(&["is restarting"]);
    let before = Instant::now();
    home.gourd(&["stop", &id]).ok();
    assert!(before.elapsed().as_secs() < 5);
    let end = state(&home, &id);
    assert_eq!(end["status"], "exited", "{end}");
    assert_eq!(end["stopped"], true, "{end}");
    home.gourd(&["rm", &id]).ok();
    home.assert_nothing_left();
}

#[test]
fn a_removal_by_force_ends_the_wait() {
    let home = Home::new();
    let id = home
        .gourd(&["run", "-d", "--restart", "always", "busybox", "false"])
        .ok()
        .text();
    eventually("it waits", || is(&home, &id, "restarting", 3));
    home.gourd(&["rm", "-f", &id]).ok();
    eventually("all processes are gone", || home.leftovers().is_empty());
    home.assert_nothing_left();
}

#[test]
fn a_foreground_run_returns_at_the_first_end() {
    let home = Home::new();
    home.gourd(&[
        "run",
        "--name",
        "again",
        "--restart",
        "on-failure:1",
        "busybox",
        "sh",
        "-c",
        COUNT,
    ])
    .exits(3);
    assert_eq!(home.gourd(&["wait", "again"]).ok().text(), "3");
    assert_eq!(runs(&home, "again"), 2);
}

#[test]
fn a_process_that_cannot_start_is_not_tried_again() {
    let home = Home::new();
    home.gourd(&[
        "run",
        "-d",
        "--name",
        "no",
        "--restart",
        "always",
        "busybox",
        "/no/such",
    ])
    .exits(127);
    eventually("all processes are gone", || home.leftovers().is_empty());
}

/// What it wrote is there in the next run, and in order.
#[test]
fn files_survive_the_runs() {
    let home = Home::new();
    let script =
        "n=$(wc -l < /runs 2>/dev/null || echo 0); echo run $n; echo x >> /runs; sync; [ $n = 2 ]";
    let id = home
        .gourd(&[
            "run",
            "-d",
            "--restart",
            "on-failure",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok()
        .text();
    assert_eq!(home.gourd(&["wait", &id]).ok().text(), "0");
    assert_eq!(
        home.gourd(&["logs", &id]).ok().text(),
        "run 0\nrun 1\nrun 2"
    );
    crate::harness::assert_ext4_clean(&home.container(&id).join("upper.ext4"));
}
