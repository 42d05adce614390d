//! The fault matrix: kill -9 at every fault point that a verb passes, in the process that passes it, and of each monitor
//! while its supervisor stands at one.
//!
//! A scenario runs once undisturbed, which tells its points; then once for each death. After each: what `ps` and `inspect`
//! say is what the kernel says, nothing is leaked, the same verb works again, and what was acknowledged is there: an id that
//! was printed, bytes that were synced in the guest. Oracles: /proc, e2fsck, the exit codes of a run that nobody disturbed.

mod archives;
mod collection;
mod matrix;
mod volumes;

use std::path::Path;

use testkit::image::{ImageBuilder, Layer};
use testkit::registry::Registry;

use crate::harness::{Home, Out, assert_ext4_clean, eventually, finish, kill, names, stopped};
use matrix::{Monitors, Scenario};

/// Writes and syncs, says so, and waits; ends with 3 when it is told to.
const SCRIPT: &str = "trap 'exit 3' TERM; if [ -f /kept ]; then echo again; cat /kept; \
                      else echo precious > /kept; sync; echo synced; fi; sleep 1000 & wait";

/// Creates a container, which clears away what crashes left, removes it again, and looks at every name below the root.
fn assert_nothing_hidden(home: &Home) {
    home.gourd(&["create", "--name", "broom", "busybox", "true"])
        .ok();
    home.gourd(&["rm", "broom"]).ok();
    let stray = stray(&home.root());
    assert!(stray.is_empty(), "left behind: {stray:#?}");
}

/// What is being made or removed: files with a temporary name, directories with a hidden one.
fn stray(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(dir) {
        let path = dir.join(&name);
        let unfinished = [".new-", ".del-"].iter().any(|mark| name.starts_with(mark));
        if unfinished || name.starts_with('.') && name.ends_with(".tmp") {
            found.push(path.display().to_string());
        } else if path.is_dir() && !path.is_symlink() && !path.ends_with("modules") {
            found.extend(stray(&path));
        }
    }
    found
}

fn exists(home: &Home, name: &str) -> bool {
    home.gourd(&["inspect", "--type", "container", name]).code == 0
}

fn status(home: &Home) -> String {
    home.inspect("it", "{{.State.Status}}")
}

/// Whatever was printed as an id is there.
fn assert_acknowledged(home: &Home, out: &Out) {
    for id in out.text().lines().filter(|line| line.len() == 64) {
        assert!(exists(home, id), "{id} was printed and is not there");
    }
}

/// Removes the container however it is, and checks that nothing stays.
fn clear(home: &Home) {
    if exists(home, "it") {
        home.gourd(&["rm", "-f", "it"]).ok();
    }
    assert_nothing_hidden(home);
    home.assert_nothing_left();
}

/// The first start makes the disk.
fn assert_upper_clean(home: &Home) {
    let id = home.inspect("it", "{{.Id}}");
    let upper = home.container(&id).join("upper.ext4");
    if upper.exists() {
        assert_ext4_clean(&upper);
    }
}

fn create(home: &Home) {
    home.gourd(&["create", "--name", "it", "busybox", "sh", "-c", SCRIPT])
        .ok();
}

/// A running container that has something to lose.
fn start(home: &Home) {
    home.gourd(&["run", "-d", "--name", "it", "busybox", "sh", "-c", SCRIPT])
        .ok();
    says(home, "synced");
}

fn says(home: &Home, word: &str) {
    eventually(&format!("the container says {word}"), || {
        home.gourd(&["logs", "it"]).text().contains(word)
    });
}

/// What was synced before the death is there at the next start.
fn assert_precious(home: &Home) {
    home.gourd(&["start", "it"]).ok();
    says(home, "again\nprecious");
}

#[test]
fn create_killed_anywhere() {
    Scenario {
        name: "create",
        prepare: &|_| {},
        act: &["create", "--name", "it", "busybox", "sh", "-c", SCRIPT],
        settle: &|_| {},
        check: &|home, out| {
            assert_acknowledged(home, out);
            let made = exists(home, "it");
            let again = home.gourd(&["create", "--name", "it", "busybox", "true"]);
            if made {
                again.exits(125).says(&["it", "in use"]);
                assert_eq!(status(home), "created");
                assert_upper_clean(home);
            } else {
                again.ok();
            }
            clear(home);
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

#[test]
fn start_killed_anywhere() {
    Scenario {
        name: "start",
        prepare: &create,
        act: &["start", "it"],
        settle: &|_| {},
        check: &|home, _| {
            if status(home) != "running" {
                assert_upper_clean(home);
            }
            home.gourd(&["start", "it"]).ok();
            assert_eq!(status(home), "running");
            eventually("it says where it is", || {
                let log = home.gourd(&["logs", "it"]).text();
                log.contains("synced") || log.contains("again")
            });
            clear(home);
        },
        from: "",
        until: "",
        monitors: Monitors::Both,
    }
    .run();
}

#[test]
fn exec_killed_anywhere() {
    Scenario {
        name: "exec",
        prepare: &start,
        act: &[
            "exec",
            "it",
            "sh",
            "-c",
            "echo more > /more; sync; echo acknowledged",
        ],
        settle: &|_| {},
        check: &|home, out| {
            if status(home) != "running" {
                assert_upper_clean(home);
                assert_precious(home);
            }
            if out.text().contains("acknowledged") {
                let more = home.gourd(&["exec", "it", "cat", "/more"]);
                assert_eq!(more.ok().text(), "more");
            }
            home.gourd(&["exec", "it", "sh", "-c", "exit 7"]).exits(7);
            clear(home);
        },
        from: "",
        until: "",
        monitors: Monitors::Both,
    }
    .run();
}

#[test]
fn stop_killed_anywhere() {
    Scenario {
        name: "stop",
        prepare: &start,
        act: &["stop", "it"],
        settle: &|_| {},
        check: &|home, _| {
            // The command died before it said anything.
            home.gourd(&["stop", "it"]).ok();
            assert_eq!(status(home), "exited");
            let code = home.inspect("it", "{{.State.ExitCode}}");
            assert!(["3", "255"].contains(&code.as_str()), "{code}");
            assert_upper_clean(home);
            assert_precious(home);
            clear(home);
        },
        from: "",
        until: "",
        monitors: Monitors::InTurns,
    }
    .run();
}

#[test]
fn rm_killed_anywhere() {
    Scenario {
        name: "rm",
        prepare: &create,
        act: &["rm", "it"],
        settle: &|_| {},
        check: &|home, _| {
            if exists(home, "it") {
                assert_upper_clean(home);
                home.gourd(&["rm", "it"]).ok();
            }
            home.gourd(&["rm", "it"]).exits(125).says(&["it"]);
            clear(home);
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

#[test]
fn rm_of_a_running_container_killed_anywhere() {
    Scenario {
        name: "rm -f",
        prepare: &start,
        act: &["rm", "-f", "it"],
        settle: &|_| {},
        check: &|home, _| {
            if exists(home, "it") {
                home.gourd(&["rm", "-f", "it"]).ok();
            }
            assert!(!exists(home, "it"));
            clear(home);
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

#[test]
fn run_rm_killed_anywhere() {
    Scenario {
        name: "run --rm",
        prepare: &|_| {},
        act: &["run", "--rm", "--name", "it", "busybox", "echo", "here"],
        settle: &|_| {},
        check: &|home, out| {
            assert!(out.code != 0 || out.text() == "here", "{out:?}");
            // One that was never started stays, as Docker's does: nobody but the command knew that it was to be.
            if exists(home, "it") && status(home) == "created" {
                home.gourd(&["rm", "it"]).ok();
            }
            eventually("the container goes by itself", || {
                home.gourd(&["ps", "-aq"]).ok().text().is_empty()
            });
            let again = home.gourd(&["run", "--rm", "--name", "it", "busybox", "echo", "here"]);
            assert_eq!(again.ok().text(), "here");
            clear(home);
        },
        from: "vm.process-started",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

/// Three layers, so that they come side by side.
fn small_image() -> ImageBuilder {
    ImageBuilder::new()
        .layer(Layer::new().file("one", b"1"))
        .layer(Layer::new().file("two", b"2"))
        .layer(Layer::new().file("three", b"3"))
}

#[test]
fn pull_killed_anywhere() {
    let home = Home::empty();
    let layout = home.path("layout");
    small_image().write_layout(&layout, "it").expect("a layout");
    let registry = Registry::start().expect("docker-registry starts");
    registry
        .push(&format!("oci:{}:it", layout.display()), "small:1")
        .expect("skopeo pushes");
    let reference = registry.reference("small:1");
    Scenario {
        name: "pull",
        prepare: &|_| {},
        act: &["pull", &reference],
        settle: &|_| {},
        check: &|home, _| {
            let image = |reference: &str| {
                home.gourd(&["image", "inspect", "-f", "{{.RootfsImage}}", reference])
            };
            let found = image(&reference);
            if found.code == 0 {
                crate::harness::tool("e2fsck", &[&"-fn", &found.text()]).ok();
            }
            home.gourd(&["pull", &reference]).ok();
            crate::harness::tool("e2fsck", &[&"-fn", &image(&reference).ok().text()]).ok();
            home.gourd(&["create", "--name", "it", &reference, "/one"])
                .ok();
            home.gourd(&["rm", "it"]).ok();
            home.gourd(&["rmi", &reference, "busybox", "debian"]).ok();
            for (folder, what) in [
                ("content/blobs/sha256", "blobs"),
                ("content/ingest", "downloads"),
                ("rootfs", "rootfs images"),
                ("images", "images"),
                ("refs", "references"),
            ] {
                let left = names(&home.root().join(folder));
                assert!(left.is_empty(), "{what}: {left:?}");
            }
            home.assert_nothing_left();
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

#[test]
fn push_killed_anywhere() {
    let registry = Registry::start().expect("docker-registry starts");
    let reference = registry.reference("small:1");
    Scenario {
        name: "push",
        prepare: &|home| {
            // What the last one has pushed would not be sent again.
            let kept = registry.data().join("docker");
            if kept.exists() {
                std::fs::remove_dir_all(kept).expect("an empty registry");
            }
            home.gourd(&["tag", "busybox", &reference]).ok();
        },
        act: &["push", &reference],
        settle: &|_| {},
        check: &|home, _| {
            let pushed = home.gourd(&["push", &reference]).ok().text();
            // Oracle: skopeo, for which the registry has all of it.
            let source = format!("docker://{reference}");
            let raw: [&dyn AsRef<std::ffi::OsStr>; 4] =
                [&"inspect", &"--raw", &"--tls-verify=false", &source];
            let raw = crate::harness::tool("skopeo", &raw).ok().stdout;
            let digest = oci::Digest::of(&raw).to_string();
            assert!(pushed.contains(&digest), "{pushed} {digest}");
            home.gourd(&["rmi", &reference]).ok();
            home.assert_nothing_left();
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

#[test]
fn commit_killed_anywhere() {
    let more = |home: &Home| {
        start(home);
        home.gourd(&["exec", "it", "sh", "-c", "echo more > /more; sync"])
            .ok();
    };
    Scenario {
        name: "commit",
        prepare: &more,
        act: &["commit", "it", "made:1"],
        settle: &|_| {},
        check: &|home, _| {
            if status(home) != "running" {
                assert_upper_clean(home);
                assert_precious(home);
            }
            // It was frozen for a moment, and is not any more.
            home.gourd(&["exec", "it", "sh", "-c", "echo thawed > /thawed; sync"])
                .ok();
            home.gourd(&["image", "ls"]).ok();
            home.gourd(&["commit", "it", "made:1"]).ok();
            home.gourd(&["rm", "-f", "it"]).ok();
            let kept = ["run", "--rm", "made:1", "cat", "/kept", "/more", "/thawed"];
            assert_eq!(home.gourd(&kept).ok().text(), "precious\nmore\nthawed");
            home.gourd(&["rmi", "made:1"]).ok();
            clear(home);
        },
        from: "",
        until: "",
        monitors: Monitors::InTurns,
    }
    .run();
}

/// Ends with a failure when it is told to, and says how often it ran.
const AGAIN: &str = "echo run >> /runs; sync; wc -l < /runs; while [ ! -e /dev/shm/go ]; do sleep 0.1; done; exit 1";

#[test]
fn a_restart_by_policy_killed_anywhere() {
    let state = |home: &Home| {
        let format = "{{.State.Status}} {{.RestartCount}}";
        home.gourd(&["inspect", "-f", format, "it"]).ok().text()
    };
    Scenario {
        name: "restart policy",
        prepare: &|home| {
            home.gourd(&[
                "run",
                "-d",
                "--restart",
                "always",
                "--name",
                "it",
                "busybox",
                "sh",
                "-c",
                AGAIN,
            ])
            .ok();
            says(home, "1");
        },
        act: &["exec", "it", "touch", "/dev/shm/go"],
        settle: &|home| {
            eventually("it runs again, or will not", || {
                let state = state(home);
                state.starts_with("exited") || state.starts_with("running ") && state != "running 0"
            });
        },
        check: &|home, _| {
            if status(home) != "running" {
                // The policy was the supervisor's, which is dead; `start` and the next boot take it up.
                assert_upper_clean(home);
                assert_eq!(home.gourd(&["system", "boot"]).ok().text(), "it");
            }
            assert_eq!(status(home), "running");
            says(home, "2");
            home.gourd(&["stop", "-t", "0", "it"]).ok();
            assert_eq!(status(home), "exited", "a person stopped it");
            clear(home);
        },
        from: "vm.process-exited",
        until: "",
        monitors: Monitors::InTurns,
    }
    .run();
}

#[test]
fn the_host_goes_down_and_comes_up() {
    let home = Home::new();
    let policies = [
        ("always", "always"),
        ("unless", "unless-stopped"),
        ("stopped", "unless-stopped"),
        ("failure", "on-failure"),
        ("none", "no"),
    ];
    for (name, policy) in policies {
        let script = "echo run >> /runs; sync; wc -l < /runs; sleep 1000";
        home.gourd(&[
            "run",
            "-d",
            "-m",
            "128m",
            "--name",
            name,
            "--restart",
            policy,
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    }
    home.gourd(&["stop", "-t", "0", "stopped"]).ok();
    home.gourd(&[
        "create",
        "--restart",
        "always",
        "--name",
        "created",
        "busybox",
    ])
    .ok();
    for (name, _) in policies {
        eventually("it has counted itself", || {
            home.gourd(&["logs", name]).text() == "1"
        });
    }
    // The power goes: everything at once, and what was in memory.
    for process in home.leftovers() {
        let pid = process.split(' ').next().unwrap_or_default().to_owned();
        // The death of one may have been another's.
        let _ = std::process::Command::new("kill")
            .args(["-9", &pid])
            .output();
    }
    eventually("all are dead", || home.leftovers().is_empty());
    std::fs::remove_dir_all(home.root().join("run")).expect("a reboot clears it");
    assert_eq!(home.gourd(&["ps", "-q"]).ok().text(), "");
    let table = home.gourd(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    let mut table: Vec<_> = table.ok().text().lines().map(str::to_owned).collect();
    table.sort();
    assert_eq!(
        table,
        [
            "always exited",
            "created created",
            "failure exited",
            "none exited",
            "stopped exited",
            "unless exited"
        ]
    );
    for (name, _) in policies {
        let id = home.inspect(name, "{{.Id}}");
        assert_ext4_clean(&home.container(&id).join("upper.ext4"));
    }
    // It comes up: what `gourd system enable` has the user's systemd run.
    let started = home.gourd(&["system", "boot"]).ok().text();
    let mut started: Vec<_> = started.lines().collect();
    started.sort_unstable();
    assert_eq!(started, ["always", "unless"]);
    for name in started {
        assert_eq!(home.inspect(name, "{{.State.Status}}"), "running");
        eventually("it has its disk", || {
            home.gourd(&["logs", name]).text() == "1\n2"
        });
    }
    assert_eq!(home.gourd(&["system", "boot"]).ok().text(), "", "once");
}

/// A signal between the making of a container and its first byte is the end of both.
#[test]
fn a_run_that_is_interrupted_while_it_starts_leaves_nothing() {
    let home = Home::with_faults();
    std::fs::write(home.path("fault"), "gourd start.spawned 1 stop").expect("armed");
    // With an init: the first process of its own kind hears no INT, should it have come so far.
    let child = home.start(&["run", "--rm", "--init", "busybox", "sleep", "1000"]);
    let pid = child.id();
    eventually("it stands between the two", || stopped(pid));
    kill(pid, "-INT");
    kill(pid, "-CONT");
    finish(child, &[]).exits(130);
    eventually("all processes are gone", || home.leftovers().is_empty());
    home.assert_nothing_left();
}

#[test]
fn programs_that_people_get_have_no_fault_points() {
    let line = ["create", "--name", "it", "busybox", "true"];
    let faulty = Home::with_faults();
    faulty.gourd(&line).ok();
    let points = matrix::trace(&faulty);
    let (point, _) = points.last().expect("the other programs have them");
    let home = Home::new();
    let traced = home.path("trace");
    let out = home
        .command(&line)
        .env("GOURD_FAULT", &point.name)
        .env("GOURD_FAULT_TRACE", &traced)
        .output()
        .expect("it runs");
    assert_eq!(out.status.code(), Some(0), "{point:?}");
    assert!(!traced.exists(), "points were traced");
    for program in ["gourd", "gourd-vm", "gourd-vmm", "gourd-init"] {
        let bytes = std::fs::read(crate::harness::programs().join(program)).expect("a program");
        let found = bytes.windows(11).any(|window| window == b"GOURD_FAULT");
        assert!(!found, "{program} knows of fault points");
    }
}
