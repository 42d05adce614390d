//! Oracle: archives that GNU tar wrote, compared with the files that it read.

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use oci::{Kind, MergedTree};
use support::{chain, merge};

fn gnu_tar(dir: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["-C".as_ref(), dir.as_os_str()])
        .args(options)
        .args(["-cf", "-", "."])
        .output()
        .expect("GNU tar is needed: install the package tar");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Compares the tree with the directory that it was made from.
fn compare(tree: &MergedTree<Vec<u8>>, dir: &Path, nanoseconds: bool) -> usize {
    let mut count = 0;
    let mut inodes = std::collections::HashMap::new();
    for (path, id) in tree.walk() {
        count += 1;
        let file = dir.join(std::ffi::OsStr::from_bytes(&path));
        let shown = file.display();
        let meta = fs::symlink_metadata(&file).unwrap_or_else(|e| panic!("{shown}: {e}"));
        let node = tree.node(id);
        assert_eq!(
            *inodes.entry(meta.ino()).or_insert(id),
            id,
            "{shown}: hard links"
        );
        let owner = (node.uid, node.gid, u32::from(node.mode));
        assert_eq!(
            owner,
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            "{shown}"
        );
        assert_eq!(node.mtime.secs, meta.mtime(), "{shown}");
        if nanoseconds {
            assert_eq!(i64::from(node.mtime.nanos), meta.mtime_nsec(), "{shown}");
        }
        match &node.kind {
            Kind::Directory(entries) => {
                assert!(meta.is_dir(), "{shown}");
                assert_eq!(
                    entries.len(),
                    fs::read_dir(&file).unwrap().count(),
                    "{shown}"
                );
            }
            Kind::File { data, len } => {
                assert_eq!(*len, meta.len(), "{shown}");
                assert!(fs::read(&file).unwrap() == *data, "{shown}: other content");
            }
            Kind::Symlink(target) => {
                assert_eq!(
                    fs::read_link(&file).unwrap().as_os_str().as_bytes(),
                    target,
                    "{shown}"
                );
            }
            Kind::Fifo => assert_eq!(meta.mode() & 0o170_000, 0o010_000, "{shown}"),
            other => panic!("{shown}: {other:?}"),
        }
    }
    count
}

/// Long names, holes of all sorts, links, odd bytes, odd times.
fn nasty(dir: &Path) {
    let at = |name: &str| dir.join(name);
    let long = format!("{}/{}", "long".repeat(40), "name".repeat(50));
    fs::create_dir_all(at(&long).parent().unwrap()).unwrap();
    fs::write(at(&long), "long").unwrap();
    fs::hard_link(at(&long), at("hard")).unwrap();
    symlink(&long, at("sym")).unwrap();
    symlink("x".repeat(300), at("dangling")).unwrap();
    fs::write(
        dir.join(std::ffi::OsStr::from_bytes(b"b\xe9\xff\n\x01")),
        "bytes",
    )
    .unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::set_permissions(at("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(at("setuid"), "").unwrap();
    fs::set_permissions(at("setuid"), fs::Permissions::from_mode(0o6755)).unwrap();
    let made = Command::new("mkfifo").arg(at("fifo")).status().unwrap();
    assert!(made.success());
    let old = fs::File::create(at("before 1970")).unwrap();
    let time = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1_500);
    old.set_modified(time).unwrap();
    for (name, extents, len) in [
        ("hole", vec![], 1 << 20),
        ("end", vec![(1 << 20, 100)], (1 << 20) + 100),
        ("start", vec![(0, 5000)], 1 << 21),
        // More extents than fit into a header and one more block of the old format.
        ("many", (0..60).map(|i| (i << 16, 4096)).collect(), 60 << 16),
    ] {
        let file = fs::File::create(at(name)).unwrap();
        file.set_len(len).unwrap();
        for (offset, size) in extents {
            file.write_all_at(&vec![b'd'; size], offset).unwrap();
        }
    }
}

#[test]
fn every_format_of_gnu_tar_comes_out_the_same() {
    let dir = tempfile::tempdir().unwrap();
    nasty(dir.path());
    for (options, nanoseconds) in [
        (&["--format=gnu"][..], false),
        (&["--format=gnu", "-S"], false),
        (&["--format=oldgnu", "-S"], false),
        (&["--format=posix"], true),
        (&["--format=posix", "-S", "--sparse-version=0.0"], true),
        (&["--format=posix", "-S", "--sparse-version=0.1"], true),
        (&["--format=posix", "-S", "--sparse-version=1.0"], true),
        (
            &[
                "--format=posix",
                "--pax-option=exthdr.name=x,mtime:=1.5",
                "--label=a volume",
            ],
            true,
        ),
    ] {
        let tar = gnu_tar(dir.path(), options);
        let tree = merge(&[tar]).unwrap_or_else(|e| panic!("{options:?}: {}", chain(&e)));
        if options.len() == 3 && options[2].starts_with("--label") {
            let setuid = tree.node(tree.get("setuid").unwrap());
            assert_eq!((setuid.mtime.secs, setuid.mtime.nanos), (1, 500_000_000));
            continue;
        }
        assert_eq!(compare(&tree, dir.path(), nanoseconds), 14, "{options:?}");
    }
}

#[test]
fn sparse_files_are_sparse_in_the_archive() {
    // Otherwise the test above proves less than it says.
    let dir = tempfile::tempdir().unwrap();
    nasty(dir.path());
    assert!(gnu_tar(dir.path(), &["--format=oldgnu", "-S"]).len() < 1 << 20);
}

#[test]
fn a_system_directory_comes_out_the_same() {
    let dir = Path::new("/usr/sbin");
    for format in ["--format=gnu", "--format=ustar", "--format=posix"] {
        let tree = merge(&[gnu_tar(dir, &[format])]).unwrap();
        let count = compare(&tree, dir, format == "--format=posix");
        assert!(count > 20, "{count}");
    }
}
