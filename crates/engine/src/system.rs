//! Kernels, `info`, `df` and `doctor`.

mod disk;
mod doctor;
mod names;
mod prune;
mod usage;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;
use serde_json::Value;
use store::kernels::{self, Kernel};
use store::locate;

pub use disk::{CheckError, CheckFailure, check_file_system, convert_disk, describe_disk};
pub use names::ContainerName;
pub use prune::PrunedAll;
pub use usage::{ContainerUsage, DiskUsage, ImageUsage, KernelUsage, Remains};

use crate::{Engine, Error, Status, blocking};

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
    /// Frozen.
    pub paused: usize,
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
    pub probe: Value,
}

impl Engine {
    /// The installed kernels, by name.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn kernels(&self) -> Result<Vec<KernelInfo>, Error> {
        let default = kernels::resolve(&self.root, "").ok();
        let infos = kernels::list(&self.root)?
            .into_iter()
            .map(|kernel| KernelInfo {
                default: default.as_ref() == Some(&kernel),
                ..describe(kernel)
            })
            .collect();
        Ok(infos)
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
        let kernel = kernels::add(&self.root, name, file, modules, release, replace)?;
        let default = kernels::resolve(&self.root, "").ok();
        Ok(KernelInfo {
            default: default.as_ref() == Some(&kernel),
            ..describe(kernel)
        })
    }

    /// Removes an installed kernel.
    ///
    /// # Errors
    /// No such kernel.
    pub fn kernel_remove(&self, name: &str) -> Result<(), Error> {
        Ok(kernels::remove(&self.root, name)?)
    }

    /// What this engine is.
    ///
    /// # Errors
    /// State that cannot be read.
    pub async fn info(&self) -> Result<Info, Error> {
        let mut containers = Counts::default();
        for container in self.list(true).await? {
            *match container.status {
                Status::Running | Status::Restarting => &mut containers.running,
                Status::Paused => &mut containers.paused,
                Status::Created => &mut containers.created,
                Status::Exited => &mut containers.exited,
                Status::Dead => &mut containers.dead,
            } += 1;
        }
        let system = rustix::system::sysinfo();
        Ok(Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: self.root.path().to_owned(),
            platform: oci::Platform::host().to_string(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: system.totalram * u64::from(system.mem_unit),
            containers,
            images: self.images()?.len(),
            kernels: self.kernels()?,
            probe: match self.probe().await {
                Ok(report) => report,
                Err(error) => serde_json::json!({ "error": error.to_string() }),
            },
        })
    }

    /// What `gourd-vm probe` says.
    pub(crate) async fn probe(&self) -> Result<Value, Error> {
        const COMMAND: &str = "probe";
        let path = self.programs.find(locate::VM)?;
        let program = path.display().to_string();
        let mut command = Command::new(path);
        command
            .arg(COMMAND)
            .env("GOURD_ROOT", self.root.path())
            .stdin(Stdio::null());
        let output = blocking({
            let program = program.clone();
            move || {
                command.output().map_err(|source| Error::Spawn {
                    operation: "run",
                    program,
                    source,
                })
            }
        })
        .await?;
        let failed = |reason: String| Error::Probe {
            program,
            command: COMMAND,
            reason,
        };
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("{}: {}", output.status, words.trim())));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
    }
}

fn describe(kernel: Kernel) -> KernelInfo {
    KernelInfo {
        name: kernel.name,
        release: kernel.release,
        path: kernel.file,
        modules: kernel.modules.len(),
        default: false,
    }
}
