//! What is known about containers: ps, inspect.

use clap::Args;

use crate::args::value;

/// `gourd ps`.
#[derive(Debug, Args)]
pub struct List {
    /// Those that don't run as well
    #[arg(short, long)]
    pub all: bool,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// The last N that were made, whether they run or not
    #[arg(short = 'n', long, value_name = "N", allow_hyphen_values = true)]
    pub last: Option<i64>,
    /// The last one that was made, whether it runs or not
    #[arg(short, long, conflicts_with = "last")]
    pub latest: bool,
    /// How much each takes on the disk
    #[arg(short, long)]
    pub size: bool,
    /// Only those: ancestor=, before=, exited=, expose=, health=, id=, label=, name=, network=, publish=, since=, status=, volume=
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = value::filter)]
    pub filter: Vec<(String, String)>,
    /// Print this: `json`, `table`, `table TEMPLATE` or a template such as '{{.ID}} {{.Names}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `gourd container inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Print this instead: `json`, or a template such as '{{.State.ExitCode}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// How much it takes on the disk, as SizeRw and SizeRootFs
    #[arg(short, long)]
    pub size: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}
