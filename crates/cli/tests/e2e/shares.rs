//! Folders and files of the host in a container. Oracles: the host's own kernel and tools on the same files (`sha256sum`, `diff`,
//! `tar`, `git`), and the guest's `stat`.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::harness::{Home, Out, eventually, tool};

/// A folder of the test's own, and `SOURCE:/work` of it.
fn folder(home: &Home, name: &str) -> (PathBuf, String) {
    let path = home.path(name);
    fs::create_dir(&path).expect("a folder");
    let volume = format!("{}:/work", path.display());
    (path, volume)
}

/// `run --rm ARGS busybox sh -c SCRIPT`.
fn sh(home: &Home, args: &[&str], script: &str) -> Out {
    let mut line = vec!["run", "--rm"];
    line.extend(args);
    line.extend(["busybox", "sh", "-c", script]);
    home.gourd(&line)
}

fn sum(path: &Path) -> String {
    let out = tool("sha256sum", &[&path]).ok().text();
    out.split(' ').next().expect("a sum").to_owned()
}

/// Bytes that do not compress, the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn both_write_and_read_the_same_files() {
    let home = Home::new();
    let (dir, volume) = folder(&home, "work");
    fs::write(dir.join("in"), noise(5_000_000)).expect("a file");
    fs::write(dir.join("old"), "old").expect("a file");
    let script = "cd /work; sha256sum in | cut -d' ' -f1; cat in in > out; dd if=in of=part bs=70000 count=3 2>/dev/null
        mkdir -p a/b; mv old a/b/new; ln a/b/new second; ln -s /etc/passwd link; ln -s ../secret up; mkfifo fifo
        chmod 640 second; touch -d @1000000000 part; head -c1 link; cat up/x 2>&1; stat -c '%n %u:%g %a' a second; \
        grep ' /work ' /proc/mounts | cut -d' ' -f3; id -u";
    fs::create_dir(home.path("secret")).expect("a folder");
    fs::write(home.path("secret/x"), "secret").expect("a file");
    let out = sh(&home, &["-v", &volume], script).ok().text();
    let expect = format!(
        "{}\nrcat: can't open 'up/x': No such file or directory\na 0:0 755\nsecond 0:0 640\nvirtiofs\n0",
        sum(&dir.join("in"))
    );
    assert_eq!(out, expect);
    let twice = [noise(5_000_000), noise(5_000_000)].concat();
    assert!(fs::read(dir.join("out")).expect("out") == twice);
    assert_eq!(fs::read(dir.join("part")).expect("part"), &twice[..210_000]);
    let meta = |name: &str| fs::symlink_metadata(dir.join(name)).expect("metadata");
    let own = fs::metadata(&dir).expect("metadata").uid();
    let second = meta("second");
    assert_eq!(
        (second.nlink(), second.uid(), second.mode(), second.ino()),
        (2, own, 0o100_640, meta("a/b/new").ino())
    );
    assert_eq!(meta("part").mtime(), 1_000_000_000);
    assert_eq!(
        fs::read_link(dir.join("link")).expect("a link"),
        Path::new("/etc/passwd")
    );
    assert!(!dir.join("old").exists());
    home.assert_nothing_left();
}

/// Each edit is seen by the next call of the guest, and what the host takes away is gone.
#[test]
fn edits_of_the_host_are_seen_at_once() {
    let home = Home::new();
    let (dir, volume) = folder(&home, "work");
    fs::create_dir(dir.join("sub")).expect("a folder");
    fs::write(dir.join("sub/f"), "one").expect("a file");
    let id = home.sleeper(&["--name", "box", "-v", &volume, "-u", "1000:100"]);
    let guest = |script: &str| home.gourd(&["exec", "box", "sh", "-c", script]).text();
    assert_eq!(
        guest("cd /work/sub; cat f; stat -c ' %u:%g' f; echo x > made; id -u"),
        "one 1000:100\n1000"
    );
    fs::write(dir.join("sub/f"), "number two").expect("a file");
    fs::write(dir.join("sub/g"), "new").expect("a file");
    assert_eq!(
        guest("cd /work/sub; cat f g; ls"),
        "number twonewf\ng\nmade"
    );
    // As editors save: another file in its place.
    fs::write(dir.join("sub/f.new"), "three").expect("a file");
    fs::rename(dir.join("sub/f.new"), dir.join("sub/f")).expect("a move");
    fs::remove_file(dir.join("sub/g")).expect("a removal");
    assert_eq!(
        guest("cd /work/sub; cat f; cat g 2>/dev/null || echo -gone"),
        "three-gone"
    );
    fs::rename(dir.join("sub"), dir.join("other")).expect("a move");
    assert_eq!(guest("cat /work/other/f"), "three");
    let own = fs::metadata(&dir).expect("metadata");
    let made = fs::metadata(dir.join("other/made")).expect("metadata");
    assert_eq!((made.uid(), made.gid()), (own.uid(), own.gid()));
    many_files(&home, &id, &dir);
    home.gourd(&["rm", "-f", "box"]).ok();
}

/// 10,000 files: each is found, and the host's descriptors for them stay bounded and go with the guest's caches.
fn many_files(home: &Home, id: &str, dir: &Path) {
    for folder in 0..100 {
        let folder = dir.join(format!("many/{folder}"));
        fs::create_dir_all(&folder).expect("a folder");
        for file in 0..100 {
            fs::write(folder.join(file.to_string()), [b'x'; 3]).expect("a file");
        }
    }
    let vmm = home.processes(id).vmm;
    let open = || {
        fs::read_dir(format!("/proc/{vmm}/fd"))
            .expect("descriptors")
            .count()
    };
    let before = open();
    let script =
        "cd /work/many; find . -type f -size 3c | wc -l; cat */* | wc -c; rm -rf 7; ls | wc -l";
    let out = home.gourd(&["exec", "box", "sh", "-c", script]).ok().text();
    assert_eq!(out, "10000\n30000\n99");
    assert!(!dir.join("many/7").exists());
    let script = "mount -o remount,rw /proc/sys; echo 3 > /proc/sys/vm/drop_caches";
    home.gourd(&["exec", "--privileged", "-u", "0", "box", "sh", "-c", script])
        .ok();
    eventually(
        "the descriptors of files that the guest has forgotten are closed",
        || open() < before + 50,
    );
}

#[test]
fn read_only_files_and_what_is_refused() {
    let home = Home::new();
    let (dir, _) = folder(&home, "work");
    fs::write(dir.join("f"), "kept").expect("a file");
    let read_only = format!("{}:/ro:ro", dir.display());
    let file = format!("{}:/etc/motd", dir.join("f").display());
    let fresh = format!("{}:/made", dir.join("fresh").display());
    let mount = format!("type=bind,source={},target=/both", dir.display());
    let script = "cat /ro/f /etc/motd; touch /ro/x; echo no > /ro/f; rm /ro/f; echo -n yes > /etc/motd; cat /both/f; ls -A /made
        mount -o remount,rw,bind /ro && touch /ro/x; mkdir /ro/d; : > /ro/f";
    let out = sh(
        &home,
        &[
            "--privileged",
            "-v",
            &read_only,
            "-v",
            &file,
            "-v",
            &fresh,
            "--mount",
            &mount,
        ],
        script,
    );
    // The second time it is not the guest who says so.
    let refused = out.stderr.matches("Read-only file system").count();
    assert_eq!(
        (out.text().as_str(), refused),
        ("keptkeptyes", 6),
        "{}",
        out.stderr
    );
    assert_eq!(fs::read(dir.join("f")).expect("a file"), b"yes");
    assert!(dir.join("fresh").is_dir() && !dir.join("x").exists() && !dir.join("d").exists());

    let none = dir.join("none").display().to_string();
    let mount = format!("type=bind,source={none},target=/x");
    home.gourd(&["create", "--mount", &mount, "busybox", "true"])
        .exits(125)
        .says(&["bind source path does not exist: ", "hint: share a folder"]);
    let volume = format!("{none}:/x");
    home.gourd(&["create", "--name", "box", "-v", &volume, "busybox", "true"])
        .ok();
    let mounts = home.inspect("box", "{{json .Mounts}} {{json .HostConfig.Binds}}");
    let expect = format!(
        "[{{\"Destination\":\"/x\",\"Mode\":\"\",\"Propagation\":\"rprivate\",\"RW\":true,\"Source\":\"{none}\",\
         \"Type\":\"bind\"}}] [\"{volume}\"]"
    );
    assert_eq!(mounts, expect);
    fs::remove_dir(&none).expect("a removal");
    home.gourd(&["start", "-a", "box"])
        .exits(125)
        .says(&["none"]);
    home.gourd(&["rm", "box"]).ok();
    home.assert_nothing_left();
}

/// A guest that puts a link where the next start looks gets nothing by it; what a person's own links lead to is shared.
#[test]
fn links_of_a_guest_are_not_followed_at_the_next_start() {
    let home = Home::new();
    let (dir, volume) = folder(&home, "work");
    let (cache, secret) = (dir.join("cache"), home.path("secret"));
    fs::create_dir(&cache).expect("a folder");
    fs::create_dir(&secret).expect("a folder");
    fs::write(secret.join("key"), "secret").expect("a file");
    let listener = |path: &Path| UnixListener::bind(path).expect("a socket");
    let _servers = [
        listener(&cache.join("host.sock")),
        listener(&secret.join("host.sock")),
    ];
    let own = home.path("own");
    symlink("work/cache", &own).expect("a link");
    let nested = format!("{}:/cache", own.display());
    let mount = format!("{}:/s", own.join("host.sock").display());
    let publish = format!("{}:/a", own.join("app.sock").display());
    let create = ["create", "--name"];
    let busybox = ["busybox", "ls", "/cache"];
    for args in [
        ["mount", "-v", &mount],
        ["publish", "--publish-socket", &publish],
    ] {
        let line = [&create[..], &args, &busybox].concat();
        home.gourd(&line).ok();
    }
    let script = format!(
        "ls /cache; cd /work && mv cache c2 && ln -s {} cache; exit 3",
        secret.display()
    );
    let line = [
        &["run", "--name", "box", "-v", &volume, "-v", &nested][..],
        &["busybox", "sh", "-c", &script],
    ];
    let first = home.gourd(&line.concat()).exits(3);
    assert_eq!(first.text(), "host.sock");
    assert_eq!(fs::read_link(&cache).expect("a link"), secret);
    assert_eq!(
        home.inspect("box", "{{json .HostConfig.Binds}}"),
        format!("[\"{volume}\",\"{nested}\"]")
    );
    let words = ["was replaced by a link", "make the container anew"];
    for name in ["box", "mount", "publish"] {
        home.gourd(&["start", "-a", name]).exits(125).says(&words);
    }
    let left = fs::read_dir(&secret).expect("a folder").count();
    assert_eq!(left, 2, "nothing was made there");
    // What was there is put back, and all is well.
    fs::remove_file(&cache).expect("a removal");
    fs::rename(dir.join("c2"), &cache).expect("a move");
    let again = home.gourd(&["start", "-a", "box"]).exits(3);
    assert_eq!(again.text(), "host.sock");
    home.gourd(&["rm", "box", "mount", "publish"]).ok();
    home.assert_nothing_left();
}

/// A tree as a build or a checkout has it, packed here and unpacked there, and the other way round.
#[test]
fn trees_are_unpacked_as_they_are() {
    let home = Home::new();
    let (dir, volume) = folder(&home, "work");
    let tree = home.path("tree");
    for folder in 0..20 {
        let deep = tree.join(format!("d{folder}/sub/deep"));
        fs::create_dir_all(&deep).expect("a folder");
        for file in 0..20 {
            fs::write(deep.join(format!("f {file}")), noise(file * file * 50)).expect("a file");
        }
        symlink("../../d1", deep.join("link")).expect("a link");
        symlink("/nowhere", deep.join("dangling")).expect("a link");
        fs::hard_link(deep.join("f 3"), deep.join("hard")).expect("a link");
    }
    let git = |args: &[&str]| {
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-C", &tree];
        all.extend(args.iter().map(|arg| arg as &dyn AsRef<std::ffi::OsStr>));
        tool("git", &all).ok().text()
    };
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&[
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "commit",
        "-qm",
        "t",
    ]);
    let archive = dir.join("tree.tar");
    tool("tar", &[&"-cf", &archive, &"-C", &tree, &"."]).ok();
    let script =
        "mkdir /work/tree && cd /work/tree && tar xf ../tree.tar && tar cf ../again.tar . && sync";
    sh(&home, &["-v", &volume], script).ok();
    tool(
        "diff",
        &[&"-r", &"--no-dereference", &tree, &dir.join("tree")],
    )
    .ok();
    let back = home.path("back");
    fs::create_dir(&back).expect("a folder");
    tool("tar", &[&"-xf", &dir.join("again.tar"), &"-C", &back]).ok();
    tool("diff", &[&"-r", &"--no-dereference", &tree, &back]).ok();
    let status = tool(
        "git",
        &[&"-C", &dir.join("tree"), &"status", &"--porcelain"],
    )
    .ok()
    .text();
    assert_eq!(status, "", "contents and modes are the commit's");
    let hard = fs::metadata(dir.join("tree/d0/sub/deep/hard")).expect("metadata");
    assert_eq!(hard.nlink(), 2);
}
