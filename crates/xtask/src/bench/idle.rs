//! `idle`, `idle-kvm`: many containers that do nothing, all at once, and what each costs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::start::Home;
use super::{Row, Times, print};

/// Containers, unless `GOURD_BENCH_PAIRS` says otherwise. The rig has a sixth of the memory and starts one in seconds.
pub const COUNT: usize = 100;
/// See [`COUNT`].
pub const COUNT_KVM: usize = 12;

/// A hundred of them in 24 GiB, in MiB.
const BUDGET: f64 = 24.0 * 1024.0 / 100.0;

/// How long they are watched.
const WATCHED: Duration = Duration::from_secs(10);

/// Starts them, looks at the machine, and removes them.
pub fn measure(cache: &Path, driver: &'static str, count: usize) -> Result<Vec<Row>> {
    let home = Home::new(cache, &["--driver", driver, "--cpus", "1", "-m", "128m"])?;
    let mut times = Times::new("gourd run -d");
    home.gourd(
        &[
            "run", "--rm", "--driver", driver, "--cpus", "1", "busybox", "true",
        ],
        &[],
    )?;
    let before = available()?;
    let mut result = Ok(());
    for number in 1..=count {
        let name = format!("idle{number}");
        let line = [
            "run", "-d", "--driver", driver, "--cpus", "1", "-m", "128m", "--name", &name,
            "busybox", "sleep", "100000",
        ];
        let begin = Instant::now();
        result = home.gourd(&line, &[]).map(drop);
        if result.is_err() {
            break;
        }
        times.add(begin.elapsed());
        if number % 10 == 0 {
            eprintln!("{number} of {count} containers");
        }
    }
    // The kernels settle, and report what they freed.
    std::thread::sleep(WATCHED);
    let after = available()?;
    let busy = busy()?;
    std::thread::sleep(WATCHED);
    let busy = (self::busy()? - busy) / WATCHED.as_secs_f64();
    let running = home.gourd(&["ps", "-q"], &[])?;
    let all: Vec<&str> = running.lines().collect();
    let removed = home.gourd(&[&["rm", "-f"], &all[..]].concat(), &[]);
    result.with_context(|| format!("after {} containers", times.sorted.len()))?;
    removed?;
    let each = before.saturating_sub(after) as f64 / 1024.0 / count as f64;
    let name = format!(
        "memory of each of {} idle containers / 24 GiB for 100",
        all.len()
    );
    let rows = vec![Row::within(name, each, "MiB", BUDGET, count)];
    print(&[&times], &rows);
    println!(
        "{} run; {each:.1} MiB each of the machine's available memory; {:.1} % of a processor for all",
        all.len(),
        busy * 100.0
    );
    Ok(rows)
}

/// KiB that the machine could still give.
fn available() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "MemAvailable:");
    let number = words.nth(1).context("no MemAvailable")?;
    number.parse().context("MemAvailable")
}

/// Seconds that all processors have worked: `/proc/stat` without idle and waiting, in hundredths (`USER_HZ`).
fn busy() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let mut sum = 0;
    for (index, word) in line.split_whitespace().skip(1).take(8).enumerate() {
        if index != 3 && index != 4 {
            sum += word.parse::<u64>().context("/proc/stat")?;
        }
    }
    Ok(sum as f64 / 100.0)
}
