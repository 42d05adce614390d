//! The verbs of networks and their flags.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::value;

/// `gourd network …`.
#[derive(Debug, Subcommand)]
pub enum Group {
    /// Make a network
    Create(Create),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show all that is known about networks, as JSON
    Inspect(Inspect),
    /// Remove networks that no running container is on
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Put a container on a further network
    Connect(Connect),
    /// Take a container off a network
    Disconnect(Disconnect),
    /// Show what a network refused, or what happens on it
    Logs(Logs),
    /// Remove all networks that no container is on
    Prune(Prune),
}

/// `gourd network create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Addresses of the network, for example 10.1.2.0/24 or fd12:3456:789a::/64; one of each [default: one that is free]
    #[arg(long = "subnet", value_name = "SUBNET")]
    pub subnets: Vec<String>,
    /// Give its containers IPv6, too
    #[arg(long)]
    pub ipv6: bool,
    /// Let nobody on it reach anything outside of it
    #[arg(long, conflicts_with = "allow")]
    pub internal: bool,
    /// Let its containers reach this outside, and nothing else: a name, all names below one (*.example.org), an address or a prefix
    /// (192.0.2.0/24), with :PORT for one port only
    #[arg(long, value_name = "NAME_OR_PREFIX[:PORT]")]
    pub allow: Vec<String>,
    /// Attach a label
    #[arg(long = "label", value_name = "KEY[=VALUE]", value_parser = value::label)]
    pub labels: Vec<(String, String)>,
    /// Its name
    #[arg(value_name = "NETWORK")]
    pub name: String,
}

/// `gourd network ls`.
#[derive(Debug, Args)]
pub struct List {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Print this: `json`, `table`, `table TEMPLATE` or a template such as '{{.Name}} {{.Subnet}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `gourd network inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Print this instead: `json`, or a template such as '{{.Internal}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    pub names: Vec<String>,
}

/// `gourd network logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Show every connection, question about a name and refusal from now on, as it comes
    #[arg(short, long)]
    pub follow: bool,
    /// Of this container only
    #[arg(long, value_name = "CONTAINER", requires = "follow")]
    pub container: Option<String>,
    /// Record the frames, too, for tshark or Wireshark: into this file, which is made anew
    #[arg(long, value_name = "FILE", requires = "follow")]
    pub pcap: Option<PathBuf>,
    /// Name or id
    #[arg(value_name = "NETWORK")]
    pub name: String,
}

/// `gourd network rm`.
#[derive(Debug, Args)]
pub struct Remove {
    /// One that is not there is no failure
    #[arg(short, long)]
    pub force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    pub names: Vec<String>,
}

/// `gourd network connect`.
#[derive(Debug, Args)]
pub struct Connect {
    /// Further name of the container on the network
    #[arg(long, value_name = "ALIAS")]
    pub alias: Vec<String>,
    /// Address of the container on the network
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<Ipv4Addr>,
    /// Address of IPv6 of the container on the network, of which its address of IPv4 is the end
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<Ipv6Addr>,
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// Name or id of the container, which may run
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `gourd network disconnect`.
#[derive(Debug, Args)]
pub struct Disconnect {
    /// Even when the container can't be told
    #[arg(short, long)]
    pub force: bool,
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// Name or id of the container, which may run
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `gourd network prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Ask nothing
    #[arg(short, long)]
    pub force: bool,
    /// Only those: until=, label=, label!=
    #[arg(long, value_name = "KEY=VALUE", value_parser = value::prune_filter)]
    pub filter: Vec<(String, String)>,
}
