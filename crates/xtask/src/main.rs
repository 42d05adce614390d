//! What `./dev` calls where a shell script would be the wrong language: `xtask VERB`.
//!
//! It runs on a developer's machine and trusts what it finds there: the checkout, Debian's packages, the cache.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

mod debian_kernel;
mod images;
mod tidy;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let mut path = |name: &str| -> Result<PathBuf> {
        let path = args
            .next()
            .with_context(|| format!("{verb} wants {name}"))?;
        Ok(PathBuf::from(path))
    };
    match verb.as_str() {
        "tidy" => tidy::run(),
        "kernel-debian" => debian_kernel::make(&path("the cache directory")?),
        "image-busybox" => images::busybox(&path("the cache directory")?),
        "image-debian" => images::debian(&path("the cache directory")?),
        _ => bail!(
            "unknown verb {verb:?}: tidy, kernel-debian CACHE, image-busybox CACHE, image-debian CACHE"
        ),
    }
}
