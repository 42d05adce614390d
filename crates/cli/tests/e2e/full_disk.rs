//! The host's disk is full, at each thing that writes to it: what is said, that nothing is spoilt, and that the same works as
//! soon as there is room. The disk is a tmpfs of the test's own.

use testkit::image::{ImageBuilder, Layer};
use testkit::registry::Registry;

use crate::harness::{Home, Out, eventually, finish, kill};

const SIZE: u64 = 160 << 20;

/// Leaves this many bytes free, a page more or less.
fn fill(home: &Home, free: u64) {
    home.inside("dd if=/dev/zero of=filler bs=64k 2>/dev/null; dd if=/dev/zero bs=4k 2>/dev/null >> filler; true")
        .ok();
    home.inside(&format!("truncate -s -{free} filler")).ok();
}

fn empty(home: &Home) {
    home.inside("rm filler").ok();
}

/// What, where, why and a remedy.
#[track_caller]
fn refused(out: Out, home: &Home) -> Out {
    let root = home.root().display().to_string();
    out.exits(125).says(&[
        "No space left on device",
        root.as_str(),
        "hint: free some space",
    ])
}

/// Nothing half-made is to be seen, nor lies about.
fn nothing_unfinished(home: &Home) {
    let found = home.inside("find . -name '.new-*' -o -name '.del-*' -o -name '*.tmp'");
    assert_eq!(found.ok().text(), "");
}

#[test]
fn pull_and_load() {
    let home = Home::on_a_small_disk(SIZE);
    let noise: Vec<u8> = (0..3_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let image = ImageBuilder::new().layer(Layer::new().file("noise", &noise));
    let (layout, archive) = (home.path("layout"), home.path("archive.tar"));
    image.write_layout(&layout, "it").expect("a layout");
    image
        .write_archive(&archive, "noise:1")
        .expect("an archive");
    let registry = Registry::start().expect("docker-registry starts");
    registry
        .push(&format!("oci:{}:it", layout.display()), "noise:1")
        .expect("skopeo pushes");
    let reference = registry.reference("noise:1");
    let archive = archive.display().to_string();
    for line in [vec!["pull", &reference], vec!["load", "-i", &archive]] {
        let name = if line[0] == "pull" {
            reference.as_str()
        } else {
            "noise:1"
        };
        // Not even a document; a part of the layer; a part of the layer, or of the rootfs image.
        for free in [0, 1 << 19, 2 << 20] {
            fill(&home, free);
            refused(home.gourd(&line), &home);
            home.gourd(&["image", "inspect", name]).exits(125);
            home.gourd(&["images"]).ok();
            empty(&home);
            nothing_unfinished(&home);
        }
        home.gourd(&line).ok();
        let path = home.gourd(&["image", "inspect", "-f", "{{.RootfsImage}}", name]);
        let check = format!(
            "PATH=$PATH:/sbin:/usr/sbin e2fsck -fn '{}'",
            path.ok().text()
        );
        home.inside(&check).ok();
        home.gourd(&["rmi", name]).ok();
    }
}

#[test]
fn create_start_and_commit() {
    let home = Home::on_a_small_disk(SIZE);
    fill(&home, 0);
    refused(
        home.gourd(&["create", "--name", "it", "busybox", "true"]),
        &home,
    );
    assert_eq!(home.gourd(&["ps", "-aq"]).ok().text(), "");
    empty(&home);
    nothing_unfinished(&home);
    let script = "echo kept >> /file; sync; wc -l < /file";
    home.gourd(&["create", "--name", "it", "busybox", "sh", "-c", script])
        .ok();
    fill(&home, 0);
    refused(home.gourd(&["start", "it"]), &home);
    assert_eq!(home.leftovers(), Vec::<String>::new());
    empty(&home);
    assert_eq!(home.gourd(&["start", "-a", "it"]).ok().text(), "1");
    // Its changes have no room as an image.
    let script = "head -c 3000000 /dev/urandom > /noise; sync";
    home.gourd(&["run", "--name", "noisy", "busybox", "sh", "-c", script])
        .ok();
    fill(&home, 1 << 20);
    refused(home.gourd(&["commit", "noisy", "made:1"]), &home);
    home.gourd(&["image", "inspect", "made:1"]).exits(125);
    empty(&home);
    nothing_unfinished(&home);
    home.gourd(&["commit", "noisy", "made:1"]).ok();
    let size = home.gourd(&["run", "--rm", "made:1", "wc", "-c", "/noise"]);
    assert_eq!(size.ok().text(), "3000000 /noise");
}

#[test]
fn a_container_goes_on_when_its_log_has_no_room() {
    let home = Home::on_a_small_disk(SIZE);
    // Counts what it has written in memory of its own.
    let script =
        "i=0; while :; do echo $i >> /dev/shm/count; echo line $i; i=$((i+1)); sleep 0.01; done";
    home.gourd(&["run", "-d", "--name", "it", "busybox", "sh", "-c", script])
        .ok();
    let count = || {
        let out = home.gourd(&["exec", "it", "wc", "-l", "/dev/shm/count"]);
        let number = out.text();
        let number = number.split(' ').next().and_then(|text| text.parse().ok());
        number.unwrap_or(0)
    };
    eventually("it has written", || count() > 10);
    fill(&home, 0);
    let full: u64 = count();
    eventually("it goes on", || count() > full + 50);
    assert_eq!(home.inspect("it", "{{.State.Status}}"), "running");
    let log = home.gourd(&["logs", "it"]).ok().text();
    assert!(log.starts_with("line 0\nline 1\n"), "{log}");
    empty(&home);
    let emptied: u64 = count();
    eventually("it is logged again", || {
        let log = home.gourd(&["logs", "-n", "1", "it"]).ok().text();
        let last = log.strip_prefix("line ").and_then(|text| text.parse().ok());
        last.is_some_and(|last: u64| last > emptied)
    });
    home.gourd(&["stop", "-t", "0", "it"]).ok();
    assert_eq!(home.inspect("it", "{{.State.ExitCode}}"), "137");
}

#[test]
fn what_a_container_and_a_copy_write() {
    let home = Home::on_a_small_disk(SIZE);
    home.sleeper(&["--name", "it"]);
    home.gourd(&["exec", "it", "sh", "-c", "echo kept > /kept; sync"])
        .ok();
    let noise = home.path("noise");
    std::fs::write(&noise, vec![7; 20_000_000]).expect("a file");
    fill(&home, 2 << 20);
    // The host has no room for what the guest's disk may yet grow to: the guest is told, and does not hang.
    let writing = home.start(&[
        "exec",
        "it",
        "sh",
        "-c",
        // fsync(2) tells; sync(2) can't.
        "dd if=/dev/urandom of=/large bs=1M count=20 conv=fsync && echo written; echo done",
    ]);
    let out = finish(writing, &[]);
    assert!(!out.text().contains("written"), "{out:?}");
    // As with write(2), what is only in the guest's memory yet may be taken; what is refused says why.
    let copy = home.gourd(&["cp", &noise.display().to_string(), "it:/noise"]);
    assert!(copy.code == 0 || copy.stderr.contains("hint:"), "{copy:?}");
    // Nothing corrupt: with room again, the container starts from what was synced.
    empty(&home);
    home.gourd(&["rm", "-f", "nonesuch"]);
    home.gourd(&["stop", "-t", "0", "it"]).ok();
    home.gourd(&["start", "it"]).ok();
    assert_eq!(
        home.gourd(&["exec", "it", "cat", "/kept"]).ok().text(),
        "kept"
    );
    home.gourd(&["cp", &noise.display().to_string(), "it:/noise"])
        .ok();
    let id = home.inspect("it", "{{.Id}}");
    home.gourd(&["stop", "-t", "0", "it"]).ok();
    let check = format!("PATH=$PATH:/sbin:/usr/sbin e2fsck -fn containers/{id}/upper.ext4");
    home.inside(&check).ok();
}

/// What takes the room goes without any: of what runs, of what has ended and could not write that down, of what has died.
#[test]
fn containers_are_removed() {
    let home = Home::on_a_small_disk(SIZE);
    type Ends = fn(&Home);
    let goes_on: Ends = |_| {};
    let stops: Ends = |home| {
        home.gourd(&["stop", "-t", "0", "it"]).ok();
    };
    let dies: Ends = |home| {
        let pid = home.inspect("it", "{{.State.Pid}}");
        kill(pid.parse().expect("a pid"), "-KILL");
        eventually("its monitor is gone, too", || home.leftovers().is_empty());
    };
    let cases: [(Ends, &[&str]); 6] = [
        (goes_on, &["rm", "-f", "it"]),
        (stops, &["rm", "it"]),
        (stops, &["container", "prune", "-f"]),
        (dies, &["rm", "it"]),
        (dies, &["rm", "-f", "it"]),
        (dies, &["container", "prune", "-f"]),
    ];
    for (ends, line) in cases {
        home.sleeper(&["--name", "it"]);
        fill(&home, 0);
        ends(&home);
        home.gourd(line).ok();
        assert_eq!(home.gourd(&["ps", "-aq"]).ok().text(), "", "{line:?}");
        empty(&home);
        nothing_unfinished(&home);
    }
    home.assert_nothing_left();
    // One that has ended is not taken for one that runs, or for one that can't be read.
    home.sleeper(&["--name", "it"]);
    fill(&home, 0);
    dies(&home);
    let status = home.gourd(&["ps", "-a", "--format", "{{.Status}}"]).ok();
    assert!(status.text().starts_with("Exited (255)"), "{status:?}");
    home.gourd(&["wait", "it"]).ok();
    home.gourd(&["exec", "it", "true"])
        .exits(125)
        .says(&["not running"]);
    home.gourd(&["rm", "it"]).ok();
}
