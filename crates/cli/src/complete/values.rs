//! What can stand for an argument: by its possible values, its name in the help, and the verb.

use std::path::PathBuf;

use clap::{Arg, ValueHint};
use engine::{ContainerName, Engine, OpenOptions};

use super::{Answer, Files};
use crate::render::human;

/// As signal(7), those that are sent to containers.
const SIGNALS: [&str; 10] = [
    "HUP", "INT", "QUIT", "KILL", "TERM", "STOP", "CONT", "USR1", "USR2", "WINCH",
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
        let name = arg
            .get_value_names()
            .and_then(|names| names.first())
            .map_or("", |name| name.as_str());
        // `IMAGE [PROGRAM [ARG]...]`
        let name = name.split_whitespace().next().unwrap_or_default();
        let mut answer = match name {
            "CONTAINER" => plain(self.containers(which(path), current)),
            "IMAGE" | "SOURCE_IMAGE" | "TARGET_IMAGE" | "NAME[:TAG]" | "REPOSITORY[:TAG]" => {
                plain(self.images())
            }
            "SOURCE" | "DESTINATION" => self.sides(current),
            "[NAME:]PATH[:OPTIONS]" => Answer {
                nospace: true,
                ..plain(
                    self.volumes()
                        .into_iter()
                        .map(|(name, help)| (name + ":", help))
                        .collect(),
                )
            },
            "VOLUME" => plain(self.volumes()),
            "SIGNAL" => plain(words(&SIGNALS)),
            "DRIVER" => plain(words(&["auto", "kvm", "qemu"])),
            "OS/ARCH" => plain(words(&["linux/amd64", "linux/arm64"])),
            "POLICY" => plain(words(&["no", "always", "on-failure", "unless-stopped"])),
            "FORMAT" => plain(words(&["json", "table"])),
            "KEY=VALUE" if arg.get_id() == "filter" => Answer {
                nospace: true,
                ..plain(words(filters(path)))
            },
            "NETWORK" => plain(self.networks()),
            "NAME|PATH" => Answer {
                files: Files::Any,
                ..plain(self.kernels())
            },
            "NAME" => plain(match (path, arg.get_id().as_str()) {
                (["inspect"], "names") => {
                    let mut names = self.containers(Which::All, current);
                    names.extend(self.images());
                    names.extend(self.volumes());
                    names
                }
                (["system", "kernel", "rm"], _) => self.kernels(),
                _ => Vec::new(),
            }),
            _ => Answer {
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

fn filters(path: &[&str]) -> &'static [&'static str] {
    match path {
        ["images"] | ["image", "ls"] => &[
            "before=",
            "dangling=",
            "label=",
            "reference=",
            "since=",
            "until=",
        ],
        ["volume", "ls"] => &["dangling=", "driver=", "label=", "name="],
        ["volume", "prune"] => &["all=", "label!=", "label="],
        [.., "prune"] => &["label!=", "label=", "until="],
        [.., "events"] => &[
            "container=",
            "event=",
            "image=",
            "label=",
            "type=",
            "volume=",
        ],
        _ => &["exited=", "id=", "label=", "name=", "status="],
    }
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
