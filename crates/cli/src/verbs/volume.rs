//! `gourd volume …`.

mod files;
mod list;

pub use list::row;

use engine::{ErrorKind, PrunedVolumes, VolumeRequest};

use crate::app::App;
use crate::args::volume::{CloneVolume, Create, Group, Inspect, Prune, Remove, Resize, chosen};
use crate::confirm::confirm;
use crate::failure::{Failure, Tally, report};
use crate::render::{human, out};

/// Does what the verb says.
pub async fn volume(app: &App, verb: Group) -> Result<u8, Failure> {
    match verb {
        Group::Create(args) => create(app, args).await,
        Group::Ls(args) => list::list(app, &args),
        Group::Inspect(args) => inspect(app, &args),
        Group::Rm(args) => remove(app, &args).await,
        Group::Prune(args) => prune(app, &args).await,
        Group::Clone(args) => clone(app, args).await,
        Group::Resize(args) => resize(app, &args).await,
        Group::Export(args) => files::export(app, &args).await,
        Group::Import(args) => files::import(app, &args).await,
    }
}

/// Makes it and prints its name.
async fn create(app: &App, args: Create) -> Result<u8, Failure> {
    let request = VolumeRequest {
        name: args.name,
        size: args.size.or(args.options.last().copied()),
        labels: args.labels.into_iter().collect(),
        owner: args.owner,
    };
    out::line(&app.engine()?.volume_create(request).await?)?;
    Ok(0)
}

fn inspect(app: &App, args: &Inspect) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut found = Vec::new();
    let mut tally = Tally::default();
    for name in &args.volumes {
        engine
            .volume_inspect(name)
            .map(|value| found.push(value))
            .unwrap_or_else(|error| tally.failed(error));
    }
    super::inspect::show(&found, args.format.as_deref())?;
    tally.end()
}

/// Removes each and prints the names of those that are gone. With `-f`, one that is not there is gone, as with Docker.
async fn remove(app: &App, args: &Remove) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.volumes {
        match engine.volume_remove(name).await {
            Ok(()) => out::line(name)?,
            Err(error) if args.force && matches!(error.kind(), ErrorKind::NotFound) => {
                report(&error.into());
            }
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}

async fn prune(app: &App, args: &Prune) -> Result<u8, Failure> {
    let (filter, all) = chosen(&args.filter);
    let all = args.all || all;
    let warning = match all {
        true => "WARNING! This will remove all local volumes not used by at least one container.",
        false => {
            "WARNING! This will remove anonymous local volumes not used by at least one container."
        }
    };
    if !args.force && !confirm(warning)? {
        return Ok(0);
    }
    let pruned = app.engine()?.prune_volumes(all, &filter).await?;
    out::print(&text(&pruned))?;
    out::line(&format!(
        "Total reclaimed space: {}",
        human::size(pruned.bytes)
    ))?;
    Ok(0)
}

/// What went, as Docker lists it; nothing when nothing did.
pub fn text(pruned: &PrunedVolumes) -> String {
    if pruned.names.is_empty() {
        return String::new();
    }
    let names: String = pruned
        .names
        .iter()
        .map(|name| format!("{name}\n"))
        .collect();
    format!("Deleted Volumes:\n{names}\n")
}

async fn clone(app: &App, args: CloneVolume) -> Result<u8, Failure> {
    let labels = args.labels.into_iter().collect();
    let engine = app.engine()?;
    engine
        .volume_clone(&args.source, &args.name, labels)
        .await?;
    out::line(&args.name)?;
    Ok(0)
}

async fn resize(app: &App, args: &Resize) -> Result<u8, Failure> {
    app.engine()?.volume_resize(&args.volume, args.size).await?;
    out::line(&args.volume)?;
    Ok(0)
}
