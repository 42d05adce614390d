//! README's walk, as a person types it from the first line to the last: each line can be read, and what it names is there.

use std::collections::HashSet;

use clap::Parser as _;

use super::Gourd;

const README: &str = include_str!("../../../../README.md");

/// The commands that begin with `gourd`, in words, without their comments.
fn commands() -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let blocks = README.split("```").skip(1).step_by(2);
    for line in blocks.flat_map(str::lines) {
        let line = line.split(" #").next().unwrap_or_default();
        for command in line.split(';') {
            let words: Vec<_> = command
                .split_whitespace()
                .map(|word| word.replace('"', "").replace("$PWD", "/here"))
                .collect();
            if words.first().is_some_and(|word| word == "gourd") {
                commands.push(words);
            }
        }
    }
    commands
}

#[test]
fn the_walk_works() {
    let (mut containers, mut networks) = (HashSet::new(), HashSet::new());
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    for words in &commands {
        let line = words.join(" ");
        Gourd::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let there = |known: &HashSet<&str>, name: &str| {
            assert!(known.contains(name), "{line}: there is no {name} then");
        };
        match words[1..] {
            ["run", ..] => {
                let name = words.iter().position(|word| *word == "--name");
                containers.extend(name.map(|at| words[at + 1]));
            }
            ["network", "create", name] => drop(networks.insert(name)),
            ["network", "connect", network, container] => {
                there(&networks, network);
                there(&containers, container);
            }
            ["network", "rm", name] => {
                there(&networks, name);
                networks.remove(name);
            }
            ["rm", name] => {
                there(&containers, name);
                containers.remove(name);
            }
            ["exec", "-it", name, ..] | ["logs" | "stop" | "commit", name, ..] => {
                there(&containers, name);
            }
            ["cp", from, to] => {
                let names = [from, to]
                    .into_iter()
                    .filter_map(|side| side.split_once(':'));
                names.for_each(|(name, _)| there(&containers, name));
                assert_ne!(to, "-", "{line}: a terminal is no place for an archive");
            }
            ["save" | "system", ..] => {}
            _ => panic!("{line}: say here what it needs"),
        }
    }
    assert!(
        containers.is_empty() && networks.is_empty(),
        "all is tidied up"
    );
}
