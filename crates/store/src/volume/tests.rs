use std::fs;
use std::process::Command;

use super::*;
use crate::container::{self, VolumeMount};
use crate::now_ns;

fn setup() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

fn spec(name: &str) -> Spec {
    Spec {
        name: name.to_owned(),
        created_ns: now_ns(),
        size: SIZE,
        ..Spec::default()
    }
}

fn made(root: &Root, name: &str) -> Volume {
    let index = hold(root, Mode::Shared).unwrap();
    create(root, &spec(name), &index, Durability::Synced).unwrap()
}

fn user(number: u64, name: &str, mounts: &[(&str, bool)]) -> container::Spec {
    container::Spec {
        schema: container::SCHEMA,
        id: format!("{number:064x}"),
        name: name.to_owned(),
        mounts: mounts
            .iter()
            .map(|(volume, anonymous)| VolumeMount {
                volume: (*volume).to_owned(),
                target: format!("/{volume}"),
                anonymous: *anonymous,
                ..VolumeMount::default()
            })
            .collect(),
        ..container::Spec::default()
    }
}

fn entries(root: &Root) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(root.volumes())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Oracles: e2fsck, du.
#[test]
fn a_new_volume_is_clean_and_takes_little() {
    let (_dir, root) = setup();
    let index = hold(&root, Mode::Shared).unwrap();
    for (name, size) in [("small", LEAST_SIZE), ("default", SIZE)] {
        let spec = Spec {
            size,
            owner: Some(Owner {
                uid: 1000,
                gid: 100,
            }),
            ..spec(name)
        };
        let volume = create(&root, &spec, &index, Durability::Synced).unwrap();
        assert_eq!(fs::metadata(volume.disk()).unwrap().len(), size);
        assert!(disk::allocated(&volume.disk()).unwrap() <= 2 << 20);
        assert!(!volume.needs_recovery().unwrap());
        let check = Command::new("e2fsck")
            .arg("-fn")
            .arg(volume.disk())
            .output();
        let check = check.expect("this test needs e2fsck (Debian: e2fsprogs)");
        assert!(check.status.success(), "{check:?}");
        assert_eq!(open(&root, name).unwrap().spec().owner, spec.owner);
    }
    for size in [LEAST_SIZE - 1, MOST_SIZE + 1] {
        let spec = Spec {
            size,
            ..spec("odd")
        };
        let refused = create(&root, &spec, &index, Durability::Synced);
        assert!(matches!(refused, Err(Error::Size { .. })), "{refused:?}");
    }
    assert_eq!(entries(&root), [".index", "default", "small"]);
}

#[test]
fn of_many_that_make_the_same_volume_one_does() {
    let (_dir, root) = setup();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let index = hold(&root, Mode::Shared).unwrap();
                    create(&root, &spec("data"), &index, Durability::Unsynced)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let exists = |result: &Result<Volume, Error>| matches!(result, Err(Error::Exists(_)));
    assert_eq!(results.iter().filter(|result| exists(result)).count(), 7);
    assert_eq!(entries(&root), [".index", "data"]);
}

#[test]
fn names() {
    for bad in ["", "a", "-ab", ".index", "a b", "a/b", "../x", "ä-ö", "_x"] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
    for good in ["ab", "A0", "web-1", "a_b.c", "lock", &"f".repeat(64)] {
        check_name(good).unwrap();
    }
    assert!(check_name(&"x".repeat(129)).is_err());
}

#[test]
fn one_writer_or_many_readers() {
    let (_dir, root) = setup();
    let volume = made(&root, "data");
    let one = volume.try_lease(Mode::Shared).unwrap().unwrap();
    let two = volume.try_lease(Mode::Shared).unwrap().unwrap();
    assert!(volume.try_lease(Mode::Exclusive).unwrap().is_none());
    drop((one, two));
    let lease = volume.try_lease(Mode::Exclusive).unwrap().unwrap();
    assert!(volume.try_lease(Mode::Shared).unwrap().is_none());
    let index = hold(&root, Mode::Exclusive).unwrap();
    remove(&root, &volume, &index, &lease).unwrap();
    drop(lease);
    let gone = volume.try_lease(Mode::Shared);
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
}

/// Oracle: cmp.
#[test]
fn a_clone_is_the_same_and_apart() {
    let (_dir, root) = setup();
    let index = hold(&root, Mode::Shared).unwrap();
    let small = Spec {
        size: LEAST_SIZE,
        ..spec("data")
    };
    let mut volume = create(&root, &small, &index, Durability::Synced).unwrap();
    volume.mark_used().unwrap();
    let lease = volume.try_lease(Mode::Shared).unwrap().unwrap();
    let copy = clone(&root, &volume, &spec("copy"), &lease).unwrap();
    assert!(copy.spec().used);
    let same = Command::new("cmp")
        .arg(volume.disk())
        .arg(copy.disk())
        .status();
    assert!(same.unwrap().success());
    assert!(disk::allocated(&copy.disk()).unwrap() <= 2 << 20);
    let again = clone(&root, &volume, &spec("copy"), &lease);
    assert!(matches!(again, Err(Error::Exists(_))), "{again:?}");
}

/// The source is a pipe, which stands still until somebody opens it to write.
#[test]
fn a_copy_holds_nobody_up_and_keeps_its_name() {
    let (_dir, root) = setup();
    let volume = made(&root, "data");
    let lease = volume.try_lease(Mode::Shared).unwrap().unwrap();
    fs::remove_file(volume.disk()).unwrap();
    let made_pipe = Command::new("mkfifo").arg(volume.disk()).status();
    assert!(made_pipe.unwrap().success());
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| clone(&root, &volume, &spec("copy"), &lease));
        let begun = std::time::Instant::now();
        let index = loop {
            let waits = remains(&root)
                .unwrap()
                .iter()
                .any(|dir| dir.join("lock").exists());
            let index = Lock::try_acquire(&root.volumes().join(".index"), Mode::Exclusive);
            if let (true, Ok(Some(index))) = (waits, index) {
                break Some(index);
            }
            if begun.elapsed().as_secs() > 20 {
                break None;
            }
            std::thread::yield_now();
        };
        let free = index.is_some();
        drop(index);
        let refused = hold(&root, Mode::Shared)
            .and_then(|index| create(&root, &spec("copy"), &index, Durability::Unsynced));
        let swept = sweep(&root);
        let waiting = remains(&root).unwrap().len();
        made(&root, "other");
        drop(fs::File::options().write(true).open(volume.disk()).unwrap());
        let copied = copying.join().unwrap();
        assert!(free, "the index is held while it copies");
        assert!(matches!(refused, Err(Error::BeingMade(_))), "{refused:?}");
        assert_eq!((swept.unwrap(), waiting), (0, 1));
        copied.unwrap();
    });
    assert_eq!(entries(&root), [".index", "copy", "data", "other"]);
}

#[test]
fn volumes_grow_only() {
    let (_dir, root) = setup();
    let mut volume = made(&root, "data");
    volume.resize(2 * SIZE).unwrap();
    assert_eq!(open(&root, "data").unwrap().spec().size, 2 * SIZE);
    assert_eq!(fs::metadata(volume.disk()).unwrap().len(), 2 * SIZE);
    let refused = volume.resize(SIZE);
    assert!(matches!(refused, Err(Error::Shrink { .. })), "{refused:?}");
}

/// Whoever let it grow died between the disk and the spec, and a guest has grown the file system since.
#[test]
fn what_has_grown_is_not_cut() {
    let (_dir, root) = setup();
    let mut stale = made(&root, "data");
    let disk = fs::File::options().write(true).open(stale.disk()).unwrap();
    disk.set_len(4 * SIZE).unwrap();
    let refused = stale.resize(2 * SIZE);
    assert!(
        matches!(refused, Err(Error::Shrink { current, .. }) if current == 4 * SIZE),
        "{refused:?}"
    );
    assert_eq!(fs::metadata(stale.disk()).unwrap().len(), 4 * SIZE);
    // One that was opened before writes nothing of then over what is now.
    let mut other = open(&root, "data").unwrap();
    other.resize(8 * SIZE).unwrap();
    stale.mark_used().unwrap();
    let spec = open(&root, "data").unwrap().spec().clone();
    assert_eq!((spec.size, spec.used), (8 * SIZE, true));
}

#[test]
fn users_and_what_goes_with_them() {
    let (_dir, root) = setup();
    for name in ["named", "own", "lent"] {
        made(&root, name);
    }
    let one = user(1, "one", &[("named", false), ("own", true), ("lent", true)]);
    let (one, lock) = container::create(&root, &one).unwrap();
    drop(container::create(&root, &user(2, "two", &[("lent", false)])).unwrap());
    let users = users(&root).unwrap();
    let names = |volume: &str| -> Vec<&str> {
        users[volume]
            .iter()
            .map(|user| user.name.as_str())
            .collect()
    };
    assert_eq!(
        (names("named"), names("lent")),
        (vec!["one"], vec!["one", "two"])
    );
    assert_eq!(remove_anonymous(&one).unwrap(), ["own"]);
    assert_eq!(entries(&root), [".index", "lent", "named"]);
    drop(lock);
    fs::write(one.dir().join("spec.json"), "{").unwrap();
    let unknown = super::users(&root);
    assert!(
        matches!(unknown, Err(Error::Container { .. })),
        "{unknown:?}"
    );
}

/// A container that goes at its end takes its own along.
#[test]
fn volumes_of_a_container_that_goes() {
    let (_dir, root) = setup();
    made(&root, "named");
    made(&root, "own");
    let spec = container::Spec {
        remove: true,
        ..user(1, "one", &[("named", false), ("own", true)])
    };
    let (container, _lock) = container::create(&root, &spec).unwrap();
    container.remove_all().unwrap();
    assert_eq!(entries(&root), [".index", "named"]);
}

#[test]
fn what_crashes_left_is_swept_away_when_nobody_is_at_it() {
    let (_dir, root) = setup();
    made(&root, "data");
    for remains in [".new-data.1.0", ".del-data.1.0"] {
        let dir = root.volumes().join(remains);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("volume.ext4"), [1; 5000]).unwrap();
    }
    let index = hold(&root, Mode::Shared).unwrap();
    assert_eq!(sweep(&root).unwrap(), 0);
    drop(index);
    assert!(sweep(&root).unwrap() >= 10_000);
    assert_eq!(entries(&root), [".index", "data"]);
}

#[test]
fn what_cannot_be_read_is_listed() {
    let (_dir, root) = setup();
    made(&root, "fine");
    let broken = made(&root, "broken");
    fs::write(broken.dir().join("volume.json"), "{\"schema\": 9}").unwrap();
    let listed = list(&root).unwrap();
    assert_eq!(listed.len(), 2);
    let (name, error) = listed[0].as_ref().unwrap_err();
    assert_eq!(name, "broken");
    assert!(
        matches!(error, Error::Json(json::Error::Newer { .. })),
        "{error}"
    );
    // Not a file system either.
    fs::write(open(&root, "fine").unwrap().disk(), "x").unwrap();
    let error = open(&root, "fine").unwrap().needs_recovery().unwrap_err();
    assert!(matches!(error, Error::Disk { .. }), "{error}");
}
