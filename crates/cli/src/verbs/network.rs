//! `gourd network …`.

use std::fs::File;
use std::path::PathBuf;

use engine::{Endpoint, ErrorKind, NetworkRequest, NetworkSummary};
use serde_json::{Value, json};

use crate::app::App;
use crate::args::network::{
    Connect, Create, Disconnect, Group, Inspect, List, Logs, Prune, Remove,
};
use crate::confirm::confirm;
use crate::failure::{Failure, Tally};
use crate::render::listing::Columns;
use crate::render::{human, out};
use crate::verbs::{container_prune, inspect::show};

/// Docker's, and the subnet, which people want to see.
const COLUMNS: Columns = Columns {
    default: "{{.ID}}\t{{.Name}}\t{{.Subnet}}\t{{.Internal}}",
    headings: &[("ID", "NETWORK ID"), ("CreatedAt", "CREATED AT")],
};

/// All of them.
pub async fn network(app: &App, verb: &Group) -> Result<u8, Failure> {
    match verb {
        Group::Create(args) => create(app, args),
        Group::Ls(args) => list(app, args),
        Group::Inspect(args) => inspect(app, args).await,
        Group::Rm(args) => remove(app, args),
        Group::Connect(args) => connect(app, args).await,
        Group::Disconnect(args) => disconnect(app, args).await,
        Group::Logs(args) => logs(app, args),
        Group::Prune(args) => prune(app, args),
    }
}

fn create(app: &App, args: &Create) -> Result<u8, Failure> {
    let id = app.engine()?.create_network(NetworkRequest {
        name: args.name.clone(),
        subnets: args.subnets.clone(),
        ipv6: args.ipv6,
        internal: args.internal,
        allow: args.allow.clone(),
        labels: args.labels.iter().cloned().collect(),
    })?;
    out::line(&id)?;
    Ok(0)
}

fn list(app: &App, args: &List) -> Result<u8, Failure> {
    let networks = app.engine()?.networks()?;
    if args.quiet {
        let id = |network: &NetworkSummary| match args.no_trunc {
            true => format!("{}\n", network.id),
            false => format!("{}\n", human::short_id(&network.id)),
        };
        out::print(&networks.iter().map(id).collect::<String>())?;
        return Ok(0);
    }
    let rows: Vec<Value> = networks
        .iter()
        .map(|network| row(network, args.no_trunc))
        .collect();
    let format = args.format.as_deref();
    out::print(&COLUMNS.render_fitting(&rows, format, args.no_trunc)?)?;
    Ok(0)
}

/// Docker's field names.
fn row(network: &NetworkSummary, whole: bool) -> Value {
    let id = match whole {
        true => &network.id,
        false => human::short_id(&network.id),
    };
    let labels: Vec<String> = network
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    json!({
        "ID": id,
        "Name": network.name,
        "Driver": "gourd",
        "Scope": "local",
        "Subnet": network.subnet,
        "Internal": network.internal.to_string(),
        "IPv4": "true",
        "IPv6": network.subnet6.is_some().to_string(),
        "Subnet6": network.subnet6.clone().unwrap_or_default(),
        "Allow": network.allow.join(","),
        "Labels": labels.join(","),
        "CreatedAt": human::created_at(network.created_ns),
    })
}

async fn inspect(app: &App, args: &Inspect) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut found = Vec::new();
    let mut tally = Tally::default();
    for name in &args.names {
        match engine.inspect_network(name).await {
            Ok(value) => found.push(value),
            Err(error) => tally.failed(error),
        }
    }
    show(&found, args.format.as_deref())?;
    tally.end()
}

async fn connect(app: &App, args: &Connect) -> Result<u8, Failure> {
    let endpoint = Endpoint {
        network: args.network.clone(),
        aliases: args.alias.clone(),
        address: args.ip,
        address6: args.ip6,
        ..Endpoint::default()
    };
    let engine = app.engine()?;
    engine.connect_network(&args.container, endpoint).await?;
    Ok(0)
}

async fn disconnect(app: &App, args: &Disconnect) -> Result<u8, Failure> {
    let engine = app.engine()?;
    engine
        .disconnect_network(&args.network, &args.container, args.force)
        .await?;
    Ok(0)
}

fn logs(app: &App, args: &Logs) -> Result<u8, Failure> {
    let engine = app.engine()?;
    if !args.follow {
        out::print(&String::from_utf8_lossy(&engine.network_log(&args.name)?))?;
        return Ok(0);
    }
    let failed = |path: &PathBuf, source| Failure::Create {
        path: path.clone(),
        source,
    };
    let create = |path: &PathBuf| File::create(path).map_err(|error| failed(path, error));
    let pcap = args.pcap.as_ref().map(create).transpose()?;
    let container = args.container.as_deref();
    for line in engine.watch_network(&args.name, container, pcap.as_ref())? {
        out::line(&line)?;
    }
    Ok(0)
}

fn remove(app: &App, args: &Remove) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.names {
        match engine.remove_network(name) {
            Ok(name) => out::line(&name)?,
            Err(error) if args.force && error.kind() == ErrorKind::NotFound => {}
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}

fn prune(app: &App, args: &Prune) -> Result<u8, Failure> {
    let warning = "WARNING! This will remove all networks that no container is on.";
    if !args.force && !confirm(warning)? {
        return Ok(0);
    }
    let filter = container_prune::chosen(&args.filter);
    out::print(&text(&app.engine()?.prune_networks(&filter)?))?;
    Ok(0)
}

/// Docker's words for networks that were removed.
pub(super) fn text(removed: &[String]) -> String {
    if removed.is_empty() {
        return String::new();
    }
    let names: String = removed.iter().map(|name| format!("{name}\n")).collect();
    format!("Deleted Networks:\n{names}\n")
}
