//! Several commands at once: one wins, the others are told, and what `ps` says is true at each moment.

use std::io::{BufRead, BufReader};
use std::process::Child;

use testkit::image::{ImageBuilder, Layer};
use testkit::registry::Registry;

use crate::harness::{Home, Out, eventually, finish, kill, names};

/// Starts all, then waits for all.
fn at_once(home: &Home, lines: &[Vec<&str>]) -> Vec<Out> {
    let children: Vec<Child> = lines.iter().map(|line| home.start(line)).collect();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = children
            .into_iter()
            .map(|child| scope.spawn(move || finish(child, &[])))
            .collect();
        let joined = waiting.into_iter().map(|thread| thread.join());
        joined.map(|out| out.expect("a command")).collect()
    })
}

fn codes(outs: &[Out]) -> Vec<i32> {
    outs.iter().map(|out| out.code).collect()
}

#[test]
fn one_name_has_one_winner() {
    let home = Home::new();
    for round in 0..5 {
        let line = vec!["create", "--name", "same", "busybox", "true"];
        let outs = at_once(&home, &vec![line; 8]);
        let won = outs.iter().filter(|out| out.code == 0).count();
        assert_eq!(won, 1, "round {round}: {outs:?}");
        for out in outs.into_iter().filter(|out| out.code != 0) {
            out.exits(125).says(&["the name same is in use", "hint:"]);
        }
        assert_eq!(home.gourd(&["ps", "-aq"]).ok().text().lines().count(), 1);
        home.gourd(&["rm", "same"]).ok();
        home.assert_nothing_left();
    }
}

#[test]
fn one_name_renamed_to_has_one_winner() {
    let home = Home::new();
    let olds = ["one", "two", "three", "four"];
    for old in olds {
        home.gourd(&["create", "--name", old, "busybox", "true"])
            .ok();
    }
    let lines: Vec<_> = olds.iter().map(|old| vec!["rename", old, "best"]).collect();
    let outs = at_once(&home, &lines);
    let won = outs.iter().filter(|out| out.code == 0).count();
    assert_eq!(won, 1, "{outs:?}");
    let listed = home.gourd(&["ps", "-a", "--format", "{{.Names}}"]).ok();
    let listed = listed.text();
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert_eq!(listed.lines().filter(|name| *name == "best").count(), 1);
}

#[test]
fn two_starts_of_one_container_start_it_once() {
    let home = Home::new();
    let id = home
        .gourd(&["create", "--name", "it", "busybox", "sleep", "1000"])
        .ok()
        .text();
    let outs = at_once(&home, &vec![vec!["start", "it"]; 3]);
    assert_eq!(codes(&outs), [0, 0, 0], "as Docker: {outs:?}");
    let processes = home.processes(&id);
    let supervisors = home.leftovers();
    let supervisors = supervisors
        .iter()
        .filter(|process| process.ends_with(" gourd-vm"))
        .count();
    assert_eq!(supervisors, 1, "{processes:?}");
    assert_eq!(names(&home.root().join("run")).len(), 1);
}

#[test]
fn removing_what_the_other_starts() {
    let home = Home::new();
    for round in 0..4 {
        home.gourd(&["create", "--name", "it", "busybox", "sleep", "1000"])
            .ok();
        let remove = if round % 2 == 0 {
            vec!["rm", "it"]
        } else {
            vec!["rm", "-f", "it"]
        };
        let outs = at_once(&home, &[vec!["start", "it"], remove]);
        let there = home.gourd(&["inspect", "it"]).code == 0;
        match codes(&outs)[..] {
            // Started, then removed by force; or removed first, which start does not call a success.
            [0, 0] => assert!(round % 2 == 1 && !there, "{outs:?}"),
            [0, 125] => {
                assert!(there, "{outs:?}");
                assert!(outs[1].stderr.contains("running"), "{outs:?}");
                assert_eq!(home.inspect("it", "{{.State.Status}}"), "running");
            }
            [125, 0] => assert!(!there, "{outs:?}"),
            _ => panic!("round {round}: {outs:?}"),
        }
        for out in outs.iter().filter(|out| out.code != 0) {
            assert!(out.stderr.contains("hint:"), "{out:?}");
        }
        if there {
            home.gourd(&["rm", "-f", "it"]).ok();
        }
        eventually("nothing of it lives", || home.leftovers().is_empty());
        home.assert_nothing_left();
    }
}

#[test]
fn starting_while_it_stops() {
    let home = Home::new();
    home.sleeper(&["--name", "it", "--stop-signal", "KILL"]);
    for round in 0..3 {
        let outs = at_once(&home, &[vec!["stop", "it"], vec!["start", "it"]]);
        assert_eq!(outs[0].code, 0, "round {round}: {outs:?}");
        // It found the old run, which is fine as it is with Docker; or it waited for its end.
        assert!([0, 125].contains(&outs[1].code), "{outs:?}");
        let status = home.inspect("it", "{{.State.Status}}");
        assert!(["running", "exited"].contains(&status.as_str()), "{status}");
        home.gourd(&["start", "it"]).ok();
        home.gourd(&["exec", "it", "true"]).ok();
    }
}

#[test]
fn pruning_while_pulling() {
    let home = Home::new();
    let layout = home.path("layout");
    // Large enough to be caught on the way.
    let noise: Vec<u8> = (0..8_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    ImageBuilder::new()
        .layer(Layer::new().file("one", &noise))
        .layer(Layer::new().file("two", &noise[1000..]))
        .write_layout(&layout, "it")
        .expect("a layout");
    let registry = Registry::start().expect("docker-registry starts");
    registry
        .push(&format!("oci:{}:it", layout.display()), "large:1")
        .expect("skopeo pushes");
    let reference = registry.reference("large:1");
    for round in 0..6 {
        home.gourd(&["tag", "busybox", "extra:1"]).ok();
        let outs = at_once(
            &home,
            &[
                vec!["pull", &reference],
                vec!["image", "prune", "-f"],
                vec!["rmi", "extra:1"],
                vec!["image", "prune", "-f"],
            ],
        );
        for out in &outs {
            assert_eq!(out.code, 0, "round {round}: {outs:?}");
        }
        // All of it is here: a container can be made of it.
        home.gourd(&["create", "--name", "it", &reference, "/one"])
            .ok();
        home.gourd(&["rm", "it"]).ok();
        home.gourd(&["rmi", &reference]).ok();
    }
    assert_eq!(home.gourd(&["images", "-q"]).ok().text().lines().count(), 2);
    for (folder, count) in [("content/ingest", 0), ("rootfs", 2)] {
        assert_eq!(names(&home.root().join(folder)).len(), count, "{folder}");
    }
}

#[test]
fn eight_at_once_and_ps_is_right_at_each_moment() {
    const NAMES: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];
    let home = Home::new();
    let format = "{{.Action}} {{.Actor.Attributes.name}}";
    let mut events = home.start(&["events", "--filter", "type=container", "--format", format]);
    let mut moments = BufReader::new(events.stdout.take().expect("piped")).lines();
    let state = |name: &str| home.inspect(name, "{{.State.Status}}");
    let listed = |args: &[&str]| {
        let mut line = vec!["ps", "--format", "{{.Names}}"];
        line.extend(args);
        let mut names: Vec<_> = home
            .gourd(&line)
            .ok()
            .text()
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    };
    let starting: Vec<_> = NAMES
        .iter()
        .map(|name| {
            home.start(&[
                "run", "-d", "--name", name, "-m", "128m", "busybox", "sleep", "1000",
            ])
        })
        .collect();
    // Each start event: from now on it is listed, and stays.
    let mut started = Vec::new();
    while started.len() < NAMES.len() {
        let line = moments.next().expect("events go on").expect("a line");
        let Some(("start", name)) = line.split_once(' ') else {
            continue;
        };
        started.push(name.to_owned());
        let running = listed(&[]);
        for name in &started {
            assert!(running.contains(name), "{name} runs: {running:?}");
        }
    }
    for child in starting {
        finish(child, &[]).ok();
    }
    assert_eq!(listed(&[]), NAMES);
    // Each answers for itself, all at once.
    let lines: Vec<_> = NAMES
        .iter()
        .map(|name| vec!["exec", name, "hostname"])
        .collect();
    let mut answers: Vec<_> = at_once(&home, &lines)
        .into_iter()
        .map(|out| out.ok().text())
        .collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), NAMES.len(), "{answers:?}");
    // Each end: from now on it is not listed, and exited.
    let mut line = vec!["stop", "-t", "0"];
    line.extend(NAMES);
    let stopping = home.start(&line);
    let mut ended = Vec::new();
    while ended.len() < NAMES.len() {
        let line = moments.next().expect("events go on").expect("a line");
        let Some(("die", name)) = line.split_once(' ') else {
            continue;
        };
        assert_eq!(state(name), "exited");
        ended.push(name.to_owned());
        let running = listed(&[]);
        for name in &ended {
            assert!(!running.contains(name), "{name} has ended: {running:?}");
        }
    }
    finish(stopping, &[]).ok();
    assert_eq!(listed(&["-a"]), NAMES);
    kill(events.id(), "-INT");
    let _ = events.wait();
}
