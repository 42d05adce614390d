//! Where gourd's own programs are.
//!
//! `$GOURD_LIBEXEC` alone when it is set; or else beside the running program (a build tree, a tarball), or in
//! `../libexec/gourd` from there (an installation).

use std::path::{Path, PathBuf};

/// The supervisor.
pub const VM: &str = "gourd-vm";
/// The monitor of gourd's own, and vhost-user back-end.
pub const VMM: &str = "gourd-vmm";
/// The process of a network.
pub const NET: &str = "gourd-net";
/// PID 1 of a container's VM.
pub const INIT: &str = "gourd-init";

/// A program of gourd's own is nowhere.
#[derive(Debug, thiserror::Error)]
#[error("the program {name} is missing; looked in {}", display(tried))]
pub struct Missing {
    /// Which.
    pub name: &'static str,
    /// The directories.
    pub tried: Vec<PathBuf>,
}

fn display(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}

/// Finds programs.
#[derive(Debug, Clone)]
pub struct Programs {
    dirs: Vec<PathBuf>,
}

impl Programs {
    /// Looks where the module's text says; with `dir`, there only.
    #[must_use]
    pub fn new(dir: Option<&Path>) -> Self {
        if let Some(dir) = dir {
            return Self {
                dirs: vec![dir.to_owned()],
            };
        }
        if let Some(dir) = std::env::var_os("GOURD_LIBEXEC").filter(|dir| !dir.is_empty()) {
            return Self {
                dirs: vec![dir.into()],
            };
        }
        let mut dirs = Vec::new();
        if let Some(beside) = std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(Path::to_owned))
        {
            if let Some(prefix) = beside.parent() {
                dirs.push(prefix.join("libexec/gourd"));
            }
            dirs.insert(0, beside);
        }
        Self { dirs }
    }

    /// The path of a program.
    ///
    /// # Errors
    /// [`Missing`] says where it was looked for.
    pub fn find(&self, name: &'static str) -> Result<PathBuf, Missing> {
        self.dirs
            .iter()
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| Missing {
                name,
                tried: self.dirs.clone(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_it_looked() {
        let dir = tempfile::tempdir().unwrap();
        let programs = Programs::new(Some(dir.path()));
        let error = programs.find(INIT).unwrap_err();
        let text = format!(
            "the program gourd-init is missing; looked in {}",
            dir.path().display()
        );
        assert_eq!(error.to_string(), text);
        std::fs::write(dir.path().join(INIT), "").unwrap();
        assert_eq!(programs.find(INIT).unwrap(), dir.path().join(INIT));
    }
}
