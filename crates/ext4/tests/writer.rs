//! Trees, written and judged by e2fsck and debugfs, and read back.

#![allow(clippy::single_range_in_vec_init, reason = "ranges of data in a file")]

mod oracle;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use ext4::read::Reader;
use ext4::{
    Data, Error, Kind, Node, PIECE, Placed, Segment, Summary, Timestamp, Tree, Writer,
    WriterOptions,
};
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
    let report = ext4::check::check(image.as_file()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
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
fn e2fsck_accepts_directories_at_the_borders_of_their_index() {
    // 12 bytes an entry: the most that is linear, then one leaf, then two; at last two levels
    for (count, width, levels) in [
        (253, 8, None),
        (254, 8, Some(0)),
        (255, 8, Some(0)),
        (256, 8, Some(0)),
        (9000, 255, Some(1)),
    ] {
        let (image, _) = check(|_, tree| {
            let directory = tree.add(directory());
            let root = tree.root();
            tree.link(root, "dir", directory).unwrap();
            let file = tree.add(node(Kind::File(Data::empty())));
            for i in 0..count {
                tree.link(directory, format!("{i:0width$}"), file).unwrap();
            }
        });
        if let Some(levels) = levels {
            let text = oracle::debugfs_text(image.path(), "htree /dir");
            assert!(
                text.contains(&format!("Indirect levels: {levels}")),
                "{text}"
            );
        }
        let name = format!("stat /dir/{:0width$}", count - 1);
        let stat = oracle::debugfs_text(image.path(), &name);
        assert!(stat.contains(&format!("Links: {count}")), "{stat}");
    }
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

/// Every second block of `blocks` is a hole: as many extents as an extent tree can need.
struct Stripes {
    blocks: u64,
    position: u64,
}

impl Read for Stripes {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let left = self.blocks * 4096 - self.position;
        let len = left.min(buf.len() as u64).min(4096 - self.position % 4096) as usize;
        buf[..len].fill((self.position / 4096 % 2) as u8 * 3);
        self.position += len as u64;
        Ok(len)
    }
}

#[test]
fn e2fsck_accepts_extent_trees_of_every_depth() {
    // 4 in the inode, 340 a node, 4 nodes in the inode
    for extents in [4u64, 5, 340, 341, 1360, 1361, 3000] {
        let (image, _) = check(|writer, tree| {
            let mut stripes = Stripes {
                blocks: extents * 2,
                position: 0,
            };
            let data = writer.write_data(&mut stripes, extents * 8192).unwrap();
            assert_eq!(data.allocated(), extents * 4096);
            let file = tree.add(node(Kind::File(data)));
            let root = tree.root();
            tree.link(root, "stripes", file).unwrap();
        });
        let reader = Reader::open(File::open(image.path()).unwrap()).unwrap();
        let inode = reader.lookup(b"/stripes").unwrap().unwrap();
        assert_eq!(reader.extents(&inode).unwrap().len() as u64, extents);
    }
}

/// 5 GiB with one byte at the end, then 300 MiB of contents across three groups.
#[test]
fn e2fsck_and_debugfs_accept_files_beyond_4_gib_and_across_groups() {
    const LEN: u64 = (5 << 30) + 1;
    const FULL: u64 = 300 << 20;
    let (image, summary) = check(|writer, tree| {
        let root = tree.root();
        let data = writer.write_data(&mut std::io::repeat(0).take(LEN - 1).chain(&b"!"[..]), LEN);
        let file = tree.add(node(Kind::File(data.unwrap())));
        tree.link(root, "sparse", file).unwrap();
        let data = writer
            .write_data(&mut std::io::repeat(7).take(FULL), FULL)
            .unwrap();
        let file = tree.add(node(Kind::File(data)));
        tree.link(root, "full", file).unwrap();
    });
    // Three groups' inode tables, which are holes.
    assert!(summary.size < FULL + (5 << 20), "{summary:?}");
    let stat = oracle::debugfs_text(image.path(), "stat /sparse");
    assert!(stat.contains(&format!("Size: {LEN}\n")), "{stat}");
    let reader = Reader::open(File::open(image.path()).unwrap()).unwrap();
    let inode = reader.lookup(b"/sparse").unwrap().unwrap();
    let contents = reader.contents(&inode).unwrap();
    let mut end = [1; 2];
    assert_eq!(contents.read_at(&mut end, LEN - 2).unwrap(), 2);
    assert_eq!(end, *b"\0!");
    let inode = reader.lookup(b"/full").unwrap().unwrap();
    let mut bytes = Vec::new();
    let mut contents = reader.contents(&inode).unwrap();
    contents.read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() as u64 == FULL && bytes.iter().all(|byte| *byte == 7));
    assert!(reader.extents(&inode).unwrap().len() <= 4);
}

#[test]
fn e2fsck_accepts_contents_that_nobody_refers_to_as_free_space() {
    let (_, summary) = check(|writer, _| {
        writer
            .write_data(&mut &[1u8; 100_000][..], 100_000)
            .unwrap();
    });
    assert_eq!(summary.blocks - summary.used_blocks, 25);
}

#[test]
fn e2fsck_accepts_a_lost_found_of_the_tree_and_70_000_subdirectories() {
    let (image, summary) = check(|_, tree| {
        let root = tree.root();
        let lost_found = tree.add(directory());
        tree.link(root, "lost+found", lost_found).unwrap();
        let many = tree.add(directory());
        tree.link(root, "many", many).unwrap();
        for i in 0..70_000 {
            let child = tree.add(directory());
            tree.link(many, format!("{i}"), child).unwrap();
        }
    });
    assert_eq!(summary.directories, 70_003);
    // more than 64,998 subdirectories cannot be counted
    let stat = oracle::debugfs_text(image.path(), "stat /many");
    assert!(stat.contains("Links: 1 "), "{stat}");
}

#[test]
fn the_same_calls_give_the_same_bytes() {
    let bytes = || {
        let mut disk = Vec::new();
        let mut writer = Writer::new(&mut disk, options()).unwrap();
        let mut tree = Tree::new(directory());
        for i in 0..300u32 {
            let contents = vec![(i % 255) as u8 + 1; i as usize * 50];
            let data = writer
                .write_data(&mut &contents[..], contents.len() as u64)
                .unwrap();
            let file = tree.add(node(Kind::File(data)));
            let root = tree.root();
            tree.link(root, format!("file {i}"), file).unwrap();
        }
        writer.finish(&tree).unwrap();
        disk
    };
    assert!(bytes() == bytes());
}

/// Oracle: the same contents with the zeros spelled out.
#[test]
fn ranges_give_the_same_bytes_as_the_contents_in_full() {
    let image = |write: &dyn Fn(&mut Writer<&mut Vec<u8>>) -> Data| {
        let mut disk = Vec::new();
        let mut writer = Writer::new(&mut disk, options()).unwrap();
        let mut tree = Tree::new(directory());
        let data = write(&mut writer);
        let file = tree.add(node(Kind::File(data)));
        let root = tree.root();
        tree.link(root, "file", file).unwrap();
        writer.finish(&tree).unwrap();
        disk
    };
    let check = |len: u64, ranges: &[std::ops::Range<u64>]| {
        let mut contents = vec![0; len as usize];
        let mut packed = Vec::new();
        for range in ranges {
            for at in range.clone() {
                contents[at as usize] = (at % 251) as u8;
                packed.push((at % 251) as u8);
            }
        }
        let full = image(&|writer| writer.write_data(&mut &contents[..], len).unwrap());
        let sparse = image(&|writer| writer.write_sparse(&mut &packed[..], len, ranges).unwrap());
        assert!(full == sparse, "{len} {ranges:?}");
    };
    check(0, &[]);
    check(10_000, &[]);
    check(1, &[0..1]);
    check(10_000, &[0..10_000]);
    check(10_000, &[9_999..10_000]);
    check(40_960, &[0..1, 1..2, 4_095..4_096, 4_096..4_097]);
    check(
        40_960,
        &[100..200, 300..5_000, 8_192..8_193, 20_480..40_960],
    );
    check(
        5 << 20,
        &[4_096..4_097, 8_191..3 << 20, (4 << 20)..(5 << 20)],
    );
}

/// Oracle: the same contents written at once. What never wins is cleared, in either case.
#[test]
fn contents_that_waited_in_a_segment_give_the_same_bytes() {
    let contents = |i: usize| {
        let mut bytes = vec![i as u8 + 1; i * 70_000 % 2_500_000];
        // Holes, also at the start.
        let len = bytes.len();
        bytes[len / 5..len / 2].fill(0);
        bytes[..len / 20].fill(0);
        bytes
    };
    let ranges = [5..6, 1 << 32..(1 << 32) + 1];
    let image = |waits: bool| {
        let mut disk = Vec::new();
        let mut writer = Writer::new(&mut disk, options()).unwrap();
        let mut all: Vec<Data> = Vec::new();
        if waits {
            let mut segment = Segment::new(Vec::new());
            let mut waiting = Vec::new();
            for i in 0..50 {
                let bytes = contents(i);
                let len = bytes.len() as u64;
                waiting.push(segment.write_data(&mut &bytes[..], len).unwrap());
            }
            let sparse = segment.write_sparse(&mut &b"ab"[..], 1 << 33, &ranges);
            waiting.push(sparse.unwrap());
            let mut placed = Placed::default();
            for piece in segment.finish().unwrap().chunks(PIECE) {
                writer.place(piece, &mut placed).unwrap();
            }
            all.extend(waiting.iter().map(|waiting| placed.data(waiting).unwrap()));
        } else {
            for i in 0..50 {
                let bytes = contents(i);
                let len = bytes.len() as u64;
                all.push(writer.write_data(&mut &bytes[..], len).unwrap());
            }
            let sparse = writer.write_sparse(&mut &b"ab"[..], 1 << 33, &ranges);
            all.push(sparse.unwrap());
        }
        let mut tree = Tree::new(directory());
        for (i, data) in all.into_iter().enumerate().filter(|(i, _)| i % 3 != 1) {
            let file = tree.add(node(Kind::File(data)));
            let root = tree.root();
            tree.link(root, format!("file {i}"), file).unwrap();
        }
        writer.finish(&tree).unwrap();
        disk
    };
    let disk = image(true);
    assert!(disk == image(false));
    // Number 4 is no winner: its bytes are nowhere.
    assert!(!disk.chunks(4096).any(|block| block == [5; 4096]));
    assert!(disk.chunks(4096).any(|block| block == [6; 4096]));
    let mut segment = Segment::new(Vec::new());
    let waiting = segment.write_data(&mut &[1; 9000][..], 9000).unwrap();
    let mut writer = Writer::new(Vec::new(), options()).unwrap();
    let mut placed = Placed::default();
    let cut = &segment.finish().unwrap()[..8192];
    writer.place(cut, &mut placed).unwrap();
    let error = placed.data(&waiting).unwrap_err();
    assert!(matches!(error, Error::NotPlaced { block: 2 }), "{error}");
}

/// Terabytes of holes are nothing, and ranges that make no sense are errors.
#[test]
fn holes_cost_nothing() {
    const LEN: u64 = 16 << 40;
    let begun = std::time::Instant::now();
    let (image, _) = check(|writer, tree| {
        for (len, ranges) in [
            (10, &[0..2, 1..3][..]),
            (10, &[5..11]),
            (10, &[5..5]),
            (10, &[5..6, 1..2]),
        ] {
            let result = writer.write_sparse(&mut &[1; 20][..], len, ranges);
            assert!(matches!(result, Err(Error::Ranges { .. })), "{ranges:?}");
        }
        let ranges = [7..8, (8 << 40)..(8 << 40) + 3, LEN - 8193..LEN - 8192];
        let len = LEN - 8192;
        let data = writer
            .write_sparse(&mut &b"abcde"[..], len, &ranges)
            .unwrap();
        let file = tree.add(node(Kind::File(data)));
        let root = tree.root();
        tree.link(root, "huge", file).unwrap();
        let short = writer.write_sparse(&mut &b"a"[..], 100, &[3..5]);
        assert!(matches!(short, Err(Error::ShortFile { len: 100 })));
    });
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    let stat = oracle::debugfs_text(image.path(), "stat huge");
    assert!(stat.contains("Size: 17592186036224"), "{stat}");
    assert!(stat.contains("Blockcount: 24"), "{stat}");
}

#[test]
fn a_reader_that_ends_early_leaves_a_writer_that_works() {
    check(|writer, tree| {
        let early = writer.write_data(&mut &[1u8; 5000][..], 9000);
        assert!(matches!(early, Err(Error::ShortFile { len: 9000 })));
        let data = writer.write_data(&mut &[2u8; 5000][..], 5000).unwrap();
        let file = tree.add(node(Kind::File(data)));
        let root = tree.root();
        tree.link(root, "file", file).unwrap();
    });
}

/// What a tree must not hold, and the message that says so.
#[test]
fn what_ext4_cannot_hold_is_refused_by_path() {
    let refuse = |expect: &str, build: &dyn Fn(&mut Writer<Vec<u8>>, &mut Tree)| {
        let mut writer = Writer::new(Vec::new(), options()).unwrap();
        let mut tree = Tree::new(directory());
        build(&mut writer, &mut tree);
        let error = writer.finish(&tree).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    let add = |tree: &mut Tree, name: &[u8], node: Node| {
        let (root, id) = (tree.root(), tree.add(node));
        tree.link(root, name, id).unwrap();
        id
    };
    for name in [&b""[..], b".", b"..", b"a/b", b"zero\0", &[b'n'; 256]] {
        refuse("is not a name", &|_, tree| {
            add(tree, name, node(Kind::Fifo));
        });
    }
    for target in [Vec::new(), vec![b't'; 4096], b"a\0b".to_vec()] {
        refuse("symbolic link /link has a target", &|_, tree| {
            add(tree, b"link", node(Kind::Symlink(target.clone())));
        });
    }
    refuse("device /d has numbers 4096:0", &|_, tree| {
        let kind = Kind::BlockDevice {
            major: 4096,
            minor: 0,
        };
        add(tree, b"d", node(kind));
    });
    refuse(
        "/x: extended attribute \"user.big\" of 65537 bytes",
        &|_, tree| {
            let mut file = node(Kind::Fifo);
            file.xattrs.push((b"user.big".to_vec(), vec![1; 65_537]));
            add(tree, b"x", file);
        },
    );
    refuse("directory /a/again has a second name", &|_, tree| {
        let a = add(tree, b"a", directory());
        tree.link(a, "again", a).unwrap();
    });
    refuse("/second shares its contents", &|writer, tree| {
        let data = writer.write_data(&mut &b"x"[..], 1).unwrap();
        add(tree, b"first", node(Kind::File(data.clone())));
        add(tree, b"second", node(Kind::File(data)));
    });
    refuse(" has 65001 hard links", &|_, tree| {
        let id = add(tree, b"many", node(Kind::Fifo));
        let root = tree.root();
        for i in 0..65_000 {
            tree.link(root, format!("{i}"), id).unwrap();
        }
    });
    refuse("contents of /foreign are not on this disk", &|_, tree| {
        let mut other = Writer::new(Vec::new(), options()).unwrap();
        let data = other.write_data(&mut &b"x"[..], 1).unwrap();
        add(tree, b"foreign", node(Kind::File(data)));
    });
    let not_a_directory = Tree::new(node(Kind::Fifo));
    let writer = Writer::new(Vec::new(), options()).unwrap();
    let error = writer.finish(&not_a_directory).unwrap_err();
    assert!(matches!(error, Error::RootNotDirectory));
}
