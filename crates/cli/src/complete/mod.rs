//! What a shell asks for at TAB: `gourd __complete WORD…`, the last word being the one that is typed.
//!
//! It answers with a line for each candidate, value and description with a tab between, and a last line that begins with a
//! colon and says what else the shell should do: `files`, `folders`, `nospace`. It walks clap's own description of the
//! command line, so nothing can be forgotten; names of containers and images come from the state directory. It starts no
//! runtime and fails in silence: somebody is typing.

mod place;
mod values;

use std::ffi::OsString;

use clap::CommandFactory as _;

use crate::args::Gourd;
use crate::render::out;
use place::Place;
use values::Known;

/// What calls this: no verb of people's.
pub const VERB: &str = "__complete";

/// What there is to choose from.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Values and descriptions.
    pub candidates: Vec<(String, String)>,
    /// Files of the host are meant, or only folders.
    pub files: Files,
    /// What is typed goes on after the candidate.
    pub nospace: bool,
}

/// Which files of the host are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Files {
    /// None.
    #[default]
    No,
    /// All.
    Any,
    /// Folders.
    Folders,
}

/// Answers; the exit code. `words` are those after [`VERB`].
pub fn main(words: impl Iterator<Item = OsString>) -> u8 {
    let mut words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if words.first().is_some_and(|word| word == "--") {
        words.remove(0);
    }
    let current = words.pop().unwrap_or_default();
    let mut command = Gourd::command();
    command.build();
    let place = Place::find(&command, &words);
    let known = Known::new(place.root());
    // A shell that went away wants no answer.
    let _ = out::print(&text(&place.answer(&current, &known)));
    0
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for (value, help) in &answer.candidates {
        let help = help.lines().next().unwrap_or_default();
        text.push_str(&format!("{value}\t{help}\n"));
    }
    let files = match answer.files {
        Files::No => "",
        Files::Any => " files",
        Files::Folders => " folders",
    };
    let nospace = if answer.nospace { " nospace" } else { "" };
    text.push_str(&format!(":{files}{nospace}\n"));
    text
}

#[cfg(test)]
mod tests;
