//! Layers → rootfs image, against decompressing the same layers alone, and beside `mke2fs -d` and `umoci unpack`.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{channel, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use oci::Hasher;
use store::rootfs;

use super::sample::{Sample, decompressor, each_chunk, unpack};
use super::samples::{self, Packing};
use super::{Row, Times, print};

const BUDGET: f64 = 1.2;

/// The large image, in bytes.
pub(super) const LARGE: u64 = 1 << 30;

/// Memory that a pull of it may take, in MiB.
const MEMORY: f64 = 150.0;

/// Chunks that wait for the thread that writes.
const BUFFERS: usize = 8;

/// Runs of the tools that are slow.
const FEW: usize = 3;

/// Every sample in turn.
pub fn measure(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for packing in [Packing::Gzip, Packing::Zstd] {
        let name = packing.name();
        let debian = Sample::new(cache, samples::debian(cache, packing)?, packing)?;
        rows.extend(debian.against_decompression(format!("Debian, {name}"), pairs)?);
        if packing == Packing::Gzip {
            rows.extend(debian.beside_others(cache, "Debian", pairs)?);
        }
        let usr = samples::usr(cache, packing, LARGE, 1)?;
        let large = Sample::new(cache, usr, packing)?;
        rows.extend(large.against_decompression(format!("1 GiB of /usr, {name}"), pairs)?);
        if packing == Packing::Gzip {
            rows.extend(large.beside_others(cache, "1 GiB of /usr", pairs)?);
        }
        rows.push(large.memory(format!("1 GiB of /usr, {name}: memory"))?);
        let usr = samples::usr(cache, packing, LARGE, 8)?;
        let layers = Sample::new(cache, usr, packing)?;
        rows.extend(layers.against_decompression(format!("the same, 8 layers, {name}"), pairs)?);
        rows.push(layers.memory(format!("the same, 8 layers, {name}: memory"))?);
    }
    let million = Sample::new(cache, samples::million(cache)?, Packing::Gzip)?;
    let name = "a million empty files".to_owned();
    rows.extend(million.against_decompression(name, FEW.min(pairs))?);
    Ok(rows)
}

impl Sample {
    /// Ours. The result goes, untimed.
    fn build(&self) -> Result<Duration> {
        let begun = Instant::now();
        let image = rootfs::build_with(&self.root, &self.layers, &self.options)?;
        let took = begun.elapsed();
        fs::remove_dir_all(image.parent().context("a folder")?)?;
        Ok(took)
    }

    /// The same layers decompressed by the same library, and by as many threads as the options allow.
    fn decompress(&self) -> Result<Duration> {
        self.with_each_blob(|path| {
            each_chunk(&mut decompressor(path)?, |chunk| {
                std::hint::black_box(chunk);
                Ok(())
            })
        })
    }

    /// The same, and what comes out is hashed and written to a file each, which is synced: by a second thread for each that
    /// decompresses. What every unpacker has to do at least.
    fn decompress_hash_and_write(&self) -> Result<Duration> {
        let to = tempfile::tempdir_in(self.dir.path())?;
        let took = self.with_each_blob(|path| {
            let name = path.file_name().context("a name")?;
            let file = File::create(to.path().join(name))?;
            std::thread::scope(|scope| {
                let (full, fulls) = sync_channel::<Vec<u8>>(BUFFERS);
                let (empty, empties) = channel();
                let writing = scope.spawn(move || -> Result<()> {
                    let mut hasher = Hasher::new();
                    for chunk in fulls {
                        hasher.update(&chunk);
                        (&file).write_all(&chunk)?;
                        let _ = empty.send(chunk);
                    }
                    std::hint::black_box(hasher.finish());
                    Ok(file.sync_data()?)
                });
                each_chunk(&mut decompressor(path)?, |chunk| {
                    let mut buffer = empties.try_recv().unwrap_or_default();
                    buffer.clear();
                    buffer.extend_from_slice(chunk);
                    full.send(buffer).context("the thread that writes")
                })?;
                drop(full);
                writing.join().map_err(|_| anyhow::anyhow!("a panic"))?
            })
        })?;
        to.close()?;
        Ok(took)
    }

    fn with_each_blob(&self, each: impl Fn(&Path) -> Result<()> + Sync) -> Result<Duration> {
        let begun = Instant::now();
        let queue = Mutex::new(self.blobs.clone());
        let work = || -> Result<()> {
            loop {
                let next = queue.lock().map_err(|_| anyhow::anyhow!("a panic"))?.pop();
                let Some(path) = next else {
                    return Ok(());
                };
                each(&path)?;
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.options.threads)
                .map(|_| scope.spawn(work))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a panic"))?)
        })?;
        Ok(begun.elapsed())
    }

    fn against_decompression(&self, row: String, pairs: usize) -> Result<Vec<Row>> {
        let mut alone = Times::new(format!("{row}: decompressed alone"));
        let mut least = Times::new(format!("{row}: decompressed, hashed and written alone"));
        let mut ours = Times::new(row);
        // The first pair fills the page cache.
        for pair in 0..=pairs {
            let (took, decompressed) = (self.build()?, self.decompress()?);
            let written = self.decompress_hash_and_write()?;
            if pair > 0 {
                ours.add(took);
                alone.add(decompressed);
                least.add(written);
            }
        }
        let rows = vec![ours.against(&alone, BUDGET), ours.against(&least, BUDGET)];
        print(&[&ours, &alone, &least], &rows);
        Ok(rows)
    }

    /// The most memory that this process has while it makes the image: that, and whatever the bench itself holds.
    fn memory(&self, row: String) -> Result<Row> {
        // Resets the peak (proc(5), "clear_refs").
        fs::write("/proc/self/clear_refs", "5")?;
        self.build()?;
        let value = status("VmHWM:")? / 1024.0;
        println!("\n{row}: {value:.0} MiB; the budget of a whole pull is {MEMORY:.0}\n");
        Ok(Row::within(row, value, "MiB", MEMORY, 1))
    }

    /// Ours beside what others do, who all make files of their own.
    fn beside_others(&self, cache: &Path, name: &str, pairs: usize) -> Result<Vec<Row>> {
        let layout = self.dir.path().join("layout");
        self.layout(&layout)?;
        let mut ours = Times::new(format!("{name}, gzip"));
        let mut mke2fs = Times::new("tar -xz, mke2fs -d");
        let mut umoci = Times::new("umoci unpack");
        for _ in 0..FEW.min(pairs) {
            ours.add(self.build()?);
            mke2fs.add(self.untar_and_mke2fs(cache)?);
            umoci.add(unpack(cache, &layout)?);
        }
        let rows = vec![ours.against(&mke2fs, 1.0), ours.against(&umoci, 1.0)];
        print(&[&ours, &mke2fs, &umoci], &rows);
        Ok(rows)
    }

    fn untar_and_mke2fs(&self, cache: &Path) -> Result<Duration> {
        let dir = tempfile::tempdir_in(cache)?;
        let tree = dir.path().join("tree");
        fs::create_dir(&tree)?;
        let begun = Instant::now();
        for blob in &self.blobs {
            samples::run(
                Command::new("tar")
                    .arg("-xzf")
                    .arg(blob)
                    .arg("-C")
                    .arg(&tree),
            )?;
        }
        let image = dir.path().join("image");
        samples::run(
            Command::new("mke2fs")
                .args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"])
                .args([&tree, &image])
                .arg("4G"),
        )?;
        File::open(&image)?.sync_all()?;
        Ok(begun.elapsed())
    }
}

/// A line of `/proc/self/status`, in KiB.
fn status(key: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("a number")?.parse()?)
}
