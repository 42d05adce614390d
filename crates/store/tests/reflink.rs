//! Clones of volumes on a file system that shares blocks: xfs, on a loop device.
//!
//! This needs root, loop devices and mkfs.xfs (Debian: xfsprogs), and fails without them. To leave it out by name:
//! `cargo nextest run -E 'not binary(reflink)'`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use store::Root;
use store::file::Durability;
use store::lock::Mode;
use store::volume::{self, Spec};
use testkit::mount::{Mounted, run};

const MIB: u64 = 1 << 20;

/// What is written into the volume.
const WRITTEN: u64 = 64 * MIB;

/// An xfs with reflink. mkfs.xfs takes no less than 300 MiB.
fn xfs(image: &Path) -> Mounted {
    Mounted::made(image, 1024 * MIB, &["mkfs.xfs", "-q", "-m", "reflink=1"])
}

/// Free bytes, when everything is on the disk.
fn free(path: &Path) -> u64 {
    rustix::fs::syncfs(File::open(path).unwrap()).unwrap();
    let found = rustix::fs::statvfs(path).unwrap();
    found.f_bfree * found.f_frsize
}

/// Oracles: the file system's free space, cmp, and filefrag, which says what is shared.
#[test]
fn a_clone_shares_its_blocks_until_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let xfs = xfs(&dir.path().join("xfs"));
    let root = Root::open(&xfs.path().join("root")).unwrap();
    let index = volume::hold(&root, Mode::Shared).unwrap();
    let spec = |name: &str| Spec {
        name: name.to_owned(),
        size: 256 * MIB,
        ..Spec::default()
    };
    let source = volume::create(&root, &spec("data"), &index, Durability::Synced).unwrap();
    let write = |disk: &Path, byte: u8, at: u64| {
        let file = File::options().write(true).open(disk).unwrap();
        let piece: Vec<u8> = (0..MIB).map(|i| byte ^ (i / 4096) as u8).collect();
        for number in 0..WRITTEN / MIB {
            file.write_all_at(&piece, at + number * MIB).unwrap();
        }
        file.sync_all().unwrap();
    };
    write(&source.disk(), 0x55, 128 * MIB);
    let before = free(xfs.path());
    let lease = source.try_lease(Mode::Shared).unwrap().unwrap();
    let copy = volume::clone(&root, &source, &spec("copy"), &lease).unwrap();
    let taken = before.saturating_sub(free(xfs.path()));
    assert!(taken < 4 * MIB, "the clone took {taken} bytes");
    let (ours, theirs) = (source.disk(), copy.disk());
    let (ours, theirs) = (ours.to_str().unwrap(), theirs.to_str().unwrap());
    run("cmp", &[ours, theirs]);
    assert!(run("filefrag", &["-v", theirs]).contains("shared"));

    let whole = run("sha256sum", &[ours]);
    write(&copy.disk(), 0xaa, 128 * MIB);
    assert_eq!(run("sha256sum", &[ours]), whole);
    let taken = before.saturating_sub(free(xfs.path()));
    assert!(taken >= WRITTEN, "what was written is its own: {taken}");
    drop((lease, index));
    fs::remove_dir_all(root.path()).unwrap();
}
