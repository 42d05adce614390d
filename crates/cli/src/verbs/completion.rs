//! `gourd completion`.

use crate::args::completion::{Completion, Shell};
use crate::failure::Failure;
use crate::render::out;

/// Prints what a shell reads; it asks `gourd __complete` from then on.
pub fn completion(args: &Completion) -> Result<u8, Failure> {
    out::print(match args.shell {
        Shell::Bash => include_str!("../complete/gourd.bash"),
        Shell::Zsh => include_str!("../complete/gourd.zsh"),
        Shell::Fish => include_str!("../complete/gourd.fish"),
    })?;
    Ok(0)
}
