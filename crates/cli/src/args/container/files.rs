//! The files of containers: cp, export, diff.

use std::path::PathBuf;

use clap::Args;

/// `gourd cp`.
#[derive(Debug, Args)]
pub struct Copy {
    /// Keep user and group ids; otherwise files are root's in the container, and yours here
    #[arg(short, long)]
    pub archive: bool,
    /// Copy what a symbolic link leads to
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Don't show how far it is
    #[arg(short, long)]
    pub quiet: bool,
    /// CONTAINER:PATH, or a path here; `-` reads a tar archive
    #[arg(value_name = "SOURCE", allow_hyphen_values = true)]
    pub source: String,
    /// A path here, or CONTAINER:PATH; `-` writes a tar archive
    #[arg(value_name = "DESTINATION", allow_hyphen_values = true)]
    pub destination: String,
}

/// `gourd export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Write to a file, not to stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `gourd diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}
