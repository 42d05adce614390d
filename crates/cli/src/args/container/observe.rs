//! Looking at running containers, and holding them still: stats, top, pause, unpause.

use clap::Args;

/// `gourd pause` and `gourd unpause`.
#[derive(Debug, Args)]
pub struct Pause {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Those that don't run as well
    #[arg(short, long)]
    pub all: bool,
    /// Show it once
    #[arg(long)]
    pub no_stream: bool,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Print this: `json`, `table`, `table TEMPLATE` or a template such as '{{.Name}} {{.CPUPerc}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Names or ids [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `gourd top`.
#[derive(Debug, Args)]
#[command(override_usage = "gourd top CONTAINER [PS OPTION]...")]
pub struct Top {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// As ps(1) has them: -ef, aux, -o pid,user,args
    #[arg(
        value_name = "PS OPTION",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub options: Vec<String>,
}
