//! What can stand for an argument: by its possible values, its name in the help, and the verb.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ValueHint};
use engine::{ContainerName, Engine, OpenOptions};

use super::{Answer, Files};
use crate::args::value;
use crate::render::human;

/// As signal(7), those that are sent to containers.
const SIGNALS: [&str; 10] = [
    "HUP", "INT", "QUIT", "KILL", "TERM", "STOP", "CONT", "USR1", "USR2", "WINCH",
];

/// What a value is, by its name in the help.
#[derive(Clone, Copy)]
enum Kind {
    Container,
    Image,
    /// Of a copy.
    Side,
    /// `-v`
    Mount,
    Volume,
    Network,
    /// Of `--kernel`.
    Kernel,
    /// Of whatever the verb is for.
    Name,
    /// `KEY=VALUE`
    Pair,
    /// One of these.
    Words(&'static [&'static str]),
}

/// The names as far as the first white space: `IMAGE [PROGRAM [ARG]...]` is an image.
const KINDS: [(&str, Kind); 19] = [
    ("CONTAINER", Kind::Container),
    ("IMAGE", Kind::Image),
    ("SOURCE_IMAGE", Kind::Image),
    ("TARGET_IMAGE", Kind::Image),
    ("NAME[:TAG]", Kind::Image),
    ("REPOSITORY[:TAG]", Kind::Image),
    ("SOURCE", Kind::Side),
    ("DESTINATION", Kind::Side),
    ("[SOURCE:]PATH[:OPTIONS]", Kind::Mount),
    ("VOLUME", Kind::Volume),
    ("NETWORK", Kind::Network),
    ("NAME|PATH", Kind::Kernel),
    ("NAME", Kind::Name),
    ("KEY=VALUE", Kind::Pair),
    ("SIGNAL", Kind::Words(&SIGNALS)),
    ("DRIVER", Kind::Words(&["auto", "kvm", "qemu"])),
    ("OS/ARCH", Kind::Words(&["linux/amd64", "linux/arm64"])),
    (
        "POLICY",
        Kind::Words(&["no", "always", "on-failure", "unless-stopped"]),
    ),
    ("FORMAT", Kind::Words(&["json", "table"])),
];

/// Where names come from.
pub struct Known {
    engine: Option<Engine>,
}

/// Which containers a verb is for.
#[derive(Clone, Copy)]
enum Which {
    All,
    Alive,
    Paused,
    Still,
}

type Candidates = Vec<(String, String)>;

impl Known {
    /// The state directory is opened if it is there; one is not made for a TAB.
    pub fn new(root: Option<PathBuf>) -> Self {
        let options = OpenOptions {
            root,
            ..OpenOptions::default()
        };
        Self {
            engine: Engine::open(options).ok(),
        }
    }

    /// Knows no names.
    #[cfg(test)]
    pub fn nothing() -> Self {
        Self { engine: None }
    }

    /// The values of an argument of the verb at `path`. `given` are the arguments without names that came before.
    pub fn values(&self, path: &[&str], arg: &Arg, current: &str, given: &[String]) -> Answer {
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            return plain(words(&["true", "false"]));
        }
        let fixed: Candidates = arg
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| {
                let help = value.get_help().map(ToString::to_string);
                (value.get_name().to_owned(), help.unwrap_or_default())
            })
            .collect();
        if !fixed.is_empty() {
            return plain(fixed);
        }
        let name = name(arg);
        let kind = KINDS.iter().find(|(known, _)| *known == name);
        let mut answer = match kind.map(|(_, kind)| *kind) {
            Some(Kind::Container) => plain(self.containers(which(path), current)),
            Some(Kind::Image) => plain(self.images()),
            Some(Kind::Side) => self.sides(current),
            Some(Kind::Mount) => self.mounts(current),
            Some(Kind::Volume) => plain(self.volumes()),
            Some(Kind::Network) => plain(self.networks()),
            Some(Kind::Words(known)) => plain(words(known)),
            Some(Kind::Pair) if arg.get_id() == "filter" => Answer {
                nospace: true,
                ..plain(filters(path))
            },
            Some(Kind::Kernel) => Answer {
                files: Files::Any,
                ..plain(self.kernels())
            },
            Some(Kind::Name) => plain(match (path, arg.get_id().as_str()) {
                (["inspect"], "names") => {
                    let mut names = self.containers(Which::All, current);
                    names.extend(self.images());
                    names.extend(self.volumes());
                    names.extend(self.networks());
                    names
                }
                (["system", "kernel", "rm"], _) => self.kernels(),
                _ => Vec::new(),
            }),
            Some(Kind::Pair) | None => Answer {
                files: files(arg, name),
                ..Answer::default()
            },
        };
        // Once is enough.
        answer
            .candidates
            .retain(|(value, _)| !given.contains(value));
        answer
    }

    fn networks(&self) -> Candidates {
        let names = self.engine.as_ref().map(Engine::network_names);
        names
            .unwrap_or_default()
            .into_iter()
            .map(|name| (name, String::new()))
            .collect()
    }

    /// Names; ids when it is one of these that is typed.
    fn containers(&self, which: Which, current: &str) -> Candidates {
        let fits = |one: &ContainerName| match which {
            Which::All => true,
            Which::Alive => one.alive,
            Which::Paused => one.paused,
            Which::Still => !one.alive,
        };
        let all = self.engine.as_ref().map(Engine::container_names);
        let mut all = all.unwrap_or_default();
        all.retain(fits);
        let by_id = !current.is_empty() && !all.iter().any(|one| one.name.starts_with(current));
        all.into_iter()
            .map(|one| match by_id {
                true if current.len() > 12 => (one.id, one.image),
                true => (human::short_id(&one.id).to_owned(), one.image),
                false => (one.name, one.image),
            })
            .collect()
    }

    fn images(&self) -> Candidates {
        let names = self.engine.as_ref().map(Engine::image_names);
        let name = |name: String| (name, String::new());
        names.unwrap_or_default().into_iter().map(name).collect()
    }

    fn volumes(&self) -> Candidates {
        let names = self.engine.as_ref().map(Engine::volume_names);
        let name = |name: String| (name, String::new());
        names.unwrap_or_default().into_iter().map(name).collect()
    }

    fn kernels(&self) -> Candidates {
        let names = self.engine.as_ref().map(Engine::kernel_names);
        let name = |name: String| (name, String::new());
        names.unwrap_or_default().into_iter().map(name).collect()
    }

    /// `VOLUME:` or a path here and a colon; what follows is a path there, which is not looked into.
    fn mounts(&self, current: &str) -> Answer {
        if current.contains(':') {
            return Answer::default();
        }
        let here = current.starts_with(['/', '.']);
        let mut names = self.volumes();
        names.iter_mut().for_each(|(name, _)| name.push(':'));
        Answer {
            candidates: if here { Vec::new() } else { names },
            files: if here { Files::Any } else { Files::No },
            nospace: true,
        }
    }

    /// A path here, or `CONTAINER:` and a path there, which is not looked into.
    fn sides(&self, current: &str) -> Answer {
        if current.contains(['/', ':']) {
            return Answer {
                files: Files::Any,
                ..Answer::default()
            };
        }
        let name = |(name, image): (String, String)| (name + ":", image);
        Answer {
            candidates: self
                .containers(Which::All, current)
                .into_iter()
                .map(name)
                .collect(),
            files: Files::Any,
            nospace: true,
        }
    }
}

fn plain(candidates: Candidates) -> Answer {
    Answer {
        candidates,
        ..Answer::default()
    }
}

fn words(words: &[&str]) -> Candidates {
    let word = |word: &&str| ((*word).to_owned(), String::new());
    words.iter().map(word).collect()
}

/// The name of an argument's value in the help.
fn name(arg: &Arg) -> &str {
    let names = arg.get_value_names().and_then(|names| names.first());
    let name = names.map_or("", |name| name.as_str());
    name.split_whitespace().next().unwrap_or_default()
}

fn which(path: &[&str]) -> Which {
    match path.last().copied().unwrap_or_default() {
        "stop" | "kill" | "exec" | "attach" | "pause" | "top" | "stats" | "wait" | "port" => {
            Which::Alive
        }
        "unpause" => Which::Paused,
        "start" => Which::Still,
        _ => Which::All,
    }
}

fn filters(path: &[&str]) -> Candidates {
    let keys: &[&str] = match path {
        ["ps"] | ["container", "ps"] => &value::FILTERS,
        ["images"] | ["image", "ls"] => {
            &["before", "dangling", "label", "reference", "since", "until"]
        }
        ["volume", "ls"] => &["dangling", "driver", "label", "name"],
        ["volume", "prune"] => &["all", "label!", "label"],
        [.., "prune"] => &["label!", "label", "until"],
        [.., "events"] => &engine::EventFilter::KEYS,
        _ => &[],
    };
    let key = |key: &&str| (format!("{key}="), String::new());
    keys.iter().map(key).collect()
}

fn files(arg: &Arg, name: &str) -> Files {
    if name == "DIR" {
        return Files::Folders;
    }
    let is_file = name.split('|').any(|part| part == "FILE" || part == "PATH");
    match arg.get_value_hint() {
        ValueHint::DirPath => Files::Folders,
        ValueHint::AnyPath | ValueHint::FilePath | ValueHint::ExecutablePath => Files::Any,
        _ if is_file => Files::Any,
        _ => Files::No,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::{Command, CommandFactory as _};

    use super::*;
    use crate::args::Gourd;

    fn collect(command: &Command, names: &mut HashSet<String>) {
        names.extend(command.get_arguments().map(|arg| name(arg).to_owned()));
        command
            .get_subcommands()
            .for_each(|verb| collect(verb, names));
    }

    /// A name that the help has no more would never be met, and its values never offered.
    #[test]
    fn every_kind_is_somebodys() {
        let mut names = HashSet::new();
        collect(&Gourd::command(), &mut names);
        for (name, _) in KINDS {
            assert!(names.contains(name), "{name} is in no help");
        }
    }
}
