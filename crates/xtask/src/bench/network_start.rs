//! `net-start`: what a network costs a start: `run` with the default one against `run --network none`, in turns, and who begins takes turns, too.
//!
//! A start of a translated guest takes more than a second and differs from the next one by tens of milliseconds, so that it takes hundreds of
//! pairs to see five in what the clock says. Processor time differs less: that of all processes of a start, which this one is made to inherit.
//! Both are given with the interval that the mean is in for 95 of 100 such benches.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::WaitOptions;

use super::start::{Home, timed};
use super::{Row, Times, print};

/// What a network may add to a start.
const BUDGET: Duration = Duration::from_millis(5);

/// Measures so many pairs, after one that is thrown away.
pub fn measure(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    // Supervisors leave the command that starts them.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("inherit orphans")?;
    let home = Home::new(cache, &["--driver", "qemu"])?;
    let line = |network| -> Result<(Duration, Duration)> {
        let line = ["run", "--rm", "--driver", "qemu", "--network", network];
        let before = of_the_dead()?;
        let took = timed(|| home.gourd(&[&line[..], &["busybox", "true"]].concat(), &[]))?;
        Ok((took, of_the_dead()?.saturating_sub(before)))
    };
    let names = ["gourd run, network default", "gourd run, network none"];
    let clock = names.map(Times::new);
    let processors = names.map(|name| Times::new(format!("{name}, processor time")));
    let mut times = [clock, processors];
    let mut more = [Vec::new(), Vec::new()];
    for pair in 0..=pairs {
        let (with, without) = match pair % 2 {
            0 => (line("default")?, line("none")?),
            _ => {
                let none = line("none")?;
                (line("default")?, none)
            }
        };
        if pair == 0 {
            continue;
        }
        let both = [(with.0, without.0), (with.1, without.1)];
        for ((times, more), (with, without)) in times.iter_mut().zip(&mut more).zip(both) {
            times[0].add(with);
            times[1].add(without);
            more.push(with.as_secs_f64() - without.as_secs_f64());
        }
    }
    let rows = ["by the clock", "processor time"];
    let rows: Vec<Row> = rows
        .iter()
        .zip(&more)
        .map(|(what, more)| row(what, more))
        .collect();
    let [clock, processors] = &times;
    print(
        &[&clock[0], &clock[1], &processors[0], &processors[1]],
        &rows,
    );
    for (row, more) in rows.iter().zip(&more) {
        let (mean, half) = interval(more);
        println!(
            "{}: the mean is {:.1} ms, {:.1} to {:.1}",
            row.row,
            mean * 1e3,
            (mean - half) * 1e3,
            (mean + half) * 1e3
        );
    }
    Ok(rows)
}

fn row(what: &str, more: &[f64]) -> Row {
    let mut sorted = more.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let value = match sorted.len() % 2 {
        0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    };
    let against = BUDGET.as_secs_f64();
    Row {
        row: format!("the median of what the network adds {what} / 5 ms"),
        value,
        unit: "s",
        against,
        ratio: value / against,
        budget: 1.0,
        runs: more.len(),
    }
}

/// The mean, and half of the interval that has it with 95 %.
fn interval(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2));
    let deviation = (squares.sum::<f64>() / (count - 1.0).max(1.0)).sqrt();
    (mean, 1.96 * deviation / count.sqrt())
}

/// Processor time of all that were our children, or theirs, and have ended: waits until all have. Fields 16 and 17 of `/proc/self/stat`, in
/// hundredths of a second (`USER_HZ`).
fn of_the_dead() -> Result<Duration> {
    while rustix::process::wait(WaitOptions::empty()).is_ok() {}
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(") ").context("/proc/self/stat")?;
    let fields = fields.split(' ').skip(13).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(10 * ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_around_the_mean() {
        let (mean, half) = interval(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean, 2.5);
        // 1.96 × 1.29099 / 2.
        assert!((half - 1.26517).abs() < 1e-4, "{half}");
        assert_eq!(interval(&[7.0]), (7.0, 0.0));
    }
}
