//! The fault matrix: kill -9 at every fault point that a verb passes, in the process that passes it, and of each monitor
//! while its supervisor stands at one.
//!
//! A scenario runs once undisturbed, which tells its points; then once for each death. After each: what `ps` and `inspect`
//! say is what the kernel says, nothing is leaked, the same verb works again, and what was acknowledged is there: an id that
//! was printed, bytes that were synced in the guest. Oracles: /proc, e2fsck, the exit codes of a run that nobody disturbed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use testkit::image::{ImageBuilder, Layer};
use testkit::registry::Registry;

use crate::harness::{
    Home, Out, Processes, assert_ext4_clean, dead, eventually, finish, kill, names, stopped,
};

/// Writes and syncs, says so, and waits; ends with 3 when it is told to.
const SCRIPT: &str = "trap 'exit 3' TERM; if [ -f /kept ]; then echo again; cat /kept; \
                      else echo precious > /kept; sync; echo synced; fi; sleep 1000 & wait";

/// How long a point that lies behind the verb's own end may be waited for.
const LATE: Duration = Duration::from_secs(30);

/// A moment of a scenario: the nth time that a program passes a point.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Point {
    name: String,
    program: String,
    count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// Whoever stands at the point.
    Program,
    Vmm,
    Qemu,
}

struct Scenario<'a> {
    name: &'static str,
    /// Up to the moment before the verb.
    prepare: &'a dyn Fn(&Home),
    /// The verb. It must succeed when nobody disturbs it.
    act: &'a [&'a str],
    /// What must be true after it, undisturbed or not; and that it works again.
    check: &'a dyn Fn(&Home, &Out),
    /// Whom else to kill at the points of `gourd-vm`.
    monitors: &'a [Victim],
}

impl Scenario<'_> {
    /// Runs all of it; prints how many points were tried.
    fn run(&self) {
        let begin = Instant::now();
        let points = self.points();
        let (mut tried, mut failed) = (0, Vec::new());
        for point in &points {
            let monitors: &[Victim] = if point.program == "gourd-vm" {
                self.monitors
            } else {
                &[]
            };
            for victim in std::iter::once(&Victim::Program).chain(monitors) {
                match catch_unwind(AssertUnwindSafe(|| self.disturbed(point, *victim))) {
                    Ok(struck) => tried += u32::from(struck),
                    Err(_) => failed.push(format!("{victim:?} at {point:?}")),
                }
            }
        }
        println!(
            "fault matrix: {}: {} points, {tried} deaths, {:.0} s",
            self.name,
            points.len(),
            begin.elapsed().as_secs_f64()
        );
        assert!(failed.is_empty(), "{}: {failed:#?}", self.name);
        assert!(tried > 0, "{}: no point was passed", self.name);
    }

    /// The undisturbed run.
    fn points(&self) -> Vec<Point> {
        let home = Home::with_faults();
        (self.prepare)(&home);
        let passed = trace(&home).len();
        let out = home.gourd(self.act);
        let mut points = trace(&home).split_off(passed);
        let acted = points.len();
        // What a supervisor does after its last message belongs to the verb; what other commands do doesn't.
        if home.gourd(&["ps", "-q"]).ok().text().is_empty() {
            eventually("the supervisor has left", || home.leftovers().is_empty());
        }
        let late = trace(&home).split_off(passed + acted);
        points.extend(late.into_iter().filter(|(point, _)| point.program == "gourd-vm"));
        assert_eq!(out.code, 0, "undisturbed: {}", out.stderr);
        (self.check)(&home, &out);
        points.into_iter().map(|(point, _)| point).collect()
    }

    /// One death. False when there was nobody to kill.
    fn disturbed(&self, point: &Point, victim: Victim) -> bool {
        println!("{}: {victim:?} at {point:?}", self.name);
        let home = Home::with_faults();
        (self.prepare)(&home);
        let fault = home.path("fault");
        let action = if victim == Victim::Program {
            "kill"
        } else {
            "stop"
        };
        let line = format!("{} {} {} {action}", point.program, point.name, point.count);
        std::fs::write(&fault, line).expect("the fault is armed");
        let child = home.start(self.act);
        let struck = victim == Victim::Program || strike(&home, point, victim);
        let out = finish(child, &[]);
        let begin = Instant::now();
        while fault.exists() && begin.elapsed() < LATE {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!fault.exists(), "it never came to {point:?}");
        assert_state_true(&home);
        (self.check)(&home, &out);
        struck
    }
}

/// Kills a monitor while its supervisor stands at the point; false when it has none (any more).
fn strike(home: &Home, point: &Point, victim: Victim) -> bool {
    let find = || {
        let mut lines = trace(home).into_iter();
        lines.find_map(|(passed, pid)| (passed == *point && stopped(pid)).then_some(pid))
    };
    eventually("the supervisor stands at the point", || find().is_some());
    let supervisor = find().expect("it stands there");
    let processes = Processes::of(supervisor);
    let pid = match victim {
        Victim::Vmm => processes.vmm,
        Victim::Qemu => processes.qemu,
        Victim::Program => supervisor,
    };
    if pid != 0 {
        kill(pid, "-9");
        eventually("the monitor is dead", || dead(pid));
    }
    kill(supervisor, "-CONT");
    pid != 0
}

/// The points passed so far, each with the process.
fn trace(home: &Home) -> Vec<(Point, u32)> {
    let text = std::fs::read_to_string(home.path("trace")).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let (name, program) = (fields.next()?, fields.next()?);
        let (count, pid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let point = Point {
            name,
            program,
            count,
        };
        Some((point, pid))
    };
    text.lines()
        .map(|line| parse(line).unwrap_or_else(|| panic!("a line of the trace: {line:?}")))
        .collect()
}

/// `ps` and `inspect` say what /proc says, at once; and of what does not run nothing lives on.
fn assert_state_true(home: &Home) {
    let format = "{{.ID}} {{.State}}";
    let table = home.gourd(&["ps", "-a", "--no-trunc", "--format", format]);
    let table = table.ok().text();
    let mut running = 0;
    for line in table.lines() {
        let (id, state) = line.split_once(' ').expect("two words");
        let told = home.gourd(&["inspect", "-f", "{{.State.Status}} {{.State.Running}}", id]);
        let told = told.ok().text();
        assert_eq!(told, format!("{state} {}", state == "running"), "{id}");
        if state == "running" {
            running += 1;
            home.gourd(&["exec", id, "true"]).ok();
        }
    }
    if running == 0 {
        eventually("no process is left", || home.leftovers().is_empty());
    }
    let sockets = names(&home.root().join("run"));
    assert_eq!(sockets.len(), running, "sockets: {sockets:?}\n{table}");
}

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

fn assert_upper_clean(home: &Home) {
    let id = home.inspect("it", "{{.Id}}");
    assert_ext4_clean(&home.container(&id).join("upper.ext4"));
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
        monitors: &[],
    }
    .run();
}

#[test]
fn start_killed_anywhere() {
    Scenario {
        name: "start",
        prepare: &create,
        act: &["start", "it"],
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
        monitors: &[Victim::Vmm, Victim::Qemu],
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
        monitors: &[Victim::Vmm, Victim::Qemu],
    }
    .run();
}

#[test]
fn stop_killed_anywhere() {
    Scenario {
        name: "stop",
        prepare: &start,
        act: &["stop", "it"],
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
        monitors: &[Victim::Vmm, Victim::Qemu],
    }
    .run();
}

#[test]
fn rm_killed_anywhere() {
    Scenario {
        name: "rm",
        prepare: &create,
        act: &["rm", "it"],
        check: &|home, _| {
            if exists(home, "it") {
                assert_upper_clean(home);
                home.gourd(&["rm", "it"]).ok();
            }
            home.gourd(&["rm", "it"]).exits(125).says(&["it"]);
            clear(home);
        },
        monitors: &[],
    }
    .run();
}

#[test]
fn rm_of_a_running_container_killed_anywhere() {
    Scenario {
        name: "rm -f",
        prepare: &start,
        act: &["rm", "-f", "it"],
        check: &|home, _| {
            if exists(home, "it") {
                home.gourd(&["rm", "-f", "it"]).ok();
            }
            assert!(!exists(home, "it"));
            clear(home);
        },
        monitors: &[],
    }
    .run();
}

#[test]
fn run_rm_killed_anywhere() {
    Scenario {
        name: "run --rm",
        prepare: &|_| {},
        act: &["run", "--rm", "--name", "it", "busybox", "echo", "here"],
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
        monitors: &[],
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
        check: &|home, _| {
            let image = |reference: &str| home.gourd(&["image", "inspect", "-f", "{{.RootfsImage}}", reference]);
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
        monitors: &[],
    }
    .run();
}

#[test]
fn programs_that_people_get_have_no_fault_points() {
    let home = Home::new();
    let trace = home.path("trace");
    let mut create = home.command(&["create", "--name", "it", "busybox", "true"]);
    create.env("GOURD_FAULT_TRACE", &trace);
    let traced = home.path("with");
    let faulty = Home::with_faults();
    faulty
        .gourd(&["create", "--name", "it", "busybox", "true"])
        .ok();
    let points = self::trace(&faulty);
    assert!(!points.is_empty(), "the other programs have them");
    for (point, _) in points {
        let mut create = home.command(&["run", "--rm", "busybox", "true"]);
        create.env("GOURD_FAULT", &point.name);
        create.env("GOURD_FAULT_TRACE", &traced);
        let out = create.output().expect("it runs");
        assert_eq!(out.status.code(), Some(0), "{point:?}");
        break;
    }
    create.env("GOURD_FAULT", "renamed.spec.json");
    let out = create.output().expect("it runs");
    assert_eq!(out.status.code(), Some(0));
    assert!(!trace.exists() && !traced.exists(), "points were traced");
    for program in ["gourd", "gourd-vm", "gourd-vmm", "gourd-init"] {
        let bytes = std::fs::read(crate::harness::programs().join(program)).expect("a program");
        let found = bytes.windows(11).any(|window| window == b"GOURD_FAULT");
        assert!(!found, "{program} knows of fault points");
    }
}
