use super::*;

fn setup() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(&dir.path().join("root")).unwrap();
    (dir, root)
}

fn vmlinux(dir: &Path) -> PathBuf {
    let path = dir.join("vmlinux");
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(b"\x7fELF");
    fs::write(&path, bytes).unwrap();
    path
}

fn modules(dir: &Path, load: &str) -> PathBuf {
    let path = dir.join("modules");
    fs::create_dir_all(&path).unwrap();
    for name in ["b.ko", "a.ko", "unused.ko"] {
        fs::write(path.join(name), name).unwrap();
    }
    fs::write(path.join(LOAD_LIST), load).unwrap();
    path
}

#[test]
fn the_default_is_ours_then_debians_then_the_only_one() {
    let (dir, root) = setup();
    let file = vmlinux(dir.path());
    let message = resolve(&root, "").unwrap_err().to_string();
    assert!(
        message.starts_with("no kernel is installed in "),
        "{message}"
    );
    let default = || resolve(&root, "").map(|kernel| kernel.name);
    let add = |name: &str| add(&root, name, &file, None, "6.12", false).unwrap();
    add("mine");
    assert_eq!(default().unwrap(), "mine");
    add("other");
    assert!(matches!(default(), Err(Error::NoDefault(names)) if names == ["mine", "other"]));
    add("debian");
    assert_eq!(default().unwrap(), "debian");
    add("gourd");
    assert_eq!(default().unwrap(), "gourd");
    assert_eq!(list(&root).unwrap().len(), 4);
    remove(&root, "gourd").unwrap();
    assert_eq!(default().unwrap(), "debian");
    let message = resolve(&root, "gourd").unwrap_err().to_string();
    assert!(
        message.ends_with("installed: debian, mine, other"),
        "{message}"
    );
}

#[test]
fn a_path_is_a_kernel_too() {
    let (dir, root) = setup();
    let file = vmlinux(dir.path());
    let kernel = resolve(&root, file.to_str().unwrap()).unwrap();
    assert_eq!(kernel.file, file.canonicalize().unwrap());
    assert!(kernel.modules.is_empty());
    let text = dir.path().join("text");
    fs::write(&text, "hello").unwrap();
    let wrong = resolve(&root, text.to_str().unwrap()).unwrap_err();
    assert!(
        wrong
            .to_string()
            .ends_with("neither an ELF vmlinux nor a bzImage")
    );
    let absent = dir.path().join("absent");
    let error = resolve(&root, absent.to_str().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot open {}", absent.display())
    );
}

#[test]
fn modules_come_in_load_order_and_from_nowhere_else() {
    let (dir, root) = setup();
    let file = vmlinux(dir.path());
    let from = modules(dir.path(), "# first b\nb.ko\n\na.ko\n");
    let kernel = add(&root, "debian", &file, Some(&from), "6.1.0-cloud", false).unwrap();
    let names: Vec<_> = kernel
        .modules
        .iter()
        .map(|path| path.file_name().unwrap())
        .collect();
    assert_eq!(names, ["b.ko", "a.ko"]);
    assert!(matches!(
        add(&root, "debian", &file, Some(&from), "6.1.0-cloud", false),
        Err(Error::Exists(_))
    ));
    add(&root, "debian", &file, None, "6.2", true).unwrap();
    assert_eq!(resolve(&root, "debian").unwrap().release, "6.2");
    for bad in ["../../etc/passwd\n", "absent.ko\n"] {
        let from = modules(dir.path(), bad);
        let error = add(&root, "bad", &file, Some(&from), "", false).unwrap_err();
        assert!(matches!(error, Error::Module { .. }), "{error}");
    }
    for bad in ["", "a/b", "..", "lock", ".x"] {
        assert!(matches!(
            add(&root, bad, &file, None, "", false),
            Err(Error::InvalidName(_))
        ));
    }
    // Nothing is left of those that failed but what the next one overwrites.
    assert_eq!(list(&root).unwrap().len(), 1);
}

/// Oracle: cpio(1).
#[test]
fn the_initramfs_is_cached_until_something_changes() {
    let (dir, root) = setup();
    let file = vmlinux(dir.path());
    let from = modules(dir.path(), "b.ko\na.ko\n");
    let kernel = add(&root, "debian", &file, Some(&from), "6.1", false).unwrap();
    let init = dir.path().join("gourd-init");
    fs::write(&init, "init 1").unwrap();
    let first = initramfs(&kernel, &init).unwrap();
    let made = fs::metadata(&first).unwrap().modified().unwrap();
    assert_eq!(initramfs(&kernel, &init).unwrap(), first);
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), made);
    let unpacked = std::process::Command::new("cpio")
        .args(["-it", "--quiet"])
        .stdin(File::open(&first).unwrap())
        .output()
        .expect("this test needs cpio (Debian: cpio)");
    let listed = String::from_utf8(unpacked.stdout).unwrap();
    let expect = "dev proc sys modules dev/console init modules/b.ko modules/a.ko modules/load";
    assert_eq!(listed.lines().collect::<Vec<_>>().join(" "), expect);
    // An installation replaces the file: another inode, whatever its times and size.
    let next = dir.path().join("next");
    fs::write(&next, "init 2").unwrap();
    fs::rename(&next, &init).unwrap();
    let second = initramfs(&kernel, &init).unwrap();
    assert_ne!(first, second);
    let missing = dir.path().join("absent");
    let error = initramfs(&kernel, &missing).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot stat {}", missing.display())
    );
    // The archive depends on the content alone.
    fs::write(&next, "init 1").unwrap();
    fs::rename(&next, &init).unwrap();
    let third = initramfs(&kernel, &init).unwrap();
    assert_eq!(fs::read(&first).unwrap(), fs::read(&third).unwrap());
}
