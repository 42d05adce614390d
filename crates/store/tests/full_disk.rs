//! Removing from an ext4 that has no room for a file, nor for a name.
//!
//! This needs root, loop devices and mkfs.ext4 (Debian: e2fsprogs), and fails without them. To leave it out by name:
//! `cargo nextest run -E 'not binary(full_disk)'`.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use store::Root;
use store::container::{self, Spec, State, Status};
use store::file::Durability;
use store::lock::Mode;
use store::volume;

const MIB: u64 = 1 << 20;

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\nthis test needs root and loop devices",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A small ext4, mounted; unmounted when dropped, which frees its loop device.
struct Ext4(tempfile::TempDir);

impl Ext4 {
    fn new(image: &Path) -> Self {
        File::create(image).unwrap().set_len(16 * MIB).unwrap();
        let image = image.to_str().unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", "-b", "1024", image]);
        let ext4 = Ext4(tempfile::tempdir().unwrap());
        let point = ext4.0.path().to_str().unwrap();
        run("mount", &["-o", "loop", image, point]);
        ext4
    }

    fn fill(&self) {
        // The file system gives back what it had put aside when all is written out.
        for round in 0..3 {
            let mut file = File::create(self.0.path().join(format!("filler{round}"))).unwrap();
            for size in [1 << 16, 1 << 10] {
                while file.write_all(&vec![1; size]).is_ok() {}
            }
            rustix::fs::syncfs(&file).unwrap();
        }
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
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
    let ext4 = Ext4::new(&dir.path().join("ext4"));
    let root = Root::open(&ext4.0.path().join("root")).unwrap();
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
    ext4.fill();
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
    let ext4 = Ext4::new(&dir.path().join("ext4"));
    let root = Root::open(&ext4.0.path().join("root")).unwrap();
    let index = volume::hold(&root, Mode::Exclusive).unwrap();
    let spec = volume::Spec {
        name: "data".to_owned(),
        size: volume::LEAST_SIZE,
        ..volume::Spec::default()
    };
    let volume = volume::create(&root, &spec, &index, Durability::Synced).unwrap();
    let lease = volume.try_lease(Mode::Exclusive).unwrap().unwrap();
    ext4.fill();
    fill_dir(&root.volumes());
    volume::remove(&root, &volume, &index, &lease).unwrap();
    assert!(!volume.dir().exists());
    assert!(volume::remains(&root).unwrap().is_empty());
}
