//! `cp`, `export`, `diff`: files in and out of containers that run and that don't. GNU tar, find and sha256sum on this host
//! and busybox in the guest say what there is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use crate::harness::{Home, tool};

/// Everything that matters of a tree, in the words of find(1): type, mode, size, link, name; and the files' sums.
const DESCRIBE: &str = "cd \"$0\" && find . -exec stat -c '%F %a %n' {} + | sort && \
                        find . -type l -exec readlink {} \\; | sort && \
                        find . -type f -exec sha256sum {} + | sort -k 2";

fn describe_here(path: &Path) -> String {
    tool("sh", &[&"-c", &DESCRIBE, &path]).ok().text()
}

fn describe_there(home: &Home, container: &str, path: &str) -> String {
    home.gourd(&["exec", container, "sh", "-c", DESCRIBE, path])
        .ok()
        .text()
}

fn tree(path: &Path) {
    fs::create_dir_all(path.join("sub/empty")).unwrap();
    fs::write(path.join("text"), b"hello\n").unwrap();
    fs::write(path.join("nothing"), b"").unwrap();
    let large: Vec<u8> = (0..9_000_000_u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect();
    fs::write(path.join("sub/large"), large).unwrap();
    fs::write(
        path.join("sub/binary \u{e4}"),
        (0..=255).collect::<Vec<u8>>(),
    )
    .unwrap();
    fs::hard_link(path.join("text"), path.join("sub/same")).unwrap();
    symlink("../text", path.join("sub/link")).unwrap();
    symlink("/no/where", path.join("dangling")).unwrap();
    for (name, mode) in [("text", 0o640), ("nothing", 0o444), ("sub/empty", 0o711)] {
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Oracle: docker-cp(1), and the twin cases of apple/containerization.
#[test]
fn where_copies_go() {
    let home = Home::new();
    home.sleeper(&["--name", "box"]);
    let here = home.path("here");
    tree(&here);
    let at = |name: &str| here.join(name).display().to_string();
    let sh = |script: &str| home.gourd(&["exec", "box", "sh", "-c", script]).ok().text();
    sh("mkdir /d; echo old >/d/file; ln -s /d /to-d; ln -s /d/file /to-file");
    let cp = |from: &str, to: &str| home.gourd(&["cp", from, to]);
    // A file: into an existing directory, under another name, over a file, through links.
    cp(&at("text"), "box:/d")
        .ok()
        .says(&["Successfully copied", "to box:/d"]);
    cp(&at("text"), "box:/d/other").ok();
    cp(&at("text"), "box:/d/file").ok();
    cp(&at("nothing"), "box:/to-d/").ok();
    cp(&at("text"), "box:relative").ok();
    assert_eq!(
        sh("cd /d; ls; cat file other; cat /relative"),
        "file\nnothing\nother\ntext\nhello\nhello\nhello"
    );
    cp(&at("nothing"), "box:/to-file").ok();
    assert_eq!(sh("cat /d/file; readlink /to-file"), "/d/file");
    // Into a missing directory, and what is made.
    cp(&at("text"), "box:/no/such/file")
        .exits(125)
        .says(&["could not find the file /no/such in container box"]);
    cp(&at("text"), "box:/no/")
        .exits(125)
        .says(&["no such directory"]);
    cp(&at("text"), "box:/d/file/")
        .exits(125)
        .says(&["not a directory"]);
    cp(&at("nope"), "box:/d").exits(125).says(&["nope"]);
    cp("box:/nope", &at("x"))
        .exits(125)
        .says(&["could not find the file /nope in container box"]);
    cp("box:/d", &at("no/such/x"))
        .exits(125)
        .says(&["invalid output path: directory", "does not exist"]);
    // A directory: under its own name, as a new one, its contents; never over a file.
    cp(&at("sub"), "box:/d").ok();
    cp(&at("sub"), "box:/d/new").ok();
    cp(&format!("{}/.", at("sub")), "box:/d/new").ok();
    let names = "binary \u{e4}\nempty\nlarge\nlink\nsame";
    for directory in ["/d/sub", "/d/new"] {
        let list = format!("cd {directory}; for name in *; do echo \"$name\"; done");
        assert_eq!(sh(&list), names, "{directory}");
    }
    cp(&at("sub"), "box:/etc/passwd")
        .exits(125)
        .says(&["cannot copy directory"]);
    cp(&at("sub/large"), "box:/d/new/empty/../large").ok();
    // The same the other way.
    fs::create_dir(home.path("out")).unwrap();
    let out = |name: &str| home.path("out").join(name).display().to_string();
    cp("box:/d/text", &out("")).ok();
    cp("box:/d/text", &out("other")).ok();
    cp("box:/d/sub", &out("new")).ok();
    cp("box:/d/sub/.", &out("new")).ok();
    cp("box:/d/sub", &out("new")).ok();
    cp("box:/d/sub", &out("other"))
        .exits(125)
        .says(&["cannot copy directory"]);
    cp("box:/d/text", &out("missing/"))
        .exits(125)
        .says(&["no such directory"]);
    cp("box:/d/text", &out("new/")).ok();
    cp("box:/to-file", &out("a-link")).ok();
    assert_eq!(fs::read_link(out("a-link")).unwrap(), Path::new("/d/file"));
    home.gourd(&["cp", "-L", "box:/to-file", &out("followed")])
        .ok();
    assert_eq!(fs::read(out("followed")).unwrap(), b"");
    assert!(fs::symlink_metadata(out("followed")).unwrap().is_file());
    assert_eq!(
        crate::harness::names(&home.path("out").join("new")),
        [
            "binary \u{e4}",
            "empty",
            "large",
            "link",
            "same",
            "sub",
            "text"
        ]
    );
    // -q says nothing; neither side may be missing, nor both be there.
    let quiet = home.gourd(&["cp", "-q", "box:/d/text", &out("quiet")]).ok();
    assert_eq!(quiet.stderr, "");
    cp("a", "b")
        .exits(125)
        .says(&["must specify at least one container source"]);
    cp("box:/a", "box:/b")
        .exits(125)
        .says(&["copying between containers is not supported"]);
    cp("ghost:/a", "b")
        .exits(125)
        .says(&["no such container: ghost"]);
    // A name with a colon is here when it says so.
    fs::write(home.path("a:b"), b"colon").unwrap();
    cp(&home.path("a:b").display().to_string(), "box:/d/a:b").ok();
    assert_eq!(sh("cat /d/a:b"), "colon");
}

#[test]
fn a_round_trip_changes_nothing() {
    let home = Home::new();
    home.sleeper(&["--name", "box"]);
    let here = home.path("here");
    tree(&here);
    home.gourd(&["cp", &here.display().to_string(), "box:/copy"])
        .ok();
    let there = describe_there(&home, "box", "/copy");
    assert_eq!(there, describe_here(&here));
    let owners = "find /copy -exec stat -c %u:%g {} + | sort -u";
    assert_eq!(
        home.gourd(&["exec", "box", "sh", "-c", owners]).ok().text(),
        "0:0"
    );
    let back = home.path("back");
    home.gourd(&["cp", "box:/copy", &back.display().to_string()])
        .ok();
    assert_eq!(describe_here(&back), describe_here(&here));
    assert_eq!(
        fs::metadata(back.join("text")).unwrap().mtime(),
        fs::metadata(here.join("text")).unwrap().mtime()
    );
    assert_eq!(fs::metadata(back.join("text")).unwrap().nlink(), 2);
    // Owners: ours here, kept there with -a.
    let mine = fs::metadata(&here).unwrap();
    assert_eq!(fs::metadata(back.join("text")).unwrap().uid(), mine.uid());
    home.gourd(&["cp", "-a", &here.display().to_string(), "box:/kept"])
        .ok();
    let owner = home
        .gourd(&["exec", "box", "stat", "-c", "%u:%g", "/kept/text"])
        .ok();
    assert_eq!(owner.text(), format!("{}:{}", mine.uid(), mine.gid()));
    // Holes stay holes, both ways.
    let big = home.path("big");
    fs::File::create(&big).unwrap().set_len(3 << 30).unwrap();
    home.gourd(&["cp", &big.display().to_string(), "box:/big"])
        .ok();
    let sizes = home
        .gourd(&["exec", "box", "stat", "-c", "%s %b", "/big"])
        .ok()
        .text();
    assert!(sizes.starts_with(&format!("{} ", 3_u64 << 30)), "{sizes}");
    let blocks: u64 = sizes.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(blocks < 1000, "{sizes}");
    home.gourd(&[
        "exec",
        "box",
        "sh",
        "-c",
        "echo end | dd of=/big bs=1M seek=2000 conv=notrunc",
    ])
    .ok();
    let back = home.path("big-again");
    home.gourd(&["cp", "box:/big", &back.display().to_string()])
        .ok();
    let found = fs::metadata(&back).unwrap();
    assert_eq!(found.len(), 3 << 30);
    assert!(found.blocks() < 1000, "{} blocks", found.blocks());
}

#[test]
fn archives_in_and_out() {
    let home = Home::new();
    home.sleeper(&["--name", "box", "--tmpfs", "/mem"]);
    let here = home.path("here");
    tree(&here);
    // `cp - CONTAINER:DIR` unpacks, `cp CONTAINER:PATH -` packs; GNU tar is on the other side.
    let archive = tool("tar", &[&"-C", &here, &"-cf", &"-", &"."]).ok().stdout;
    home.gourd(&["exec", "box", "mkdir", "/in"]).ok();
    home.gourd_with(&["cp", "-", "box:/in"], &archive).ok();
    assert_eq!(
        describe_there(&home, "box", "/in").lines().count(),
        describe_here(&here).lines().count()
    );
    home.gourd_with(&["cp", "-", "box:/in/text"], &archive)
        .exits(125)
        .says(&["not a directory"]);
    home.gourd_with(&["cp", "-", "box:/in"], &archive[..archive.len() / 2])
        .exits(125);
    let out = home.gourd(&["cp", "box:/in/sub", "-"]).ok().stdout;
    fs::write(home.path("sub.tar"), &out).unwrap();
    let listed = tool("tar", &[&"-tf", &home.path("sub.tar")]).ok().text();
    let mut listed: Vec<_> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed[0], "sub/");
    assert!(listed.contains(&"sub/link"), "{listed:?}");
    // In memory, too: the container's own view counts.
    home.gourd(&["cp", &here.join("text").display().to_string(), "box:/mem/"])
        .ok();
    assert_eq!(
        home.gourd(&["exec", "box", "cat", "/mem/text"]).ok().stdout,
        b"hello\n"
    );
    // What changed, and all there is; without what is mounted.
    let changes = home.gourd(&["diff", "box"]).ok().text();
    let lines: Vec<_> = changes.lines().collect();
    assert!(lines.contains(&"A /in/sub/large"), "{changes}");
    assert!(!changes.contains("/mem/text"), "{changes}");
    home.gourd(&["exec", "box", "rm", "/bin/true"]).ok();
    home.gourd(&["exec", "box", "sh", "-c", "echo >>/etc/passwd"])
        .ok();
    let changes = home.gourd(&["diff", "box"]).ok().text();
    for line in ["D /bin/true", "C /etc/passwd", "C /etc", "C /bin"] {
        assert!(changes.lines().any(|one| one == line), "{line}: {changes}");
    }
    let file = home.path("all.tar").display().to_string();
    home.gourd(&["export", "-o", &file, "box"]).ok();
    let piped = home.gourd(&["export", "box"]).ok().stdout;
    let names = tool("tar", &[&"-tf", &file]).ok().text();
    for name in ["in/sub/large", "etc/passwd", "bin/sh"] {
        assert!(names.lines().any(|line| line == name), "{name}");
    }
    assert!(!names.contains("mem/text"));
    assert_eq!(piped.len() as u64, fs::metadata(&file).unwrap().len());
    let events = home.gourd(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "event=export",
    ]);
    assert_eq!(events.ok().text().lines().count(), 2);
}

#[test]
fn containers_that_do_not_run() {
    let home = Home::new();
    let cp = |from: &str, to: &str| home.gourd(&["cp", from, to]);
    let file = home.path("file").display().to_string();
    fs::write(&file, b"before the start").unwrap();
    // Never started.
    let id = home
        .gourd(&[
            "create",
            "--name",
            "box",
            "busybox",
            "sh",
            "-c",
            "cat /etc/added; echo left >/left; test -e /never",
        ])
        .ok()
        .text();
    cp(&file, "box:/etc/added").ok();
    assert_eq!(home.inspect("box", "{{.State.Status}}"), "created");
    cp("box:/etc/added", &home.path("back").display().to_string()).ok();
    assert_eq!(fs::read(home.path("back")).unwrap(), b"before the start");
    // It starts at once after that, and finds the file.
    let run = home.gourd(&["start", "-a", "box"]).exits(1);
    assert_eq!(run.stdout, b"before the start");
    // Ended.
    let state = home.inspect("box", "{{json .State}}");
    cp("box:/left", &home.path("left").display().to_string()).ok();
    assert_eq!(fs::read(home.path("left")).unwrap(), b"left\n");
    cp(&file, "box:/never").ok();
    let diff = home.gourd(&["diff", "box"]).ok().text();
    assert!(diff.lines().any(|line| line == "A /never"), "{diff}");
    assert_eq!(home.inspect("box", "{{json .State}}"), state);
    // What needs it to run says so, also while its files are in hand.
    let feed = home
        .command(&["cp", "-", "box:/tmp"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut feed = feed.expect("gourd starts");
    crate::harness::eventually("a VM for the files", || {
        home.leftovers()
            .iter()
            .any(|name| name.ends_with("gourd-vm"))
    });
    home.gourd(&["exec", "box", "true"])
        .exits(125)
        .says(&["is not running"]);
    // Two at once share the VM.
    cp("box:/left", &home.path("again").display().to_string()).ok();
    drop(feed.stdin.take());
    feed.wait().unwrap();
    home.gourd(&["start", "-a", "box"]).exits(0);
    home.gourd(&["rm", "box"]).ok();
    assert!(!home.container(&id).exists());
    crate::harness::eventually("nothing is left", || home.leftovers().is_empty());
    home.assert_nothing_left();
}

#[test]
fn a_paused_container_can_be_copied_from() {
    let home = Home::new();
    home.sleeper(&["--name", "box"]);
    home.gourd(&["pause", "box"]).ok();
    let to = home.path("passwd").display().to_string();
    home.gourd(&["cp", "box:/etc/passwd", &to]).ok();
    home.gourd(&["cp", &to, "box:/tmp/"]).ok();
    home.gourd(&["unpause", "box"]).ok();
    let same = home.gourd(&["exec", "box", "cmp", "/etc/passwd", "/tmp/passwd"]);
    same.ok();
}
