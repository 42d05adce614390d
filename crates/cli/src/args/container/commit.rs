//! What makes images of containers: commit.

use clap::Args;

use crate::args::value;

/// `gourd commit`.
#[derive(Debug, Args)]
pub struct Commit {
    /// Who made the image
    #[arg(
        short,
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    pub author: String,
    /// An instruction of a Dockerfile for the image: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL,
    /// USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// A note for the image's history
    #[arg(
        short,
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    pub message: String,
    /// Freeze the container meanwhile; --pause=false: don't
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
        default_missing_value = "true", value_parser = value::Truth, action = clap::ArgAction::Set)]
    pub pause: bool,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
}
