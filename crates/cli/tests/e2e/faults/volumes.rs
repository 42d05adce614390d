//! The fault matrix of volumes: made, cloned, removed, and written to by a container.

use super::matrix::{Monitors, Scenario};
use super::stray;
use crate::harness::{Home, assert_ext4_clean, eventually, finish, kill, names, stopped, tool};
use crate::volumes::disk;

const CREATE: [&str; 7] = [
    "volume", "create", "--size", "64m", "--label", "a=b", "data",
];

fn exists(home: &Home, name: &str) -> bool {
    home.gourd(&["volume", "inspect", name]).code == 0
}

/// Makes and removes one, which clears away what crashes left; and then nothing is there.
fn assert_nothing_left(home: &Home) {
    home.gourd(&["volume", "create", "broom"]).ok();
    home.gourd(&["volume", "prune", "-af"]).ok();
    assert_eq!(names(&home.root().join("volumes")), [".index"]);
    let stray = stray(&home.root());
    assert!(stray.is_empty(), "left behind: {stray:#?}");
}

fn create(home: &Home) {
    home.gourd(&CREATE).ok();
}

#[test]
fn volume_create_killed_anywhere() {
    Scenario {
        name: "volume create",
        prepare: &|_| {},
        act: &CREATE,
        settle: &|_| {},
        check: &|home, out| {
            assert!(out.text().is_empty() || exists(home, "data"));
            create(home);
            let label = home.gourd(&["volume", "inspect", "-f", "{{.Labels.a}}", "data"]);
            assert_eq!(label.ok().text(), "b");
            assert_ext4_clean(&disk(home, "data"));
            assert_nothing_left(home);
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

#[test]
fn volume_clone_killed_anywhere() {
    Scenario {
        name: "volume clone",
        prepare: &create,
        act: &["volume", "clone", "data", "copy"],
        settle: &|_| {},
        check: &|home, _| {
            // All of it is to be seen, or nothing.
            if !exists(home, "copy") {
                assert_eq!(home.gourd(&["volume", "ls", "-q"]).ok().text(), "data");
                home.gourd(&["volume", "clone", "data", "copy"]).ok();
            }
            tool("cmp", &[&disk(home, "data"), &disk(home, "copy")]).ok();
            assert_nothing_left(home);
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

/// Nobody waits for a copy; its source stays as it is and its name stays its own, until it is done or dead.
#[test]
fn volumes_beside_a_clone() {
    let home = Home::with_faults();
    create(&home);
    home.gourd(&["volume", "create", "gone"]).ok();
    for ends in ["-CONT", "-KILL"] {
        std::fs::write(home.path("fault"), "gourd volume.reserved 1 stop").expect("armed");
        let cloning = home.start(&["volume", "clone", "data", "copy"]);
        let pid = cloning.id();
        eventually("it is about to copy", || stopped(pid));
        home.gourd(&["volume", "rm", "gone"]).ok();
        home.gourd(&["volume", "create", "gone"]).ok();
        home.gourd(&["volume", "prune", "-f"]).ok();
        home.gourd(&["volume", "rm", "data"])
            .exits(125)
            .says(&["volume data is in use", "volume clone data copy"]);
        home.gourd(&["volume", "resize", "data", "128m"])
            .exits(125)
            .says(&["volume data is in use"]);
        for line in [
            &["volume", "create", "copy"][..],
            &["volume", "clone", "data", "copy"],
            &["create", "-v", "copy:/copy", "busybox", "true"],
        ] {
            home.gourd(line)
                .exits(125)
                .says(&["volume copy is just being made", "hint: wait"]);
        }
        assert_eq!(
            home.gourd(&["volume", "ls", "-q"]).ok().text(),
            "data\ngone"
        );
        kill(pid, ends);
        let out = finish(cloning, &[]);
        if ends == "-CONT" {
            out.ok();
            tool("cmp", &[&disk(&home, "data"), &disk(&home, "copy")]).ok();
        } else {
            home.gourd(&["volume", "create", "copy"]).ok();
        }
        home.gourd(&["volume", "rm", "copy"]).ok();
    }
    assert_nothing_left(&home);
}

#[test]
fn volume_rm_killed_anywhere() {
    Scenario {
        name: "volume rm",
        prepare: &create,
        act: &["volume", "rm", "data"],
        settle: &|_| {},
        check: &|home, _| {
            if exists(home, "data") {
                assert_ext4_clean(&disk(home, "data"));
                home.gourd(&["volume", "rm", "data"]).ok();
            }
            home.gourd(&["volume", "rm", "data"]).exits(125);
            assert_nothing_left(home);
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

/// Fills, writes, syncs, says so.
const WRITE: [&str; 10] = [
    "run",
    "--rm",
    "--name",
    "it",
    "-v",
    "data:/etc",
    "busybox",
    "sh",
    "-c",
    "echo precious > /etc/kept; sync; echo synced",
];

/// Whoever dies while a container has a volume: the next one gets it at once, clean, with what was synced, and filled to the end.
#[test]
fn run_with_a_volume_killed_anywhere() {
    Scenario {
        name: "run -v",
        prepare: &create,
        act: &WRITE,
        settle: &|_| {},
        check: &|home, out| {
            eventually("nothing holds it", || home.leftovers().is_empty());
            home.gourd(&["rm", "-f", "it"]);
            assert_ext4_clean(&disk(home, "data"));
            let look = "cat /etc/passwd; cat /etc/kept 2> /dev/null; echo next > /etc/next";
            let next = [
                "run",
                "--rm",
                "-v",
                "data:/etc",
                "busybox",
                "sh",
                "-c",
                look,
            ];
            let found = home.gourd(&next).ok().text();
            assert!(found.contains("root:"), "it was filled: {found}");
            let was_synced = out.text().contains("synced");
            assert!(!was_synced || found.contains("precious"), "{found}");
            assert_ext4_clean(&disk(home, "data"));
            home.gourd(&["volume", "rm", "data"]).ok();
            assert_nothing_left(home);
        },
        from: "volumes.attached",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

/// The disk's file grows before its spec says so: whoever dies between them loses nothing, and the next one goes on.
#[test]
fn volume_resize_killed_anywhere() {
    let resize = ["volume", "resize", "data", "128m"];
    Scenario {
        name: "volume resize",
        prepare: &create,
        act: &resize,
        settle: &|_| {},
        check: &|home, _| {
            assert_ext4_clean(&disk(home, "data"));
            home.gourd(&resize).ok();
            let length = std::fs::metadata(disk(home, "data")).expect("a disk").len();
            assert_eq!(length, 128 << 20);
            assert_ext4_clean(&disk(home, "data"));
            assert_nothing_left(home);
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

/// A new volume that is only read is filled in a VM of its own first. Whoever dies in it: the next reader sees all of it.
#[test]
fn a_fill_for_readers_killed_anywhere() {
    let read = [
        "run",
        "--rm",
        "--name",
        "it",
        "-v",
        "data:/etc:ro",
        "busybox",
        "cat",
        "/etc/passwd",
    ];
    Scenario {
        name: "run -v :ro",
        prepare: &create,
        act: &read,
        settle: &|_| {},
        check: &|home, _| {
            eventually("nothing holds it", || home.leftovers().is_empty());
            home.gourd(&["rm", "-f", "it"]);
            let found = home.gourd(&read).ok().text();
            assert!(found.contains("root:"), "it was filled: {found}");
            assert_ext4_clean(&disk(home, "data"));
            home.gourd(&["volume", "rm", "data"]).ok();
            assert_nothing_left(home);
        },
        from: "volumes.readying",
        until: "volumes.attached",
        monitors: Monitors::InTurns,
    }
    .run();
}

/// A first writer that dies before the volume is filled leaves it to those who only read: one has it filled, many read it then.
#[test]
fn readers_after_a_writer_that_died_early() {
    let home = Home::with_faults();
    let mount = "data:/etc:ro";
    let read = ["run", "--rm", "-v", mount, "busybox", "cat", "/etc/passwd"];
    for point in [
        "gourd volumes.attached",
        "gourd-vm vm.monitor-started",
        "gourd-vm vm.agent-greeted",
        "gourd-vm vm.guest-booted",
    ] {
        create(&home);
        std::fs::write(home.path("fault"), format!("{point} 1 kill")).expect("armed");
        assert_ne!(home.gourd(&WRITE).code, 0, "{point}");
        eventually("nothing holds it", || home.leftovers().is_empty());
        home.gourd(&["rm", "-f", "it"]);
        let found = home.gourd(&read).ok().text();
        assert!(found.contains("root:"), "{point}: {found}");
        for reading in [home.start(&read), home.start(&read)] {
            let found = finish(reading, &[]).ok().text();
            assert!(found.contains("root:"), "{point}: {found}");
        }
        home.gourd(&["volume", "rm", "data"]).ok();
    }
    assert_nothing_left(&home);
}
