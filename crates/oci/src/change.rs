//! Instructions of a Dockerfile that change an image's defaults: what `commit --change` and `import --change` take.
//!
//! Source: Docker's Dockerfile reference. Instructions come from people; what is wrong with one is said with its name.

mod words;

use std::collections::BTreeMap;

use crate::{ContainerConfig, Healthcheck};
use words::{Words, key_values, process, split};

/// What a shell form becomes.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Why an instruction cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nothing there.
    #[error("an instruction is empty")]
    Empty,
    /// Not one of those that change an image's defaults.
    #[error(
        "{0} is no instruction for an image's defaults: there are CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, \
         ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR"
    )]
    Unknown(String),
    /// What follows its name makes no sense.
    #[error("{instruction}: {reason}")]
    Arguments {
        /// The instruction's name.
        instruction: &'static str,
        /// What is wrong with what.
        reason: String,
    },
}

/// Follows the instructions one after the other.
///
/// # Errors
/// The first that makes no sense; `config` is changed by those before it.
pub fn change(config: &mut ContainerConfig, instructions: &[String]) -> Result<(), ChangeError> {
    let mut has_cmd = false;
    for instruction in instructions {
        let text = instruction.trim();
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if name.is_empty() {
            return Err(ChangeError::Empty);
        }
        let name = name.to_ascii_uppercase();
        let name = NAMES
            .iter()
            .find(|known| **known == name)
            .ok_or(ChangeError::Unknown(name))?;
        let failed = |reason: String| ChangeError::Arguments {
            instruction: name,
            reason,
        };
        one(config, name, rest.trim(), &mut has_cmd).map_err(failed)?;
    }
    Ok(())
}

const NAMES: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

fn one(
    config: &mut ContainerConfig,
    name: &str,
    rest: &str,
    has_cmd: &mut bool,
) -> Result<(), String> {
    let env = config.env.clone();
    let word = |text: &str| process(text, &env);
    let needed = || match rest {
        "" => Err("it needs an argument".to_owned()),
        rest => Ok(rest),
    };
    match name {
        "CMD" => {
            config.cmd = command(rest)?;
            *has_cmd = true;
        }
        "ENTRYPOINT" => {
            config.entrypoint = command(rest)?;
            // A command was meant for the entry point before.
            if !*has_cmd {
                config.cmd.clear();
            }
        }
        "ENV" => {
            for (key, value) in key_values(needed()?, &env)? {
                let place = config
                    .env
                    .iter()
                    .position(|entry| entry.split('=').next() == Some(key.as_str()));
                let entry = format!("{key}={value}");
                match place {
                    Some(place) => config.env[place] = entry,
                    None => config.env.push(entry),
                }
            }
        }
        "LABEL" => config.labels.extend(key_values(needed()?, &env)?),
        "EXPOSE" => {
            for text in split(needed()?)? {
                for port in ports(&word(&text)?)? {
                    insert(&mut config.exposed_ports, port);
                }
            }
        }
        "VOLUME" => {
            for text in Words::parse(needed()?)?.into_list() {
                let text = word(&text)?;
                if text.is_empty() {
                    return Err("a path is empty".to_owned());
                }
                insert(&mut config.volumes, text);
            }
        }
        "USER" => config.user = word(needed()?)?,
        "WORKDIR" => config.working_dir = join(&config.working_dir, &word(needed()?)?),
        "STOPSIGNAL" => config.stop_signal = Some(word(needed()?)?),
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(needed()?)?),
        _ => on_build(&mut config.other, needed()?)?,
    }
    Ok(())
}

/// `["a", "b"]`, or a line for the shell.
fn command(rest: &str) -> Result<Vec<String>, String> {
    Ok(match Words::parse(rest)? {
        Words::Json(words) => words,
        Words::Line(line) if line.is_empty() => Vec::new(),
        Words::Line(line) => SHELL
            .iter()
            .map(|word| (*word).to_owned())
            .chain([line])
            .collect(),
    })
}

fn insert(sorted: &mut Vec<String>, value: String) {
    if let Err(place) = sorted.binary_search(&value) {
        sorted.insert(place, value);
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn ports(text: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{text:?} is no port: write 80, 80/udp or 8000-8010");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(wrong());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(wrong());
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// A relative path goes on from the one before.
fn join(before: &str, path: &str) -> String {
    let mut parts: Vec<&str> = match path.starts_with('/') {
        true => Vec::new(),
        false => before.split('/').collect(),
    };
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.retain(|part| !part.is_empty() && *part != ".");
    format!("/{}", parts.join("/"))
}

/// `NONE`, or `[--interval=…] [--timeout=…] [--start-period=…] [--start-interval=…] [--retries=…] CMD …`
fn healthcheck(rest: &str) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let mut rest = rest;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, tail) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        let (name, value) = flag
            .split_once('=')
            .ok_or_else(|| format!("--{flag} has no value"))?;
        let time = || {
            words::nanoseconds(value)
                .filter(|time| *time == 0 || *time >= 1_000_000)
                .ok_or_else(|| format!("--{name}: {value:?} is no duration of 1ms or more"))
        };
        match name {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => {
                let retries = value.parse::<u32>();
                let retries = retries.map_err(|_| format!("--retries: {value:?} is no number"))?;
                check.retries = i64::from(retries);
            }
            _ => return Err(format!("there is no flag --{name}")),
        }
        rest = tail.trim_start();
    }
    let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let words = |kind: &str, words: Vec<String>| -> Vec<String> {
        std::iter::once(kind.to_owned()).chain(words).collect()
    };
    check.test = match (kind.to_ascii_uppercase().as_str(), rest.trim()) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", "") => return Err("CMD needs a command".to_owned()),
        ("CMD", rest) => match Words::parse(rest)? {
            Words::Json(list) => words("CMD", list),
            Words::Line(line) => words("CMD-SHELL", vec![line]),
        },
        _ => return Err(format!("{kind:?} is neither CMD nor NONE")),
    };
    Ok(check)
}

/// Kept as it is, for whoever builds from the image.
fn on_build(other: &mut BTreeMap<String, serde_json::Value>, rest: &str) -> Result<(), String> {
    let name = rest.split_whitespace().next().unwrap_or_default();
    if ["ONBUILD", "FROM", "MAINTAINER"].contains(&name.to_ascii_uppercase().as_str()) {
        return Err(format!("{name} is not allowed here"));
    }
    let list = other
        .entry("OnBuild".to_owned())
        .or_insert_with(|| serde_json::Value::Array(Vec::new()));
    if !list.is_array() {
        *list = serde_json::Value::Array(Vec::new());
    }
    if let Some(list) = list.as_array_mut() {
        list.push(rest.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
