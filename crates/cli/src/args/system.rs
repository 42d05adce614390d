//! The verbs of the installation and their flags.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `gourd system …`.
#[derive(Debug, Subcommand)]
pub enum Group {
    /// Show where state is, which driver is chosen, how much there is of everything
    Info(Info),
    /// Show what occupies the disk
    Df(Df),
    /// Remove everything that nobody uses
    Prune(Prune),
    /// Check what gourd needs, each with its remedy
    Doctor(Doctor),
    /// Show what happens to containers and images, as it happens
    Events(super::events::Events),
    /// Start containers whose restart policy asks for it whenever you log in, or the host boots: installs a systemd user unit
    Enable(Unit),
    /// Don't any more: removes the unit
    Disable(Unit),
    /// Start now the containers that are to run whenever the host does: policies always, and unless-stopped
    Boot(Boot),
    /// Stop all containers, as when the host goes down: those that are to run whenever it does start with the next boot
    Shutdown(Shutdown),
    /// Manage kernels
    #[command(subcommand)]
    Kernel(Kernel),
    /// Look at disk images, and make raw disks of them
    #[command(subcommand)]
    Disk(super::disk::Disk),
    /// Check an ext4 file system and say what is wrong with it; changes nothing
    Fsck(super::disk::Fsck),
}

/// `gourd system info`.
#[derive(Debug, Args)]
pub struct Info {
    /// Print this instead: `json`, or a template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `gourd system df`.
#[derive(Debug, Args)]
pub struct Df {
    /// Everything by the piece
    #[arg(short, long)]
    pub verbose: bool,
    /// Print this: `json`, `table`, `table TEMPLATE` or a template such as '{{.Type}} {{.Size}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `gourd system prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// All images that no container uses, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    /// Volumes without a name as well
    #[arg(long)]
    pub volumes: bool,
    /// Ask nothing
    #[arg(short, long)]
    pub force: bool,
    /// Only those: until=MOMENT, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::value::prune_filter)]
    pub filter: Vec<(String, String)>,
}

/// `gourd system doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print this instead: `json`
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub format: Option<String>,
}

/// `gourd system enable`, `gourd system disable`.
#[derive(Debug, Args)]
pub struct Unit {}

/// `gourd system boot`.
#[derive(Debug, Args)]
pub struct Boot {}

/// `gourd system shutdown`.
#[derive(Debug, Args)]
pub struct Shutdown {
    /// Only those of this command's own control group: of a systemd unit, those that the unit started
    #[arg(long)]
    pub cgroup: bool,
}

/// `gourd system kernel …`.
#[derive(Debug, Subcommand)]
pub enum Kernel {
    /// List the kernels that containers can use
    #[command(visible_alias = "list")]
    Ls(KernelList),
    /// Install a kernel
    Add(KernelAdd),
    /// Remove a kernel
    #[command(visible_alias = "remove")]
    Rm(KernelRemove),
}

/// `gourd system kernel ls`.
#[derive(Debug, Args)]
pub struct KernelList {
    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
    /// Print this: `json`, `table`, or a template such as '{{.Name}} {{.Release}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `gourd system kernel add`.
#[derive(Debug, Args)]
pub struct KernelAdd {
    /// What `--kernel` will call it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// A vmlinux or bzImage
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Its modules: a folder of module files with a list `load`, one file name a line in the order of loading
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// What `uname -r` says in it [default: read from the file]
    #[arg(long, value_name = "RELEASE")]
    pub release: Option<String>,
    /// Take the place of a kernel of the same name
    #[arg(long)]
    pub replace: bool,
}

/// `gourd system kernel rm`.
#[derive(Debug, Args)]
pub struct KernelRemove {
    /// Their names
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// `gourd version`.
#[derive(Debug, Args)]
pub struct Version {
    /// Print this instead: `json`, or a template such as '{{.Client.Version}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}
