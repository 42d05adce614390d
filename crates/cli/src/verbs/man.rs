//! `gourd man`: a page for the command and one for each verb.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use crate::args::{Gourd, completion};
use crate::failure::Failure;

/// Writes the pages into a folder.
pub fn man(args: &completion::Man) -> Result<u8, Failure> {
    let failed = |source| Failure::Create {
        path: args.dir.clone(),
        source,
    };
    fs::create_dir_all(&args.dir).map_err(failed)?;
    let mut command = Gourd::command();
    command.build();
    write(&command, &args.dir).map_err(failed)?;
    Ok(0)
}

fn write(command: &Command, dir: &Path) -> io::Result<()> {
    let version = concat!("gourd ", env!("CARGO_PKG_VERSION"));
    // Pages are made anew for each version and hold no date: the same command gives the same pages.
    Man::new(command.clone())
        .source(version)
        .manual("Gourd")
        .generate_to(dir)?;
    command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
        .try_for_each(|verb| write(verb, dir))
}
