//! What `./dev` calls where a shell script would be the wrong language: `xtask VERB`.
//!
//! It runs on a developer's machine and trusts what it finds there: the checkout, Debian's packages, the cache.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

mod bench;
mod debian_kernel;
mod images;
mod rig;
mod tidy;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|verb| verb == "rig")
        && let Some(cache) = args.next()
    {
        return rig::run(cache.as_ref(), args);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // A backtrace would bury what was found.
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let mut next = |what: &str| args.next().with_context(|| format!("{verb} wants {what}"));
    let cache = next("the cache directory").map(PathBuf::from);
    match verb.as_str() {
        "tidy" => tidy::run(),
        "kernel-debian" => debian_kernel::make(&cache?),
        "image-busybox" => images::busybox(&cache?),
        "image-debian" => images::debian(&cache?),
        "image-network" => images::network(&cache?),
        "image-fio" => images::fio(&cache?),
        "bench" => bench::run(&next("the bench's name")?, &cache?),
        _ => bail!(
            "unknown verb {verb:?}: tidy, kernel-debian CACHE, image-busybox CACHE, image-debian CACHE, image-fio CACHE, image-network CACHE, bench CACHE NAME, rig CACHE OPTIONS -- CMD"
        ),
    }
}
