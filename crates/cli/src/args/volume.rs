//! The verbs of volumes and their flags.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use engine::VolumeFilter;

use super::container::mount::driver;
use super::value;

/// `gourd volume …`.
#[derive(Debug, Subcommand)]
pub enum Group {
    /// Make a volume
    Create(Create),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show all that is known about volumes, as JSON
    Inspect(Inspect),
    /// Remove volumes that no container uses
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Remove all volumes that no container uses
    Prune(Prune),
    /// Make a volume with the contents of another one
    Clone(CloneVolume),
    /// Let a volume grow to a larger size
    Resize(Resize),
    /// Write all files of a volume into a tar archive
    Export(Export),
    /// Unpack a tar archive in a volume
    Import(Import),
}

/// `gourd volume create`.
#[derive(Debug, Args)]
pub struct Create {
    /// What it may grow to: bytes, or with k, m, g, t [default: 64g]
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    pub size: Option<u64>,
    /// Attach a label
    #[arg(short, long = "label", value_name = "KEY[=VALUE]", value_parser = value::label)]
    pub labels: Vec<(String, String)>,
    /// Whose its root directory is, in numbers [default: root's, or the image's that it is filled from]
    #[arg(long, value_name = "UID[:GID]", value_parser = owner)]
    pub owner: Option<(u32, u32)>,
    /// Its driver; there is one
    #[arg(short, long, value_name = "DRIVER", default_value = "local", value_parser = driver)]
    pub driver: String,
    /// An option of the driver: size=SIZE
    #[arg(short, long = "opt", value_name = "KEY=VALUE", value_parser = option)]
    pub options: Vec<u64>,
    /// Its name [default: made up]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// `gourd volume ls`.
#[derive(Debug, Args)]
pub struct List {
    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
    /// Only those: dangling=true|false, driver=, label=KEY[=VALUE], name=PART
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub filter: Vec<(String, String)>,
    /// Print this: `json`, `table`, `table TEMPLATE` or a template such as '{{.Name}} {{.Size}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `gourd volume inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Print this instead: `json`, or a template such as '{{.Mountpoint}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Their names
    #[arg(required = true, value_name = "VOLUME")]
    pub volumes: Vec<String>,
}

/// `gourd volume rm`.
#[derive(Debug, Args)]
pub struct Remove {
    /// No error when there is none
    #[arg(short, long)]
    pub force: bool,
    /// Their names
    #[arg(required = true, value_name = "VOLUME")]
    pub volumes: Vec<String>,
}

/// `gourd volume prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Those with a name as well
    #[arg(short, long)]
    pub all: bool,
    /// Don't ask
    #[arg(short, long)]
    pub force: bool,
    /// Only those: label=, label!=; all=true is --all
    #[arg(long, value_name = "KEY=VALUE", value_parser = prune_filter)]
    pub filter: Vec<(String, String)>,
}

/// `gourd volume clone`.
#[derive(Debug, Args)]
pub struct CloneVolume {
    /// Attach a label to the new one
    #[arg(short, long = "label", value_name = "KEY[=VALUE]", value_parser = value::label)]
    pub labels: Vec<(String, String)>,
    /// What to copy
    #[arg(value_name = "VOLUME")]
    pub source: String,
    /// The name of the new one
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `gourd volume resize`.
#[derive(Debug, Args)]
pub struct Resize {
    /// Its name
    #[arg(value_name = "VOLUME")]
    pub volume: String,
    /// What it may grow to: bytes, or with k, m, g, t. The file system follows when a container next writes to it
    #[arg(value_name = "SIZE", value_parser = value::size)]
    pub size: u64,
}

/// `gourd volume export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Write to a file, not to stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Its name
    #[arg(value_name = "VOLUME")]
    pub volume: String,
}

/// `gourd volume import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Whose the root directory of a volume is that is made by this, in numbers; files keep theirs [default: root's]
    #[arg(long, value_name = "UID[:GID]", value_parser = owner)]
    pub owner: Option<(u32, u32)>,
    /// Its name; it is made when it does not exist
    #[arg(value_name = "VOLUME")]
    pub volume: String,
    /// The archive, plain or packed by gzip, zstd, xz or bzip2; `-` is stdin
    #[arg(value_name = "FILE|-", default_value = "-")]
    pub file: PathBuf,
}

/// `UID[:GID]`; the group is the user's number when it is not said.
fn owner(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("{text:?} is no owner: write numbers, UID[:GID], for example 1000:1000");
    // The last one stands for "none" in chown(2).
    let number = |text: &str| {
        text.parse()
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(wrong)
    };
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    Ok((number(user)?, number(group)?))
}

fn option(text: &str) -> Result<u64, String> {
    match text.split_once('=') {
        Some(("size", size)) => value::size(size),
        _ => Err(format!(
            "there is no option {text:?} of volumes; there is size=SIZE"
        )),
    }
}

fn filter(text: &str) -> Result<(String, String), String> {
    let (key, value) = one_of(text, &["dangling", "driver", "label", "name"])?;
    if key == "dangling" {
        truth(&value)?;
    }
    Ok((key, value))
}

fn prune_filter(text: &str) -> Result<(String, String), String> {
    let (key, value) = one_of(text, &["all", "label", "label!"])?;
    if key == "all" {
        truth(&value)?;
    }
    Ok((key, value))
}

fn one_of(text: &str, keys: &[&str]) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if keys.contains(&key) && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(format!(
            "{text:?} is no filter: write KEY=VALUE with one of {}",
            keys.join(", ")
        )),
    }
}

fn truth(value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    }
}

/// Checked filters, as the engine takes them, and whether all volumes are meant.
pub fn chosen(filters: &[(String, String)]) -> (VolumeFilter, bool) {
    let (mut chosen, mut all) = (VolumeFilter::default(), false);
    for (key, value) in filters {
        let label = || match value.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (value.clone(), None),
        };
        match key.as_str() {
            "dangling" => chosen.dangling = truth(value).ok(),
            "driver" => chosen.drivers.push(value.clone()),
            "label" => chosen.labels.push(label()),
            "label!" => chosen.without_labels.push(label()),
            "all" => all = truth(value) == Ok(true),
            _ => chosen.names.push(value.clone()),
        }
    }
    (chosen, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        let check = |text: &str, expect: Option<(u32, u32)>| {
            assert_eq!(owner(text).ok(), expect, "{text:?}");
        };
        check("1000", Some((1000, 1000)));
        check("1000:0", Some((1000, 0)));
        for bad in ["", "a", "1:", ":1", "1:2:3", "-1", "4294967295"] {
            check(bad, None);
        }
    }

    #[test]
    fn filters() {
        for good in ["dangling=true", "driver=local", "label=a=b", "name=da"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["dangling=x", "label!=a", "size=1", "name=", "name"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
        assert!(prune_filter("label!=a").is_ok() && prune_filter("name=a").is_err());
        let given = ["all=true", "label!=keep"].map(|text| prune_filter(text).unwrap());
        let (chosen, all) = chosen(&given);
        assert!(all);
        assert_eq!(chosen.without_labels, [("keep".to_owned(), None)]);
        assert_eq!(option("size=1g"), Ok(1 << 30));
        assert!(option("type=nfs").is_err());
    }
}
