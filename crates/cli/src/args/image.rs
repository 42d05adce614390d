//! The verbs of images and their flags.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `gourd image …`.
#[derive(Debug, Subcommand)]
pub enum Group {
    /// List images
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show all that is known about images, as JSON
    Inspect(Inspect),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Download an image from a registry
    Pull(Pull),
    /// Load images from an archive that `docker save` or `skopeo` wrote
    Load(Load),
}

/// `gourd pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// Print the reference only
    #[arg(short, long)]
    pub quiet: bool,
    /// Platform of the image, for example linux/amd64
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Reference: [HOST[:PORT]/]NAME[:TAG][@DIGEST]
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `gourd load`.
#[derive(Debug, Args)]
pub struct Load {
    /// The archive [default: stdin]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// `gourd images`.
#[derive(Debug, Args)]
pub struct List {
    /// All: those without a tag are listed anyhow
    #[arg(short, long)]
    pub all: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Print this: `json`, `table`, `table TEMPLATE` or a template such as '{{.Repository}}:{{.Tag}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only images of this name, with or without a tag
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
}

/// `gourd rmi`.
#[derive(Debug, Args)]
pub struct Remove {
    /// Remove all its tags; no error when there is no such image
    #[arg(short, long)]
    pub force: bool,
    /// References or ids
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `gourd image inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Print this instead: `json`, or a template such as '{{.RootfsImage}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// References or ids
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}
