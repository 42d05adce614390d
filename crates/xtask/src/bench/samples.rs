//! Layers to measure with, made once and kept in the cache.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flate2::write::GzEncoder;
use oci::{Digest, Document};
use store::rootfs;

/// The levels that image builders use unless they are told otherwise.
const GZIP: u32 = 6;
const ZSTD: i32 = 3;

/// How layers are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As most images are.
    Gzip,
    /// As the newer ones are.
    Zstd,
}

impl Packing {
    /// For names of rows and files.
    pub fn name(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        }
    }
}

/// The one layer of `CACHE/images/debian.tar`.
pub fn debian(cache: &Path, packing: Packing) -> Result<Vec<PathBuf>> {
    let layer = kept(cache, "debian", packing, || {
        crate::images::debian(cache)?;
        let dir = tempfile::tempdir()?;
        let archive = cache.join("images/debian.tar");
        run(Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(dir.path()))?;
        let blob = |digest: &Digest| dir.path().join("blobs/sha256").join(digest.hex());
        let index = parse(&dir.path().join("index.json"))?;
        let Document::Index(index) = index else {
            anyhow::bail!("index.json is none");
        };
        let manifest = index.manifests.first().context("an image")?;
        let Document::Manifest(manifest) = parse(&blob(&manifest.digest))? else {
            anyhow::bail!("no manifest");
        };
        let layer = manifest.layers.first().context("a layer")?;
        let blob = File::open(blob(&layer.digest))?;
        let mut tar = Vec::new();
        rootfs::decompress(blob)?.read_to_end(&mut tar)?;
        Ok(Box::new(io::Cursor::new(tar)))
    })?;
    Ok(vec![layer])
}

fn parse(path: &Path) -> Result<Document> {
    Ok(oci::parse_document(None, &fs::read(path)?)?)
}

/// `bytes` of this machine's `/usr`, in `layers` layers of the same size.
pub fn usr(cache: &Path, packing: Packing, bytes: u64, layers: usize) -> Result<Vec<PathBuf>> {
    let part = bytes / layers as u64;
    let mut lists: Vec<Vec<u8>> = Vec::new();
    let mut made = Vec::new();
    for number in 1..=layers {
        let name = format!("usr-{}m-{number}-of-{layers}", bytes >> 20);
        made.push(kept(cache, &name, packing, || {
            if lists.is_empty() {
                lists = split(Path::new("/usr"), part, layers)?;
            }
            tar(&lists[number - 1])
        })?);
    }
    Ok(made)
}

/// Lists of names with zero bytes between them: each `part` bytes of files, in the order of their names.
fn split(root: &Path, part: u64, parts: usize) -> Result<Vec<Vec<u8>>> {
    let mut lists = vec![Vec::new()];
    let mut size = 0;
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path)?;
        if size >= part {
            if lists.len() == parts {
                return Ok(lists);
            }
            lists.push(Vec::new());
            size = 0;
        }
        let list = lists.last_mut().context("a list")?;
        list.extend(path.as_os_str().as_encoded_bytes());
        list.push(0);
        if meta.is_dir() {
            let mut names = fs::read_dir(&path)?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<Vec<_>>>()?;
            names.sort_by(|a, b| b.cmp(a));
            open.extend(names);
        } else if meta.is_file() && meta.nlink() == 1 {
            size += meta.len();
        }
    }
    anyhow::bail!("{} is too small for this bench", root.display())
}

/// The archive that GNU tar makes of these names.
fn tar(names: &[u8]) -> Result<Box<dyn Read>> {
    let mut child = Command::new("tar")
        .args(["-c", "-P", "--no-recursion", "--null", "-T", "-", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start tar")?;
    let mut input = child.stdin.take().context("tar's input")?;
    let names = names.to_vec();
    std::thread::spawn(move || input.write_all(&names));
    Ok(Box::new(child.stdout.take().context("tar's output")?))
}

/// A layer of a million empty files in a thousand directories.
pub fn million(cache: &Path) -> Result<Vec<PathBuf>> {
    let layer = kept(cache, "million", Packing::Gzip, || {
        let mut tar = Vec::with_capacity(520 << 20);
        for dir in 0..1000 {
            tar.extend(header(&format!("d{dir}/"), b'5'));
            for file in 0..1000 {
                tar.extend(header(&format!("d{dir}/f{file}"), b'0'));
            }
        }
        tar.resize(tar.len() + 1024, 0);
        Ok(Box::new(io::Cursor::new(tar)))
    })?;
    Ok(vec![layer])
}

/// A `ustar` header of something empty.
fn header(name: &str, kind: u8) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000755");
    block[148..156].fill(b' ');
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// `CACHE/bench/NAME.tar.PACKING`, packed from `tar` when it is not there.
fn kept(
    cache: &Path,
    name: &str,
    packing: Packing,
    tar: impl FnOnce() -> Result<Box<dyn Read>>,
) -> Result<PathBuf> {
    let dir = cache.join("bench");
    let path = dir.join(format!("{name}.tar.{}", packing.name()));
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("xtask: making {}", path.display());
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let new = path.with_extension(format!("{}", std::process::id()));
    let file = BufWriter::new(File::create(&new)?);
    let mut tar = tar()?;
    let mut file = match packing {
        Packing::Gzip => {
            let mut gzip = GzEncoder::new(file, flate2::Compression::new(GZIP));
            io::copy(&mut tar, &mut gzip)?;
            gzip.finish()?
        }
        Packing::Zstd => {
            let mut zstd = zstd::Encoder::new(file, ZSTD)?;
            io::copy(&mut tar, &mut zstd)?;
            zstd.finish()?
        }
    };
    file.flush()?;
    fs::rename(&new, &path).with_context(|| format!("move to {}", path.display()))?;
    Ok(path)
}

/// Runs a program, which must succeed. How long that took.
pub fn run(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    let took = begun.elapsed();
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{command:?}: {errors}");
    Ok(took)
}
