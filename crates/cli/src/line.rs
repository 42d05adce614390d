//! From the words of the command line to what is asked for, or to why it cannot be read.
//!
//! clap does the reading. Booleans with a value (`--rm=false`, `-d=true`) are Docker's and not clap's: a line that cannot be
//! read without them is read again with them. So lines without them cost nothing, and help shows none of it.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, Command, CommandFactory as _, FromArgMatches as _, Parser as _};

use crate::args::{Gourd, Verb, container, value};

/// Why a line is not done.
#[derive(Debug)]
pub enum Refusal {
    /// It asks for help, or names no verb.
    Help(clap::Error),
    /// It asks for the version.
    Version,
    /// It cannot be read: the whole text.
    Wrong(String),
}

/// What stands for the value of a boolean, for a moment, in clap's words.
const MARK: &str = "=";

/// [`MARK`] as clap writes it after a flag.
const MARKED: &str = "[=<=>]";

/// Flags of Docker's `run` and `create` that there are none of here. Whoever types one mistypes nothing.
const DOCKERS: [&str; 40] = [
    "annotation",
    "blkio-weight",
    "blkio-weight-device",
    "cgroup-parent",
    "cgroupns",
    "cpu-count",
    "cpu-percent",
    "cpu-period",
    "cpu-quota",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpu-shares",
    "cpuset-cpus",
    "cpuset-mems",
    "device",
    "device-cgroup-rule",
    "device-read-bps",
    "device-read-iops",
    "device-write-bps",
    "device-write-iops",
    "disable-content-trust",
    "dns-option",
    "domainname",
    "gpus",
    "ipc",
    "isolation",
    "link",
    "link-local-ip",
    "log-driver",
    "mac-address",
    "memory-reservation",
    "memory-swap",
    "memory-swappiness",
    "oom-kill-disable",
    "pid",
    "runtime",
    "userns",
    "uts",
    "volume-driver",
    "volumes-from",
];

/// Reads the command line. The parser of all verbs takes a millisecond to make: those that are called most often have one
/// of their own, and what it does not take goes to the whole one, which says what is wrong.
pub fn parse(line: &[OsString]) -> Result<Gourd, Refusal> {
    let quick = match line.get(1).and_then(|verb| verb.to_str()) {
        Some("run") => quick(line, |run| container::Verb::Run(Box::new(run))),
        Some("create") => quick(line, |create| container::Verb::Create(Box::new(create))),
        Some("start") => quick(line, container::Verb::Start),
        Some("exec") => quick(line, container::Verb::Exec),
        Some("rm") => quick(line, container::Verb::Rm),
        Some("ps" | "ls") => quick(line, container::Verb::Ps),
        _ => None,
    };
    match quick {
        Some(verb) => Ok(Gourd {
            root: None,
            max_unpacked: None,
            print_version: None,
            verb: Verb::Containers(verb),
        }),
        None => whole(line),
    }
}

fn quick<A: Args>(line: &[OsString], verb: fn(A) -> container::Verb) -> Option<container::Verb> {
    let command = A::augment_args(Command::new("gourd").args_override_self(true));
    let found = command.try_get_matches_from(&line[1..]).ok()?;
    A::from_arg_matches(&found).ok().map(verb)
}

fn whole(line: &[OsString]) -> Result<Gourd, Refusal> {
    let refusal = match Gourd::try_parse_from(line) {
        Ok(gourd) => return Ok(gourd),
        Err(refusal) => refusal,
    };
    match refusal.kind() {
        ErrorKind::DisplayVersion => Err(Refusal::Version),
        ErrorKind::DisplayHelp => Err(Refusal::Help(refusal)),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Err(help(line, refusal)),
        _ => with_truths(line),
    }
}

/// Reads it again, with booleans that may have values.
fn with_truths(line: &[OsString]) -> Result<Gourd, Refusal> {
    let found = truths(Gourd::command()).try_get_matches_from(line);
    let refusal = match found.and_then(|found| Gourd::from_arg_matches(&found)) {
        Ok(gourd) => return Ok(gourd),
        Err(refusal) => refusal,
    };
    Err(match refusal.kind() {
        ErrorKind::DisplayVersion => Refusal::Version,
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            help(line, refusal)
        }
        _ => Refusal::Wrong(text(refusal)),
    })
}

/// Lets the booleans of a command, and of those below it, take Docker's values after a `=`. `-it` stays `-i -t`.
fn truths(command: Command) -> Command {
    command
        .mut_args(|arg| {
            if !matches!(arg.get_action(), ArgAction::SetTrue) {
                return arg;
            }
            arg.num_args(0..=1)
                .require_equals(true)
                .value_name(MARK)
                .value_parser(value::Truth)
                .hide_possible_values(true)
        })
        .mut_subcommands(truths)
}

/// The help of the command that a line names, on stdout and without what [`truths`] adds. What flags are set to is nobody's
/// concern then.
fn help(line: &[OsString], refusal: clap::Error) -> Refusal {
    let has_value = |word: &OsString| {
        let bytes = word.as_encoded_bytes();
        bytes.starts_with(b"-") && bytes.contains(&b'=')
    };
    let words = line.iter().filter(|word| !has_value(word)).cloned();
    match Gourd::try_parse_from(words.chain(["-h".into()])) {
        Err(help) if help.kind() == ErrorKind::DisplayHelp => Refusal::Help(help),
        _ => Refusal::Help(refusal),
    }
}

/// clap's words in the form of all other failures.
fn text(mut refusal: clap::Error) -> String {
    drop_wrong_tips(&mut refusal);
    let said = refusal.to_string().replace(MARKED, "");
    let said = said.strip_prefix("error: ").unwrap_or(&said).trim_end();
    let (said, hint) = match said.rsplit_once("For more information, try '--help'.") {
        Some((said, _)) => (said.trim_end(), "  hint: add --help to see what there is\n"),
        None => (said, ""),
    };
    format!("gourd: {said}\n{hint}")
}

/// clap finds something similar to anything, and takes an unknown flag for the name of an image.
fn drop_wrong_tips(refusal: &mut clap::Error) {
    if refusal.kind() != ErrorKind::UnknownArgument {
        return;
    }
    if let Some(ContextValue::StyledStrs(mut tips)) = refusal.remove(ContextKind::Suggested) {
        tips.retain(|tip| !tip.to_string().starts_with("to pass "));
        if !tips.is_empty() {
            refusal.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
    let told = |kind| match refusal.get(kind) {
        Some(ContextValue::String(flag)) => Some(flag.clone()),
        _ => None,
    };
    let (Some(typed), Some(tip)) = (
        told(ContextKind::InvalidArg),
        told(ContextKind::SuggestedArg),
    ) else {
        return;
    };
    if is_slip(&typed, &tip) {
        return;
    }
    refusal.remove(ContextKind::SuggestedArg);
    // The usage may be that of the flag which was not meant.
    let usage = refusal.get(ContextKind::Usage);
    if usage.is_some_and(|usage| usage.to_string().contains(&tip)) {
        refusal.remove(ContextKind::Usage);
    }
}

/// Whether one flag may have been typed for the other: no more than a third of it is wrong, and it is none of Docker's.
fn is_slip(typed: &str, meant: &str) -> bool {
    let (typed, meant) = (typed.trim_start_matches('-'), meant.trim_start_matches('-'));
    let longer = typed.chars().count().max(meant.chars().count());
    !DOCKERS.contains(&typed) && slips(typed, meant) * 3 <= longer
}

/// Letters to insert, drop, replace, or swap with the next one, to make one word of the other: the optimal string alignment
/// distance.
fn slips(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut table = vec![vec![0; to.len() + 1]; from.len() + 1];
    for row in 0..=from.len() {
        for column in 0..=to.len() {
            if row == 0 || column == 0 {
                table[row][column] = row + column;
                continue;
            }
            let other = usize::from(from[row - 1] != to[column - 1]);
            let mut least = (table[row - 1][column] + 1)
                .min(table[row][column - 1] + 1)
                .min(table[row - 1][column - 1] + other);
            let swapped = row > 1
                && column > 1
                && from[row - 1] == to[column - 2]
                && from[row - 2] == to[column - 1];
            if swapped {
                least = least.min(table[row - 2][column - 2] + 1);
            }
            table[row][column] = least;
        }
    }
    table[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Gourd, Refusal> {
        let words: Vec<_> = line.split(' ').map(OsString::from).collect();
        parse(&words)
    }

    /// What is asked for, as `Debug` shows it.
    #[track_caller]
    fn asked(line: &str) -> String {
        match read(line) {
            Ok(gourd) => format!("{:?}", gourd.verb),
            Err(refusal) => panic!("{line}: {refusal:?}"),
        }
    }

    #[track_caller]
    fn refused(line: &str) -> String {
        match read(line) {
            Err(Refusal::Wrong(said)) => said,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// The short way takes nothing that the whole parser would not, and both understand the same.
    #[test]
    fn quick_lines() {
        for line in [
            "gourd run -it --rm img sh -c x",
            "gourd run --rm --rm -h a -h b img",
            "gourd create --name box img",
            "gourd start -a box",
            "gourd exec box ls -l",
            "gourd rm -f a b",
            "gourd rm -f -f a",
            "gourd ps -aq",
            "gourd ls -a",
        ] {
            let whole = Gourd::try_parse_from(line.split(' '));
            let whole = whole.map(|gourd| format!("{:?}", gourd.verb));
            assert_eq!(whole.ok(), Some(asked(line)), "{line}");
        }
        for line in [
            "gourd run",
            "gourd rm",
            "gourd run --nope img",
            "gourd ps x",
            "gourd run -v img",
        ] {
            assert!(Gourd::try_parse_from(line.split(' ')).is_err(), "{line}");
            refused(line);
        }
    }

    /// Oracle: what pflag, which reads Docker's command lines, makes of them.
    #[test]
    fn booleans_take_values() {
        truths(Gourd::command()).debug_assert();
        let same = |line: &str, plain: &str| {
            assert_eq!(asked(line), asked(plain), "{line}");
        };
        same("gourd run --rm=true img", "gourd run --rm img");
        same(
            "gourd run --init=1 --privileged=T img",
            "gourd run --init --privileged img",
        );
        same("gourd run --privileged=false img", "gourd run img");
        same("gourd run -d=false -t=false img", "gourd run img");
        same(
            "gourd run -d=true img -d=false",
            "gourd run -d img -d=false",
        );
        same("gourd run -it=false img", "gourd run -i img");
        same("gourd run -i=0 -itm64m img", "gourd run -itm64m img");
        same(
            "gourd run --rm=true -it -e A=b img",
            "gourd run --rm -it -e A=b img",
        );
        same("gourd exec -it=1 box sh", "gourd exec -it box sh");
        same("gourd ps --all=TRUE", "gourd ps -a");
        same(
            "gourd container ls --all=False -q=t",
            "gourd container ls -q",
        );
        same("gourd logs -f=true box", "gourd logs -f box");
        same("gourd --root /x images -a=true", "gourd images -a");
        same(
            "gourd system prune -f=1 --volumes=true",
            "gourd system prune -f --volumes",
        );
        // Those that take one anyhow.
        same(
            "gourd run --sig-proxy=0 img",
            "gourd run --sig-proxy=false img",
        );
        same("gourd commit -p=F box", "gourd commit --pause=false box");
        same("gourd history -H=1 img", "gourd history img");
        // Docker's conflict is one of values, not of words.
        same(
            "gourd create --rm=false --restart always img",
            "gourd create --restart always img",
        );
    }

    #[test]
    fn the_last_one_wins() {
        let same = |line: &str, plain: &str| {
            assert_eq!(asked(line), asked(plain), "{line}");
        };
        same("gourd run --rm --rm img", "gourd run --rm img");
        same("gourd run --rm --rm=false img", "gourd run img");
        same("gourd run --rm=false --rm img", "gourd run --rm img");
        same(
            "gourd run -h a -h b --name x --name y img",
            "gourd run -h b --name y img",
        );
        same(
            "gourd run -e A=1 -e B=2 img",
            "gourd run --env A=1 --env B=2 img",
        );
        same(
            "gourd stop -t 1 --time 2 --timeout 3 box",
            "gourd stop -t 3 box",
        );
        same(
            "gourd images -a -a --format json --format x",
            "gourd images -a --format x",
        );
        same("gourd network rm -f -f x", "gourd network rm -f x");
    }

    #[test]
    fn conflicts_are_conflicts() {
        let said = refused("gourd run -d --timings img");
        assert!(
            said.contains("'--detach' cannot be used with '--timings"),
            "{said}"
        );
        let said = refused("gourd run --detach=true --timings img");
        assert!(
            said.contains("'--detach' cannot be used with '--timings"),
            "{said}"
        );
    }

    #[test]
    fn no_value_of_a_boolean() {
        let said = refused("gourd run --rm=perhaps img");
        assert_eq!(
            said,
            "gourd: invalid value 'perhaps' for '--rm'\n  [possible values: true, false]\n  \
             hint: add --help to see what there is\n"
        );
        let said = refused("gourd rm -f=2 box");
        assert!(said.contains("invalid value '2' for '--force'"), "{said}");
        refused("gourd run --rm= img");
        // What is wrong besides is what is told.
        let said = refused("gourd run --rm=true --nope img");
        assert!(
            said.contains("unexpected argument '--nope' found"),
            "{said}"
        );
    }

    /// Help, for those who ask, and for a group without a verb, as Docker's exit code has it.
    #[test]
    fn help_is_shown_where_it_is_asked_for() {
        let check = |line: &str, usage: &str| match read(line) {
            Err(Refusal::Help(help)) => {
                assert_eq!(help.kind(), ErrorKind::DisplayHelp, "{line}");
                let help = help.to_string();
                assert!(help.contains(usage), "{line}: {help}");
                assert!(!help.contains("=>"), "{line}: {help}");
            }
            other => panic!("{line}: {other:?}"),
        };
        check("gourd", "Usage: gourd [OPTIONS] <COMMAND>");
        check("gourd container", "Usage: gourd container <COMMAND>");
        check(
            "gourd system kernel",
            "Usage: gourd system kernel <COMMAND>",
        );
        check("gourd run --help", "gourd run [OPTIONS] IMAGE");
        check(
            "gourd run --rm=true -e A=b --help",
            "gourd run [OPTIONS] IMAGE",
        );
        check("gourd ps -a=false -h", "Usage: gourd ps [OPTIONS]");
    }

    #[test]
    fn the_version_is_shown_whatever_follows() {
        for line in [
            "gourd -v ps",
            "gourd --version",
            "gourd --root /x -v",
            "gourd -v nope",
        ] {
            assert!(matches!(read(line), Err(Refusal::Version)), "{line}");
        }
    }

    #[test]
    fn refusals_look_like_all_other_failures() {
        assert_eq!(
            refused("gourd run -m lots img"),
            "gourd: invalid value 'lots' for '--memory <SIZE>': \"lots\" is no size: write bytes, or a number with k, m \
             or g, for example 512m\n  hint: add --help to see what there is\n",
        );
        assert_eq!(
            refused("gourd stop"),
            "gourd: the following required arguments were not provided:\n  <CONTAINER>...\n\n\
             Usage: gourd stop <CONTAINER>...\n  hint: add --help to see what there is\n",
        );
    }

    #[test]
    fn tips_are_good_or_left_out() {
        for (line, tip) in [
            ("gourd run --detatch img", "'--detach'"),
            ("gourd run --nmae x img", "'--name'"),
            ("gourd run --envfile x img", "'--env-file'"),
            ("gourd ps --al", "'--all'"),
        ] {
            let said = refused(line);
            assert!(
                said.contains(&format!("a similar argument exists: {tip}")),
                "{said}"
            );
        }
        for flag in DOCKERS {
            let said = refused(&format!("gourd run --{flag} x img"));
            assert!(
                said.starts_with(&format!("gourd: unexpected argument '--{flag}' found\n")),
                "{said}"
            );
            assert!(!said.contains("tip"), "{said}");
        }
        let said = refused("gourd ps --sideways");
        assert!(!said.contains("tip") && !said.contains("--size"), "{said}");
    }

    /// Oracle: worked examples of the optimal string alignment distance.
    #[test]
    fn distances() {
        for (from, to, expect) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("ca", "abc", 3),
            ("nmae", "name", 1),
            ("device", "env-file", 5),
        ] {
            assert_eq!(slips(from, to), expect, "{from} {to}");
            assert_eq!(slips(to, from), expect, "{to} {from}");
        }
    }
}
