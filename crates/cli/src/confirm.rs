//! "Are you sure?", for verbs that remove what nobody named.

use std::io::{self, BufRead};

use crate::failure::Failure;
use crate::render::out;

/// Shows what is about to happen and asks, in Docker's words. True for `y`; the end of stdin is no.
pub fn confirm(warning: &str) -> Result<bool, Failure> {
    out::stderr(&format!(
        "{warning}\nAre you sure you want to continue? [y/N] "
    ))?;
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    let read = read.map_err(Failure::Stdin)?;
    if read == 0 {
        // Nobody typed the line's end.
        out::stderr("\n")?;
    }
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        let check = |answer: &str, expect: bool| assert_eq!(is_yes(answer), expect, "{answer:?}");
        check("y\n", true);
        check("Y", true);
        check("yes\n", true);
        check("", false);
        check("\n", false);
        check("no\n", false);
        check("yak\n", false);
    }
}
