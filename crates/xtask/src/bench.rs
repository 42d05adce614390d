//! `xtask bench NAME CACHE`: the budgets of the design, measured. A bench is never a test: it prints and writes, and
//! whoever reads it judges.
//!
//! What is compared runs in turns, so that a machine's moods hit both; medians, because one slow run says nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

mod floor;
mod start;

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

/// Measures, prints, writes the file.
pub fn run(name: &str, cache: &Path) -> Result<()> {
    let pairs = match std::env::var("GOURD_BENCH_PAIRS") {
        Ok(number) => number.parse().context("GOURD_BENCH_PAIRS is no number")?,
        Err(_) => PAIRS,
    };
    let rows = match name {
        "start" => vec![start::measure(cache, pairs)?],
        _ => bail!("unknown bench {name:?}: start"),
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

/// What two things took, in turns.
#[derive(Debug, Default)]
struct Pairs {
    value: Vec<Duration>,
    against: Vec<Duration>,
}

impl Pairs {
    /// Prints the two with their spread, and makes the row.
    fn finish(mut self, row: String, other: &str, budget: f64) -> Row {
        self.value.sort();
        self.against.sort();
        let (value, against) = (median(&self.value), median(&self.against));
        let ratio = value / against;
        let width = row.len().max(other.len());
        println!("{:width$}    median    least     most", "");
        for (name, times) in [(row.as_str(), &self.value), (other, &self.against)] {
            let (least, most) = (seconds(times.first()), seconds(times.last()));
            println!(
                "{name:width$}  {:6.3} s  {least:.3} s  {most:.3} s",
                median(times)
            );
        }
        let runs = self.value.len();
        println!("ratio {ratio:.2} of {runs} pairs; the budget is {budget:.2}");
        Row {
            row,
            value,
            unit: "s",
            against,
            ratio,
            budget,
            runs,
        }
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
