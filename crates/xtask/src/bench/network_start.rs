//! `net-start`, `net-start-kvm`: what a network costs a start: `run` with the default one against `run --network none`, in turns, and who begins
//! takes turns, too.
//!
//! A start of a translated guest takes more than a second and differs from the next one by tens of milliseconds, so that it takes hundreds of
//! pairs to see five in what the clock says. Processor time differs less: that of all processes of a start, which this one is made to inherit.
//! All is given with the interval that the mean is in for 95 of 100 such benches. On KVM the guest's part of the processor time is known, and the
//! floor runs beside them: in the rig the processor is translated as well, and a share of the floor says more than milliseconds.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use hypervisor::config::DriverKind;
use rustix::process::WaitOptions;

use super::start::{Home, SMALL, timed};
use super::{Row, Times, median, print};

/// What a network may add to a start.
const BUDGET: Duration = Duration::from_millis(5);

/// What is taken of a start, each with its name.
const TAKEN: [&str; 3] = [
    "by the clock",
    "of processor time",
    "of the guest's processor time",
];

/// Measures so many pairs on the driver `qemu`.
pub fn on_qemu(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    measure(cache, pairs, &["--driver", "qemu"], None)
}

/// The same on the driver `kvm`, beside its floor.
pub fn on_kvm(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    let flags = [&["--driver", "kvm"], &SMALL[..]].concat();
    measure(cache, pairs, &flags, Some(DriverKind::Kvm))
}

/// Measures so many pairs, after one that is thrown away; beside this driver's floor, if there is one.
fn measure(
    cache: &Path,
    pairs: usize,
    flags: &[&'static str],
    floor: Option<DriverKind>,
) -> Result<Vec<Row>> {
    let home = Home::new(cache, flags)?;
    let floor = floor.map(|kind| home.floor(kind)).transpose()?;
    // Supervisors leave the command that starts them.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("inherit orphans")?;
    let names = ["default", "none"];
    let line = |network| -> Result<[Duration; 3]> {
        let line = [
            &["run", "--rm"],
            flags,
            &["--network", network, "busybox", "true"],
        ];
        let before = of_the_dead()?;
        let took = timed(|| home.gourd(&line.concat(), &[]))?;
        let after = of_the_dead()?;
        let [all, guest] = [0, 1].map(|part| after[part].saturating_sub(before[part]));
        Ok([took, all, guest])
    };
    let mut times = TAKEN.map(|what| {
        names.map(|network| Times::new(format!("gourd run, network {network}, {what}")))
    });
    let mut more = TAKEN.map(|_| Vec::new());
    let mut bare = Times::new("the same VM, powered off at once");
    for pair in 0..=pairs {
        let (with, without) = match pair % 2 {
            0 => (line("default")?, line("none")?),
            _ => {
                let none = line("none")?;
                (line("default")?, none)
            }
        };
        let alone = floor.as_ref().map(|floor| floor.power_off()).transpose()?;
        if pair == 0 {
            continue;
        }
        for (what, (with, without)) in with.into_iter().zip(without).enumerate() {
            times[what][0].add(with);
            times[what][1].add(without);
            more[what].push(with.as_secs_f64() - without.as_secs_f64());
        }
        if let Some(took) = alone {
            bare.add(took);
            // Somebody waits for minutes.
            eprintln!("pair {pair} of {pairs}");
        }
    }
    // A translated guest has no processor of its own.
    let known = if floor.is_some() { 3 } else { 2 };
    let rows: Vec<Row> = TAKEN[..known]
        .iter()
        .zip(&more)
        .map(|(what, more)| row(what, more))
        .collect();
    let mut things: Vec<&Times> = times[..known].iter().flatten().collect();
    if floor.is_some() {
        things.push(&bare);
    }
    print(&things, &rows);
    for (what, more) in TAKEN[..known].iter().zip(&more) {
        let (mean, half) = interval(more);
        let [mean, least, most] = [mean, mean - half, mean + half];
        println!(
            "the network adds {:.1} ms {what}, {:.1} to {:.1}",
            mean * 1e3,
            least * 1e3,
            most * 1e3
        );
        if floor.is_some() {
            let share = 100.0 / median(&bare.sorted);
            println!(
                "  of the floor that is {:.2} %, {:.2} to {:.2}",
                mean * share,
                least * share,
                most * share
            );
        }
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
    let row = format!("the median of what the network adds {what} / 5 ms");
    Row::within(row, value, "s", BUDGET.as_secs_f64(), more.len())
}

/// The mean, and half of the interval that has it with 95 %.
fn interval(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2));
    let deviation = (squares.sum::<f64>() / (count - 1.0).max(1.0)).sqrt();
    (mean, 1.96 * deviation / count.sqrt())
}

/// Processor time of all that were our children, or theirs, and have ended, and what of it guests had: waits until all have. Fields 16, 17
/// and 44 of `/proc/self/stat`, in hundredths of a second (`USER_HZ`).
fn of_the_dead() -> Result<[Duration; 2]> {
    while rustix::process::wait(WaitOptions::empty()).is_ok() {}
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(") ").context("/proc/self/stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // The first of them is the third.
    let ticks = |field: usize| -> Result<u64> {
        let text = fields.get(field - 3).context("/proc/self/stat")?;
        text.parse().with_context(|| format!("field {field}"))
    };
    let times = [ticks(16)? + ticks(17)?, ticks(44)?];
    Ok(times.map(|ticks| Duration::from_millis(10 * ticks)))
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
