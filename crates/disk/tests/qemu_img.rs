//! Images that qemu-img and qemu-io made. Oracle: `qemu-img convert -O raw`.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Backing, Compression, Format, Image, ImageError, OpenOptions, Wrapper};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn run(program: &str, folder: &Path, args: &[&str]) {
    let output = Command::new(program)
        .current_dir(folder)
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run {program} ({error}): needs qemu-utils, gzip, bzip2, xz-utils, zstd")
        });
    assert!(
        output.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn qemu_img(folder: &Path, args: &[&str]) {
    run("qemu-img", folder, args);
}

/// One process for all commands: each would take its time to start.
fn qemu_io(folder: &Path, image: &str, commands: &[String]) {
    let mut args = vec!["-f", "qcow2", image];
    for command in commands {
        args.extend(["-c", command]);
    }
    let output = Command::new("qemu-io")
        .current_dir(folder)
        .args(args)
        .output();
    let output = output.expect("qemu-io, of qemu-utils");
    let said = String::from_utf8_lossy(&output.stderr);
    // It goes on after a write that it refuses: a compressed one where something is.
    let odd = said.lines().find(|line| !line.starts_with("write failed"));
    assert_eq!(odd, None, "{said}");
}

fn go_on(_: disk::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn convert(from: &Path, options: &OpenOptions) -> Result<Vec<u8>, ImageError> {
    let to = from.with_extension("ours");
    let converted = disk::convert(from, &to, options, &go_on)?;
    let bytes = fs::read(&to).unwrap();
    assert_eq!(converted.size, bytes.len() as u64);
    fs::remove_file(&to).unwrap();
    Ok(bytes)
}

/// Converts with both, and compares bytes and blocks on disk.
fn check(folder: &Path, name: &str) {
    let (ours, theirs) = (folder.join("ours.raw"), folder.join("theirs.raw"));
    qemu_img(folder, &["convert", "-O", "raw", name, "theirs.raw"]);
    disk::convert(&folder.join(name), &ours, &OpenOptions::default(), &go_on)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let bytes = fs::read(&theirs).unwrap();
    assert!(fs::read(&ours).unwrap() == bytes, "{name} differs");
    let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
    // qemu-img writes zeros where a run of data is shorter than its buffer; we may write a block more at edges.
    assert!(
        blocks(&ours) <= blocks(&theirs) + 64,
        "{name}: {} blocks, qemu-img has {}",
        blocks(&ours),
        blocks(&theirs)
    );
    let image = Image::open(&folder.join(name), &OpenOptions::default()).unwrap();
    assert_eq!(image.size(), bytes.len() as u64);
    for (at, len) in [(0, 1), (511, 70_000), (bytes.len() / 2 + 77, 4097)] {
        let mut buffer = vec![1; len];
        image.read_at(&mut buffer, at as u64).unwrap();
        let there = bytes.get(at..).unwrap_or_default();
        let there = &there[..len.min(there.len())];
        assert!(&buffer[..there.len()] == there && buffer[there.len()..].iter().all(|b| *b == 0));
    }
    fs::remove_file(&ours).unwrap();
    fs::remove_file(&theirs).unwrap();
}

/// Text, noise and holes.
fn raw(folder: &Path, name: &str, size: u64) -> PathBuf {
    let path = folder.join(name);
    let file = fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    let mut state = 1u32;
    for (number, at) in (0..size).step_by(300_000).enumerate() {
        let len = (150_000).min(size - at) as usize;
        let bytes: Vec<u8> = (0..len)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                match number % 3 {
                    0 => (i / 100) as u8,
                    1 => (state >> 24) as u8,
                    _ => b"all work and no play "[i % 21],
                }
            })
            .collect();
        file.write_all_at(&bytes, at).unwrap();
    }
    path
}

#[test]
fn every_way_to_make_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    raw(folder, "disk.raw", 5 * MIB + 12 * 512);
    check(folder, "disk.raw");
    for (name, options, compressed) in [
        ("plain", "compat=1.1", false),
        ("old", "compat=0.10", false),
        ("old-zlib", "compat=0.10", true),
        ("zlib", "compat=1.1", true),
        ("zstd", "compression_type=zstd", true),
        ("small", "cluster_size=512", false),
        ("small-zlib", "cluster_size=512", true),
        ("small-zstd", "cluster_size=512,compression_type=zstd", true),
        ("large", "cluster_size=2M", false),
        ("large-zlib", "cluster_size=2M", true),
        ("large-zstd", "cluster_size=2M,compression_type=zstd", true),
        ("extended", "extended_l2=on", false),
        (
            "extended-zstd",
            "extended_l2=on,compression_type=zstd,cluster_size=16k",
            true,
        ),
        ("lazy", "lazy_refcounts=on,refcount_bits=1", false),
        ("preallocated", "preallocation=metadata", false),
    ] {
        let mut args = vec!["convert", "-O", "qcow2", "-o", options];
        if compressed {
            args.push("-c");
        }
        args.extend(["disk.raw", name]);
        qemu_img(folder, &args);
        check(folder, name);
        fs::remove_file(folder.join(name)).unwrap();
    }
}

/// A deterministic choice.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % below
    }
}

/// Random writes, zeros and discards of every kind that qemu-io has.
fn scribble(dice: &mut Dice, size: u64, cluster: u64, old: bool) -> Vec<String> {
    let mut commands = Vec::new();
    for _ in 0..30 {
        let at = dice.roll(size / 512) * 512;
        let len = ((dice.roll(6 * cluster / 512) + 1) * 512).min(size - at);
        let pattern = dice.roll(255) + 1;
        commands.push(match dice.roll(if old { 3 } else { 6 }) {
            0 | 1 => format!("write -P {pattern} {at} {len}"),
            2 => {
                let at = at / cluster * cluster;
                format!("write -c -P {pattern} {at} {}", cluster.min(size - at))
            }
            3 => format!("write -z {at} {len}"),
            4 => format!("write -z -u {at} {len}"),
            _ => format!("discard {at} {len}"),
        });
    }
    commands
}

#[test]
fn random_chains() {
    let mut dice = Dice(7);
    for kinds in [
        &[
            "compat=0.10,cluster_size=4k",
            "cluster_size=512",
            "cluster_size=64k",
        ][..],
        &[
            "cluster_size=64k,compression_type=zstd",
            "extended_l2=on,cluster_size=32k",
            "cluster_size=2M",
        ],
        &["extended_l2=on,cluster_size=16k,compression_type=zstd"],
        &["cluster_size=1k"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        raw(folder, "0", MIB + 5 * 512);
        let mut below = ("0".to_owned(), "raw");
        for (level, options) in kinds.iter().enumerate() {
            let name = (level + 1).to_string();
            // Shorter and longer than what is below.
            let size = (dice.roll(4000) + 1000) * 512;
            let sized = size.to_string();
            let args = [
                "create", "-q", "-f", "qcow2", "-o", options, "-b", &below.0, "-F", below.1, &name,
                &sized,
            ];
            qemu_img(folder, &args);
            let field = |key: &str| {
                let part = options.split(',').find_map(|part| part.strip_prefix(key));
                part.map(str::to_owned)
            };
            let cluster = match field("cluster_size=").unwrap().as_str() {
                "2M" => 2 * MIB,
                "512" => 512,
                text => text.trim_end_matches('k').parse::<u64>().unwrap() << 10,
            };
            let old = options.contains("0.10");
            qemu_io(folder, &name, &scribble(&mut dice, size, cluster, old));
            if level == 0 {
                // What a snapshot keeps is not the disk.
                qemu_img(folder, &["snapshot", "-c", "before", &name]);
                qemu_io(folder, &name, &scribble(&mut dice, size, cluster, old));
            }
            check(folder, &name);
            below = (name, "qcow2");
        }
    }
}

fn refused(folder: &Path, name: &str, expect: &str) -> ImageError {
    let error = convert(&folder.join(name), &OpenOptions::default()).expect_err(expect);
    assert!(error.to_string().contains(expect), "{error}");
    assert!(error.remedy().is_some(), "{error}");
    assert!(!folder.join(name).with_extension("ours").exists());
    error
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let secret = ["--object", "secret,id=s,data=x"];
    let luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    args.extend(secret);
    args.extend(["-o", luks, "encrypted", "1M"]);
    // It times its hash first, and gives up where the processor was taken away meanwhile.
    let made = || {
        let output = Command::new("qemu-img")
            .current_dir(folder)
            .args(&args)
            .output();
        let output = output.expect("qemu-img, of qemu-utils");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let unlucky = said.contains("accurate CPU usage");
        assert!(output.status.success() || unlucky, "{said}");
        !unlucky
    };
    assert!((0..20).any(|_| made()), "qemu-img never saw the processor");
    refused(folder, "encrypted", "is encrypted");
    qemu_img(
        folder,
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "data_file=other",
            "outside",
            "1M",
        ],
    );
    refused(folder, "outside", "external data file");
    for (name, feature, expect) in [
        ("dirty", 1u64, "not closed"),
        ("corrupt", 2, "corrupt"),
        ("newer", 1 << 9, "(bit 9)"),
    ] {
        qemu_img(folder, &["create", "-q", "-f", "qcow2", name, "1M"]);
        patch(&folder.join(name), 72, &feature.to_be_bytes());
        refused(folder, name, expect);
        let described = disk::describe(&folder.join(name), &OpenOptions::default()).unwrap();
        let (what, _) = described.qcow2.unwrap().refusal.unwrap();
        assert!(what.contains(expect));
    }
    for (format, expect) in [
        ("vmdk", "VMDK"),
        ("vdi", "VDI"),
        ("vhdx", "VHDX"),
        ("qcow", "version 1"),
        ("qed", "QED"),
        ("parallels", "Parallels"),
    ] {
        qemu_img(folder, &["create", "-q", "-f", format, format, "4M"]);
        refused(folder, format, expect);
    }
    // Unless somebody knows better.
    let raw = OpenOptions {
        format: Some(Format::Raw),
        ..OpenOptions::default()
    };
    let path = folder.join("vdi");
    assert!(convert(&path, &raw).unwrap() == fs::read(&path).unwrap());
}

#[test]
fn a_download_that_was_cut_off_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    raw(folder, "disk.raw", 3 * MIB);
    for (name, more) in [
        ("plain", &[][..]),
        ("zlib", &["-c"]),
        ("zstd", &["-c", "-o", "compression_type=zstd"]),
    ] {
        let mut args = vec!["convert", "-O", "qcow2"];
        args.extend(more);
        args.extend(["disk.raw", name]);
        qemu_img(folder, &args);
        let path = folder.join(name);
        let len = fs::metadata(&path).unwrap().len();
        for part in (1..8).rev() {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(len * part / 8).unwrap();
            let error = convert(&path, &OpenOptions::default()).unwrap_err();
            assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
        }
    }
}

fn overlay(folder: &Path, name: &str, backing: &str, format: Option<&str>) {
    let written = format.unwrap_or("raw");
    let args = [
        "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", written, "made", "1M",
    ];
    qemu_img(folder, &args);
    // qemu-img makes no image that is its own backing file.
    let path = folder.join(name);
    fs::rename(folder.join("made"), &path).unwrap();
    if format.is_none() {
        // Older ones did not write the format: there is no such extension then.
        let header = fs::read(&path).unwrap();
        let extension = 0xe279_2acau32.to_be_bytes();
        let at = header
            .windows(4)
            .position(|bytes| bytes == extension)
            .unwrap();
        patch(&path, at as u64, &[0; 4]);
    }
}

#[test]
fn backing_files_stay_in_the_folder_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let folder = dir.path();
    fs::create_dir(folder.join("sub")).unwrap();
    let secret = raw(other.path(), "secret", MIB);
    raw(folder, "sub/base", MIB);
    let secret = secret.to_str().unwrap();
    symlink(secret, folder.join("link")).unwrap();
    let up = format!(
        "../{}/secret",
        other.path().file_name().unwrap().to_str().unwrap()
    );
    let any = OpenOptions {
        backing: Backing::Any,
        ..OpenOptions::default()
    };
    let none = OpenOptions {
        backing: Backing::Refuse,
        ..OpenOptions::default()
    };
    let bytes = fs::read(secret).unwrap();
    for backing in [secret, "link", &up] {
        overlay(folder, "top", backing, Some("raw"));
        refused(folder, "top", "outside");
        assert!(convert(&folder.join("top"), &any).unwrap() == bytes);
    }
    overlay(folder, "top", "sub/base", Some("raw"));
    assert!(convert(&folder.join("top"), &OpenOptions::default()).unwrap() == bytes);
    assert!(convert(&folder.join("top"), &none).is_err());
    // A name counts from the folder of the image that has it; the limit stays the first one's.
    overlay(folder, "sub/middle", "base", Some("raw"));
    overlay(folder, "top", "sub/middle", None);
    assert!(convert(&folder.join("top"), &OpenOptions::default()).unwrap() == bytes);
    overlay(folder, "sub/top", "../link", Some("raw"));
    refused(folder, "sub/top", "outside");
    overlay(folder, "top", "file:sub/base", Some("raw"));
    assert!(convert(&folder.join("top"), &OpenOptions::default()).unwrap() == bytes);
    overlay(folder, "top", "nbd://host/x", Some("raw"));
    refused(folder, "top", "not a path");
    overlay(folder, "top", "sub/base", Some("vmdk"));
    refused(folder, "top", "neither raw nor qcow2");
    overlay(folder, "top", "missing", Some("raw"));
    refused(folder, "top", "cannot open the backing file");
    overlay(folder, "top", "/dev/zero", Some("raw"));
    refused(folder, "top", "outside");
}

#[test]
fn chains_end() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    overlay(folder, "self", "self", Some("qcow2"));
    refused(folder, "self", "its own backing file");
    overlay(folder, "a", "b", Some("qcow2"));
    overlay(folder, "b", "a", Some("qcow2"));
    refused(folder, "a", "its own backing file");
    raw(folder, "n0", MIB);
    for number in 1..40 {
        let below = format!("n{}", number - 1);
        let format = if number == 1 { "raw" } else { "qcow2" };
        overlay(folder, &format!("n{number}"), &below, Some(format));
    }
    let bytes = fs::read(folder.join("n0")).unwrap();
    assert!(convert(&folder.join("n30"), &OpenOptions::default()).unwrap() == bytes);
    refused(folder, "n39", "more than 32 backing files");
}

fn wrap(folder: &Path, program: &str, name: &str) -> String {
    run(program, folder, &["-k", "-f", name]);
    let ending = match program {
        "gzip" => "gz",
        "bzip2" => "bz2",
        "xz" => "xz",
        _ => "zst",
    };
    format!("{name}.{ending}")
}

fn sample() -> (TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = raw(dir.path(), "disk.raw", 3 * MIB + 512);
    qemu_img(
        dir.path(),
        &["convert", "-O", "qcow2", "-c", "disk.raw", "disk.qcow2"],
    );
    let bytes = fs::read(path).unwrap();
    (dir, bytes)
}

#[test]
fn compressed_images() {
    let (dir, bytes) = sample();
    let folder = dir.path();
    for (program, wrapper) in [
        ("gzip", Wrapper::Gzip),
        ("bzip2", Wrapper::Bzip2),
        ("xz", Wrapper::Xz),
        ("zstd", Wrapper::Zstd),
    ] {
        for (name, format, size) in [
            ("disk.raw", Format::Raw, None),
            ("disk.qcow2", Format::Qcow2, Some(bytes.len() as u64)),
        ] {
            let wrapped = folder.join(wrap(folder, program, name));
            assert!(
                convert(&wrapped, &OpenOptions::default()).unwrap() == bytes,
                "{wrapped:?}"
            );
            let described = disk::describe(&wrapped, &OpenOptions::default()).unwrap();
            assert_eq!(
                (described.format, described.wrapper),
                (format, Some(wrapper))
            );
            assert_eq!(described.size, size);
            let len = fs::metadata(&wrapped).unwrap().len();
            let file = fs::OpenOptions::new().write(true).open(&wrapped).unwrap();
            file.set_len(len - 3).unwrap();
            let error = convert(&wrapped, &OpenOptions::default()).unwrap_err();
            assert!(matches!(error, ImageError::Unwrap { .. }), "{error}");
        }
    }
    let twice = wrap(folder, "gzip", &wrap(folder, "xz", "disk.raw"));
    refused(folder, &twice, "compressed twice: gzip, and xz in it");
}

#[test]
fn limits_hold() {
    let (dir, bytes) = sample();
    let folder = dir.path();
    // Of zeros, in 8 KB.
    fs::File::create(folder.join("zeros"))
        .unwrap()
        .set_len(8 * MIB)
        .unwrap();
    let zeros = wrap(folder, "gzip", "zeros");
    for name in [
        "disk.raw",
        "disk.qcow2",
        &wrap(folder, "zstd", "disk.raw"),
        &zeros,
    ] {
        let limited = OpenOptions {
            limit: bytes.len() as u64 - 1,
            ..OpenOptions::default()
        };
        let error = convert(&folder.join(name), &limited).unwrap_err();
        assert!(
            matches!(error, ImageError::TooLarge { .. }),
            "{name}: {error}"
        );
    }
    let target = folder.join("out");
    disk::convert(
        &folder.join(&zeros),
        &target,
        &OpenOptions::default(),
        &go_on,
    )
    .unwrap();
    let found = fs::metadata(&target).unwrap();
    assert_eq!((found.len(), found.blocks()), (8 * MIB, 0));
    let error = disk::convert(
        &folder.join("disk.raw"),
        &target,
        &OpenOptions::default(),
        &go_on,
    )
    .unwrap_err();
    assert!(error.to_string().contains("cannot create"), "{error}");
    assert_eq!(fs::metadata(&target).unwrap().len(), 8 * MIB);
}

#[test]
fn progress_is_told_and_stops() {
    let (dir, bytes) = sample();
    let folder = dir.path();
    let gzip = wrap(folder, "gzip", "disk.qcow2");
    for name in ["disk.qcow2", &gzip] {
        let path = folder.join(name);
        let told = std::sync::Mutex::new(Vec::new());
        let tell = |progress: disk::Progress| {
            told.lock().unwrap().push(progress);
            ControlFlow::Continue(())
        };
        let target = folder.join("out");
        disk::convert(&path, &target, &OpenOptions::default(), &tell).unwrap();
        let told = told.into_inner().unwrap();
        let last = told.iter().map(|progress| progress.done).max();
        assert_eq!(last, Some(bytes.len() as u64));
        assert!(told.iter().all(|progress| progress.done <= progress.total));
        fs::remove_file(&target).unwrap();
        let stop = |_: disk::Progress| ControlFlow::Break(());
        let error = disk::convert(&path, &target, &OpenOptions::default(), &stop).unwrap_err();
        assert!(matches!(error, ImageError::Interrupted { .. }), "{error}");
        assert!(!target.exists());
    }
}

#[test]
fn what_an_image_says_of_itself() {
    let (dir, bytes) = sample();
    let folder = dir.path();
    overlay(folder, "top", "disk.qcow2", Some("qcow2"));
    let top = disk::describe(&folder.join("top"), &OpenOptions::default()).unwrap();
    let qcow2 = top.qcow2.unwrap();
    assert_eq!(top.size, Some(MIB));
    assert_eq!(qcow2.backing.as_deref(), Some("disk.qcow2"));
    assert_eq!(qcow2.backing_format.as_deref(), Some("qcow2"));
    assert_eq!((qcow2.version, qcow2.cluster_size), (3, 65_536));
    assert_eq!(qcow2.compression, Compression::Zlib);
    assert_eq!(qcow2.refusal, None);
    let raw = disk::describe(&folder.join("disk.raw"), &OpenOptions::default()).unwrap();
    assert_eq!(
        (raw.format, raw.size),
        (Format::Raw, Some(bytes.len() as u64))
    );
    assert!(raw.allocated < raw.file_size);
}
