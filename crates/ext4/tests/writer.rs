//! Trees, written and judged by e2fsck and debugfs, and read back.

mod oracle;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use ext4::read::Reader;
use ext4::{Data, Kind, Node, Summary, Timestamp, Tree, Writer, WriterOptions};
use tempfile::NamedTempFile;

fn options() -> WriterOptions {
    WriterOptions {
        label: "rootfs".into(),
        uuid: *b"\x5a\x11\x22\x33\x44\x55\x46\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
        created: Timestamp {
            secs: 1_700_000_000,
            nanos: 0,
        },
    }
}

fn node(kind: Kind) -> Node {
    Node {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp {
            secs: 1_600_000_000,
            nanos: 123_456_789,
        },
        xattrs: Vec::new(),
        kind,
    }
}

fn directory() -> Node {
    node(Kind::Directory(BTreeMap::new()))
}

/// Builds an image and lets e2fsck judge it.
fn check(build: impl FnOnce(&mut Writer<&File>, &mut Tree)) -> (NamedTempFile, Summary) {
    let image = NamedTempFile::new().unwrap();
    let mut writer = Writer::new(image.as_file(), options()).unwrap();
    let mut tree = Tree::new(directory());
    build(&mut writer, &mut tree);
    let summary = writer.finish(&tree).unwrap();
    oracle::assert_e2fsck_clean(image.path());
    (image, summary)
}

#[test]
fn e2fsck_accepts_an_empty_tree() {
    let (_, summary) = check(|_, _| {});
    assert_eq!(summary.directories, 2);
    assert_eq!(summary.inodes, 2);
}

#[test]
fn e2fsck_accepts_a_directory_of_50_000_entries_and_debugfs_finds_some() {
    let (image, summary) = check(|_, tree| {
        let big = tree.add(directory());
        let root = tree.root();
        tree.link(root, "big", big).unwrap();
        for i in 0..50_000 {
            let file = tree.add(node(Kind::File(Data::empty())));
            tree.link(big, format!("entry number {i}"), file).unwrap();
        }
    });
    assert_eq!(summary.inodes, 50_003);
    let stat = oracle::debugfs_text(image.path(), "stat \"/big/entry number 49999\"");
    assert!(stat.contains("Type: regular"), "{stat}");
    let tree = oracle::debugfs_text(image.path(), "htree /big");
    assert!(tree.contains("Indirect levels: 0"), "{tree}");
}

#[test]
fn debugfs_and_the_reader_give_back_contents_with_holes() {
    let mut bytes = vec![0u8; 3_000_000];
    for (i, byte) in bytes.iter_mut().enumerate() {
        if i / 4096 % 2 == 0 {
            *byte = (i % 251) as u8;
        }
    }
    let expect = bytes.clone();
    let (image, _) = check(move |writer, tree| {
        let data = writer
            .write_data(&mut &bytes[..], bytes.len() as u64)
            .unwrap();
        let file = tree.add(node(Kind::File(data)));
        let root = tree.root();
        tree.link(root, "holes", file).unwrap();
    });
    assert!(oracle::debugfs(image.path(), "cat /holes") == expect);
    let reader = Reader::open(File::open(image.path()).unwrap()).unwrap();
    let inode = reader.lookup(b"/holes").unwrap().unwrap();
    let mut found = Vec::new();
    let mut contents = reader.contents(&inode).unwrap();
    contents.read_to_end(&mut found).unwrap();
    assert!(found == expect);
    assert_eq!(reader.extents(&inode).unwrap().len(), 367);
}
