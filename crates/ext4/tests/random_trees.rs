//! Random trees: e2fsck finds them clean, and debugfs and the reader give back what went in.

mod oracle;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use ext4::read::{FileType, Inode, ROOT, Reader, Source};
use ext4::{Disk, Kind, Node, NodeId, Timestamp, Tree, Writer, WriterOptions};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

const BLOCK: usize = 4096;

#[derive(Clone, Debug)]
enum Shape {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Socket,
}

#[derive(Clone, Debug)]
struct Spec {
    name: Vec<u8>,
    parent: prop::sample::Index,
    /// Another name of the same node, if it is not a directory.
    second_name: Option<prop::sample::Index>,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    shape: Shape,
}

fn contents() -> impl Strategy<Value = Vec<u8>> {
    let blocks = vec((any::<bool>(), any::<u8>()), 0..24);
    (blocks, 0..BLOCK).prop_map(|(blocks, tail)| {
        let mut bytes = Vec::new();
        for (hole, seed) in blocks {
            let byte = if hole { 0 } else { seed };
            bytes.resize(bytes.len() + BLOCK, byte);
        }
        bytes.truncate(bytes.len().saturating_sub(tail));
        bytes
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        4 => Just(Shape::Directory),
        4 => contents().prop_map(Shape::File),
        2 => vec(1..=255u8, 1..200).prop_map(Shape::Symlink),
        1 => vec(1..=255u8, 4000..=4095).prop_map(Shape::Symlink),
        1 => (0..4096u32, 0..1u32 << 20).prop_map(|(a, b)| Shape::CharDevice(a, b)),
        1 => (0..256u32, 0..256u32).prop_map(|(a, b)| Shape::BlockDevice(a, b)),
        1 => Just(Shape::Fifo),
        1 => Just(Shape::Socket),
    ]
}

fn xattrs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let prefix = prop_oneof![Just("user."), Just("trusted."), Just("security.")];
    let name = (prefix, vec(1..=255u8, 1..40))
        .prop_map(|(prefix, rest)| [prefix.as_bytes(), &rest].concat());
    prop_oneof![
        3 => Just(BTreeMap::new()),
        1 => btree_map(name.clone(), vec(any::<u8>(), 0..600), 1..5),
        1 => btree_map(name, large_value(), 1..4),
    ]
}

/// Such as need inodes of their own.
fn large_value() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), 1000..=65_536usize).prop_map(|(byte, len)| vec![byte; len])
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("not in a name", |b| !matches!(b, 0 | b'/'));
    vec(byte, 1..=255).prop_filter("dots", |name| name != b"." && name != b"..")
}

fn spec() -> impl Strategy<Value = Spec> {
    let time = (
        Timestamp::MIN_SECS..=Timestamp::MAX_SECS,
        0..1_000_000_000u32,
    )
        .prop_map(|(secs, nanos)| Timestamp { secs, nanos });
    let owner = (0..=0o7777u16, any::<u32>(), any::<u32>());
    let place = (
        name(),
        any::<prop::sample::Index>(),
        any::<Option<prop::sample::Index>>(),
    );
    (place, owner, time, xattrs(), shape()).prop_map(
        |((name, parent, second_name), (mode, uid, gid), mtime, xattrs, shape)| Spec {
            name,
            parent,
            second_name,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
            shape,
        },
    )
}

/// The tree as written, and the contents that its files should have.
struct Written {
    tree: Tree,
    contents: HashMap<NodeId, Vec<u8>>,
}

fn write(specs: &[Spec], image: impl Disk) -> Written {
    let mut writer = Writer::new(image, WriterOptions::default()).unwrap();
    let directory = |mode| Node {
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
        kind: Kind::Directory(BTreeMap::new()),
    };
    let mut tree = Tree::new(directory(0o755));
    let mut contents = HashMap::new();
    let mut directories = vec![tree.root()];
    for spec in specs {
        let kind = match &spec.shape {
            Shape::Directory => Kind::Directory(BTreeMap::new()),
            Shape::File(bytes) => Kind::File(
                writer
                    .write_data(&mut &bytes[..], bytes.len() as u64)
                    .unwrap(),
            ),
            Shape::Symlink(target) => Kind::Symlink(target.clone()),
            Shape::CharDevice(major, minor) => Kind::CharDevice {
                major: *major,
                minor: *minor,
            },
            Shape::BlockDevice(major, minor) => Kind::BlockDevice {
                major: *major,
                minor: *minor,
            },
            Shape::Fifo => Kind::Fifo,
            Shape::Socket => Kind::Socket,
        };
        let id = tree.add(Node {
            mode: spec.mode,
            uid: spec.uid,
            gid: spec.gid,
            mtime: spec.mtime,
            xattrs: spec.xattrs.clone().into_iter().collect(),
            kind,
        });
        // a name that is taken replaces what had it, as a later layer does; directories stay
        let parent = *spec.parent.get(&directories);
        if tree.lookup(parent, &spec.name).is_none() {
            tree.link(parent, spec.name.clone(), id).unwrap();
        }
        match &spec.shape {
            Shape::Directory => directories.push(id),
            shape => {
                if let Shape::File(bytes) = shape {
                    contents.insert(id, bytes.clone());
                }
                if let Some(other) = &spec.second_name {
                    let mut second = b"2-".to_vec();
                    second.extend(spec.name.iter().take(253));
                    tree.link(*other.get(&directories), second, id).unwrap();
                }
            }
        }
    }
    writer.finish(&tree).unwrap();
    Written { tree, contents }
}

fn wanted_type(kind: &Kind) -> FileType {
    match kind {
        Kind::Directory(_) => FileType::Directory,
        Kind::File(_) => FileType::File,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::CharDevice { .. } => FileType::CharDevice,
        Kind::BlockDevice { .. } => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
    }
}

/// Compares entry by entry with the reader; returns which inode each node became.
fn compare_with_reader(written: &Written, image: impl Source) -> HashMap<NodeId, Inode> {
    let reader = Reader::open(image).unwrap();
    let mut found: HashMap<NodeId, Inode> = HashMap::new();
    let mut names: HashMap<NodeId, u16> = HashMap::new();
    let mut open = vec![(written.tree.root(), ROOT)];
    while let Some((id, ino)) = open.pop() {
        *names.entry(id).or_default() += 1;
        let inode = reader.inode(ino).unwrap();
        if let Some(before) = found.insert(id, inode.clone()) {
            assert_eq!(before.ino, ino, "a hard link became a second inode");
            continue;
        }
        let node = &written.tree[id];
        assert_eq!(inode.file_type(), Some(wanted_type(&node.kind)));
        assert_eq!(inode.mode & 0o7777, node.mode);
        assert_eq!((inode.uid, inode.gid), (node.uid, node.gid));
        assert_eq!((inode.mtime, inode.ctime), (node.mtime, node.mtime));
        let mut xattrs = reader.xattrs(&inode).unwrap();
        xattrs.sort();
        assert_eq!(xattrs, node.xattrs);
        match &node.kind {
            Kind::Directory(entries) => {
                let mut listed = reader.read_dir(&inode).unwrap();
                listed.retain(|entry| {
                    let added = ino == ROOT && entry.name == b"lost+found";
                    entry.name != b"." && entry.name != b".." && !added
                });
                listed.sort_by(|a, b| a.name.cmp(&b.name));
                let expect: Vec<&Vec<u8>> = entries.keys().collect();
                let actual: Vec<&Vec<u8>> = listed.iter().map(|entry| &entry.name).collect();
                assert_eq!(actual, expect);
                for (entry, child) in listed.iter().zip(entries.values()) {
                    let kind = &written.tree[*child].kind;
                    assert_eq!(entry.file_type, Some(wanted_type(kind)));
                    open.push((*child, entry.ino));
                }
            }
            Kind::File(_) => {
                let mut bytes = Vec::new();
                let mut contents = reader.contents(&inode).unwrap();
                contents.read_to_end(&mut bytes).unwrap();
                assert!(bytes == written.contents[&id]);
            }
            Kind::Symlink(target) => assert_eq!(&reader.read_link(&inode).unwrap(), target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                assert_eq!(reader.device(&inode).unwrap(), (*major, *minor));
            }
            Kind::Fifo | Kind::Socket => {}
        }
    }
    for (id, inode) in &found {
        if !inode.is_dir() {
            assert_eq!(inode.links, names[id]);
        }
    }
    found
}

/// Compares what debugfs says of each inode: owner, mode, links, size, time, attributes, contents.
fn compare_with_debugfs(written: &Written, inodes: &HashMap<NodeId, Inode>, image: &Path) {
    let out = tempfile::tempdir().unwrap();
    let mut commands = String::new();
    let mut order: Vec<_> = inodes.iter().collect();
    order.sort_by_key(|(_, inode)| inode.ino);
    for (_, inode) in &order {
        let ino = inode.ino;
        commands += &format!("stat <{ino}>\n");
        if inode.is_file() {
            commands += &format!("dump <{ino}> {}/{ino}\n", out.path().display());
        }
    }
    let image = image.to_str().unwrap();
    let output = oracle::run("debugfs", &["-f", "-", image], &commands);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut stats = text.split("\nInode: ").skip(1);
    for (id, inode) in order {
        let stat = stats.next().unwrap();
        let node = &written.tree[*id];
        let secs = node.mtime.secs;
        let epoch = ((secs - i64::from(secs as i32)) >> 32) as u32;
        let size = if let Kind::Directory(_) = node.kind {
            inode.size
        } else {
            match &node.kind {
                Kind::File(_) => written.contents[id].len() as u64,
                Kind::Symlink(target) => target.len() as u64,
                _ => 0,
            }
        };
        for expect in [
            format!("Mode:  0{:03o}   ", node.mode),
            format!(
                "User: {:>5}   Group: {:>5}   ",
                node.uid as i32, node.gid as i32
            ),
            format!("Size: {size}\n"),
            format!("Links: {}   ", inode.links),
            format!(
                "mtime: 0x{:08x}:{:08x}",
                secs as u32,
                node.mtime.nanos << 2 | epoch
            ),
        ] {
            assert!(stat.contains(&expect), "no {expect:?} in {stat}");
        }
        for (_, value) in &node.xattrs {
            assert!(stat.contains(&format!(" ({})", value.len())), "{stat}");
        }
        if inode.is_file() {
            let bytes = std::fs::read(out.path().join(inode.ino.to_string())).unwrap();
            assert!(bytes == written.contents[id], "contents of {}", inode.ino);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn e2fsck_debugfs_and_the_reader_agree_on_random_trees(specs in vec(spec(), 0..120)) {
        let image = tempfile::NamedTempFile::new().unwrap();
        let written = write(&specs, image.as_file());
        oracle::assert_e2fsck_clean(image.path());
        let inodes = compare_with_reader(&written, File::open(image.path()).unwrap());
        compare_with_debugfs(&written, &inodes, image.path());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Many more, and the reader alone: e2fsck takes its time.
    #[test]
    fn the_reader_gives_back_what_was_written(specs in vec(spec(), 0..30)) {
        let mut image = Vec::new();
        let written = write(&specs, &mut image);
        compare_with_reader(&written, image);
    }
}
