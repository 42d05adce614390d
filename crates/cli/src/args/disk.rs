//! `gourd system disk …` and `gourd system fsck`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use engine::{Backing, DiskFormat, DiskOptions};

/// `gourd system disk …`.
#[derive(Debug, Subcommand)]
pub enum Disk {
    /// Make a raw disk of an image: qcow2 with its backing files, raw, or either of them compressed with gzip, bzip2, xz or zstd
    Convert(Convert),
    /// Show what an image is
    Info(DiskInfo),
}

/// `gourd system disk convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// The image
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The raw disk, which must not be there yet; what reads as zeros takes no space
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    #[command(flatten)]
    pub open: Open,
    /// The longest disk that is accepted
    #[arg(long, value_name = "SIZE", default_value = "16t", value_parser = super::value::size)]
    pub limit: u64,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// `gourd system disk info`.
#[derive(Debug, Args)]
pub struct DiskInfo {
    /// The image
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What it is [default: told by its first bytes]
    #[arg(long, value_name = "FORMAT")]
    pub from: Option<From>,
    /// Print this instead: `json`, or a template such as '{{.VirtualSize}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// How an image is opened.
#[derive(Debug, Args)]
pub struct Open {
    /// What the image is [default: told by its first bytes]
    #[arg(long, value_name = "FORMAT")]
    pub from: Option<From>,
    /// Which backing files may be opened: an image may name any file of this machine
    #[arg(long, value_name = "WHICH", default_value = "beneath")]
    pub backing: Which,
}

/// `--from`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum From {
    /// The bytes of the disk
    Raw,
    /// QEMU's format
    Qcow2,
}

/// `--backing`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Which {
    /// Those in the image's folder and beneath it
    Beneath,
    /// Any
    Any,
    /// None
    Refuse,
}

impl From {
    /// As the engine has it.
    pub fn format(self) -> DiskFormat {
        match self {
            Self::Raw => DiskFormat::Raw,
            Self::Qcow2 => DiskFormat::Qcow2,
        }
    }
}

impl Convert {
    /// As the engine has it.
    pub fn options(&self) -> DiskOptions {
        DiskOptions {
            format: self.open.from.map(From::format),
            backing: match self.open.backing {
                Which::Beneath => Backing::Beneath,
                Which::Any => Backing::Any,
                Which::Refuse => Backing::Refuse,
            },
            limit: self.limit,
        }
    }
}

/// `gourd system fsck`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes are e2fsck's: 0 nothing is wrong, 4 something is. 125: it could not be checked."
)]
pub struct Fsck {
    /// A file or block device that is an ext4 file system, a container that does not run, an image, or a volume that nobody writes
    #[arg(value_name = "FILE|CONTAINER|IMAGE|VOLUME")]
    pub what: PathBuf,
    /// Print this instead: `json`
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub format: Option<String>,
}
