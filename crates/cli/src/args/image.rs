//! The verbs of images and their flags.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use engine::ImageFilter;

use super::moment::moment;
use super::value;

/// Where a person says how registries are reached.
const REGISTRIES: &str = "Credentials are Docker's (~/.docker/config.json, `gourd login`). ~/.config/gourd/registries.json has \
\"registry-mirrors\" and \"insecure-registries\", as Docker's daemon.json, and \"mirrors\": {\"HOST\": [\"https://MIRROR\"]}. \
A private authority's certificate belongs into /etc/docker/certs.d/HOST[:PORT]/ca.crt or ~/.docker/certs.d/…. Proxies: HTTP_PROXY, \
HTTPS_PROXY, ALL_PROXY, NO_PROXY.";

/// `gourd image …`.
#[derive(Debug, Subcommand)]
pub enum Group {
    /// List images
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show all that is known about images, as JSON
    Inspect(Inspect),
    /// Show how an image's layers came about
    History(History),
    /// Give an image one more name
    Tag(Tag),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Remove images that nobody uses
    Prune(Prune),
    /// Download an image from a registry
    Pull(Pull),
    /// Upload an image to a registry
    Push(Push),
    /// Load images from an archive that `gourd save`, `docker save` or `skopeo` wrote
    Load(Load),
    /// Write images into an archive
    Save(Save),
    /// Make an image of an archive of files
    Import(Import),
}

/// `gourd pull`.
#[derive(Debug, Args)]
#[command(after_long_help = REGISTRIES)]
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

/// `gourd push`.
#[derive(Debug, Args)]
#[command(after_long_help = REGISTRIES)]
pub struct Push {
    /// Push all tags of the repository that are here
    #[arg(short, long)]
    pub all_tags: bool,
    /// Push the manifest of this platform only, without the index
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print the reference only
    #[arg(short, long)]
    pub quiet: bool,
    /// Reference: [HOST[:PORT]/]NAME[:TAG]
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `gourd load`.
#[derive(Debug, Args)]
pub struct Load {
    /// The archive, or a folder with an OCI layout [default: stdin]
    #[arg(short, long, value_name = "FILE|DIR")]
    pub input: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// `gourd save`.
#[derive(Debug, Args)]
pub struct Save {
    /// The archive [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// References or ids; a name without a tag means all tags of it
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `gourd import`.
#[derive(Debug, Args)]
pub struct Import {
    /// An instruction of a Dockerfile for the image: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL,
    /// USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// A note for the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// What the image is for [default: this machine]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// A tar, plain or packed; `-` is stdin
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
}

/// `gourd images`.
#[derive(Debug, Args)]
pub struct List {
    /// Docker's, which shows the images of a build's steps, too: none are made here, and those without a tag are listed anyhow
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
    /// Only those: dangling=true|false, label=KEY[=VALUE], before=IMAGE, since=IMAGE, until=MOMENT, reference=PATTERN
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub filter: Vec<(String, String)>,
    /// Print this: `json`, `table`, `table TEMPLATE` or a template such as '{{.Repository}}:{{.Tag}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only images of this name, with or without a tag; `*` stands for anything but a slash
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
}

/// `gourd history`.
#[derive(Debug, Args)]
pub struct History {
    /// Sizes and times for people; --human=false: bytes and whole times
    #[arg(short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
        default_missing_value = "true", value_parser = value::Truth, action = clap::ArgAction::Set)]
    pub human: bool,
    /// Whole ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Print this: `json`, `table`, `table TEMPLATE` or a template such as '{{.ID}}: {{.CreatedBy}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Reference or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `gourd tag`.
#[derive(Debug, Args)]
pub struct Tag {
    /// Reference or id
    #[arg(value_name = "SOURCE_IMAGE")]
    pub source: String,
    /// The new reference: [HOST[:PORT]/]NAME[:TAG]
    #[arg(value_name = "TARGET_IMAGE")]
    pub target: String,
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

/// `gourd image prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// All that no container uses, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    /// Ask nothing
    #[arg(short, long)]
    pub force: bool,
    /// Only those: until=MOMENT, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE", value_parser = prune_filter)]
    pub filter: Vec<(String, String)>,
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

fn filter(text: &str) -> Result<(String, String), String> {
    const KEYS: [&str; 6] = ["dangling", "label", "before", "since", "until", "reference"];
    one_of(text, &KEYS)
}

/// A filter of `image prune`.
pub fn prune_filter(text: &str) -> Result<(String, String), String> {
    one_of(text, &["until", "label", "label!", "dangling"])
}

fn one_of(text: &str, keys: &[&str]) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        format!(
            "{text:?} is no filter: write KEY=VALUE with one of {}",
            keys.join(", ")
        )
    })?;
    if !keys.contains(&key) {
        return Err(format!(
            "there is no filter {key:?}; there are {}",
            keys.join(", ")
        ));
    }
    let known = match key {
        "dangling" => flag(value).map(drop),
        "until" => moment(value).map(drop),
        _ if value.is_empty() => Err(format!("the filter {key} is empty")),
        _ => Ok(()),
    };
    known.map(|()| (key.to_owned(), value.to_owned()))
}

fn flag(value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    }
}

/// Checked filters, as the engine takes them.
pub fn chosen(filters: &[(String, String)]) -> ImageFilter {
    let mut chosen = ImageFilter::default();
    for (key, value) in filters {
        let label = || match value.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (value.clone(), None),
        };
        match key.as_str() {
            "dangling" => chosen.dangling = flag(value).ok(),
            "label" => chosen.labels.push(label()),
            "label!" => chosen.without_labels.push(label()),
            "before" => chosen.before = Some(value.clone()),
            "since" => chosen.since = Some(value.clone()),
            "until" => chosen.until_ns = moment(value).ok(),
            _ => chosen.references.push(value.clone()),
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for text in [
            "dangling=true",
            "label=a",
            "label=a=b",
            "before=busybox",
            "until=10m",
            "reference=*:latest",
        ] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in [
            "dangling=perhaps",
            "dangling",
            "colour=red",
            "until=soon",
            "label=",
        ] {
            assert!(filter(text).is_err(), "{text}");
        }
        assert!(prune_filter("label!=keep").is_ok());
        assert!(prune_filter("before=a").is_err());
        let filters = ["dangling=false", "label=a=b", "label=c", "since=x"];
        let filters: Vec<_> = filters.iter().map(|text| filter(text).unwrap()).collect();
        let expect = ImageFilter {
            dangling: Some(false),
            labels: vec![
                ("a".to_owned(), Some("b".to_owned())),
                ("c".to_owned(), None),
            ],
            since: Some("x".to_owned()),
            ..ImageFilter::default()
        };
        assert_eq!(chosen(&filters), expect);
    }
}
