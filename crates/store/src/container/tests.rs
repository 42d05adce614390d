use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;

/// Set in a process that this test program starts of itself: what it is to do, and in which root.
const ROLE: &str = "GOURD_STORE_TEST_ROLE";

fn setup() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(&dir.path().join("root")).unwrap();
    (dir, root)
}

fn spec(number: u32, name: &str) -> Spec {
    Spec {
        schema: SCHEMA,
        id: format!("{number:08x}").repeat(8),
        name: name.to_owned(),
        created_ns: 1,
        image: Image {
            reference: "busybox:latest".to_owned(),
            id: format!("sha256:{}", "0".repeat(64)),
            rootfs: "key".to_owned(),
        },
        process: Process {
            args: vec!["sh".to_owned()],
            ..Process::default()
        },
        vm: Vm {
            memory: 1 << 30,
            cpus: 1,
            driver: "auto".to_owned(),
            ..Vm::default()
        },
        hostname: "h".to_owned(),
        stop_signal: 15,
        stop_timeout_ms: 10_000,
        ..Spec::default()
    }
}

fn name_entries(root: &Root) -> Vec<String> {
    file::names(&root.containers().join(".names")).unwrap()
}

fn running(container: &Container) -> State {
    State {
        status: Status::Running,
        pid: Some(4_000_000),
        started_ns: Some(2),
        ..container.state().unwrap()
    }
}

/// Starts this very test in another process, in a role.
fn in_child(test: &str, role: &str, root: &Root) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, role)
        .env("GOURD_ROOT", root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

fn role() -> Option<(String, Root)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, Root::open(&Root::default_path().unwrap()).unwrap()))
}

fn wait_for(child: &mut std::process::Child, word: &str) {
    use std::io::BufRead;
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines {
        if line.unwrap().contains(word) {
            return;
        }
    }
    panic!("the child ended without saying {word}");
}

/// Oracle for the upper disk: e2fsck.
#[test]
fn a_container_is_whole() {
    let (_dir, root) = setup();
    let (container, lock) = create(&root, &spec(1, "web")).unwrap();
    assert_eq!(container.spec(), &spec(1, "web"));
    assert_eq!(container.state().unwrap().status, Status::Created);
    assert!(container.try_lock().unwrap().is_none());
    drop(lock);
    assert!(container.try_lock().unwrap().is_some());
    assert!(!container.upper().exists());
    let lock = container.lock().unwrap();
    container.make_disk(&lock).unwrap();
    assert_eq!(fs::metadata(container.upper()).unwrap().len(), UPPER_SIZE);
    let allocated = disk::allocated(&container.upper()).unwrap();
    assert!(allocated < 4 << 20, "{allocated} bytes");
    let check = Command::new("e2fsck")
        .arg("-fn")
        .arg(container.upper())
        .output()
        .expect("this test needs e2fsck (Debian: e2fsprogs)");
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{said}");
}

#[test]
fn found_by_id_name_and_beginning() {
    let (_dir, root) = setup();
    for (number, name) in [(0x11, "one"), (0x12, "two"), (0x2, "0000")] {
        create(&root, &spec(number, name)).unwrap();
    }
    let found = |wanted: &str| resolve(&root, wanted).map(|found| found.spec().name.clone());
    assert_eq!(found(&spec(0x11, "").id).unwrap(), "one");
    assert_eq!(found("two").unwrap(), "two");
    assert_eq!(found("00000012").unwrap(), "two");
    // A name wins over the beginning of an id.
    assert_eq!(found("0000").unwrap(), "0000");
    assert!(
        matches!(found("0000001"), Err(Error::Ambiguous { matches, .. }) if matches.len() == 2)
    );
    for absent in ["", "three", "f", "../one", "lock"] {
        assert!(matches!(found(absent), Err(Error::NotFound(_))), "{absent}");
    }
}

#[test]
fn a_name_is_had_once_however_many_ask() {
    let (_dir, root) = setup();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let root = &root;
                scope.spawn(move || create(root, &spec(number, "same")).map(drop))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let in_use = |result: &Result<(), Error>| matches!(result, Err(Error::NameInUse { .. }));
    assert_eq!(results.iter().filter(|result| in_use(result)).count(), 7);
    // Nothing is left of those that lost.
    let entries = fs::read_dir(root.containers()).unwrap().count();
    assert_eq!(entries, 3, "one container, the names and the lock");
}

#[test]
fn names_that_are_none() {
    for bad in ["", "a", "-ab", ".ab", "a b", "a/b", "ä-ö", "_x"] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
    for good in ["ab", "A0", "web-1", "a_b.c", "0x"] {
        check_name(good).unwrap();
    }
    assert!(check_name(&"x".repeat(129)).is_err());
}

/// A creation that is killed half-way is invisible, and the next one clears it away.
#[test]
fn killed_creations_leave_nothing() {
    let test = "container::tests::killed_creations_leave_nothing";
    if let Some((_, root)) = role() {
        // As far as `create` gets before the rename, and then no further.
        let new = root.containers().join(format!(".new-{}", spec(7, "").id));
        file::make_dir(&new.join("logs")).unwrap();
        let _lock = Lock::acquire(&new, Mode::Exclusive).unwrap();
        fs::write(new.join("spec.json"), "{").unwrap();
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    let (_dir, root) = setup();
    let mut child = in_child(test, "create", &root).spawn().unwrap();
    wait_for(&mut child, "ready");
    let new = root.containers().join(format!(".new-{}", spec(7, "").id));
    let condemned = root.containers().join(format!(".del-{}", spec(8, "").id));
    fs::create_dir(&condemned).unwrap();
    fs::write(condemned.join("upper.ext4"), "x").unwrap();
    create(&root, &spec(1, "first")).unwrap();
    assert!(new.exists(), "its maker lives");
    assert!(!condemned.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(list(&root).unwrap().len(), 1);
    create(&root, &spec(2, "second")).unwrap();
    assert!(!new.exists());
    assert_eq!(list(&root).unwrap().len(), 2);
}

/// The lock of another process: held while it lives, free when it is killed, and then the state is mended.
#[test]
fn a_dead_supervisor_is_repaired_by_the_next() {
    let test = "container::tests::a_dead_supervisor_is_repaired_by_the_next";
    if let Some((role, root)) = role() {
        let container = resolve(&root, &role).unwrap();
        let _lock = container.lock().unwrap();
        container.write_state(&running(&container)).unwrap();
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    let (_dir, root) = setup();
    for (number, name, remove) in [(1, "kept", false), (2, "gone", true)] {
        let spec = Spec {
            remove,
            ..spec(number, name)
        };
        drop(create(&root, &spec).unwrap());
        let container = resolve(&root, name).unwrap();
        let mut child = in_child(test, name, &root).spawn().unwrap();
        wait_for(&mut child, "ready");
        assert!(container.try_lock().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let lock = container.lock().unwrap();
        let repaired = container.repair(&lock).unwrap();
        if remove {
            assert_eq!(repaired, None);
            assert!(matches!(container.state(), Err(Error::NotFound(_))));
            assert!(matches!(container.lock(), Err(Error::NotFound(_))));
            continue;
        }
        let state = container.state().unwrap();
        assert_eq!(repaired, Some(state.clone()));
        assert_eq!((state.status, state.exit_code), (Status::Exited, Some(255)));
        let error = state.error.as_deref().unwrap();
        assert!(error.contains("(process 4000000) died"), "{error}");
        assert_eq!(container.repair(&lock).unwrap(), Some(state));
    }
}

/// What XFS, or ext4 without `auto_da_alloc`, may have of a file that was renamed without a sync when the power went.
#[test]
fn an_empty_state_is_that_of_a_container_that_was_lost() {
    let (_dir, root) = setup();
    let (container, lock) = create(&root, &spec(1, "web")).unwrap();
    fs::write(container.dir().join("state.json"), "").unwrap();
    let state = container.repair(&lock).unwrap().unwrap();
    assert_eq!((state.status, state.exit_code), (Status::Exited, Some(255)));
    assert!(state.started_ns.is_some(), "a policy starts it again");
    assert_eq!(container.state().unwrap(), state);
    fs::write(container.dir().join("state.json"), "{").unwrap();
    assert!(matches!(container.state(), Err(Error::Json(_))));
}

#[test]
fn what_cannot_be_read_is_listed_named_and_removable() {
    let (_dir, root) = setup();
    create(&root, &spec(1, "fine")).unwrap();
    let (newer, _) = create(&root, &spec(2, "newer")).unwrap();
    let (corrupt, _) = create(&root, &spec(3, "corrupt")).unwrap();
    let path = newer.dir().join("spec.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"schema\": 1", "\"schema\": 2")).unwrap();
    fs::write(corrupt.dir().join("spec.json"), "{\"schema\": 1, \"id\"").unwrap();
    let listed = list(&root).unwrap();
    let errors: Vec<String> = listed
        .iter()
        .filter_map(|entry| entry.as_ref().err())
        .map(|(_, error)| error.to_string())
        .collect();
    assert_eq!(listed.len(), 3);
    assert!(
        errors[0].contains("schema version 2, this gourd is older"),
        "{errors:?}"
    );
    assert!(errors[1].contains("spec.json is corrupt"), "{errors:?}");
    // They don't stand in the way of others, and go when they are told to.
    create(&root, &spec(4, "other")).unwrap();
    discard(&root, newer.id()).unwrap();
    discard(&root, &corrupt.id()[..8]).unwrap();
    assert_eq!(list(&root).unwrap().len(), 2);
}

#[test]
fn removing_takes_everything() {
    let (_dir, root) = setup();
    let (container, lock) = create(&root, &spec(1, "web")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(container.supervisor_socket()).unwrap();
    container.remove_all().unwrap();
    container.remove_all().unwrap();
    drop(lock);
    assert!(matches!(container.try_lock(), Err(Error::NotFound(_))));
    let left = fs::read_dir(root.containers()).unwrap().count();
    assert_eq!(left, 2, "the names and the lock");
    assert_eq!(name_entries(&root), [""; 0]);
    assert_eq!(fs::read_dir(root.run()).unwrap().count(), 0);
    create(&root, &spec(2, "web")).unwrap();
}

#[test]
fn renamed_and_changed() {
    let (_dir, root) = setup();
    drop(create(&root, &spec(1, "one")).unwrap());
    drop(create(&root, &spec(2, "two")).unwrap());
    let mut one = resolve(&root, "one").unwrap();
    let mut stale = one.clone();
    one.rewrite_spec(|spec| spec.name = "uno".to_owned())
        .unwrap();
    assert_eq!(one.spec().name, "uno");
    assert!(matches!(resolve(&root, "one"), Err(Error::NotFound(_))));
    assert_eq!(resolve(&root, "uno").unwrap().id(), one.id());
    // From what it says now, not from what it said when it was opened.
    stale.rewrite_spec(|spec| spec.vm.memory = 5).unwrap();
    let now = resolve(&root, "uno").unwrap();
    assert_eq!((now.spec().vm.memory, now.spec()), (5, stale.spec()));
    let taken = one.rewrite_spec(|spec| spec.name = "two".to_owned());
    assert!(matches!(taken, Err(Error::NameInUse { .. })), "{taken:?}");
    let wrong = one.rewrite_spec(|spec| spec.name = "../x".to_owned());
    assert!(matches!(wrong, Err(Error::InvalidName(_))), "{wrong:?}");
    assert_eq!(name_entries(&root), ["two", "uno"]);
    // The old name is free again.
    drop(create(&root, &spec(3, "one")).unwrap());
    one.remove_all().unwrap();
    let gone = one.rewrite_spec(|spec| spec.name = "back".to_owned());
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    assert_eq!(name_entries(&root), ["one", "two"]);
}

/// What a crash can leave of the index, and what it never can: a host that went down, an older gourd.
#[test]
fn the_index_of_names_does_not_lie() {
    let (_dir, root) = setup();
    drop(create(&root, &spec(1, "one")).unwrap());
    let names = root.containers().join(".names");
    // Left by creations, renamings and removals that were cut short.
    for (name, id) in [("lost", spec(9, "").id), ("former", spec(1, "").id)] {
        std::os::unix::fs::symlink(id, names.join(name)).unwrap();
        assert!(matches!(resolve(&root, name), Err(Error::NotFound(_))));
    }
    drop(create(&root, &spec(2, "lost")).unwrap());
    assert_eq!(resolve(&root, "lost").unwrap().id(), spec(2, "").id);
    // Another boot, in which entries are missing.
    fs::remove_file(names.join("one")).unwrap();
    fs::remove_file(names.join(".boot")).unwrap();
    assert!(matches!(
        create(&root, &spec(3, "one")),
        Err(Error::NameInUse { .. })
    ));
    assert_eq!(name_entries(&root), ["lost", "one"]);
    fs::remove_dir_all(&names).unwrap();
    assert_eq!(resolve(&root, "one").unwrap().id(), spec(1, "").id);
    assert_eq!(name_entries(&root), ["lost", "one"]);
}

/// Oracle: e2fsck.
#[test]
fn a_clone_is_private_and_has_room() {
    let (_dir, root) = setup();
    let image = crate::rootfs::path(&root, "key");
    fs::create_dir_all(image.parent().unwrap()).unwrap();
    let options = ext4::FormatOptions {
        size: 40 << 20,
        journal: ext4::Journal::None,
        ..ext4::FormatOptions::default()
    };
    ext4::format(&mut disk::create_sparse(&image, 0).unwrap(), &options).unwrap();
    let before = fs::read(&image).unwrap();
    for (number, storage_size, expect) in [(1, 0, UPPER_SIZE), (2, 1 << 30, 1 << 30)] {
        let mut spec = spec(number, &format!("clone{number}"));
        spec.vm.rootfs = RootfsMode::Clone;
        spec.vm.storage_size = storage_size;
        let (container, lock) = create(&root, &spec).unwrap();
        container.make_disk(&lock).unwrap();
        container.make_disk(&lock).unwrap();
        assert_eq!(fs::metadata(container.upper()).unwrap().len(), expect);
        let check = Command::new("e2fsck")
            .arg("-fn")
            .arg(container.upper())
            .output()
            .expect("this test needs e2fsck (Debian: e2fsprogs)");
        let said = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "{said}");
    }
    assert_eq!(fs::read(&image).unwrap(), before);
    let mut spec = spec(3, "small");
    spec.vm.rootfs = RootfsMode::Clone;
    spec.vm.storage_size = 32 << 20;
    let (container, lock) = create(&root, &spec).unwrap();
    let error = container.make_disk(&lock).unwrap_err();
    assert!(matches!(error, Error::Disk { .. }), "{error}");
    // Its lock, its spec, its logs.
    assert_eq!(fs::read_dir(container.dir()).unwrap().count(), 3);
}

#[test]
fn five_hundred_containers_are_no_trouble() {
    // In memory: it is about our work, not the disk's.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = Root::open(dir.path()).unwrap();
    let begun = Instant::now();
    for number in 0..500 {
        let spec = Spec {
            remove: true,
            ..spec(number, &format!("c{number}"))
        };
        create(&root, &spec).unwrap();
    }
    let created = begun.elapsed();
    assert_eq!(list(&root).unwrap().len(), 500);
    assert_eq!(resolve(&root, "c499").unwrap().spec().name, "c499");
    let listed = begun.elapsed() - created;
    println!("created in {created:?}, listed and found in {listed:?}");
    // Far beyond what it takes, so that only something quadratic in files or worse fails.
    assert!(
        created.as_secs() < 60 && listed.as_secs() < 5,
        "{created:?} {listed:?}"
    );
}
