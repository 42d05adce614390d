//! The machine of the fault matrix: a scenario, its points, and a death at each.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::harness::{Home, Out, Processes, dead, eventually, finish, kill, names, stopped};

/// How long a point that lies behind the verb's own end may be waited for.
const LATE: Duration = Duration::from_secs(30);

/// A moment of a scenario: the nth time that a program passes a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub name: String,
    pub program: String,
    pub count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// Whoever stands at the point.
    Program,
    Vmm,
    Qemu,
}

pub struct Scenario<'a> {
    pub name: &'static str,
    /// Up to the moment before the verb.
    pub prepare: &'a dyn Fn(&Home),
    /// The verb. It must succeed when nobody disturbs it.
    pub act: &'a [&'a str],
    /// What comes of it by itself: up to when its points count.
    pub settle: &'a dyn Fn(&Home),
    /// What must be true after it, undisturbed or not; and that it works again.
    pub check: &'a dyn Fn(&Home, &Out),
    /// The first point that counts; all of them when it is empty: what is before is another scenario's.
    pub from: &'a str,
    /// The last one that counts; likewise.
    pub until: &'a str,
    /// Whom else to kill at the points of `gourd-vm`.
    pub monitors: Monitors,
}

/// Which monitors die at a point at which there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitors {
    /// Another scenario has it.
    None,
    /// One at this point, the other one at the next: a VM's start costs seconds.
    InTurns,
    /// Each, one after the other.
    Both,
}

impl Monitors {
    fn at(self, turn: usize) -> &'static [Victim] {
        match self {
            Monitors::None => &[],
            Monitors::InTurns if turn.is_multiple_of(2) => &[Victim::Vmm],
            Monitors::InTurns => &[Victim::Qemu],
            Monitors::Both => &[Victim::Vmm, Victim::Qemu],
        }
    }
}

impl Scenario<'_> {
    /// Runs all of it; prints how many points were tried.
    pub fn run(&self) {
        let begin = Instant::now();
        let points = self.points();
        let (mut tried, mut failed) = (0, Vec::new());
        // A verb that does not start the VM finds it there.
        let mut monitored = points
            .iter()
            .all(|point| point.name != "vm.monitor-started");
        for (turn, point) in points.iter().enumerate() {
            match point.name.as_str() {
                "vm.monitor-started" => monitored = true,
                "vm.monitor-gone" => monitored = false,
                _ => {}
            }
            let monitors = if monitored && point.program == "gourd-vm" {
                self.monitors.at(turn)
            } else {
                &[]
            };
            for victim in std::iter::once(&Victim::Program).chain(monitors) {
                match catch_unwind(AssertUnwindSafe(|| self.disturbed(point, *victim))) {
                    Ok(struck) => tried += u32::from(struck),
                    Err(_) => {
                        let case = format!("{victim:?} at {point:?}");
                        println!("{}: failed: {case}", self.name);
                        failed.push(case);
                    }
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
        (self.settle)(&home);
        if home.gourd(&["ps", "-q"]).ok().text().is_empty() {
            eventually("the supervisor has left", || home.leftovers().is_empty());
        }
        let late = trace(&home).split_off(passed + acted);
        points.extend(
            late.into_iter()
                .filter(|(point, _)| point.program == "gourd-vm"),
        );
        assert_eq!(out.code, 0, "undisturbed: {}", out.stderr);
        (self.check)(&home, &out);
        let at = |name: &str| {
            let mut names = points.iter().map(|(point, _)| &point.name);
            let at = names.position(|other| *other == name);
            assert!(name.is_empty() || at.is_some(), "no {name} in {points:?}");
            at
        };
        let (first, last) = (at(self.from), at(self.until));
        points.truncate(last.map_or(points.len(), |last| last + 1));
        points.drain(..first.unwrap_or(0));
        distinct(points)
    }

    /// One death. False when there was nobody to kill.
    fn disturbed(&self, point: &Point, victim: Victim) -> bool {
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
        (self.settle)(&home);
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

/// Without those at which nothing has changed since the point before, of the same process.
fn distinct(points: Vec<(Point, u32)>) -> Vec<Point> {
    const DONE: [&str; 3] = ["renamed.", "removed.", "made."];
    let mut last: BTreeMap<u32, bool> = BTreeMap::new();
    let mut kept = Vec::new();
    for (point, pid) in points {
        let done = DONE.iter().any(|done| point.name.starts_with(done));
        let after_done = last.insert(pid, done).unwrap_or(false);
        let same = point.name == "events.append"
            || point.name.starts_with("remove..")
            || after_done && !done && !point.name.starts_with("rename.");
        if !same {
            kept.push(point);
        }
    }
    kept
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
pub fn trace(home: &Home) -> Vec<(Point, u32)> {
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
            let exec = home.gourd(&["exec", id, "true"]);
            if exec.code != 0 {
                // It was about to end: the client that it waited for is dead.
                eventually("it is removed, or ends", || {
                    let told = home.gourd(&["inspect", "-f", "{{.State.Running}}", id]);
                    told.code != 0 || told.text() == "false"
                });
                running -= 1;
            }
        }
    }
    if running == 0 {
        eventually("no process is left", || home.leftovers().is_empty());
    }
    let sockets = names(&home.root().join("run"));
    assert_eq!(sockets.len(), running, "sockets: {sockets:?}\n{table}");
}
