//! Real trees on this host, with GNU tar as the oracle both ways, and archives that mean harm.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use super::*;

fn pack(path: &Path, name: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    pack::Packer::new(&mut archive, true)
        .pack(path, OsStr::new(name))
        .unwrap();
    archive
}

fn unpack(archive: &[u8], directory: &Path, rename: Option<&str>) -> Result<u64, Error> {
    unpack::Unpacker::new(directory, rename.map(OsStr::new), true)?.unpack(archive)
}

fn tar(args: &[&str], directory: &Path, input: Option<&[u8]>) -> Vec<u8> {
    let mut child = Command::new("tar")
        .args(args)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("these tests need GNU tar");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.unwrap_or_default().to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = feed.join();
    assert!(output.status.success(), "tar {args:?}");
    output.stdout
}

/// Everything about a tree that a copy keeps, by path.
fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut links: BTreeMap<u64, String> = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(&path)
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            entries.sort();
            waiting.extend(entries.into_iter().rev());
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            let content = fs::read(&path).unwrap();
            let sparse = meta.blocks() * 512 < meta.len() / 2;
            let hash = content
                .iter()
                .fold(7_u64, |hash, byte| hash.wrapping_mul(31) + u64::from(*byte));
            format!("{} {hash:x} sparse={sparse}", content.len())
        };
        let first = links.entry(meta.ino()).or_insert(name.clone()).clone();
        let mode = if kind.is_symlink() {
            0
        } else {
            meta.mode() & 0o7777
        };
        found.insert(
            name,
            format!(
                "{what} {mode:o} {}:{} {} first={first}",
                meta.uid(),
                meta.gid(),
                meta.mtime()
            ),
        );
    }
    found
}

fn tree(root: &Path) {
    let long = "l".repeat(120);
    fs::create_dir_all(root.join("sub/deep").join(&long)).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("file"), b"hello").unwrap();
    fs::write(root.join("nothing"), b"").unwrap();
    fs::write(
        root.join("sub/deep").join(&long).join("x"),
        vec![0xff; 70_000],
    )
    .unwrap();
    fs::write(root.join("exact"), vec![b'e'; 1024]).unwrap();
    fs::write(root.join("weird \n ä"), b"w").unwrap();
    fs::hard_link(root.join("file"), root.join("sub/again")).unwrap();
    symlink("../file", root.join("sub/link")).unwrap();
    symlink(format!("/nowhere/{long}"), root.join("dangling")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    for (name, pieces) in [("sparse", 3), ("many-holes", 60)] {
        let mut file = fs::File::create(root.join(name)).unwrap();
        for piece in 0..pieces {
            use std::io::Seek;
            file.seek(io::SeekFrom::Start(piece * (1 << 20))).unwrap();
            file.write_all(b"data").unwrap();
        }
        file.set_len(pieces * (1 << 20) + 12345).unwrap();
    }
    fs::File::create(root.join("all-hole"))
        .unwrap()
        .set_len(5 << 20)
        .unwrap();
    fs::set_permissions(root.join("exact"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o500)).unwrap();
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for name in ["file", "sub", "empty"] {
        fs::File::open(root.join(name))
            .unwrap()
            .set_modified(then)
            .unwrap();
    }
}

#[test]
fn what_is_packed_gnu_tar_unpacks() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(&to).unwrap();
    fs::create_dir(&from).unwrap();
    tree(&from);
    tar(
        &["-xpf", "-", "--same-owner"],
        &to,
        Some(&pack(&from, "copy")),
    );
    assert_eq!(describe(&to.join("copy")), describe(&from));
}

#[test]
fn what_gnu_tar_packs_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir(&from).unwrap();
    tree(&from);
    for (number, format) in ["gnu", "pax"].iter().enumerate() {
        let to = dir.path().join(format!("to{number}"));
        fs::create_dir(&to).unwrap();
        let format = format!("--format={format}");
        let archive = tar(&["-cSf", "-", &format, "from"], dir.path(), None);
        unpack(&archive, &to, Some("other")).unwrap();
        assert_eq!(describe(&to.join("other")), describe(&from), "{format}");
    }
}

#[test]
fn a_round_trip_and_once_more_over_it() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    tree(&from);
    let archive = pack(&from, ".");
    for _ in 0..2 {
        unpack(&archive, &to, None).unwrap();
        let (mut copy, mut original) = (describe(&to), describe(&from));
        // The destination itself stays as it is.
        assert!(copy.remove("").is_some() && original.remove("").is_some());
        assert_eq!(copy, original);
    }
}

#[test]
fn one_file_under_another_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), b"content").unwrap();
    let archive = pack(&dir.path().join("a"), "a");
    unpack(&archive, dir.path(), Some("b")).unwrap();
    assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"content");
}

#[test]
fn without_owners_nobody_lends_rights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tool");
    fs::write(&path, b"#!").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let archive = pack(&path, "copy");
    let unpacker = unpack::Unpacker::new(dir.path(), None, false).unwrap();
    unpacker.unpack(&archive[..]).unwrap();
    let mode = fs::metadata(dir.path().join("copy")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

/// An archive of the `tar` crate's making, which asks no questions.
fn archive(entries: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, link_or_content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::new(*kind));
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let mut content: &[u8] = b"";
        if matches!(kind, b'1' | b'2') {
            let link = link_or_content.as_bytes();
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        } else {
            content = link_or_content.as_bytes();
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn nothing_is_written_outside_of_the_destination() {
    let attacks: [&[(&str, u8, &str)]; 9] = [
        &[("../escaped", b'0', "x")],
        &[("a/../../escaped", b'0', "x")],
        &[("d/", b'5', ""), ("d/../../escaped", b'0', "x")],
        &[("link", b'2', ".."), ("link/escaped", b'0', "x")],
        &[
            ("link", b'2', "../outside"),
            ("link", b'0', "x"),
            ("link/escaped", b'0', "x"),
        ],
        &[
            ("link", b'2', "../outside/secret"),
            ("link", b'1', "../outside/secret"),
        ],
        &[("hard", b'1', "../outside/secret"), ("hard", b'0', "x")],
        &[("up", b'2', ".."), ("hard", b'1', "up/outside/secret")],
        &[
            ("up", b'2', "../outside"),
            ("up/", b'5', ""),
            ("up/escaped", b'0', "x"),
        ],
    ];
    for attack in attacks {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), b"secret").unwrap();
        let result = unpack(&archive(attack), &to, None);
        assert!(result.is_err(), "{attack:?}");
        assert!(!dir.path().join("escaped").exists(), "{attack:?}");
        assert!(!dir.path().join("outside/escaped").exists(), "{attack:?}");
        let secret = fs::metadata(dir.path().join("outside/secret")).unwrap();
        assert_eq!((secret.nlink(), secret.len()), (1, 6), "{attack:?}");
    }
    // An absolute name is one below the destination, as everywhere.
    let dir = tempfile::tempdir().unwrap();
    unpack(&archive(&[("/etc/x", b'0', "x")]), dir.path(), None).unwrap();
    assert_eq!(fs::read(dir.path().join("etc/x")).unwrap(), b"x");
    // A link is replaced, what it leads to is not.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("kept"), b"kept").unwrap();
    symlink("kept", dir.path().join("link")).unwrap();
    unpack(&archive(&[("link", b'0', "new")]), dir.path(), None).unwrap();
    assert_eq!(fs::read(dir.path().join("kept")).unwrap(), b"kept");
    assert_eq!(fs::read(dir.path().join("link")).unwrap(), b"new");
}

#[test]
fn kinds_are_not_mixed_up() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("f"), b"f").unwrap();
    let error = |entries: &[(&str, u8, &str)]| {
        unpack(&archive(entries), dir.path(), None)
            .unwrap_err()
            .to_string()
    };
    let says = error(&[("d", b'0', "x")]);
    assert!(says.starts_with("cannot overwrite directory"), "{says}");
    let says = error(&[("d", b'2', "x")]);
    assert!(says.starts_with("cannot overwrite directory"), "{says}");
    let says = error(&[("f/", b'5', "")]);
    assert!(says.starts_with("cannot overwrite non-directory"), "{says}");
}

#[test]
fn what_is_cut_off_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let whole = archive(&[("a", b'0', &"x".repeat(3000))]);
    for cut in [100, 512, 700, 3000] {
        assert!(unpack(&whole[..cut], dir.path(), None).is_err(), "{cut}");
    }
}

#[test]
fn destinations_on_this_host() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path();
    fs::create_dir(base.join("d")).unwrap();
    fs::write(base.join("f"), b"").unwrap();
    symlink("d", base.join("to-d")).unwrap();
    symlink("gone", base.join("to-gone")).unwrap();
    symlink("loop", base.join("loop")).unwrap();
    let check = |text: &str, is_directory: bool, expect: Result<(&str, Option<&str>), &str>| {
        let asked = Asked::parse(OsStr::new(text), base);
        let plan = host_destination(&asked, is_directory);
        match (plan, expect) {
            (Ok(plan), Ok((directory, rename))) => {
                assert_eq!(
                    plan.directory,
                    base.join(directory).components().collect::<PathBuf>(),
                    "{text}"
                );
                assert_eq!(plan.rename.as_deref(), rename.map(OsStr::new), "{text}");
            }
            (Err(error), Err(words)) => {
                let said = error.to_string();
                assert!(said.contains(words), "{text}: {said}");
            }
            (plan, _) => panic!("{text}: {plan:?}"),
        }
    };
    check("d", false, Ok(("d", None)));
    check("to-d", false, Ok(("d", None)));
    check("to-d/", true, Ok(("d", None)));
    check("f", false, Ok(("", Some("f"))));
    check("f", true, Err("cannot copy directory"));
    check("f/", false, Err("is not a directory"));
    check("new", false, Ok(("", Some("new"))));
    check("new/", false, Err("no such directory"));
    check("new/", true, Ok(("", Some("new"))));
    check("to-gone", false, Ok(("", Some("gone"))));
    check("no/such", false, Err("does not exist"));
    check("loop", false, Err("cannot follow"));
    check(
        "/dev/null",
        false,
        Err("must be a directory or a regular file"),
    );
}
