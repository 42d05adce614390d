//! `boots-kvm`: the floor's VM many times in a row, in one process. None may hang, and nothing of them may be left: in this
//! process, which is what a program that embeds the driver is, or on the machine, which in the rig runs nothing else.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hypervisor::config::DriverKind;

use super::start::Home;
use super::{Row, Times, print};

/// Boots, unless `GOURD_BENCH_PAIRS` says otherwise.
pub const COUNT: usize = 100;

/// What VMs could leave.
struct Left {
    name: &'static str,
    unit: &'static str,
    value: u64,
    /// How much more there may be after all boots.
    slack: u64,
}

/// The rows of the driver `kvm`.
pub fn on_kvm(cache: &Path, count: usize) -> Result<Vec<Row>> {
    let home = Home::new(cache, &["--driver", "kvm", "--cpus", "1", "-m", "128m"])?;
    let floor = home.floor(DriverKind::Kvm)?;
    let mut times = Times::new(format!("boot and power off, {count} in a row"));
    // The first ones fill caches, and allocate what stays allocated.
    for _ in 0..2 {
        floor.power_off()?;
    }
    let before = left(count)?;
    for number in 1..=count {
        let took = floor.power_off();
        times.add(took.with_context(|| format!("boot {number} of {count}"))?);
        if number % 10 == 0 {
            eprintln!("{number} of {count} boots");
        }
    }
    let after = left(count)?;
    let rows: Vec<Row> = before.iter().zip(&after).map(row(count)).collect();
    print(&[&times], &rows);
    for (before, after) in before.iter().zip(&after) {
        println!(
            "{}: {} before, {} after",
            before.name, before.value, after.value
        );
    }
    Ok(rows)
}

fn row(count: usize) -> impl Fn((&Left, &Left)) -> Row {
    move |(before, after)| Row {
        row: format!("{}, after / before", after.name),
        value: after.value as f64,
        unit: after.unit,
        against: before.value as f64,
        ratio: after.value as f64 / before.value as f64,
        budget: (before.value + before.slack) as f64 / before.value as f64,
        runs: count,
    }
}

fn left(count: usize) -> Result<Vec<Left>> {
    let entries = |path: &str| -> Result<u64> {
        Ok(fs::read_dir(path).with_context(|| path.to_owned())?.count() as u64)
    };
    let memory = fs::read_to_string("/proc/meminfo")?;
    let handles = fs::read_to_string("/proc/sys/fs/file-nr")?;
    let handles = handles.split_whitespace().next().unwrap_or_default();
    let left = |name, unit, value, slack| Left {
        name,
        unit,
        value,
        slack,
    };
    Ok(vec![
        left(
            "descriptors of this process",
            "",
            entries("/proc/self/fd")?,
            0,
        ),
        left(
            "threads of this process",
            "",
            entries("/proc/self/task")?,
            0,
        ),
        left(
            "private memory of this process",
            "KiB",
            number(&fs::read_to_string("/proc/self/status")?, "RssAnon:")?,
            // What the allocator keeps; a page a boot would be more.
            2 * count as u64,
        ),
        left("threads of all programs", "", threads()?, 0),
        // The kernel counts these per processor and adds up now and then.
        left(
            "open files of the machine",
            "",
            handles.parse()?,
            count.max(64) as u64 / 2,
        ),
        left(
            "memory of the machine without a file",
            "KiB",
            number(&memory, "AnonPages:")? + number(&memory, "Shmem:")?,
            512 + 4 * count as u64,
        ),
    ])
}

/// The number after a name.
fn number(text: &str, name: &str) -> Result<u64> {
    let mut words = text.split_whitespace().skip_while(|word| *word != name);
    let number = words.nth(1).with_context(|| format!("no {name}"))?;
    number.parse().with_context(|| format!("{name} {number}"))
}

/// Threads of everything that has a command line: the kernel's own have none.
fn threads() -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        if fs::read(path.join("cmdline")).is_ok_and(|line| !line.is_empty()) {
            sum += fs::read_dir(path.join("task")).map_or(0, Iterator::count) as u64;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_proc() {
        let text = "MemTotal:  12 kB\nShmem:   345 kB\n";
        assert_eq!(number(text, "Shmem:").unwrap(), 345);
        assert!(number(text, "AnonPages:").is_err());
        assert!(threads().unwrap() >= 1);
    }
}
