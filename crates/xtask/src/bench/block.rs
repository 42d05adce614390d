//! `block-kvm`: fio in a guest, on a volume's file, under both drivers in turns: our block device against QEMU's on the same
//! KVM, kernel and image.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::start::Home;
use super::{Row, Times, print};

/// Ours is to be as fast.
const BUDGET: f64 = 1.0;

/// Jobs of fio(1), one after the other: name, direction, bytes of a request, requests at once.
const JOBS: [(&str, &str, &str, &str); 4] = [
    ("sequential reads of 128 KiB", "read", "128k", "4"),
    ("sequential writes of 128 KiB", "write", "128k", "4"),
    ("random reads of 4 KiB", "randread", "4k", "16"),
    ("random writes of 4 KiB", "randwrite", "4k", "16"),
];

/// Seconds of each job.
const SECONDS: &str = "3";

/// Times are those of one request.
pub fn on_kvm(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    crate::images::fio(cache)?;
    let home = Home::new(cache, &["--driver", "kvm"])?;
    let image = cache.join("images/fio.tar");
    home.gourd(&["load", "-q", "-i"], &[&image])?;
    let mut times: Vec<[Times; 2]> = JOBS
        .iter()
        .map(|job| [Times::new(job.0), Times::new(format!("QEMU's {}", job.0))])
        .collect();
    for pair in 0..=pairs {
        for (driver, side) in [("kvm", 0), ("qemu", 1)] {
            let found = fio(&home, driver)?;
            for (times, took) in times.iter_mut().zip(found) {
                if pair > 0 {
                    times[side].add(took);
                }
            }
        }
        eprintln!("pair {pair} of {pairs}");
    }
    let rows: Vec<Row> = times
        .iter()
        .map(|[ours, theirs]| ours.against(theirs, BUDGET))
        .collect();
    let things: Vec<&Times> = times.iter().flatten().collect();
    print(&things, &rows);
    for row in &rows {
        let (ours, theirs) = (row.value * 1e6, row.against * 1e6);
        println!("{}: {ours:.0} µs and {theirs:.0} µs a request", row.row);
    }
    Ok(rows)
}

/// Seconds of a request of each job.
fn fio(home: &Home, driver: &str) -> Result<Vec<std::time::Duration>> {
    let mut line: Vec<&str> = vec![
        "run", "--rm", "--driver", driver, "--cpus", "1", "-m", "256m",
    ];
    line.extend(["-v", "bench:/data", "fio", "fio", "--output-format=json"]);
    line.extend(["--filename=/data/file", "--size=64m", "--direct=1"]);
    line.extend(["--ioengine=libaio", "--time_based", "--runtime", SECONDS]);
    let jobs: Vec<[String; 5]> = JOBS
        .iter()
        .map(|(name, rw, bs, depth)| {
            [
                format!("--name={name}"),
                format!("--rw={rw}"),
                format!("--bs={bs}"),
                format!("--iodepth={depth}"),
                "--stonewall".to_owned(),
            ]
        })
        .collect();
    line.extend(jobs.iter().flatten().map(String::as_str));
    let text = home.gourd(&line, &[])?;
    parse(&text)
}

/// fio's words before the JSON are notes.
fn parse(text: &str) -> Result<Vec<std::time::Duration>> {
    let start = text.find('{').context("fio says nothing")?;
    let value: Value = serde_json::from_str(&text[start..]).context("fio's report")?;
    let jobs = value["jobs"].as_array().context("fio's jobs")?;
    ensure!(jobs.len() == JOBS.len(), "fio reports {} jobs", jobs.len());
    let found = jobs.iter().zip(JOBS).map(|(job, (name, rw, ..))| {
        let side = if rw.ends_with("read") {
            "read"
        } else {
            "write"
        };
        let each = job[side]["iops"].as_f64().filter(|iops| *iops > 0.0);
        let each = each.with_context(|| format!("fio's {name}: no requests"))?;
        Ok(std::time::Duration::from_secs_f64(1.0 / each))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let job = |side: &str| format!(r#"{{"{side}": {{"iops": 500.0}}}}"#);
        let jobs = ["read", "write", "read", "write"].map(job).join(",");
        let found = parse(&format!("note: laying out\n{{\"jobs\": [{jobs}]}}")).unwrap();
        assert_eq!(found, [std::time::Duration::from_millis(2); 4]);
        for wrong in ["", "fio: failed", "{}", r#"{"jobs": []}"#] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
