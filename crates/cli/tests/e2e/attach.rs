//! Joining and leaving what runs: attach, detach keys, terminals that are themselves again afterwards. tmux is the terminal.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Home, dead, eventually};
use crate::terminal::Tmux;

/// The terminal's settings are those of a shell: line editing, echo, signals.
#[track_caller]
fn is_itself(tmux: &Tmux) {
    tmux.type_line(
        "clear; stty -a | tr ' ' '\\n' | grep -cE '^(icanon|echo|isig)$'; echo checked=$((6*7))",
    );
    tmux.shows("checked=42");
    tmux.shows("3\nchecked=42");
}

fn keys(tmux: &Tmux, keys: &[&str]) {
    let mut line = vec!["send-keys", "-t", "t"];
    line.extend(keys);
    tmux.tell(&line);
}

#[test]
fn leaving_and_coming_back() {
    let home = Home::new();
    let tmux = Tmux::start(&home);
    tmux.gourd("run -it --rm --name box busybox sh");
    tmux.shows("/ #");
    tmux.type_line("mark=41; echo ready=$((mark+1)) term=$TERM");
    tmux.shows("ready=42 term=");
    let screen = tmux.screen();
    assert!(
        screen.contains("term=tmux") || screen.contains("term=screen"),
        "{screen}"
    );
    // A lone ctrl-p is the program's, once the next key says so; then the two that leave.
    keys(&tmux, &["C-p", "C-q"]);
    tmux.shows("host>");
    is_itself(&tmux);
    assert_eq!(home.inspect("box", "{{.State.Status}}"), "running");
    tmux.type_line("clear");
    tmux.gourd("attach --detach-keys ctrl-x,y box");
    std::thread::sleep(Duration::from_millis(500));
    tmux.type_line("echo back=$mark");
    tmux.shows("back=41");
    keys(&tmux, &["C-x", "y"]);
    tmux.shows("host>");
    is_itself(&tmux);
    // The same for one more program.
    tmux.type_line("clear");
    tmux.gourd("exec -it box sh");
    tmux.shows("/ #");
    tmux.type_line("exec sleep 1003");
    std::thread::sleep(Duration::from_millis(500));
    keys(&tmux, &["C-p", "C-q"]);
    tmux.shows("host>");
    let top = home.gourd(&["top", "box"]).ok().text();
    assert!(top.contains("sleep 1003"), "{top}");
    // The container is gone with its shell, as --rm asked for.
    tmux.type_line("clear");
    tmux.gourd("attach box; echo code=$?");
    std::thread::sleep(Duration::from_millis(500));
    tmux.type_line("exit 5");
    tmux.shows("code=5");
    is_itself(&tmux);
    eventually("it is removed", || {
        home.gourd(&["ps", "-aq"]).text().is_empty()
    });
    let events = home
        .gourd(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--format",
            "{{.Action}}",
        ])
        .ok()
        .text();
    assert_eq!(
        events.lines().filter(|line| *line == "detach").count(),
        2,
        "{events}"
    );
    drop(tmux);
    eventually("nothing is left", || home.leftovers().is_empty());
    home.assert_nothing_left();
}

#[test]
fn a_supervisor_that_dies_gives_the_terminal_back() {
    let home = Home::new();
    let tmux = Tmux::start(&home);
    tmux.gourd("run -it --name box busybox sh; echo code=$?");
    tmux.shows("/ #");
    let id = home.inspect("box", "{{.Id}}");
    let supervisor = home.processes(&id).supervisor.to_string();
    Command::new("kill")
        .args(["-9", &supervisor])
        .status()
        .unwrap();
    tmux.shows("code=125");
    is_itself(&tmux);
}

#[test]
fn a_stopped_command_gives_the_terminal_back_for_as_long() {
    let home = Home::new();
    let tmux = Tmux::start(&home);
    tmux.type_line("set -m");
    tmux.gourd("run -it --rm --name box busybox sh");
    tmux.shows("/ #");
    let pid = |home: &Home| {
        let found = home
            .leftovers()
            .into_iter()
            .find(|name| name.ends_with(" gourd"));
        found
            .and_then(|name| name.split(' ').next().map(str::to_owned))
            .expect("the command")
    };
    // Sent by somebody else, as ctrl-z is the guest's.
    Command::new("kill")
        .args(["-TSTP", &pid(&home)])
        .status()
        .unwrap();
    tmux.shows("host>");
    is_itself(&tmux);
    tmux.tell(&["resize-window", "-t", "t", "-x", "77", "-y", "22"]);
    tmux.type_line("clear; fg");
    std::thread::sleep(Duration::from_millis(500));
    tmux.type_line("stty size; echo raw=$((40+2))");
    tmux.shows("raw=42");
    tmux.shows("22 77");
    tmux.type_line("exit");
    tmux.shows("host>");
    is_itself(&tmux);
}

#[test]
fn attach_without_a_terminal() {
    let home = Home::new();
    let script = "trap 'echo caught; exit 7' USR1; echo begun; while :; do sleep 0.2; done";
    home.gourd(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script])
        .ok();
    // Whoever attaches gets what comes from then on.
    eventually("it has begun", || {
        home.gourd(&["logs", "box"]).text().contains("begun")
    });
    let attached = home.start(&["attach", "box"]);
    let silent = home
        .command(&["attach", "--no-stdin", "--sig-proxy=false", "box"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("gourd starts");
    std::thread::sleep(Duration::from_secs(1));
    // Not passed on: it ends the command only.
    Command::new("kill")
        .args(["-USR1", &silent.id().to_string()])
        .status()
        .unwrap();
    eventually("it has left", || dead(silent.id()));
    silent.wait_with_output().unwrap();
    assert_eq!(home.inspect("box", "{{.State.Status}}"), "running");
    Command::new("kill")
        .args(["-USR1", &attached.id().to_string()])
        .status()
        .unwrap();
    eventually("it has ended", || dead(attached.id()));
    let out = attached.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(7));
    assert_eq!(out.stdout, b"caught\n");
    home.gourd(&["attach", "box"])
        .exits(125)
        .says(&["is not running"]);
}

/// stdin of a container that was started with -i and left open belongs to whoever attaches; their end is not its end.
#[test]
fn input_by_attach() {
    let home = Home::new();
    home.gourd(&[
        "run",
        "-d",
        "-i",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "while read line; do echo got $line; done",
    ])
    .ok();
    for word in ["one", "two"] {
        let mut attached = home.start(&["attach", "box"]);
        use std::io::{BufRead, Write};
        let mut stdin = attached.stdin.take().unwrap();
        writeln!(stdin, "{word}").unwrap();
        let mut line = String::new();
        std::io::BufReader::new(attached.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, format!("got {word}\n"));
        drop(stdin);
        attached.kill().unwrap();
        attached.wait().unwrap();
    }
    assert_eq!(home.inspect("box", "{{.State.Status}}"), "running");
    assert_eq!(home.gourd(&["logs", "box"]).ok().text(), "got one\ngot two");
}
