//! `xtask tidy`: what neither rustfmt nor clippy checks. Every finding is printed; one is enough to fail.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

mod crates;
mod files;

/// Runs every check on the checkout that the caller stands in.
pub fn run() -> Result<()> {
    let root = checkout()?;
    let mut findings = crates::check(&root)?;
    findings.extend(files::check(&root)?);
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    ensure!(findings.is_empty(), "tidy found {}", findings.len());
    Ok(())
}

fn checkout() -> Result<PathBuf> {
    let top = git(Path::new("."), &["rev-parse", "--show-toplevel"])?;
    Ok(PathBuf::from(top.trim_end()))
}

fn git(root: &Path, args: &[&str]) -> Result<String> {
    let out = Command::new("git")
        .current_dir(root)
        .args(args)
        .output()
        .context("start git")?;
    ensure!(
        out.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?)
}
