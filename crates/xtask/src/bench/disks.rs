//! `volume`: an empty file system of 512 GiB, beside mke2fs. `qcow2`: images to raw disks, beside qemu-img.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ext4::{FormatOptions, format};

use super::samples;
use super::{Row, Times, print, programs};

const VOLUME: u64 = 512 << 30;
/// Design section 10: at most 5 ms, and 2 MiB on the host's disk.
const VOLUME_SECONDS: f64 = 0.005;
const VOLUME_BYTES: f64 = (2 << 20) as f64;

/// How much the disks to convert hold, and how long they are.
const DATA: u64 = 320 << 20;
const DISK: u64 = 1 << 30;

/// Formats volumes of 512 GiB.
pub fn volume(pairs: usize) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir().context("make a folder")?;
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let mut formatted = Times::new("format a volume of 512 GiB");
    let mut made = Times::new("mke2fs -t ext4, with its start");
    let (mut bytes, mut their_bytes) = (0, 0);
    for pair in 0..=pairs {
        let value = format_once(&ours)?;
        let against = mke2fs(&theirs)?;
        bytes = fs::metadata(&ours)?.blocks() * 512;
        their_bytes = fs::metadata(&theirs)?.blocks() * 512;
        fs::remove_file(&ours)?;
        fs::remove_file(&theirs)?;
        if pair > 0 {
            formatted.add(value);
            made.add(against);
        }
    }
    let row = formatted.within(VOLUME_SECONDS, "5 ms");
    let name = "its bytes on the host's disk / 2 MiB".to_owned();
    let space = Row::within(name, bytes as f64, "byte", VOLUME_BYTES, pairs);
    let rows = vec![row, space];
    print(&[&formatted, &made], &rows);
    println!("{bytes} bytes on disk, mke2fs {their_bytes}");
    Ok(rows)
}

fn format_once(path: &Path) -> Result<Duration> {
    let started = Instant::now();
    let mut file = File::create_new(path).context("make a file")?;
    let options = FormatOptions {
        size: VOLUME,
        uuid: [7; 16],
        ..FormatOptions::default()
    };
    format(&mut file, &options).context("format")?;
    Ok(started.elapsed())
}

fn mke2fs(path: &Path) -> Result<Duration> {
    File::create_new(path)?.set_len(VOLUME)?;
    let mut command = Command::new("mke2fs");
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    samples::run(command.args(["-q", "-t", "ext4", "-F"]).arg(path))
}

/// Converts images of a disk with the machine's own programs and libraries in it.
pub fn qcow2(pairs: usize) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir().context("make a folder")?;
    let disk = dir.path().join("disk.raw");
    fill(&disk)?;
    let gourd = programs()?.join("gourd");
    let mut rows = Vec::new();
    for (name, options) in [
        ("plain", &[][..]),
        ("zlib", &["-c"]),
        ("zstd", &["-c", "-o", "compression_type=zstd"]),
    ] {
        let image = dir.path().join(name);
        let mut make = Command::new("qemu-img");
        make.args(["convert", "-O", "qcow2"]).args(options);
        samples::run(make.args([&disk, &image]))?;
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        let mut ours_took = Times::new(format!("gourd, {name} qcow2 of {} MiB", DATA >> 20));
        let mut theirs_took =
            Times::new("qemu-img convert, which leaves it to the system when it is written");
        let mut synced_took = Times::new("qemu-img convert, synced");
        for pair in 0..=pairs {
            let mut convert = Command::new(&gourd);
            let value = samples::run(
                convert
                    .args(["system", "disk", "convert", "-q"])
                    .args([&image, &ours]),
            )?;
            let mut convert = Command::new("qemu-img");
            let against = samples::run(
                convert
                    .args(["convert", "-O", "raw"])
                    .args([&image, &theirs]),
            )?;
            // As durable as ours.
            let begun = Instant::now();
            File::open(&theirs)?.sync_all()?;
            let synced = against + begun.elapsed();
            if pair == 0 {
                same(&ours, &theirs)?;
            } else {
                ours_took.add(value);
                theirs_took.add(against);
                synced_took.add(synced);
            }
            fs::remove_file(&ours)?;
            fs::remove_file(&theirs)?;
        }
        let both = [&theirs_took, &synced_took].map(|theirs| ours_took.against(theirs, 1.0));
        print(&[&ours_took, &theirs_took, &synced_took], &both);
        rows.extend(both);
    }
    Ok(rows)
}

/// Files that compress as programs, libraries and texts do, with holes around them.
fn fill(disk: &Path) -> Result<()> {
    let mut tar = Command::new("tar")
        .args([
            "--ignore-failed-read",
            "-cf",
            "-",
            "/usr/lib",
            "/usr/bin",
            "/usr/share",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start tar")?;
    let stream = tar.stdout.take().context("what tar writes")?;
    let file = File::create_new(disk)?;
    file.set_len(DISK)?;
    let mut stream = std::io::Read::take(stream, DATA);
    let mut buffer = vec![0; 1 << 20];
    let (mut at, mut written) = (16 << 20, 0);
    loop {
        let count = std::io::Read::read(&mut stream, &mut buffer)?;
        if count == 0 {
            break;
        }
        file.write_all_at(&buffer[..count], at)?;
        at += count as u64;
        written += count as u64;
    }
    // It is cut off where there is enough.
    let _ = tar.kill();
    tar.wait()?;
    ensure!(
        written == DATA,
        "{written} bytes of files on this machine, {DATA} are wanted"
    );
    Ok(())
}

fn same(ours: &Path, theirs: &Path) -> Result<()> {
    let same = Command::new("cmp").arg(ours).arg(theirs).status()?;
    ensure!(same.success(), "the two disks differ");
    let blocks = |path: &Path| fs::metadata(path).map(|found| found.blocks() / 2);
    println!(
        "{} KiB on disk, qemu-img {}",
        blocks(ours)?,
        blocks(theirs)?
    );
    Ok(())
}
