//! Why a container did not start or was lost: one shape for everything that goes over the supervisor's socket.

use proto::agent;
use proto::supervisor::{Failure, failure::Kind};

/// Gourd's own failure in `step` on `object`.
pub fn own(step: &str, object: impl Into<String>, message: impl Into<String>) -> Failure {
    Failure {
        kind: Kind::Other.into(),
        step: step.to_owned(),
        object: object.into(),
        errno: 0,
        message: message.into(),
        remedy: String::new(),
    }
}

/// An error with its causes, in one line.
pub fn from_error(step: &str, object: impl Into<String>, error: &dyn std::error::Error) -> Failure {
    own(step, object, chain(error))
}

/// The VM is gone, or not to be talked to any more.
pub fn lost(message: impl Into<String>) -> Failure {
    Failure {
        kind: Kind::VmLost.into(),
        step: "run".to_owned(),
        object: "the VM".to_owned(),
        errno: 0,
        message: message.into(),
        remedy: String::new(),
    }
}

/// How many characters of what the guest says in one field are kept.
const KEPT: usize = 4096;

/// What the guest says is not ours: it goes into the state, the log and the events, and from there to terminals.
fn clean(text: &str) -> String {
    let obeyed =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let kept = text.chars().take(KEPT);
    kept.map(|c| if obeyed(c) { '?' } else { c }).collect()
}

/// What the guest reported.
pub fn from_guest(failure: agent::Failure) -> Failure {
    let kind = match failure.kind() {
        agent::failure::Kind::Other => Kind::Other,
        agent::failure::Kind::NotFound => Kind::NotFound,
        agent::failure::Kind::NotExecutable => Kind::NotExecutable,
        agent::failure::Kind::Invalid => Kind::Invalid,
    };
    Failure {
        kind: kind.into(),
        step: clean(&failure.step),
        object: clean(&failure.object),
        errno: failure.errno,
        message: clean(&failure.message),
        remedy: String::new(),
    }
}

/// The exit code that Docker gives a container that could not start.
pub fn exit_code(failure: &Failure) -> u32 {
    match failure.kind() {
        Kind::NotFound => 127,
        Kind::NotExecutable => 126,
        Kind::Other | Kind::Invalid => 125,
        Kind::VmLost => 255,
    }
}

/// One line for `state.json` and the log.
pub fn describe(failure: &Failure) -> String {
    let mut text = String::new();
    if failure.kind() != Kind::VmLost {
        text.push_str(&failure.step);
        if !failure.object.is_empty() {
            text.push(' ');
            text.push_str(&failure.object);
        }
        text.push_str(": ");
    }
    text.push_str(&failure.message);
    text
}

/// An error and its causes, `: ` between them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Some libraries repeat their cause in their own words.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_words_are_cleaned_and_cut() {
        let failure = from_guest(agent::Failure {
            object: "x\u{1b}]52;c;\u{7}\u{9b}\u{202e}".to_owned(),
            message: "é".repeat(KEPT + 1),
            ..agent::Failure::default()
        });
        assert_eq!(failure.object, "x?]52;c;???");
        assert_eq!(failure.message, "é".repeat(KEPT));
    }
}
