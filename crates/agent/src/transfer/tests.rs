//! Packing, unpacking and comparing real trees on the host, with GNU tar as the oracle both ways. As root, the trees
//! also have device nodes and other people's files.

mod differences;
mod hostile;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::archive::Archive;
use super::entry::{Entry, Kind};
use super::pack::Packer;
use super::pipe::{Input, Output};
use super::unpack::{self, Options};
use super::xattrs;

/// A byte behind the last one of 8 GiB: too far for a header's octal digits.
const FAR: u64 = 9 << 30;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A tree with everything that an archive can hold.
fn grow(root: &Path) {
    let long = "long-name-".repeat(15);
    let mkdir = |name: &str| fs::create_dir_all(root.join(name)).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(root.join(name), bytes).unwrap();
    mkdir("empty");
    mkdir("dir/sub");
    mkdir(&format!("dir/{long}/{long}"));
    write("dir/file", b"contents\n");
    write("dir/sub/nothing", b"");
    write(&format!("dir/{long}/{long}/deep"), &[7; 70_000]);
    write("exactly-a-block", &[b'x'; 512]);
    fs::write(
        root.join(std::ffi::OsStr::from_bytes(b"not\xff\xfeutf8\n")),
        "odd",
    )
    .unwrap();
    fs::hard_link(root.join("dir/file"), root.join("another-name")).unwrap();
    fs::hard_link(root.join("dir/file"), root.join("dir/sub/third")).unwrap();
    symlink("../nowhere", root.join("dir/broken")).unwrap();
    symlink(format!("{long}/{long}"), root.join("far")).unwrap();
    for (name, mode) in [
        ("setuid", 0o4755),
        ("secret", 0o0),
        ("dir/sub", 0o1777),
        ("empty", 0o2550),
    ] {
        if name == "setuid" || name == "secret" {
            write(name, b"#!");
        }
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let node = |name: &str, kind, mode, device| {
        rustix::fs::mknodat(
            CWD,
            root.join(name),
            kind,
            Mode::from_raw_mode(mode),
            device,
        )
    };
    node("fifo", FileType::Fifo, 0o600, 0).unwrap();
    let holes = |name: &str, size: u64, data: &[(u64, &[u8])]| {
        let file = File::create(root.join(name)).unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in data {
            file.write_all_at(bytes, *offset).unwrap();
        }
    };
    holes("one-hole", 1 << 20, &[]);
    holes("far-end", FAR + 1, &[(0, b"begin"), (FAR, b"!")]);
    holes("begins-with-a-hole", 300_000, &[(150_000, b"middle")]);
    let many: Vec<_> = (0..60)
        .map(|number| (number * 65536, &b"data"[..]))
        .collect();
    holes("many-holes", 60 * 65536, &many);
    let set = |name: &str, key: &str, value: &[u8]| {
        let path = root.join(name);
        rustix::fs::setxattr(path, key, value, XattrFlags::empty()).unwrap();
    };
    set("dir/file", "user.note", b"a\0b\n=c");
    set("dir", "user.on-a-directory", b"");
    set("exactly-a-block", "user.big", &[b'v'; 2000]);
    if is_root() {
        // Revision 2, permitted: CAP_NET_RAW (linux/capability.h).
        let raw = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        set("exactly-a-block", "security.capability", &raw);
    }
    if is_root() {
        node(
            "null",
            FileType::CharacterDevice,
            0o666,
            rustix::fs::makedev(1, 3),
        )
        .unwrap();
        node(
            "disk",
            FileType::BlockDevice,
            0o660,
            rustix::fs::makedev(254, 1000),
        )
        .unwrap();
        let own = |name: &str, uid, gid| {
            std::os::unix::fs::lchown(root.join(name), Some(uid), Some(gid)).unwrap();
        };
        own("dir/broken", 33, 33);
        own("dir/sub", 1000, 1001);
        own("exactly-a-block", 3_000_000, 4_000_000_000);
    }
    for (name, seconds, nanoseconds) in [
        ("dir/file", 1_000_000_000, 123_456_789),
        ("exactly-a-block", -2, 500_000_000),
        ("dir/broken", 7, 0),
        ("fifo", 1, 1),
        ("dir/sub", 1_500_000_000, 1),
        ("dir", 1_600_000_000, 999_999_999),
    ] {
        let times = Timestamps {
            last_access: Timespec::default(),
            last_modification: Timespec {
                tv_sec: seconds,
                tv_nsec: nanoseconds,
            },
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, root.join(name), &times, flags).unwrap();
    }
}

/// Everything about everything below `root`, a line each.
fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut seen = BTreeMap::new();
    let mut lines = BTreeMap::new();
    look(root, root, &mut seen, &mut lines);
    lines
}

fn look(
    root: &Path,
    directory: &Path,
    seen: &mut BTreeMap<u64, String>,
    lines: &mut BTreeMap<Vec<u8>, String>,
) {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let stat = fs::symlink_metadata(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap();
        let first = seen
            .entry(stat.ino())
            .or_insert_with(|| relative.display().to_string())
            .clone();
        let kind = stat.file_type();
        let mut line = format!(
            "{:o} {}:{} {}.{:09} same as {first}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
        );
        if kind.is_file() {
            let blocks = stat.blocks() * 512;
            line += &format!(" {} bytes, holes: {}", stat.len(), blocks < stat.len());
            line += &format!(" {:?}", contents(&path, stat.len()));
        } else if kind.is_symlink() {
            line += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        } else if kind.is_char_device() || kind.is_block_device() {
            line += &format!(" device {:x}", stat.rdev());
        }
        if (kind.is_file() || kind.is_dir())
            && let Ok(file) = File::open(&path)
        {
            line += &format!(" {:?}", xattrs::read(file.as_fd()).unwrap());
        }
        lines.insert(relative.as_os_str().as_bytes().to_vec(), line);
        if kind.is_dir() {
            look(root, &path, seen, lines);
        }
    }
}

/// A sum of what is no hole, each byte with its place.
fn contents(path: &Path, size: u64) -> Option<u64> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let file = File::open(path).ok()?;
    let mut hasher = DefaultHasher::new();
    let mut at = 0;
    while let Ok(offset) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(offset)).unwrap();
        let mut bytes = vec![0; usize::try_from(end - offset).unwrap()];
        file.read_exact_at(&mut bytes, offset).unwrap();
        for (place, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            (offset + place as u64, byte).hash(&mut hasher);
        }
        at = end;
    }
    size.hash(&mut hasher);
    Some(hasher.finish())
}

fn check_same(made: &Path, original: &Path) {
    let (made, original) = (snapshot(made), snapshot(original));
    for (path, line) in &original {
        let name = String::from_utf8_lossy(path);
        assert_eq!(made.get(path), Some(line), "{name}");
    }
    assert_eq!(made.len(), original.len());
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// Packs everything below `root`.
fn pack(root: &Path, archive: &Path) {
    let mut packer = Packer::new(Output::new(File::create(archive).unwrap().into()));
    packer.below(open(root), b"").unwrap();
    let bytes = packer.finish().unwrap();
    assert_eq!(bytes, fs::metadata(archive).unwrap().len());
    assert_eq!(bytes % 512, 0);
}

const KEEP: Options = Options {
    keep_type: false,
    keep_owner: true,
    keep_lists: false,
};

fn unpack(archive: &Path, root: &Path, directory: &str, options: Options) -> Result<(), String> {
    let mut archive = Archive::new(Input::new(open(archive)));
    unpack::unpack(
        open(root).as_fd(),
        Path::new(directory),
        &mut archive,
        options,
    )
    .map_err(|failed| failed.to_string())
}

fn gnu_tar(arguments: &[&str], archive: &Path, root: &Path) {
    let output = Command::new("tar")
        .args(arguments)
        .args([
            "--xattrs",
            "--xattrs-include=*",
            "--sparse",
            "--warning=no-timestamp",
        ])
        .arg("-f")
        .arg(archive)
        .arg("-C")
        .arg(root)
        .args(if arguments[0] == "-c" {
            &["."][..]
        } else {
            &[]
        })
        .output()
        .expect("these tests need GNU tar");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A temporary directory with directories of these names.
fn place(names: &[&str]) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for name in names {
        fs::create_dir(place.path().join(name)).unwrap();
    }
    place
}

#[test]
fn gnu_tar_unpacks_what_we_pack() {
    let place = place(&["tree", "made"]);
    let [tree, made, archive] = ["tree", "made", "archive"].map(|name| place.path().join(name));
    grow(&tree);
    pack(&tree, &archive);
    gnu_tar(&["-x", "-p", "--numeric-owner"], &archive, &made);
    check_same(&made, &tree);
}

#[test]
fn we_unpack_what_gnu_tar_packs() {
    let place = place(&["tree", "pax-1.0", "pax-0.1", "pax-0.0"]);
    let tree = place.path().join("tree");
    grow(&tree);
    for format in ["pax-1.0", "pax-0.1", "pax-0.0"] {
        let [made, archive] =
            [format.to_owned(), format!("{format}.tar")].map(|name| place.path().join(name));
        let version = format.replace("pax-", "--sparse-version=");
        gnu_tar(&["-c", "--format=posix", &version], &archive, &tree);
        unpack(&archive, &made, "/", KEEP).unwrap();
        check_same(&made, &tree);
    }
}

#[test]
fn we_unpack_gnu_tars_own_format() {
    // No fractions of seconds, no attributes, no times before 1970 in it.
    let place = place(&["tree", "made", "oracle"]);
    let [tree, made, oracle, archive] =
        ["tree", "made", "oracle", "archive"].map(|name| place.path().join(name));
    grow(&tree);
    let output = Command::new("tar")
        .args(["-c", "--format=gnu", "--sparse", "-f"])
        .args([&archive, Path::new("-C"), &tree, Path::new(".")])
        .output()
        .unwrap();
    assert!(output.status.success());
    unpack(&archive, &made, "/", KEEP).unwrap();
    gnu_tar(&["-x", "-p", "--numeric-owner"], &archive, &oracle);
    check_same(&made, &oracle);
}

#[test]
fn what_we_pack_we_unpack() {
    let place = place(&["tree", "root"]);
    let [tree, root, archive] = ["tree", "root", "archive"].map(|name| place.path().join(name));
    grow(&tree);
    pack(&tree, &archive);
    fs::create_dir_all(root.join("some/where")).unwrap();
    unpack(&archive, &root, "/some/where", KEEP).unwrap();
    check_same(&root.join("some/where"), &tree);
    // A second time over the first changes nothing.
    unpack(&archive, &root, "/some/where", KEEP).unwrap();
    check_same(&root.join("some/where"), &tree);
}

/// Lists go along when they are asked for, and then what a directory gives to new files is not theirs. Oracle: the kernel,
/// which reads them on the file system of the tests.
#[test]
fn access_control_lists_go_along_inside_of_the_vm() {
    let place = place(&["tree", "tree/given", "bare", "full"]);
    let at = |name: &str| place.path().join(name);
    // Version 2; owner rw, user 1000 rw, group r, mask rw, others nothing (linux/posix_acl_xattr.h).
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 6, 1000),
        (4, 4, u32::MAX),
        (16, 6, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(perm.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    fs::write(at("tree/listed"), "x").unwrap();
    fs::write(at("tree/given/plain"), "x").unwrap();
    let plain = fs::Permissions::from_mode(0o640);
    fs::set_permissions(at("tree/given/plain"), plain).unwrap();
    for (name, key) in [
        ("tree/listed", xattrs::LISTS[0]),
        ("tree/given", xattrs::LISTS[1]),
    ] {
        rustix::fs::setxattr(at(name), key, &list, XattrFlags::empty())
            .expect("a file system with access control lists");
    }
    let lists = |name: &str| {
        let attributes = xattrs::read_with_lists(open(&at(name)).as_fd()).unwrap();
        let names = attributes.into_iter().filter(|(_, value)| *value == list);
        names
            .map(|(name, _)| String::from_utf8(name).unwrap())
            .collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    for with in [false, true] {
        let packer = Packer::new(Output::new(File::create(at("archive")).unwrap().into()));
        let mut packer = if with { packer.with_lists() } else { packer };
        packer.below(open(&at("tree")), b"").unwrap();
        packer.finish().unwrap();
        let options = Options {
            keep_lists: with,
            ..KEEP
        };
        let to = if with { "full" } else { "bare" };
        unpack(&at("archive"), &at(to), "/", options).unwrap();
        let expect: &[&str] = if with { &[xattrs::LISTS[0]] } else { &none };
        assert_eq!(lists(&format!("{to}/listed")), expect);
        let expect: &[&str] = if with { &[xattrs::LISTS[1]] } else { &none };
        assert_eq!(lists(&format!("{to}/given")), expect);
        assert_eq!(lists(&format!("{to}/given/plain")), none);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().mode();
        assert_eq!(mode(&format!("{to}/listed")), mode("tree/listed"));
        assert_eq!(mode(&format!("{to}/given/plain")), mode("tree/given/plain"));
        let names = xattrs::read_with_lists(open(&at(&format!("{to}/given/plain"))).as_fd());
        assert_eq!(names.unwrap(), []);
    }
}

#[test]
fn a_tree_has_the_name_that_was_asked_for() {
    let place = place(&["tree"]);
    let [tree, archive] = ["tree", "archive"].map(|name| place.path().join(name));
    grow(&tree);
    let listed = |name: &str, path: &[u8]| {
        let mut packer = Packer::new(Output::new(File::create(&archive).unwrap().into()));
        let name = CString::new(name).unwrap();
        packer.tree(open(&tree).as_fd(), &name, path).unwrap();
        packer.finish().unwrap();
        let mut archive = Archive::new(Input::new(open(&archive)));
        let mut paths = Vec::new();
        while let Some(entry) = archive.next().unwrap() {
            paths.push(String::from_utf8_lossy(&entry.path).into_owned());
        }
        paths.sort();
        paths
    };
    assert_eq!(listed("exactly-a-block", b"renamed"), ["renamed"]);
    assert_eq!(listed("fifo", b"fifo"), ["fifo"]);
    let below = listed("dir", b"x");
    assert!(
        below.contains(&"x/".to_owned()) && below.contains(&"x/sub/nothing".to_owned()),
        "{below:?}"
    );
    let all = listed(".", b".");
    assert!(
        all.contains(&"./".to_owned()) && all.contains(&"./dir/file".to_owned()),
        "{all:?}"
    );
    let mut packer = Packer::new(Output::new(File::create(&archive).unwrap().into()));
    assert!(packer.tree(open(&tree).as_fd(), c"nope", b"nope").is_err());
}

/// Writes an archive of these members; a file's contents are its path.
fn archive_of(members: &[(&str, Kind)], to: &Path) {
    let mut bytes = Vec::new();
    for (path, kind) in members {
        let mut entry = Entry::empty_file(path.as_bytes().to_vec());
        entry.mode = 0o755;
        entry.uid = rustix::process::geteuid().as_raw();
        entry.gid = rustix::process::getegid().as_raw();
        entry.kind = match kind {
            Kind::File { .. } => Kind::File {
                size: path.len() as u64,
                extents: None,
            },
            other => other.clone(),
        };
        entry.encode(&mut bytes);
        if entry.stored() > 0 {
            bytes.extend_from_slice(path.as_bytes());
            super::entry::pad(&mut bytes);
        }
    }
    bytes.extend([0; 1024]);
    fs::write(to, bytes).unwrap();
}

const FILE: Kind = Kind::File {
    size: 0,
    extents: None,
};

fn link(target: &str) -> Kind {
    Kind::SymbolicLink(target.into())
}

#[test]
fn directories_merge_and_the_rest_replaces() {
    let place = place(&["root"]);
    let [root, archive] = ["root", "archive"].map(|name| place.path().join(name));
    let keep_type = Options {
        keep_type: true,
        ..KEEP
    };
    fs::create_dir_all(root.join("d/sub/deep")).unwrap();
    fs::write(root.join("d/old"), "old").unwrap();
    fs::write(root.join("f"), "old").unwrap();
    symlink("f", root.join("to-f")).unwrap();
    archive_of(
        &[("d", Kind::Directory), ("d/new", FILE), ("to-f", FILE)],
        &archive,
    );
    unpack(&archive, &root, "/", keep_type).unwrap();
    assert_eq!(fs::read(root.join("d/old")).unwrap(), b"old");
    assert_eq!(fs::read(root.join("d/new")).unwrap(), b"d/new");
    // The link was replaced, not followed.
    assert_eq!(fs::read(root.join("f")).unwrap(), b"old");
    assert!(fs::symlink_metadata(root.join("to-f")).unwrap().is_file());

    archive_of(&[("f", Kind::Directory)], &archive);
    let refused = unpack(&archive, &root, "/", keep_type).unwrap_err();
    assert_eq!(
        refused,
        "unpack /f: cannot overwrite non-directory with directory"
    );
    archive_of(&[("d", FILE)], &archive);
    let refused = unpack(&archive, &root, "/", keep_type).unwrap_err();
    assert_eq!(
        refused,
        "unpack /d: cannot overwrite directory with non-directory"
    );

    archive_of(&[("f", Kind::Directory), ("d", FILE)], &archive);
    unpack(&archive, &root, "/", KEEP).unwrap();
    assert!(root.join("f").is_dir() && root.join("d").is_file());
}

#[test]
fn a_member_may_turn_a_parent_into_something_else() {
    let place = place(&["root"]);
    let [root, archive] = ["root", "archive"].map(|name| place.path().join(name));
    let members = [
        ("a/x", FILE),
        ("b/x", FILE),
        ("a", link("b")),
        ("a/y", FILE),
        ("b/self", Kind::HardLink(b"b/self".to_vec())),
    ];
    archive_of(&members[..4], &archive);
    unpack(&archive, &root, "/", KEEP).unwrap();
    assert_eq!(fs::read(root.join("b/y")).unwrap(), b"a/y");
    // A link to itself is what is there, or nothing.
    archive_of(&members[4..], &archive);
    assert!(unpack(&archive, &root, "/", KEEP).is_err());
    archive_of(&[("b/x", Kind::HardLink(b"./b/x".to_vec()))], &archive);
    unpack(&archive, &root, "/", KEEP).unwrap();
    assert_eq!(fs::read(root.join("b/x")).unwrap(), b"b/x");
}

#[test]
fn ten_thousand_small_files() {
    // Bounded memory is what the buffers' sizes say; this is for quadratic surprises.
    let place = place(&["tree", "made"]);
    let [tree, made, archive] = ["tree", "made", "archive"].map(|name| place.path().join(name));
    for directory in 0..10 {
        fs::create_dir(tree.join(format!("{directory}"))).unwrap();
        for file in 0..1000 {
            fs::write(tree.join(format!("{directory}/file-{file}")), "small").unwrap();
        }
    }
    pack(&tree, &archive);
    unpack(&archive, &made, "/", KEEP).unwrap();
    check_same(&made, &tree);
}
