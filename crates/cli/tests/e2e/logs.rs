//! `logs`: rotated, by time, followed over rotations and restarts.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use crate::harness::{Home, dead, eventually, names};

/// Lines that say which they are.
const COUNT: &str = "i=0; while [ $i -lt $0 ]; do echo \"line $i\"; i=$((i+1)); done";

fn numbers(text: &str) -> Vec<u64> {
    text.lines()
        .map(|line| {
            line.strip_prefix("line ")
                .and_then(|number| number.parse().ok())
        })
        .map(|number| number.unwrap_or_else(|| panic!("a line that is none in {text:?}")))
        .collect()
}

#[test]
fn rotated_files_are_read_as_one() {
    let home = Home::new();
    let limits = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
    let mut line = vec!["run", "-d", "--name", "box"];
    line.extend(limits);
    line.extend(["busybox", "sh", "-c", COUNT, "20000"]);
    let id = home.gourd(&line).ok().text();
    home.gourd(&["wait", "box"]).ok();
    let logs: Vec<_> = names(&home.container(&id).join("logs"))
        .into_iter()
        .filter(|name| name.starts_with("output.log"))
        .collect();
    assert_eq!(logs, ["output.log", "output.log.1", "output.log.2"]);
    let all = numbers(&home.gourd(&["logs", "box"]).ok().text());
    let first = all[0];
    assert_eq!(all, (first..20000).collect::<Vec<_>>());
    assert!(first > 0);
    let tail = numbers(&home.gourd(&["logs", "-n", "700", "box"]).ok().text());
    assert_eq!(tail, (19300..20000).collect::<Vec<_>>());
    let none = home.gourd(&["logs", "--until", "1h", "box"]).ok();
    assert_eq!(none.text(), "");
    let all_of_it = home.gourd(&["logs", "--since", "1h", "box"]).ok();
    assert_eq!(numbers(&all_of_it.text()), all);
    // A moment out of the log itself cuts it in two.
    let timed = home.gourd(&["logs", "-t", "box"]).ok().text();
    let middle = timed.lines().nth(all.len() / 2).unwrap();
    let moment = middle.split(' ').next().unwrap();
    let since = numbers(&home.gourd(&["logs", "--since", moment, "box"]).ok().text());
    let until = numbers(&home.gourd(&["logs", "--until", moment, "box"]).ok().text());
    assert_eq!(*since.last().unwrap(), 19999);
    assert_eq!(until[0], first);
    assert!(until.last() >= since.first().map(|first| first - 1).as_ref());
}

#[test]
fn followed_over_rotations_and_restarts() {
    let home = Home::new();
    // Each run writes 400 lines over several files' worth; it is started again until it has failed three times.
    let script =
        "echo x >>/runs; i=0; while [ $i -lt 400 ]; do echo \"line $i\"; i=$((i+1)); done; exit 1";
    home.gourd(&[
        "run",
        "-d",
        "--name",
        "box",
        "--restart",
        "on-failure:2",
        "--log-opt",
        "max-size=4k",
        "--log-opt",
        "max-file=20",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    let followed = home.gourd(&["logs", "-f", "box"]).ok().text();
    let once: Vec<u64> = (0..400).collect();
    assert_eq!(
        numbers(&followed),
        [once.clone(), once.clone(), once].concat()
    );
    assert_eq!(home.gourd(&["logs", "box"]).ok().text(), followed);
}

#[test]
fn each_line_comes_as_it_is_written() {
    let home = Home::new();
    home.gourd(&[
        "run", "-d", "--name", "box", "busybox", "sh", "-c",
        "trap 'exit 0' TERM; printf 'bin\\0\\377\\n'; echo err >&2; while :; do sleep 0.2; echo tick; done",
    ])
    .ok();
    let mut follow = home.start(&["logs", "-f", "box"]);
    let mut lines = BufReader::new(follow.stdout.take().unwrap());
    let mut first = Vec::new();
    lines.read_until(b'\n', &mut first).unwrap();
    assert_eq!(first, b"bin\0\xff\n");
    for _ in 0..3 {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "tick\n");
    }
    // It ends by itself at a time that was asked for.
    let began = Instant::now();
    let until = std::time::SystemTime::now() + Duration::from_secs(2);
    let until = until
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .to_string();
    home.gourd(&["logs", "-f", "--until", &until, "box"]).ok();
    assert!(began.elapsed() < Duration::from_secs(30));
    home.gourd(&["stop", "-t", "20", "box"]).ok();
    eventually("the follower has ended", || dead(follow.id()));
    assert!(follow.wait().unwrap().success());
}
