//! Where on the command line somebody is: which command, and which of its arguments comes next.

use std::path::PathBuf;

use clap::{Arg, Command};

use super::values::Known;
use super::{Answer, Files};

/// A place on the command line.
#[derive(Debug)]
pub struct Place<'c> {
    command: &'c Command,
    /// The names on the way to it, `gourd` left out.
    path: Vec<&'c str>,
    /// A flag that waits for its value.
    pending: Option<&'c Arg>,
    /// After `--`: no flags come.
    escaped: bool,
    /// The words belong to a program of the container's.
    program: bool,
    /// How many arguments without a name came.
    given: Vec<String>,
    root: Option<PathBuf>,
}

impl<'c> Place<'c> {
    /// Goes along the words that are complete. `command` was built.
    pub fn find(command: &'c Command, words: &[String]) -> Self {
        let mut place = Self {
            command,
            path: Vec::new(),
            pending: None,
            escaped: false,
            program: false,
            given: Vec::new(),
            root: None,
        };
        for word in words {
            place.pass(word);
        }
        place
    }

    /// `--root`, when it was given.
    pub fn root(&self) -> Option<PathBuf> {
        self.root.clone()
    }

    fn pass(&mut self, word: &str) {
        if self.program {
            return;
        }
        if let Some(arg) = self.pending.take() {
            self.value(arg, word);
        } else if self.escaped {
            self.positional(word);
        } else if word == "--" {
            self.escaped = true;
        } else if let Some(flag) = word.strip_prefix("--") {
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            match (self.long(name), value) {
                (Some(arg), Some(value)) => self.value(arg, value),
                (Some(arg), None) if wants_value(arg) => self.pending = Some(arg),
                _ => {}
            }
        } else if word.len() > 1 && word.starts_with('-') {
            self.shorts(&word[1..]);
        } else {
            self.positional(word);
        }
    }

    fn value(&mut self, arg: &Arg, value: &str) {
        if arg.get_id() == "root" {
            self.root = Some(PathBuf::from(value));
        }
    }

    /// `-itm`: the rest after one that takes a value is the value.
    fn shorts(&mut self, letters: &str) {
        for (at, letter) in letters.char_indices() {
            if letter == '=' {
                // The value of a flag that needs none: `-d=false`.
                return;
            }
            let known = self.command.get_arguments();
            let arg = known
                .into_iter()
                .find(|arg| arg.get_short() == Some(letter));
            if let Some(arg) = arg.filter(|arg| wants_value(arg)) {
                let rest = &letters[at + letter.len_utf8()..];
                if rest.is_empty() {
                    self.pending = Some(arg);
                }
                return;
            }
        }
    }

    fn positional(&mut self, word: &str) {
        if self.given.is_empty()
            && !self.escaped
            && let Some(next) = self.command.find_subcommand(word)
        {
            self.command = next;
            self.path.push(next.get_name());
            return;
        }
        let is_trailing = self.next().is_some_and(Arg::is_trailing_var_arg_set);
        self.given.push(word.to_owned());
        // After its container or image come the program's words, dashes included.
        self.program = is_trailing;
    }

    fn long(&self, name: &str) -> Option<&'c Arg> {
        self.command.get_arguments().find(|arg| {
            arg.get_long() == Some(name)
                || arg
                    .get_all_aliases()
                    .is_some_and(|aliases| aliases.contains(&name))
        })
    }

    /// The argument without a name that comes next; the last one may take all that come.
    fn next(&self) -> Option<&'c Arg> {
        let mut left = self.given.len();
        for arg in self.command.get_positionals() {
            let most = arg.get_num_args().map_or(1, |range| range.max_values());
            let many = most > 1 || matches!(arg.get_action(), clap::ArgAction::Append);
            if many || left == 0 {
                return Some(arg);
            }
            left -= 1;
        }
        None
    }

    /// What there is to choose from for a word that begins so.
    pub fn answer(&self, current: &str, known: &Known) -> Answer {
        if self.program {
            // Of the container, which is not looked into; but often a path that is on both sides.
            return Answer {
                files: Files::Any,
                ..Answer::default()
            };
        }
        let mut answer = if let Some(arg) = self.pending {
            known.values(&self.path, arg, current, &[])
        } else if let Some((flag, value)) = self.assignment(current) {
            let mut answer = self
                .long(flag)
                .map(|arg| known.values(&self.path, arg, value, &[]))
                .unwrap_or_default();
            for (candidate, _) in &mut answer.candidates {
                candidate.insert_str(0, &format!("--{flag}="));
            }
            answer
        } else if !self.escaped && current.starts_with('-') && current.len() != 1 {
            self.flags()
        } else {
            let mut answer = self
                .next()
                .map(|arg| known.values(&self.path, arg, current, &self.given))
                .unwrap_or_default();
            answer.candidates.extend(self.subcommands());
            if current == "-" && !self.escaped {
                answer.candidates.extend(self.flags().candidates);
            }
            answer
        };
        answer
            .candidates
            .retain(|(value, _)| value.starts_with(current));
        answer
    }

    /// `--flag=value`
    fn assignment<'w>(&self, current: &'w str) -> Option<(&'w str, &'w str)> {
        let flag = current.strip_prefix("--").filter(|_| !self.escaped)?;
        flag.split_once('=')
    }

    fn flags(&self) -> Answer {
        let mut candidates = Vec::new();
        for arg in self.command.get_arguments() {
            if arg.is_hide_set() || arg.is_positional() {
                continue;
            }
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            if let Some(short) = arg.get_short() {
                candidates.push((format!("-{short}"), help.clone()));
            }
            let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
            candidates.extend(longs.iter().map(|long| (format!("--{long}"), help.clone())));
        }
        Answer {
            candidates,
            ..Answer::default()
        }
    }

    fn subcommands(&self) -> Vec<(String, String)> {
        if !self.given.is_empty() || self.escaped {
            return Vec::new();
        }
        let about = |command: &Command| {
            let about = command.get_about().map(ToString::to_string);
            (command.get_name().to_owned(), about.unwrap_or_default())
        };
        self.command
            .get_subcommands()
            .filter(|command| !command.is_hide_set() && command.get_name() != "help")
            .map(about)
            .collect()
    }
}

/// A flag whose value is the next word.
fn wants_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
        && !arg.is_require_equals_set()
        && arg
            .get_num_args()
            .is_none_or(|range| range.min_values() > 0)
}
