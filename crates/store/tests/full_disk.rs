//! Removing from an ext4 that has no room for a file, nor for a name.
//!
//! This needs root, loop devices and mkfs.ext4 (Debian: e2fsprogs), and fails without them. To leave it out by name:
//! `cargo nextest run -E 'not binary(full_disk)'`.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use store::Root;
use store::container::{self, Spec, State, Status};
use store::file::Durability;
use store::lock::Mode;
use store::volume;
use testkit::mount::Mounted;

const MIB: u64 = 1 << 20;

/// A small ext4.
fn ext4(image: &Path) -> Mounted {
    let mkfs = ["mkfs.ext4", "-q", "-m", "0", "-b", "1024"];
    Mounted::made(image, 16 * MIB, &mkfs)
}

/// Leaves no room for a byte.
fn fill(ext4: &Mounted) {
    // The file system gives back what it had put aside when all is written out.
    for round in 0..3 {
        let mut file = File::create(ext4.path().join(format!("filler{round}"))).unwrap();
        for size in [1 << 16, 1 << 10] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        rustix::fs::syncfs(&file).unwrap();
    }
}

/// Until there is no room in a directory for another name, be it a long one or a short one.
fn fill_dir(dir: &Path) {
    for length in [69, 12] {
        let full = (0..1000).find_map(|number| {
            let name = format!("{number:0>length$}");
            File::create(dir.join(name)).err()
        });
        let kind = full.map(|error| error.kind());
        assert_eq!(kind, Some(std::io::ErrorKind::StorageFull));
    }
}

fn is_no_room(error: &container::Error) -> bool {
    let mut cause = Some(error as &dyn std::error::Error);
    while let Some(error) = cause {
        if error.to_string().starts_with("No space left on device") {
            return true;
        }
        cause = error.source();
    }
    false
}

#[test]
fn a_dead_container_is_found_mended_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let ext4 = ext4(&dir.path().join("ext4"));
    let root = Root::open(&ext4.path().join("root")).unwrap();
    let spec = Spec {
        schema: container::SCHEMA,
        id: "c".repeat(64),
        name: "it".to_owned(),
        ..Spec::default()
    };
    let (container, lock) = container::create(&root, &spec).unwrap();
    let state = State {
        status: Status::Running,
        pid: Some(4_000_000),
        ..State::created()
    };
    container.write_state(&state).unwrap();
    fs::write(container.upper(), vec![7; MIB as usize]).unwrap();
    // As one of an older gourd: another boot of the host would do as well.
    fs::remove_dir_all(root.containers().join(".names")).unwrap();
    fill(&ext4);
    fill_dir(&root.containers());
    let refused = container.write_state(&state).unwrap_err();
    assert!(is_no_room(&refused), "{refused:?}");

    let found = container::resolve(&root, "it").unwrap();
    for _ in 0..2 {
        let mended = found.repair(&lock).unwrap().unwrap();
        assert_eq!(
            (mended.status, mended.exit_code),
            (Status::Exited, Some(255))
        );
    }
    assert_eq!(found.state().unwrap().status, Status::Running);
    found.remove_all().unwrap();
    assert!(!container.dir().exists());
    assert!(container::list(&root).unwrap().is_empty());
}

#[test]
fn a_volume_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let ext4 = ext4(&dir.path().join("ext4"));
    let root = Root::open(&ext4.path().join("root")).unwrap();
    let index = volume::hold(&root, Mode::Exclusive).unwrap();
    let spec = volume::Spec {
        name: "data".to_owned(),
        size: volume::LEAST_SIZE,
        ..volume::Spec::default()
    };
    let volume = volume::create(&root, &spec, &index, Durability::Synced).unwrap();
    let lease = volume.try_lease(Mode::Exclusive).unwrap().unwrap();
    fill(&ext4);
    fill_dir(&root.volumes());
    volume::remove(&root, &volume, &index, &lease).unwrap();
    assert!(!volume.dir().exists());
    assert!(volume::remains(&root).unwrap().is_empty());
}
