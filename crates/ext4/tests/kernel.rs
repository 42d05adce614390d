//! The running kernel as the judge: it mounts, writes and reads what this crate made. That it grows it as well is shown in a
//! guest (`volumes_grow` of the end-to-end tests): that takes CAP_SYS_RESOURCE, which hosts of tests rarely give.
//!
//! These tests need root and loop devices and fail without them. To leave them out by name:
//! `cargo nextest run -E 'not binary(kernel)'`.

mod oracle;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ext4::{Data, FormatOptions, Kind, Node, Timestamp, Tree, Writer, WriterOptions, format};
use tempfile::{NamedTempFile, TempDir};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn run(program: &str, args: &[&str]) -> String {
    let output = oracle::run(program, args, "");
    assert!(
        output.status.success(),
        "{program} {args:?} {}: {}\nthis test needs root and loop devices",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A loop device, mounted; unmounted and detached when dropped.
struct Mounted {
    device: String,
    directory: TempDir,
}

impl Mounted {
    fn new(image: &Path, options: &str) -> Self {
        let device = run("losetup", &["-f", "--show", image.to_str().unwrap()]);
        let mounted = Mounted {
            device,
            directory: tempfile::tempdir().unwrap(),
        };
        let target = mounted.directory.path().to_str().unwrap();
        run(
            "mount",
            &["-t", "ext4", "-o", options, &mounted.device, target],
        );
        mounted
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let target = self.directory.path().to_str().unwrap();
        oracle::run("umount", &[target], "");
        oracle::run("losetup", &["-d", &self.device], "");
    }
}

fn formatted(size: u64) -> NamedTempFile {
    let mut image = NamedTempFile::new().unwrap();
    let options = FormatOptions {
        size,
        uuid: *b"\x5a\x11\x22\x33\x44\x55\x46\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
        ..FormatOptions::default()
    };
    format(image.as_file_mut(), &options).unwrap();
    image
}

#[test]
fn kernel_writes_through_an_overlay_and_e2fsck_is_clean() {
    for size in [16 * MIB, GIB, 64 * GIB, 512 * GIB] {
        let image = formatted(size);
        {
            let mounted = Mounted::new(image.path(), "rw");
            for name in ["upper", "work", "lower", "merged"] {
                fs::create_dir(mounted.path(name)).unwrap();
            }
            fs::write(mounted.path("lower/gone"), "old").unwrap();
            let option = |name: &str| format!("{name}dir={}", mounted.path(name).display());
            let options = ["lower", "upper", "work"].map(option).join(",");
            let merged = mounted.path("merged");
            let target = merged.to_str().unwrap();
            run(
                "mount",
                &["-t", "overlay", "-o", &options, "overlay", target],
            );
            fs::remove_file(merged.join("gone")).unwrap();
            for i in 0..200 {
                fs::write(merged.join(format!("file{i}")), vec![7u8; 10_000]).unwrap();
            }
            assert!(!merged.join("gone").exists());
            run("umount", &[target]);
            assert!(mounted.path("upper/file199").exists());
        }
        oracle::assert_e2fsck_clean(image.path());
    }
}

/// Values beyond a block: the kernel puts them into inodes of their own, two files may share one, and our check counts their
/// blocks as e2fsck does. (Not tried on symbolic links: e2fsck 1.47 takes a short one with such a value for a damaged one.)
#[test]
fn kernel_keeps_large_attributes_where_they_are_allowed() {
    let set = |mounted: &Mounted, file: &str, name: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(mounted.path(file), name, value, flags)
    };
    let value: Vec<u8> = (0..60_000u32).map(|at| (at / 7) as u8).collect();
    for large_xattrs in [false, true] {
        let mut image = NamedTempFile::new().unwrap();
        let options = FormatOptions {
            size: 64 * MIB,
            large_xattrs,
            ..FormatOptions::default()
        };
        format(image.as_file_mut(), &options).unwrap();
        {
            let mounted = Mounted::new(image.path(), "rw");
            for file in ["a", "b"] {
                fs::write(mounted.path(file), file).unwrap();
                let done = set(&mounted, file, "user.large", &value);
                assert_eq!(done.is_ok(), large_xattrs, "{done:?}");
                set(&mounted, file, "user.small", b"small").unwrap();
            }
            if large_xattrs {
                fs::create_dir(mounted.path("d")).unwrap();
                set(&mounted, "d", "trusted.large", &value[..5000]).unwrap();
                let mut read = vec![0; 64 << 10];
                let len = rustix::fs::getxattr(mounted.path("b"), "user.large", &mut read[..]);
                assert!(read[..len.unwrap()] == value);
            }
        }
        oracle::assert_e2fsck_clean(image.path());
        let report = ext4::check::check(image.as_file()).unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
    }
}

const BIG: u32 = 50_000;

fn node(mode: u16, kind: Kind) -> Node {
    Node {
        mode,
        uid: 100_000,
        gid: 70_000,
        mtime: Timestamp {
            secs: 5_000_000_000,
            nanos: 123_456_789,
        },
        xattrs: Vec::new(),
        kind,
    }
}

fn access_list() -> Vec<u8> {
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions, id) in [
        (1u16, 7u16, u32::MAX),
        (2, 5, 1234),
        (4, 5, u32::MAX),
        (16, 5, u32::MAX),
        (32, 4, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

fn capability() -> Vec<u8> {
    let mut value = vec![0; 20];
    value[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
    value
}

fn write_everything(disk: &File) {
    let mut writer = Writer::new(disk, WriterOptions::default()).unwrap();
    let directory = || node(0o755, Kind::Directory(BTreeMap::new()));
    let mut tree = Tree::new(directory());
    let root = tree.root();
    let mut stripes = vec![0u8; 4096 * 6001];
    for (i, block) in stripes.chunks_mut(4096).enumerate() {
        block.fill((i % 2 * 9) as u8);
    }
    let data = writer
        .write_data(&mut &stripes[..], stripes.len() as u64)
        .unwrap();
    let mut file = node(0o4755, Kind::File(data));
    file.xattrs = vec![
        (b"security.capability".to_vec(), capability()),
        (b"system.posix_acl_access".to_vec(), access_list()),
        (b"user.large".to_vec(), vec![b'x'; 3000]),
    ];
    let file = tree.add(file);
    tree.link(root, "stripes", file).unwrap();
    tree.link(root, "hard link", file).unwrap();
    let big = tree.add(directory());
    tree.link(root, "big", big).unwrap();
    for i in 0..BIG {
        let empty = tree.add(node(0o600, Kind::File(Data::empty())));
        tree.link(big, format!("a name with a number {i}"), empty)
            .unwrap();
    }
    for (name, kind) in [
        (&b"fast"[..], Kind::Symlink(vec![b'f'; 59])),
        (b"slow", Kind::Symlink(vec![b's'; 60])),
        (b"longest", Kind::Symlink(vec![b'l'; 4095])),
        (b"null", Kind::CharDevice { major: 1, minor: 3 }),
        (
            b"disk",
            Kind::BlockDevice {
                major: 259,
                minor: 0xf_fff1,
            },
        ),
        (b"fifo", Kind::Fifo),
        (b"socket", Kind::Socket),
        (b"not \xff utf-8", Kind::File(Data::empty())),
    ] {
        let id = tree.add(node(0o640, kind));
        tree.link(root, name, id).unwrap();
    }
    writer.finish(&tree).unwrap();
}

#[test]
fn kernel_reads_every_kind_of_entry() {
    let image = NamedTempFile::new().unwrap();
    write_everything(image.as_file());
    oracle::assert_e2fsck_clean(image.path());
    let mounted = Mounted::new(image.path(), "ro,noload");

    let stripes = mounted.path("stripes");
    let bytes = fs::read(&stripes).unwrap();
    assert_eq!(bytes.len(), 4096 * 6001);
    let right = |(i, block): (usize, &[u8])| block.iter().all(|byte| *byte == (i % 2 * 9) as u8);
    assert!(bytes.chunks(4096).enumerate().all(right));
    let meta = fs::metadata(&stripes).unwrap();
    assert_eq!(meta.permissions().mode(), 0o104_755);
    assert_eq!((meta.uid(), meta.gid(), meta.nlink()), (100_000, 70_000, 2));
    assert_eq!(
        (meta.mtime(), meta.mtime_nsec()),
        (5_000_000_000, 123_456_789)
    );
    assert_eq!(
        fs::metadata(mounted.path("hard link")).unwrap().ino(),
        meta.ino()
    );
    for (name, expect) in [
        ("security.capability", capability()),
        ("system.posix_acl_access", access_list()),
        ("user.large", vec![b'x'; 3000]),
    ] {
        let mut value = vec![0; 4096];
        let len = rustix::fs::lgetxattr(&stripes, name, &mut value[..]).unwrap();
        assert_eq!(&value[..len], expect, "{name}");
    }

    for i in 0..BIG {
        let path = mounted.path(&format!("big/a name with a number {i}"));
        assert!(path.exists(), "{path:?}");
    }
    assert!(!mounted.path("big/a name without").exists());
    assert_eq!(
        fs::read_dir(mounted.path("big")).unwrap().count(),
        BIG as usize
    );

    for (name, byte, len) in [("fast", 'f', 59), ("slow", 's', 60), ("longest", 'l', 4095)] {
        let target = fs::read_link(mounted.path(name)).unwrap();
        assert_eq!(target.to_str().unwrap(), byte.to_string().repeat(len));
    }
    let device = |name| fs::metadata(mounted.path(name)).unwrap();
    let numbers = |name| {
        let rdev = device(name).rdev();
        (rustix::fs::major(rdev), rustix::fs::minor(rdev))
    };
    assert_eq!(numbers("null"), (1, 3));
    assert_eq!(numbers("disk"), (259, 0xf_fff1));
    assert!(device("fifo").file_type().is_fifo());
    assert!(device("socket").file_type().is_socket());
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"not \xff utf-8");
    assert!(mounted.directory.path().join(odd).exists());
}

/// More inodes than the groups of the contents have room for: groups without contents follow.
#[test]
fn kernel_reads_a_tree_of_200_000_empty_files() {
    let image = NamedTempFile::new().unwrap();
    let mut tree = Tree::new(node(0o755, Kind::Directory(BTreeMap::new())));
    let root = tree.root();
    for directory in 0..20 {
        let id = tree.add(node(0o755, Kind::Directory(BTreeMap::new())));
        tree.link(root, format!("{directory}"), id).unwrap();
        for file in 0..10_000 {
            let empty = tree.add(node(0o600, Kind::File(Data::empty())));
            tree.link(id, format!("{file}"), empty).unwrap();
        }
    }
    let writer = Writer::new(image.as_file(), WriterOptions::default()).unwrap();
    writer.finish(&tree).unwrap();
    oracle::assert_e2fsck_clean(image.path());
    let mounted = Mounted::new(image.path(), "ro,noload");
    for directory in 0..20 {
        let path = mounted.path(&directory.to_string());
        assert_eq!(fs::read_dir(path).unwrap().count(), 10_000);
    }
}
