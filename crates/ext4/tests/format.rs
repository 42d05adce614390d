//! Empty file systems, judged by e2fsck, dumpe2fs and this crate's own reader.

mod oracle;

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use ext4::read::Reader;
use ext4::{Error, FormatOptions, Journal, Timestamp, format};
use tempfile::NamedTempFile;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn options(size: u64) -> FormatOptions {
    FormatOptions {
        size,
        label: "upper".into(),
        uuid: *b"\x5a\x11\x22\x33\x44\x55\x46\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
        created: Timestamp {
            secs: 1_700_000_000,
            nanos: 5,
        },
        ..FormatOptions::default()
    }
}

fn check(options: &FormatOptions) -> NamedTempFile {
    let mut image = NamedTempFile::new().unwrap();
    format(image.as_file_mut(), options).unwrap();
    assert_eq!(image.as_file().metadata().unwrap().len(), options.size);
    oracle::assert_e2fsck_clean(image.path());
    let reader = Reader::open(File::open(image.path()).unwrap()).unwrap();
    let root = reader.inode(ext4::read::ROOT).unwrap();
    let names: Vec<_> = reader.read_dir(&root).unwrap();
    let names: Vec<&[u8]> = names.iter().map(|entry| &entry.name[..]).collect();
    assert_eq!(names, [&b"."[..], b"..", b"lost+found"]);
    assert_eq!(reader.superblock().label, options.label.as_bytes());
    image
}

#[test]
fn e2fsck_accepts_every_size_and_journal() {
    for size in [
        MIB,
        8 * MIB,
        16 * MIB,
        100 * MIB + 12_345,
        128 * MIB,
        128 * MIB + 4096,
        130 * MIB,
        137 * MIB,
        GIB,
        8 * GIB + 5 * MIB,
        10 * GIB,
        64 * GIB,
    ] {
        check(&options(size));
        check(&FormatOptions {
            journal: Journal::None,
            ..options(size)
        });
    }
    for journal in [4 * MIB, 100 * MIB, 513 * MIB + 77] {
        check(&FormatOptions {
            journal: Journal::Bytes(journal),
            ..options(2 * GIB)
        });
    }
    for bytes_per_inode in [1, 4096, 65_536, GIB] {
        check(&FormatOptions {
            bytes_per_inode: Some(bytes_per_inode),
            ..options(3 * GIB)
        });
    }
}

#[test]
fn e2fsck_and_dumpe2fs_accept_512_gib_in_2_mib() {
    let image = check(&options(512 * GIB));
    let on_disk = image.as_file().metadata().unwrap().blocks() * 512;
    assert!(on_disk <= 2 * MIB, "{on_disk} bytes on disk");
    let text = oracle::dumpe2fs(image.path());
    for line in [
        "Filesystem volume name:   upper",
        "Filesystem UUID:          5a112233-4455-4677-8899-aabbccddeeff",
        "Filesystem features:      has_journal ext_attr dir_index filetype meta_bg extent 64bit \
         flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum",
        "Filesystem state:         clean",
        "Reserved block count:     0",
        "Total journal size:       64M",
        "Journal start:            0",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    let groups = text.matches("\nGroup ").count() - text.matches("\nGroup descriptor").count();
    assert_eq!(groups, 4096);
    assert_eq!(text.matches("ITABLE_ZEROED").count(), groups);
}

#[test]
fn inodes_and_blocks_for_root_are_as_many_as_asked_for() {
    for (size, inodes) in [(64 * MIB, 16), (GIB, 100_000), (3 * GIB, 500)] {
        let image = check(&FormatOptions {
            inodes: Some(inodes),
            reserved_percent: 5,
            ..options(size)
        });
        let text = oracle::dumpe2fs(image.path());
        let field = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let found = field("Inode count:");
        let groups = size.div_ceil(128 * MIB);
        let least = u64::from(inodes);
        assert!(
            (least..least + 16 * groups).contains(&found),
            "{found} for {inodes}"
        );
        assert_eq!(field("Reserved block count:"), size / 4096 / 100 * 5);
    }
}

/// As large as a file on ext4 may be. e2fsck takes most of a minute for it, and was content; here the size is enough.
#[test]
fn sixteen_tib_are_formatted() {
    let size = (16 << 40) - 4096;
    let mut image = NamedTempFile::new().unwrap();
    format(image.as_file_mut(), &options(size)).unwrap();
    let reader = Reader::open(image.as_file()).unwrap();
    assert_eq!(reader.superblock().blocks, size / 4096);
    let root = reader.inode(ext4::read::ROOT).unwrap();
    assert_eq!(reader.read_dir(&root).unwrap().len(), 3);
    let on_disk = image.as_file().metadata().unwrap().blocks() * 512;
    assert!(on_disk <= 48 * MIB, "{on_disk} bytes on disk");
}

#[test]
fn e2fsck_accepts_many_flexible_groups() {
    check(&options(1200 * GIB));
}

#[test]
fn the_same_options_give_the_same_bytes() {
    let bytes = |_| {
        let mut disk = Vec::new();
        format(&mut disk, &options(64 * MIB)).unwrap();
        disk
    };
    assert!(bytes(0) == bytes(1));
}

#[test]
fn what_cannot_be_is_refused() {
    let refuse = |options: FormatOptions| format(&mut Vec::new(), &options).unwrap_err();
    assert!(matches!(refuse(options(0)), Error::TooSmall { .. }));
    assert!(matches!(refuse(options(100 << 10)), Error::TooSmall { .. }));
    assert!(matches!(refuse(options(u64::MAX)), Error::TooLarge { .. }));
    let reserved_percent = 51;
    assert!(matches!(
        refuse(FormatOptions {
            reserved_percent,
            ..options(GIB)
        }),
        Error::Reserved { .. }
    ));
    let inodes = Some(u32::MAX);
    assert!(matches!(
        refuse(FormatOptions {
            inodes,
            ..options(GIB)
        }),
        Error::Inodes { .. }
    ));
    let label = "seventeen letters".to_owned();
    assert!(matches!(
        refuse(FormatOptions {
            label,
            ..options(GIB)
        }),
        Error::Label { .. }
    ));
    for journal in [0, 4 * MIB - 1, 513 * MIB] {
        let journal = Journal::Bytes(journal);
        assert!(matches!(
            refuse(FormatOptions {
                journal,
                ..options(GIB)
            }),
            Error::JournalSize { .. }
        ));
    }
}

/// The kernel grows mounted file systems with the same code paths on disk; see `tests/kernel.rs`.
#[test]
fn resize2fs_grows_and_e2fsck_is_clean() {
    for (before, after) in [
        (20 * MIB, GIB),
        (GIB, 70 * GIB),
        (64 * GIB + 7 * MIB, 600 * GIB),
    ] {
        let image = check(&options(before));
        image.as_file().set_len(after).unwrap();
        let output = oracle::run("resize2fs", &[image.path().to_str().unwrap()], "");
        assert!(output.status.success(), "{before} to {after}: {output:?}");
        oracle::assert_e2fsck_clean(image.path());
        let reader = Reader::open(File::open(image.path()).unwrap()).unwrap();
        let blocks = reader.superblock().blocks;
        assert!(blocks * 4096 > after - 130 * MIB, "{blocks} blocks");
    }
}
