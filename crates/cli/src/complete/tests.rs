//! Tables of what is offered where. Names of containers and images are the end-to-end tests' affair.

use clap::Parser as _;

use super::*;

fn answer(line: &str) -> Answer {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let current = words.pop().unwrap_or_default();
    let mut command = Gourd::command();
    command.build();
    Place::find(&command, &words).answer(&current, &Known::nothing())
}

#[test]
fn commands_flags_and_values() {
    let check = |line: &str, expect: &[&str]| {
        let found = answer(line);
        let names: Vec<_> = found
            .candidates
            .iter()
            .map(|(value, _)| value.as_str())
            .collect();
        for wanted in expect {
            assert!(
                names.contains(wanted),
                "{line:?}: {wanted} is not in {names:?}"
            );
        }
        if expect.is_empty() {
            assert_eq!(names, [""; 0], "{line:?}");
        }
    };
    check("", &["run", "ps", "images", "system", "completion"]);
    check("im", &["images", "image", "import"]);
    check("image ", &["ls", "prune", "tag"]);
    check("system kernel a", &["add"]);
    check("ps --no", &["--no-trunc"]);
    check("ps -", &["-a", "--all"]);
    check("kill -s ", &["TERM", "KILL"]);
    check("kill -s K", &["KILL"]);
    check("kill --signal=U", &["--signal=USR1"]);
    check("run --pull=al", &["--pull=always"]);
    check("run --pull ", &["always", "missing", "never"]);
    check("run --restart a", &["always"]);
    check("inspect --type c", &["container"]);
    check("images --filter d", &["dangling="]);
    check("run --rm=", &["--rm=true", "--rm=false"]);
    check("run --sig-proxy=f", &["--sig-proxy=false"]);
    // No value waits: -e is a letter of "false".
    check("run -d=false --pull ", &["always"]);
    check("run -d=true --pul", &["--pull"]);
    check("completion ", &["bash", "fish", "zsh"]);
    // The program's own.
    check("run -it img --", &[]);
    check("run img ps -", &[]);
    check("exec box ls -", &[]);
    // After `--` there are no flags.
    check("rm -- -", &[]);
    check("rm -f -", &["--force"]);
    check("nope ", &[]);
    check("--root /x p", &["ps", "pull", "pause"]);
}

#[test]
fn flags_of_one_letter_take_their_values() {
    // -itm512m has its value, -m waits for one, and then comes the image.
    assert_eq!(answer("run -itm512m --pul").candidates[0].0, "--pull");
    assert_eq!(answer("run -m --pul").candidates, []);
    assert_eq!(answer("run -m 512m --pul").candidates[0].0, "--pull");
}

#[test]
fn files_where_files_are_meant() {
    let check = |line: &str, expect: Files| assert_eq!(answer(line).files, expect, "{line:?}");
    check("load -i ", Files::Any);
    check("load --input=", Files::Any);
    check("save -o a", Files::Any);
    check("import ", Files::Any);
    check("--root ", Files::Folders);
    check("system kernel add k ", Files::Any);
    check("run img ", Files::Any);
    check("ps ", Files::No);
    check("run ", Files::No);
    check("cp ", Files::Any);
    assert!(answer("cp ").nospace);
    check("run -v ./", Files::Any);
    check("run -v da", Files::No);
    check("run -v ./a:/", Files::No);
    assert!(answer("run -v da").nospace && answer("run -v ./").nospace);
}

#[test]
fn the_last_line_is_for_the_shell() {
    let check = |line: &str, expect: &str| {
        let text = text(&answer(line));
        assert_eq!(text.lines().last(), Some(expect), "{line:?}");
    };
    check("ps -", ":");
    check("load -i ", ": files");
    check("cp ", ": files nospace");
    let text = text(&answer("image pru"));
    assert_eq!(text, "prune\tRemove images that nobody uses\n:\n");
}

/// Every filter that is offered is taken, and those of `ps` are all that it takes.
#[test]
fn filters_are_those_that_there_are() {
    for verb in [
        "ps",
        "container list",
        "images",
        "image ls",
        "volume ls",
        "volume prune",
        "container prune",
        "image prune",
        "system prune",
        "events",
        "system events",
    ] {
        let offered = answer(&format!("{verb} --filter ")).candidates;
        assert!(!offered.is_empty(), "{verb}");
        for (key, _) in &offered {
            let value = match key.as_str() {
                "all=" | "dangling=" => "true",
                "exited=" => "0",
                "expose=" | "publish=" => "80",
                "health=" => "none",
                "status=" => "running",
                "type=" => "container",
                "until=" => "1h",
                _ => "x",
            };
            let filter = format!("{key}{value}");
            let words = ["gourd"].into_iter().chain(verb.split(' '));
            let line = words.chain(["--filter", filter.as_str()]);
            let read = Gourd::try_parse_from(line);
            assert!(read.is_ok(), "{verb} --filter {filter}");
        }
    }
    let of = |line: &str| answer(line).candidates.len();
    assert_eq!(of("ps --filter "), crate::args::value::FILTERS.len());
    assert_eq!(of("events --filter net"), 1);
}

/// Whoever types may have typed anything.
#[test]
fn nothing_panics() {
    for line in [
        "- -",
        "-- --",
        "run -é",
        "--root",
        "--root=",
        "run --",
        "-",
        "exec -",
        "\u{0} x",
        "run -- - ",
    ] {
        answer(line);
        answer(&format!("{line} "));
    }
}
