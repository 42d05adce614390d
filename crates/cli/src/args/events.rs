//! `gourd events`.

use clap::Args;

use super::moment;

/// `gourd events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Only those: type=, event=, container=, image=, label=, volume=, network=
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub filter: Vec<(String, String)>,
    /// Begin with those from then on: 2026-11-23T04:05:06Z, 1700000000, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = moment::moment)]
    pub since: Option<u64>,
    /// End then
    #[arg(long, value_name = "TIME", value_parser = moment::moment)]
    pub until: Option<u64>,
    /// Print this: `json`, or a template such as '{{.Type}} {{.Action}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

fn filter(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no filter: write KEY=VALUE"))?;
    engine::EventFilter::default()
        .add(key, value)
        .map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}
