//! The checker against `e2fsck -fn`: what that finds wrong we find, and what it finds clean is clean.

mod oracle;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use ext4::check::{Report, check};
use ext4::{FormatOptions, Journal, format};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::{NamedTempFile, TempDir, tempdir};

const MIB: u64 = 1 << 20;

fn report(path: &Path) -> Report {
    check(&File::open(path).unwrap()).unwrap()
}

fn text(report: &Report) -> String {
    report
        .findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect()
}

fn assert_clean(path: &Path) {
    oracle::assert_e2fsck_clean(path);
    let report = report(path);
    assert!(report.is_clean(), "{}", text(&report));
}

/// Something of everything.
fn tree() -> TempDir {
    let dir = tempdir().unwrap();
    let root = dir.path();
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..300 {
        File::create(root.join(format!("many/a rather long name of a file {number:05}"))).unwrap();
    }
    fs::write(root.join("small"), b"small").unwrap();
    fs::write(root.join("large"), vec![7; 300_000]).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    for number in 0..20 {
        sparse.write_all_at(&[1; 4096], number * 16_384).unwrap();
    }
    fs::hard_link(root.join("small"), root.join("again")).unwrap();
    symlink("small", root.join("short link")).unwrap();
    symlink("x".repeat(200), root.join("long link")).unwrap();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    let status = std::process::Command::new("mkfifo")
        .arg(root.join("pipe"))
        .status();
    assert!(status.unwrap().success());
    let value = "v".repeat(300);
    for (file, name) in [("small", "user.x"), ("large", "user.long")] {
        let path = root.join(file);
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, name, value.as_bytes(), flags)
            .expect("a file system with attributes");
    }
    dir
}

fn mke2fs(tree: &Path, size: &str, args: &[&str]) -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    let path = image.path().to_str().unwrap();
    let mut all = vec!["-q", "-F", "-d", tree.to_str().unwrap()];
    all.extend(args);
    all.extend([path, size]);
    let output = oracle::run("mke2fs", &all, "");
    assert!(output.status.success(), "{args:?}: {output:?}");
    image
}

#[test]
fn what_mke2fs_makes_is_clean() {
    let tree = tree();
    for args in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext4", "-b", "2048", "-I", "128"],
        &["-t", "ext4", "-O", "^metadata_csum,uninit_bg"],
        &["-t", "ext4", "-O", "^metadata_csum,^64bit,^flex_bg"],
        &[
            "-t",
            "ext4",
            "-O",
            "meta_bg,^resize_inode",
            "-g",
            "1024",
            "-b",
            "1024",
        ],
        &[
            "-t",
            "ext4",
            "-O",
            "sparse_super2,metadata_csum_seed,orphan_file",
        ],
        &["-t", "ext4", "-O", "^has_journal,^dir_index,^filetype"],
        &[
            "-t",
            "ext4",
            "-O",
            "quota,project",
            "-E",
            "quotatype=usrquota:grpquota",
        ],
        &["-t", "ext3"],
        &["-t", "ext2", "-b", "1024"],
        &["-t", "ext2", "-O", "^sparse_super,^resize_inode"],
    ] {
        let image = mke2fs(tree.path(), "64M", args);
        let found = report(image.path());
        assert!(found.is_clean(), "{args:?}:\n{}", text(&found));
        // mke2fs does not count what -d brings in: e2fsck minds, we do not look at what quotas say.
        if !args.contains(&"quota,project") {
            oracle::assert_e2fsck_clean(image.path());
        }
    }
}

#[test]
fn what_we_make_is_clean() {
    for (size, journal) in [
        (MIB, Journal::None),
        (100 * MIB + 12_345, Journal::Auto),
        (130 * MIB, Journal::Auto),
        (70 << 30, Journal::Auto),
    ] {
        let mut image = NamedTempFile::new().unwrap();
        let options = FormatOptions {
            size,
            journal,
            uuid: [9; 16],
            ..FormatOptions::default()
        };
        format(image.as_file_mut(), &options).unwrap();
        assert_clean(image.path());
    }
}

#[test]
fn a_journal_that_waits_is_a_note() {
    let tree = tree();
    let image = mke2fs(tree.path(), "32M", &["-t", "ext4"]);
    let path = image.path().to_str().unwrap();
    let commands = "jo\njw -b 2000 /dev/null\njc\n";
    let output = oracle::run("debugfs", &["-w", "-f", "-", path], commands);
    assert!(output.status.success(), "{output:?}");
    let report = report(image.path());
    assert!(
        report.needs_recovery && !report.notes.is_empty(),
        "{report:?}"
    );
}

/// Numbers that would make a loop of billions of steps.
#[test]
fn absurd_numbers_end_soon() {
    for (at, value) in [
        (0x54, 0xff00_0000u32),
        (0x28, 0xffff),
        (0x20, 8),
        (0xe8, 12),
    ] {
        let mut disk = Vec::new();
        let options = FormatOptions {
            size: 4 * MIB,
            ..FormatOptions::default()
        };
        format(&mut disk, &options).unwrap();
        disk[1024 + at..1024 + at + 4].copy_from_slice(&value.to_le_bytes());
        assert!(!check(&disk).unwrap().is_clean(), "{at:#x}");
    }
}

/// What e2fsck finds wrong in a damaged image: the first line of it.
fn e2fsck(path: &Path) -> Option<String> {
    let output = oracle::run("e2fsck", &["-fn", path.to_str().unwrap()], "");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // It ends with 0 where only the checksum of a descriptor is wrong, or an entry says no type.
    let quiet = !said.contains("? no") && !said.contains("Setting filetype");
    if output.status.success() && quiet {
        return None;
    }
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.starts_with("Pass ") && !line.is_empty())
        .take(4)
        .collect();
    Some(lines.join(" | "))
}

/// What e2fsck minds and we do not look at, by its words.
const NOT_CHECKED: &[&str] = &[
    // We have no clock.
    "is in the future",
];

/// What we mind and e2fsck does not: copies that the inode which keeps blocks for descriptors names.
const STRICTER: &[&str] = &["inode 7: its block map"];

/// Bytes of a file system that are metadata: what changes when the contents of files do not count.
fn metadata(path: &Path) -> Vec<u64> {
    let text = oracle::dumpe2fs(path);
    let number = |text: &str| text.parse::<u64>().ok();
    let mut blocks = Vec::new();
    for line in text.lines() {
        for (key, most) in [
            ("bitmap at ", 1),
            ("Inode table at ", 6),
            ("superblock at ", 1),
            ("descriptors at ", 1),
        ] {
            let Some((_, rest)) = line.split_once(key) else {
                continue;
            };
            let first = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
            if let Some(first) = number(first) {
                blocks.extend(first..first + most);
            }
        }
        if line.starts_with("Group 1:") {
            break;
        }
    }
    for file in ["/", "/many", "/a", "/lost+found"] {
        let text = oracle::debugfs_text(path, &format!("blocks {file}"));
        blocks.extend(text.split_whitespace().filter_map(number).take(3));
    }
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// Changes a byte in turn, and asks both. Gives how often e2fsck found something.
fn damage(image: &NamedTempFile, rounds: u64) -> u64 {
    let path = image.path();
    let blocks = metadata(path);
    let clean = fs::read(path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let mut state = rounds;
    let mut roll = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    let mut found = 0;
    let mut missed = Vec::new();
    for _ in 0..rounds {
        let block = blocks[roll(blocks.len() as u64) as usize];
        // Most of a block is zeros; half of the changes hit what is not.
        let start = block * 4096;
        let bytes = &clean[start as usize..start as usize + 4096];
        let full: Vec<u64> = (0..4096).filter(|at| bytes[*at as usize] != 0).collect();
        let at = match roll(4) {
            0 => roll(4096),
            _ if full.is_empty() => roll(4096),
            _ => full[roll(full.len() as u64) as usize],
        };
        let at = start + at;
        let old = clean[at as usize];
        let new = [
            old ^ 1,
            old ^ 0x80,
            old.wrapping_add(1),
            0,
            0xff,
            roll(256) as u8,
        ][roll(6) as usize];
        file.write_all_at(&[new], at).unwrap();
        let theirs = e2fsck(path);
        let ours = check(&File::open(path).unwrap());
        let clean_for_us = ours.as_ref().is_ok_and(Report::is_clean);
        if let Some(line) = theirs {
            found += 1;
            if clean_for_us && !NOT_CHECKED.iter().any(|words| line.contains(words)) {
                missed.push(format!("{at:#x} {old:#x} -> {new:#x}: {line}"));
            }
        } else if let Ok(report) = ours
            && !report.is_clean()
        {
            let text = text(&report);
            if !STRICTER.iter().any(|words| text.contains(words)) {
                missed.push(format!(
                    "{at:#x} {old:#x} -> {new:#x}: e2fsck is content, we say {text}"
                ));
            }
        }
        file.write_all_at(&[old], at).unwrap();
    }
    assert!(
        missed.is_empty(),
        "{} of {rounds}:\n{}",
        missed.len(),
        missed.join("\n")
    );
    found
}

#[test]
fn damage_that_e2fsck_finds_is_found() {
    let tree = tree();
    let rounds = std::env::var("GOURD_DAMAGE").map_or(120, |text| text.parse().unwrap());
    for args in [
        &["-t", "ext4", "-b", "4096"][..],
        &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"],
        &["-t", "ext2", "-b", "4096"],
    ] {
        let image = mke2fs(tree.path(), "32M", args);
        let found = damage(&image, rounds);
        assert!(found > rounds / 4, "{found}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn damaged_images_never_panic(
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..30),
        start in any::<bool>(),
    ) {
        let mut disk = Vec::new();
        let options = FormatOptions { size: 4 * MIB, ..FormatOptions::default() };
        format(&mut disk, &options).unwrap();
        // Superblock and descriptors, or everything that is written.
        let len = if start { 2 * 4096 } else { 300_000 };
        for (at, value) in &edits {
            disk[at.index(len)] = *value;
        }
        let _ = check(&disk);
    }

    #[test]
    fn random_bytes_behind_a_magic_number_never_panic(mut disk in vec(any::<u8>(), 2048..9000)) {
        disk[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        disk[1024 + 0x18..1024 + 0x1c].fill(0);
        let _ = check(&disk);
    }
}
