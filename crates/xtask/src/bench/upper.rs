//! `upper`: the disks that containers get at their first start, beside an empty file that is made as durably.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use store::Root;
use store::container::{self, SCHEMA, Spec, Vm};

use super::{Row, Times, print};

/// Design section 10: at most 5 ms whatever the size.
const SECONDS: f64 = 0.005;

/// What is made: its name, its size (0: as no flag says), and whether it goes with its container. A file of ext4 is shorter than 16 TiB.
const CASES: [(&str, u64, bool); 4] = [
    ("64 MiB, kept", 64 << 20, false),
    ("the default size, kept", 0, false),
    ("15 TiB, kept", 15 << 40, false),
    ("the default size, --rm", 0, true),
];

/// Each in turn, and the file.
pub fn measure(pairs: usize) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir().context("make a folder")?;
    let root = Root::open(&dir.path().join("root"))?;
    let name = |name| format!("an upper disk: {name}");
    let mut disks = CASES.map(|(case, ..)| Times::new(name(case)));
    let mut bytes = [0; CASES.len()];
    let mut synced = Times::new("a file of 4 KiB, synced, renamed, its folder synced");
    for pair in 0..=pairs {
        for (number, (_, size, remove)) in CASES.into_iter().enumerate() {
            let id = pair * CASES.len() + number;
            let (took, blocks) = make(&root, id, size, remove)?;
            bytes[number] = blocks * 512;
            if pair > 0 {
                disks[number].add(took);
            }
        }
        let took = floor(dir.path())?;
        if pair > 0 {
            synced.add(took);
        }
    }
    let rows: Vec<Row> = disks
        .iter()
        .map(|times| times.within(SECONDS, "5 ms"))
        .collect();
    let mut things: Vec<&Times> = disks.iter().collect();
    things.push(&synced);
    print(&things, &rows);
    for ((case, ..), bytes) in CASES.iter().zip(bytes) {
        println!("{case}: {bytes} bytes on disk");
    }
    Ok(rows)
}

/// What the first start of a container does for its disk; and the blocks of 512 bytes that it takes.
fn make(root: &Root, number: usize, size: u64, remove: bool) -> Result<(Duration, u64)> {
    let spec = Spec {
        schema: SCHEMA,
        id: format!("{number:064x}"),
        name: format!("c{number}"),
        vm: Vm {
            storage_size: size,
            ..Vm::default()
        },
        remove,
        ..Spec::default()
    };
    let (container, lock) = container::create(root, &spec)?;
    let begun = Instant::now();
    container.make_disk(&lock)?;
    let took = begun.elapsed();
    let blocks = std::fs::metadata(container.upper())?.blocks();
    container.remove_all()?;
    drop(lock);
    Ok((took, blocks))
}

fn floor(dir: &Path) -> Result<Duration> {
    let (new, path) = (dir.join("new"), dir.join("file"));
    let begun = Instant::now();
    let mut file = File::create_new(&new)?;
    file.write_all(&[1; 4096])?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    File::open(dir)?.sync_all()?;
    let took = begun.elapsed();
    std::fs::remove_file(&path)?;
    Ok(took)
}
