//! `xtask bench NAME CACHE`: the budgets of the design, measured. A bench is never a test: it prints and writes, and
//! whoever reads it judges.
//!
//! What is compared runs in turns, so that a machine's moods hit both; medians, because one slow run says nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

mod block;
mod boots;
mod clocks;
mod disks;
mod floor;
mod idle;
mod monitor;
mod net;
mod network_start;
mod pull;
mod sample;
mod samples;
mod shares;
mod start;
mod unpack;
mod upper;
mod vm;

/// All that there are.
const NAMES: &str = "start, start-kvm, create, boots-kvm, block-kvm, idle, idle-kvm, monitor, net, net-start, net-start-kvm, pull, shares, unpack, upper, volume, qcow2";

/// Pairs that are measured, after one that is thrown away. `GOURD_BENCH_PAIRS` overrides it.
const PAIRS: usize = 10;

/// One line of the table and of `target/bench/NAME.json`.
#[derive(Debug, Serialize)]
struct Row {
    /// What was measured.
    row: String,
    /// Its median.
    value: f64,
    /// The unit of `value` and `against`.
    unit: &'static str,
    /// The median of what it is held against.
    against: f64,
    /// `value / against`.
    ratio: f64,
    /// The most that the ratio may be.
    budget: f64,
    /// How many pairs.
    runs: usize,
}

impl Row {
    /// A value against a limit, whatever others have.
    fn within(row: String, value: f64, unit: &'static str, limit: f64, runs: usize) -> Row {
        Row {
            row,
            value,
            unit,
            against: limit,
            ratio: value / limit,
            budget: 1.0,
            runs,
        }
    }
}

/// Measures, prints, writes the file.
pub fn run(name: &str, cache: &Path) -> Result<()> {
    let wanted: Option<usize> = match std::env::var("GOURD_BENCH_PAIRS") {
        Ok(number) => Some(number.parse().context("GOURD_BENCH_PAIRS is no number")?),
        Err(_) => None,
    };
    let pairs = wanted.unwrap_or(PAIRS);
    let count = |usual| wanted.unwrap_or(usual);
    let rows: Vec<Row> = match name {
        "start" => start::on_qemu(cache, pairs)?,
        "start-kvm" => start::on_kvm(cache, pairs)?,
        "create" => start::creations(cache, pairs)?,
        "unpack" => unpack::measure(cache, pairs)?,
        "upper" => upper::measure(pairs)?,
        "volume" => disks::volume(pairs)?,
        "qcow2" => disks::qcow2(pairs)?,
        "monitor" => monitor::measure(cache, pairs)?,
        "net-start" => network_start::on_qemu(cache, pairs.max(1))?,
        "net-start-kvm" => network_start::on_kvm(cache, count(20).max(1))?,
        "net" => net::measure(cache, count(3))?,
        "pull" => pull::measure(cache, count(2))?,
        "shares" => shares::measure(cache, count(5))?,
        "boots-kvm" => boots::on_kvm(cache, count(boots::COUNT))?,
        "block-kvm" => block::on_kvm(cache, count(3))?,
        "idle" => idle::measure(cache, "qemu", count(idle::COUNT))?,
        "idle-kvm" => idle::measure(cache, "kvm", count(idle::COUNT_KVM))?,
        _ => bail!("unknown bench {name:?}: {NAMES}"),
    };
    let dir = target()?.join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let path = dir.join(format!("{name}.json"));
    fs::write(&path, serde_json::to_string_pretty(&rows)? + "\n")
        .with_context(|| format!("write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

/// The folder of this program's build: the programs in it are those that are measured.
fn programs() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    Ok(program
        .parent()
        .context("a program in a folder")?
        .to_owned())
}

fn target() -> Result<PathBuf> {
    Ok(programs()?.parent().context("a target folder")?.to_owned())
}

/// What a thing took, each time.
#[derive(Debug)]
struct Times {
    name: String,
    sorted: Vec<Duration>,
}

impl Times {
    fn new(name: impl Into<String>) -> Times {
        Times {
            name: name.into(),
            sorted: Vec::new(),
        }
    }

    fn add(&mut self, took: Duration) {
        let at = self.sorted.partition_point(|other| *other < took);
        self.sorted.insert(at, took);
    }

    /// The median against a limit in seconds; `limit_name` stands for it.
    fn within(&self, limit: f64, limit_name: &str) -> Row {
        let row = format!("{} / {limit_name}", self.name);
        Row::within(row, median(&self.sorted), "s", limit, self.sorted.len())
    }

    /// This against another, of which there are as many.
    fn against(&self, other: &Times, budget: f64) -> Row {
        let (value, against) = (median(&self.sorted), median(&other.sorted));
        Row {
            row: format!("{} / {}", self.name, other.name),
            value,
            unit: "s",
            against,
            ratio: value / against,
            budget,
            runs: self.sorted.len(),
        }
    }
}

/// Each thing with its spread, then each ratio with its budget.
fn print(things: &[&Times], rows: &[Row]) {
    let width = |names: &mut dyn Iterator<Item = usize>| names.max().unwrap_or(0);
    let name = width(&mut things.iter().map(|times| times.name.len()));
    println!("{:name$}    median    least     most", "");
    for times in things {
        let (least, most) = (seconds(times.sorted.first()), seconds(times.sorted.last()));
        println!(
            "{:name$}  {:6.3} s  {least:.3} s  {most:.3} s",
            times.name,
            median(&times.sorted)
        );
    }
    if rows.is_empty() {
        return;
    }
    let name = width(&mut rows.iter().map(|row| row.row.len()));
    println!("\n{:name$}  ratio  budget  runs", "");
    for row in rows {
        println!(
            "{:name$}   {:.2}    {:.2}   {:3}",
            row.row, row.ratio, row.budget, row.runs
        );
    }
}

fn seconds(time: Option<&Duration>) -> f64 {
    time.map_or(f64::NAN, Duration::as_secs_f64)
}

/// Of sorted times, in seconds.
fn median(sorted: &[Duration]) -> f64 {
    let middle = sorted.len() / 2;
    let upper = seconds(sorted.get(middle));
    if sorted.len() % 2 == 1 || middle == 0 {
        upper
    } else {
        (seconds(sorted.get(middle - 1)) + upper) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let check = |times: &[u64], expect: f64| {
            let times: Vec<_> = times.iter().map(|s| Duration::from_secs(*s)).collect();
            assert_eq!(median(&times), expect, "{times:?}");
        };
        check(&[3], 3.0);
        check(&[1, 2], 1.5);
        check(&[1, 2, 9], 2.0);
        check(&[1, 2, 4, 9], 3.0);
        assert!(median(&[]).is_nan());
    }
}
