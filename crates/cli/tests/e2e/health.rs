//! Health checks, as Docker has them.

use std::fs;

use serde_json::Value;

use crate::harness::{Home, eventually};

fn health(home: &Home, id: &str) -> Value {
    let text = fs::read_to_string(home.container(id).join("state.json")).expect("state.json");
    let state: Value = serde_json::from_str(&text).expect("JSON");
    state["health"].clone()
}

fn becomes(home: &Home, id: &str, status: &str) {
    eventually(status, || health(home, id)["status"] == status);
}

#[test]
fn starting_healthy_unhealthy_and_back() {
    let home = Home::new();
    let id = home.sleeper(&[
        "--health-cmd",
        "echo looking; echo badly >&2; test -f /well",
        "--health-interval",
        "300ms",
        "--health-retries",
        "2",
        // The first checks come before the file does, and count for nothing.
        "--health-start-period",
        "60s",
        "--health-start-interval",
        "200ms",
    ]);
    let has_failed = || {
        health(&home, &id)["log"]
            .as_array()
            .is_some_and(|log| !log.is_empty())
    };
    eventually("a check has failed", has_failed);
    let first = health(&home, &id);
    assert_eq!(first["status"], "starting", "{first}");
    assert_eq!(first["failing_streak"], 0, "{first}");
    assert_eq!(first["log"][0]["exit_code"], 1, "{first}");
    let output = first["log"][0]["output"].as_str().unwrap_or_default();
    assert!(
        output.contains("looking") && output.contains("badly"),
        "{first}"
    );
    home.gourd(&["exec", &id, "touch", "/well"]).ok();
    becomes(&home, &id, "healthy");
    home.gourd(&["exec", &id, "rm", "/well"]).ok();
    becomes(&home, &id, "unhealthy");
    assert!(health(&home, &id)["failing_streak"].as_u64() >= Some(2));
    home.gourd(&["exec", &id, "touch", "/well"]).ok();
    becomes(&home, &id, "healthy");
    eventually("five results are kept", || {
        health(&home, &id)["log"].as_array().map(Vec::len) == Some(5)
    });
    let events = home
        .gourd(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "event=health_status",
            "--format",
            "{{.Action}}",
        ])
        .ok()
        .text();
    let expect = "health_status: healthy\nhealth_status: unhealthy\nhealth_status: healthy";
    assert_eq!(events, expect);
}

#[test]
fn a_check_that_takes_too_long_has_failed_and_is_gone() {
    let home = Home::new();
    let id = home.sleeper(&[
        "--health-cmd",
        "echo begun; exec sleep 4321",
        "--health-interval",
        "300ms",
        "--health-timeout",
        "500ms",
        "--health-retries",
        "1",
    ]);
    becomes(&home, &id, "unhealthy");
    let result = health(&home, &id)["log"][0].clone();
    assert_eq!(result["exit_code"], -1, "{result}");
    let output = result["output"].as_str().unwrap_or_default();
    assert_eq!(output, "Health check exceeded timeout (500ms): begun\n");
    eventually("three checks are over", || {
        health(&home, &id)["log"]
            .as_array()
            .is_some_and(|log| log.len() >= 3)
    });
    // One may be running now.
    let processes = home.gourd(&["exec", &id, "ps"]).ok().text();
    assert!(processes.matches("sleep 4321").count() <= 1, "{processes}");
}

#[test]
fn a_command_that_does_not_exist_makes_it_unhealthy() {
    let home = Home::new();
    let id = home.sleeper(&[
        "--health-cmd",
        "/no/such/program",
        "--health-interval",
        "300ms",
        "--health-retries",
        "1",
    ]);
    becomes(&home, &id, "unhealthy");
    // The shell says so, as Docker's does.
    assert_eq!(health(&home, &id)["log"][0]["exit_code"], 127);
    home.gourd(&["stop", "-t", "0", &id]).ok();
    assert_eq!(health(&home, &id)["status"], "unhealthy");
}

#[test]
fn without_a_check_there_is_no_health() {
    let home = Home::new();
    let id = home.sleeper(&[]);
    assert_eq!(health(&home, &id), Value::Null);
}
