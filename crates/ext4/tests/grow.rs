//! File systems that grow, judged by e2fsck, dumpe2fs and debugfs.

mod oracle;

use std::collections::BTreeMap;

use ext4::{
    Data, Error, FormatOptions, Journal, Kind, Node, Timestamp, Tree, Writer, WriterOptions,
    format, grow,
};
use tempfile::NamedTempFile;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// An image with a file of `size` bytes.
fn image(size: u64) -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    let node = |kind| Node {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
        kind,
    };
    let options = WriterOptions {
        label: "rootfs".into(),
        uuid: [7; 16],
        created: Timestamp {
            secs: 1_700_000_000,
            nanos: 0,
        },
    };
    let mut writer = Writer::new(image.as_file(), options).unwrap();
    let mut tree = Tree::new(node(Kind::Directory(BTreeMap::new())));
    let root = tree.root();
    let mut contents = std::io::Read::take(std::io::repeat(b'x'), size);
    let data = writer.write_data(&mut contents, size).unwrap();
    let file = tree.add(node(Kind::File(data)));
    tree.link(root, "big", file).unwrap();
    for number in 0..100 {
        let file = tree.add(node(Kind::File(Data::empty())));
        tree.link(root, format!("f{number}"), file).unwrap();
    }
    writer.finish(&tree).unwrap();
    image
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.rsplit(' ').next().unwrap().parse().unwrap()
}

fn check(image: &NamedTempFile, size: u64, journal: Journal) -> String {
    grow(&mut image.reopen().unwrap(), size, journal)
        .unwrap_or_else(|error| panic!("to {size}: {error}"));
    assert_eq!(image.as_file().metadata().unwrap().len(), size);
    oracle::assert_e2fsck_clean(image.path());
    let told = oracle::dumpe2fs(image.path());
    let blocks = field(&told, "Block count:");
    assert!(
        blocks * 4096 <= size && size - blocks * 4096 < 10 * MIB,
        "{blocks} of {size}"
    );
    told
}

#[test]
fn e2fsck_accepts_images_of_every_size_at_every_size() {
    for before in [0, 127 * MIB, 130 * MIB] {
        let small = image(before);
        for after in [
            before + 20 * MIB,
            128 * MIB * 3 + 4096,
            130 * MIB * 3,
            GIB,
            8 * GIB + 12_345,
            64 * GIB,
        ] {
            for journal in [Journal::Auto, Journal::None] {
                let image = NamedTempFile::new().unwrap();
                std::fs::copy(small.path(), image.path()).unwrap();
                let told = check(&image, after, journal);
                let has = told.contains("has_journal");
                assert!(
                    has == (journal == Journal::Auto) || after < 400 * MIB,
                    "{told}"
                );
                let read = oracle::debugfs(image.path(), "cat big");
                assert_eq!(read.len() as u64, before);
            }
        }
    }
}

#[test]
fn what_is_there_is_used() {
    let image = image(MIB);
    let told = check(&image, 10 * GIB, Journal::Bytes(64 * MIB));
    assert!(
        field(&told, "Free blocks:") * 4096 > 10 * GIB - 160 * MIB,
        "{told}"
    );
    assert!(field(&told, "Free inodes:") > 300_000, "{told}");
    assert!(told.contains("Total journal size:       64M"), "{told}");
    // Again, and one that was formatted.
    check(&image, 11 * GIB, Journal::Auto);
    let formatted = NamedTempFile::new().unwrap();
    let options = FormatOptions {
        size: 100 * MIB,
        ..FormatOptions::default()
    };
    format(&mut formatted.reopen().unwrap(), &options).unwrap();
    check(&formatted, 5 * GIB, Journal::Auto);
}

#[test]
fn what_cannot_grow_is_refused() {
    let image = image(10 * MIB);
    let grown = |size| grow(&mut image.reopen().unwrap(), size, Journal::Auto);
    assert!(matches!(grown(MIB), Err(Error::TooSmall { .. })));
    assert!(matches!(grown(1 << 60), Err(Error::TooLarge { .. })));
    oracle::assert_e2fsck_clean(image.path());
    let mut zeros = tempfile::tempfile().unwrap();
    zeros.set_len(MIB).unwrap();
    let refused = grow(&mut zeros, GIB, Journal::Auto);
    assert!(matches!(
        refused,
        Err(Error::Foreign {
            field: "s_magic",
            ..
        })
    ));
    let foreign = NamedTempFile::new().unwrap();
    foreign.as_file().set_len(64 * MIB).unwrap();
    let path = foreign.path().to_str().unwrap();
    let made = oracle::run("mke2fs", &["-q", "-F", "-t", "ext4", path], "");
    assert!(made.status.success(), "{made:?}");
    let refused = grow(&mut foreign.reopen().unwrap(), GIB, Journal::Auto);
    assert!(matches!(refused, Err(Error::Foreign { .. })));
    oracle::assert_e2fsck_clean(foreign.path());
}
