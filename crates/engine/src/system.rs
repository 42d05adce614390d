//! Kernels, `info` and `doctor`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Engine, Error};

/// An installed kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelInfo {
    /// Its name.
    pub name: String,
    /// As `uname -r`.
    pub release: String,
    /// vmlinux or bzImage.
    pub path: PathBuf,
    /// How many modules go into its initramfs.
    pub modules: usize,
    /// It is what a container gets that names none.
    pub default: bool,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All is well.
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// Containers do not start.
    Fail,
}

/// One check of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it went.
    pub outcome: Outcome,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How many containers there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// With a supervisor.
    pub running: usize,
    /// Made, never started.
    pub created: usize,
    /// Ended.
    pub exited: usize,
    /// Unreadable.
    pub dead: usize,
}

/// What `system info` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Info {
    /// This gourd's.
    pub version: String,
    /// The state directory.
    pub root: PathBuf,
    /// `linux/amd64`
    pub platform: String,
    /// The host's processors.
    pub cpus: usize,
    /// The host's memory in bytes.
    pub memory: u64,
    /// Containers.
    pub containers: Counts,
    /// Images.
    pub images: usize,
    /// Installed kernels.
    pub kernels: Vec<KernelInfo>,
    /// As `gourd-vm probe` answers.
    pub probe: serde_json::Value,
}

#[allow(clippy::todo, unused_variables, clippy::unused_async)]
impl Engine {
    /// The installed kernels, by name.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn kernels(&self) -> Result<Vec<KernelInfo>, Error> {
        todo!()
    }

    /// Installs a kernel: a vmlinux or bzImage, and a folder of modules with their `load` list. `replace` takes the
    /// place of one of the same name.
    ///
    /// # Errors
    /// The name is taken; the file is no kernel.
    pub fn kernel_add(
        &self,
        name: &str,
        file: &Path,
        modules: Option<&Path>,
        release: &str,
        replace: bool,
    ) -> Result<KernelInfo, Error> {
        todo!()
    }

    /// Removes an installed kernel.
    ///
    /// # Errors
    /// No such kernel.
    pub fn kernel_remove(&self, name: &str) -> Result<(), Error> {
        todo!()
    }

    /// What this engine is.
    ///
    /// # Errors
    /// State that cannot be read.
    pub async fn info(&self) -> Result<Info, Error> {
        todo!()
    }

    /// Whether containers can start here, and what to do when they can't.
    pub async fn doctor(&self) -> Vec<Check> {
        todo!()
    }
}
