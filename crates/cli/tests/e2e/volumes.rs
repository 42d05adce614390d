//! Volumes: what outlives containers. What is written is there, whoever dies; one writes or many read; an empty one gets what
//! the image has; what is freed inside is freed here. Oracles: e2fsck, du, GNU tar, the guest's own find and stat.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::harness::{Home, Out, assert_ext4_clean, dead, eventually, finish, kill, names, tool};

/// A volume's disk.
pub fn disk(home: &Home, volume: &str) -> PathBuf {
    home.root().join("volumes").join(volume).join("volume.ext4")
}

fn mib_on_disk(home: &Home, volume: &str) -> u64 {
    (fs::metadata(disk(home, volume)).expect("a disk").blocks() * 512) >> 20
}

/// `run --rm -v VOLUME busybox sh -c SCRIPT`.
fn sh(home: &Home, volumes: &[&str], script: &str) -> Out {
    let mut line = vec!["run", "--rm"];
    for volume in volumes {
        line.extend(["-v", volume]);
    }
    line.extend(["busybox", "sh", "-c", script]);
    home.gourd(&line)
}

#[test]
fn what_one_writes_the_next_one_reads() {
    let home = Home::new();
    let out = sh(&home, &["data:/data"], "ls -a /data; echo hi > /data/x");
    assert_eq!(out.ok().text(), ".\n..", "nothing is in a new one");
    assert_eq!(sh(&home, &["data:/data"], "cat /data/x").ok().text(), "hi");
    assert_ext4_clean(&disk(&home, "data"));
    assert_eq!(home.gourd(&["volume", "ls", "-q"]).ok().text(), "data");
    // Names, words and codes as Docker's.
    home.gourd(&[
        "create",
        "--name",
        "box",
        "-v",
        "data:/data:ro",
        "busybox",
        "true",
    ])
    .ok();
    let mounts = home.inspect("box", "{{json .Mounts}}");
    let mounts: serde_json::Value = serde_json::from_str(&mounts).expect("JSON");
    let shown = ["Type", "Name", "Destination", "RW"].map(|key| mounts[0][key].to_string());
    assert_eq!(shown, ["\"volume\"", "\"data\"", "\"/data\"", "false"]);
    assert_eq!(
        home.inspect("box", "{{json .HostConfig.Binds}}"),
        "[\"data:/data:ro\"]"
    );
    home.gourd(&["volume", "rm", "data"])
        .exits(125)
        .says(&["volume data is used by container box", "gourd rm box"]);
    home.gourd(&["rm", "-v", "box"]).ok();
    assert_eq!(home.gourd(&["volume", "rm", "data"]).ok().text(), "data");
    home.gourd(&["volume", "rm", "data"])
        .exits(125)
        .says(&["no such volume: data"]);
    home.gourd(&["volume", "rm", "-f", "data"]).ok();
    assert_eq!(names(&home.root().join("volumes")), [".index"]);
    home.assert_nothing_left();
}

#[test]
fn one_writes_or_many_read() {
    let home = Home::new();
    home.gourd(&["volume", "create", "--size", "64m", "data"])
        .ok();
    sh(&home, &["data:/data"], "echo shared > /data/x").ok();
    home.sleeper(&["--name", "writer", "-v", "data:/data"]);
    for volume in ["data:/data", "data:/data:ro"] {
        sh(&home, &[volume], "true").exits(125).says(&[
            "volume data is in use by container writer, which writes to it",
            "hint: stop the container",
        ]);
    }
    home.gourd(&["volume", "clone", "data", "copy"])
        .exits(125)
        .says(&["in use by container writer"]);
    home.gourd(&["rm", "-f", "writer"]).ok();
    home.sleeper(&["--name", "one", "-v", "data:/data:ro"]);
    home.sleeper(&[
        "--name",
        "two",
        "--mount",
        "source=data,target=/data,readonly",
    ]);
    for reader in ["one", "two"] {
        let script = "cat /data/x; echo no > /data/y";
        let out = home.gourd(&["exec", reader, "sh", "-c", script]);
        assert_eq!(
            out.exits(1).says(&["Read-only file system"]).text(),
            "shared"
        );
    }
    sh(&home, &["data:/data"], "true")
        .exits(125)
        .says(&["container one, which reads it; container two, which reads it"]);
    home.gourd(&["volume", "clone", "data", "copy"]).ok();
    let cmp = tool("cmp", &[&disk(&home, "data"), &disk(&home, "copy")]);
    cmp.ok();
    home.gourd(&["rm", "-f", "one", "two"]).ok();
    sh(&home, &["data:/data"], "echo more > /data/y").ok();
    assert_eq!(sh(&home, &["copy:/c"], "ls /c").ok().text(), "x");
    // Left over from refusals: nothing.
    assert_eq!(home.gourd(&["ps", "-aq"]).ok().text(), "");
}

#[test]
fn an_empty_volume_gets_what_the_image_has() {
    let home = Home::new();
    let list = "cd /etc && ls -a1 | grep -v -e hosts -e hostname -e resolv.conf; stat -c '%a %u:%g' . passwd; \
                sha256sum passwd";
    let expect = sh(&home, &[], list).ok().text();
    assert_eq!(sh(&home, &["one:/etc"], list).ok().text(), expect);
    // Read-only from the first use on, and shared then.
    assert_eq!(sh(&home, &["two:/etc:ro"], list).ok().text(), expect);
    home.sleeper(&["--name", "reader", "-v", "two:/etc:ro"]);
    assert_eq!(sh(&home, &["two:/etc:ro"], list).ok().text(), expect);
    home.gourd(&["rm", "-f", "reader"]).ok();
    // Owner and mode of the directory, with nothing in it; and an owner of the volume's own.
    let stat = |mount: &str| {
        let target = mount.split(':').nth(1).expect("a target");
        sh(
            &home,
            &[mount],
            &format!("stat -c '%a %u:%g' {target}; ls -A {target} | wc -l"),
        )
        .ok()
        .text()
    };
    assert_eq!(stat("tmp:/var/tmp"), "1777 0:0\n0");
    home.gourd(&["volume", "create", "--owner", "1000:100", "own"])
        .ok();
    assert_eq!(stat("own:/var/tmp"), "755 1000:100\n0");
    assert_eq!(stat("bare:/var/tmp:nocopy"), "755 0:0\n0");
    // Not again when the container has emptied it itself, but for the next container, as by Docker.
    let script = "ls /usr/bin | wc -l; rm -rf /usr/bin/*";
    let count = sh(&home, &[], "ls /usr/bin | wc -l").ok().text();
    home.gourd(&[
        "run",
        "--name",
        "box",
        "-v",
        "again:/usr/bin",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    home.gourd(&["start", "-a", "box"]).ok();
    assert_eq!(
        home.gourd(&["logs", "box"]).ok().text(),
        format!("{count}\n0")
    );
    assert_eq!(
        sh(&home, &["again:/usr/bin"], "ls /usr/bin | wc -l")
            .ok()
            .text(),
        count
    );
}

/// What does not fit is not left there in part.
#[test]
fn a_volume_that_is_too_small_to_be_filled_stays_empty() {
    let home = Home::new();
    home.gourd(&["volume", "create", "--size", "32m", "small"])
        .ok();
    let line = ["run", "--rm", "-v", "small:/usr", "debian", "true"];
    home.gourd(&line)
        .exits(125)
        .says(&["No space left on device"]);
    assert_eq!(
        sh(&home, &["small:/x:ro"], "ls /x | wc -l").ok().text(),
        "0"
    );
    assert_ext4_clean(&disk(&home, "small"));
}

/// The VM dies while the volume is being filled: half of it is nobody's.
#[test]
fn a_fill_that_was_cut_short_is_done_again() {
    let home = Home::new();
    let list = "find /usr -type d -printf '%P %y %m %U %G %T@\n' -o -printf '%P %y %m %U %G %s %T@ %n %l\n' | sort | sha256sum";
    let debian = |args: &[&str]| {
        let mut line = vec!["run"];
        line.extend(args);
        line.extend(["debian", "sh", "-c", list]);
        home.start(&line)
    };
    let expect = finish(debian(&["--rm"]), &[]).ok().text();
    let run = debian(&["--name", "victim", "-v", "data:/usr"]);
    eventually("some of it is there", || {
        disk(&home, "data").exists() && mib_on_disk(&home, "data") > 20
    });
    let id = home.inspect("victim", "{{.Id}}");
    kill(home.processes(&id).qemu, "-9");
    assert_ne!(finish(run, &[]).code, 0);
    assert_ext4_clean(&disk(&home, "data"));
    let again = finish(debian(&["--rm", "-v", "data:/usr"]), &[]);
    assert_eq!(again.ok().text(), expect);
    // The one that was killed never had it: its start is a first one still.
    assert_eq!(home.gourd(&["start", "-a", "victim"]).ok().text(), expect);
}

/// Every file that was acknowledged is there after each death, for a reader as well, for whom somebody must replay the journal.
#[test]
fn whoever_dies_what_was_synced_is_there() {
    let home = Home::new();
    let write = "cd /data; i=$(ls | wc -l); while true; do \
                 dd if=/dev/urandom of=$i bs=50k count=1 conv=fsync 2>/dev/null; echo $i; i=$((i+1)); done";
    let mut least = 0;
    for victim in ["qemu", "vmm", "supervisor"] {
        let id = home
            .gourd(&[
                "run",
                "-d",
                "-v",
                "data:/data",
                "busybox",
                "sh",
                "-c",
                write,
            ])
            .ok()
            .text();
        eventually("it has written some", || {
            home.gourd(&["logs", &id]).text().lines().count() >= 5
        });
        let processes = home.processes(&id);
        let pid = match victim {
            "qemu" => processes.qemu,
            "vmm" => processes.vmm,
            _ => processes.supervisor,
        };
        kill(pid, "-9");
        eventually("all of it is dead", || {
            dead(pid) && home.leftovers().is_empty()
        });
        let last = home.gourd(&["logs", &id]).ok().text();
        let last: usize = last
            .lines()
            .last()
            .expect("a line")
            .parse()
            .expect("a number");
        assert!(last + 1 >= least + 5, "{victim}: {last}");
        assert_ext4_clean(&disk(&home, "data"));
        let script = format!(
            "cd /data; i=0; while [ $i -le {last} ]; do [ $(stat -c %s $i) = 51200 ] || echo $i is lost; i=$((i+1)); done; \
             ls | wc -l"
        );
        let found = sh(&home, &["data:/data:ro"], &script).ok().text();
        let found: usize = found.parse().expect(&found);
        assert!(found > last, "{victim}: {found} of {last}");
        least = found;
    }
}

#[test]
fn what_is_freed_inside_is_freed_here() {
    let home = Home::new();
    let script = "for d in /data /; do dd if=/dev/urandom of=$d/big bs=1M count=48 2>/dev/null; done; sync; echo full; \
                  read x; rm /data/big /big; sync; echo empty; read x";
    let mut line = vec!["run", "-i", "--name", "box", "-v", "data:/data"];
    line.extend(["busybox", "sh", "-c", script]);
    let mut run = home.start(&line);
    let says = |word: &str| {
        eventually(word, || home.gourd(&["logs", "box"]).text().contains(word));
    };
    says("full");
    let id = home.inspect("box", "{{.Id}}");
    let upper = || {
        let upper = home.container(&id).join("upper.ext4");
        (fs::metadata(upper).expect("a disk").blocks() * 512) >> 20
    };
    assert!(mib_on_disk(&home, "data") >= 48 && upper() >= 48);
    let mut stdin = run.stdin.take().expect("piped");
    use std::io::Write;
    stdin.write_all(b"\n").expect("a line");
    says("empty");
    eventually("it shrinks while it runs", || {
        mib_on_disk(&home, "data") < 10 && upper() < 24
    });
    let before = home.gourd(&[
        "system",
        "df",
        "--format",
        "{{.Type}} {{.TotalCount}} {{.Active}}",
    ]);
    assert!(before.ok().text().contains("Local Volumes 1 1"));
    stdin.write_all(b"\n").expect("a line");
    run.stdin = Some(stdin);
    finish(run, &[]).ok();
    assert_ext4_clean(&disk(&home, "data"));
}

/// Oracles: df in the guest, e2fsck here. The guest's kernel grows it online, which needs a right that few hosts give.
#[test]
fn volumes_grow() {
    let home = Home::new();
    let mib = "df -m /data | tail -n 1 | awk '{print $2}'";
    let check = |shown: &str, gib: u64| {
        let shown: u64 = shown.parse().expect("a number");
        // Less the tables of inodes.
        let room = gib * 1024;
        assert!(
            (room * 19 / 20..=room).contains(&shown),
            "{shown} MiB of {gib} GiB"
        );
    };
    let grow = |name: &str, sizes: &[u64]| {
        let volume = format!("{name}:/data");
        sh(
            &home,
            &[&volume],
            "dd if=/dev/zero bs=1k count=2000 of=/data/before 2>/dev/null",
        )
        .ok();
        for gib in sizes {
            home.gourd(&["volume", "resize", name, &format!("{gib}g")])
                .ok();
            let script = format!(
                "{mib}; mkdir -p /data/after; cp /data/before /data/after/{gib}; stat -c %s /data/before"
            );
            let out = sh(&home, &[&volume], &script).ok().text();
            let (shown, before) = out.split_once('\n').expect("two lines");
            check(shown, *gib);
            assert_eq!(before, "2048000", "{name} {gib}");
            assert_ext4_clean(&disk(&home, name));
        }
    };
    let create = |name: &str, size: &str| {
        home.gourd(&["volume", "create", "--size", size, name]).ok();
    };
    create("small", "32m");
    grow("small", &[1, 70]);
    create("odd", "65543m");
    grow("odd", &[100]);
    // A file system that the writer of rootfs images made, as large as it must be and without a journal.
    create("image", "32m");
    let rootfs = home.gourd(&["image", "inspect", "-f", "{{.RootfsImage}}", "busybox"]);
    fs::copy(rootfs.ok().text(), disk(&home, "image")).expect("a copy");
    home.gourd(&["volume", "resize", "image", "1g"]).ok();
    let script = format!("{mib}; ls /data/bin/busybox; echo x > /data/new");
    let out = sh(&home, &["image:/data"], &script).ok().text();
    let (shown, there) = out.split_once('\n').expect("two lines");
    check(shown, 1);
    assert_eq!(there, "/data/bin/busybox");
    tool("e2fsck", &[&"-fn", &disk(&home, "image")]).ok();
    home.gourd(&["volume", "resize", "small", "1g"])
        .exits(125)
        .says(&["cannot become smaller"]);
}

/// Oracle: GNU tar.
#[test]
fn archives_both_ways() {
    let home = Home::new();
    let make = "cd /data; mkdir -p a/b; echo text > a/b/file; ln a/b/file same; ln -s a/b link; mkfifo pipe; \
                chown 7:8 a; chmod 4711 same; touch -d @1000000000 a/b/file; truncate -s 1g sparse; echo end >> sparse";
    sh(&home, &["data:/data"], make).ok();
    let describe = "cd /data; find . -exec stat -c '%F %a %u:%g %s %h %Y %n' {} + | grep -v '^directory.*\\.$' | sort; cat a/b/file; readlink link";
    let expect = sh(&home, &["data:/data"], describe).ok().text();
    let archive = home.path("data.tar");
    let archive = archive.display().to_string();
    home.gourd(&["volume", "export", "-o", &archive, "data"])
        .ok();
    let listed = tool("tar", &[&"-tvf", &archive]).ok().text();
    for line in ["-rws--x--x 0/0", "drwxr-xr-x 7/8", "link -> a/b", "sparse"] {
        assert!(listed.contains(line), "{line:?}: {listed}");
    }
    assert!(!listed.contains("lost+found"), "{listed}");
    assert!(fs::metadata(&archive).expect("an archive").len() < 1 << 20);
    // Packed, from stdin, into one that is made by this.
    let packed = tool("gzip", &[&"-c", &archive]).ok().stdout;
    let import = ["volume", "import", "--owner", "9:10", "copy"];
    home.gourd_with(&import, &packed).ok();
    let again = home.gourd_with(&import, &packed);
    again.exits(125).says(&["copy", "exists"]);
    assert_eq!(sh(&home, &["copy:/data"], describe).ok().text(), expect);
    let owner = sh(&home, &["copy:/data"], "stat -c %u:%g /data");
    assert_eq!(owner.ok().text(), "9:10");
    home.gourd_with(&["volume", "import", "copy"], b"this is no archive, not at all, and it is longer than a header of one \
        would be if it were one, so that there is something to be wrong about in it, which is what is looked for here: there \
        must be five hundred and twelve bytes of it, and these are not quite as many yet, so it goes on for a while, and then \
        for a while more, until it is long enough, which it will be in a moment, when this sentence has come to its end, or a \
        little later than that: now it is, or it should be, at the very least.......................................")
        .exits(125);
    // The VMs are no containers that anybody sees, and nothing stays of them.
    assert_eq!(home.gourd(&["ps", "-aq"]).ok().text(), "");
    home.gourd(&["volume", "rm", "data", "copy"]).ok();
    home.gourd(&["create", "--name", "broom", "busybox", "true"])
        .ok();
    home.gourd(&["rm", "broom"]).ok();
    home.assert_nothing_left();
}

#[test]
fn many_mounts() {
    let home = Home::new();
    let script = "echo 1 > /a/x; echo 2 > /a/b/y; echo 3 > /a/b/c/z; grep -c ' /a' /proc/mounts; cat /again/x; \
                  echo no > /again/x; touch /nope; ls -d /a/b/c/*";
    let out = home.gourd(&[
        "run",
        "--rm",
        "--read-only",
        "-v",
        "inner:/a/b",
        "-v",
        "outer:/a",
        "--tmpfs",
        "/a/b/c",
        "-v",
        "outer:/again:ro",
        "-v",
        "/own",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let out = out.ok();
    assert_eq!(out.text(), "4\n1\n/a/b/c/z");
    out.says(&[
        "/again/x: Read-only file system",
        "/nope: Read-only file system",
    ]);
    // The image's link leads inside of its root.
    let link = "ln -s ../../../var/target /srv";
    home.gourd(&["run", "--name", "linked", "busybox", "sh", "-c", link])
        .ok();
    home.gourd(&["commit", "linked", "linked:1"]).ok();
    home.gourd(&[
        "run",
        "--rm",
        "-v",
        "inner:/srv",
        "linked:1",
        "cat",
        "/var/target/y",
    ])
    .ok();
    for (flags, words) in [
        (
            vec!["-v", "one:/a", "-v", "two:/a/"],
            "duplicate mount point: /a",
        ),
        (
            vec!["-v", "one:/a", "--tmpfs", "/a"],
            "duplicate mount point: /a",
        ),
        (vec!["-v", "/home:a"], "the path is absolute"),
        (
            vec!["--mount", "type=bind,source=/no/such,target=/a"],
            "bind source path does not exist: /no/such",
        ),
        (
            vec!["-v", "one:/a", "-v", "/tmp:/a"],
            "duplicate mount point: /a",
        ),
        (vec!["-v", "one:/"], "absolute path below the root"),
    ] {
        let mut line = vec!["create"];
        line.extend(flags);
        line.extend(["busybox", "true"]);
        home.gourd(&line).exits(125).says(&[words]);
    }
    assert_eq!(
        home.gourd(&["volume", "ls", "-q"]).ok().text(),
        "inner\nouter"
    );
}

#[test]
fn volumes_without_a_name_go_with_their_container() {
    let home = Home::new();
    home.gourd(&["create", "--name", "base", "busybox", "true"])
        .ok();
    home.gourd(&["commit", "-c", "VOLUME /var /srv", "base", "img:1"])
        .ok();
    home.gourd(&["rm", "base"]).ok();
    let volumes = || {
        let list = home.gourd(&["volume", "ls", "-q"]).ok().text();
        list.lines().filter(|name| name.len() == 64).count()
    };
    let script = "grep -c -e ' /var ' -e ' /srv ' /proc/mounts; stat -c %a /var/tmp";
    let run = |flags: &[&str]| {
        let mut line = vec!["run"];
        line.extend(flags);
        line.extend(["img:1", "sh", "-c", script]);
        home.gourd(&line).ok().text()
    };
    assert_eq!(run(&["--rm"]), "2\n1777");
    assert_eq!(volumes(), 0, "gone with --rm");
    assert_eq!(run(&["--name", "kept", "-v", "data:/srv"]), "2\n1777");
    assert_eq!(volumes(), 1, "a name has the other one");
    assert_eq!(home.gourd(&["start", "-a", "kept"]).ok().text(), "2\n1777");
    // What it keeps there is not in its image, nor in what it has changed; but cp sees it.
    assert!(
        !home
            .gourd(&["diff", "kept"])
            .ok()
            .text()
            .contains("/var/tmp")
    );
    home.gourd(&["cp", "/etc/passwd", "kept:/srv/copied"]).ok();
    home.gourd(&["rm", "kept"]).ok();
    assert_eq!(volumes(), 1, "rm alone leaves it");
    assert_eq!(sh(&home, &["data:/srv"], "ls /srv").ok().text(), "copied");
    let pruned = home.gourd(&["volume", "prune", "-f"]).ok().text();
    assert!(pruned.starts_with("Deleted Volumes:\n"), "{pruned}");
    assert_eq!(
        home.gourd(&["volume", "ls", "-q"]).ok().text(),
        "data",
        "a named one stays"
    );
    run(&["--name", "kept"]);
    home.gourd(&["rm", "-v", "kept"]).ok();
    assert_eq!(volumes(), 0, "rm -v takes it along");
    home.gourd(&["volume", "prune", "-af"]).ok();
    assert_eq!(names(&home.root().join("volumes")), [".index"]);
}
