//! The fault matrix of garbage collection: whatever it dies at, what containers need is there to the last byte, and the next
//! collection takes all the rest. (While somebody pulls nobody collects: `races::pruning_while_pulling`.)

use super::matrix::{Monitors, Point, Scenario, trace};
use super::stray;
use crate::harness::{Home, assert_ext4_clean, eventually, names, tool};

/// The image `busybox` is whole: its blobs have their digests (skopeo reads them all), its rootfs image is clean (e2fsck), and
/// containers are made of it.
pub fn assert_busybox_whole(home: &Home) {
    let inspect = ["image", "inspect", "-f", "{{.RootfsImage}}", "busybox"];
    let rootfs = home.gourd(&inspect).ok().text();
    assert_ext4_clean(rootfs.as_ref());
    let archive = home.path("busybox.tar");
    let path = archive.to_str().expect("text");
    home.gourd(&["save", "-o", path, "busybox"]).ok();
    let from = format!("oci-archive:{path}");
    let to = format!("dir:{}", home.path("copy").display());
    tool("skopeo", &[&"copy", &"-q", &from, &to]).ok();
    std::fs::remove_dir_all(home.path("copy")).expect("it is removed");
    let create = [
        "create", "--pull", "never", "--name", "again", "busybox", "true",
    ];
    home.gourd(&create).ok();
    home.gourd(&["rm", "again"]).ok();
}

/// All that is kept for images.
fn kept(home: &Home) -> Vec<Vec<String>> {
    let folders = ["content/blobs/sha256", "content/ingest", "rootfs", "images"];
    let listed = folders.map(|folder| names(&home.root().join(folder)));
    listed.into()
}

pub fn assert_nothing_kept(home: &Home) {
    assert_eq!(kept(home), vec![Vec::<String>::new(); 4]);
}

#[test]
fn image_prune_killed_anywhere() {
    let prune = ["image", "prune", "-a", "-f"];
    // As the run that nobody disturbed, which is the first one, leaves it.
    let left = std::cell::OnceCell::new();
    Scenario {
        name: "image prune",
        prepare: &|home| {
            home.gourd(&["create", "--name", "it", "busybox", "true"])
                .ok();
            home.gourd(&["tag", "debian", "debian:second"]).ok();
        },
        act: &prune,
        settle: &|_| {},
        check: &|home, _| {
            assert_busybox_whole(home);
            home.gourd(&prune).ok();
            assert_busybox_whole(home);
            assert_eq!(kept(home), *left.get_or_init(|| kept(home)));
            let list = home.gourd(&["images", "--format", "{{.Repository}}"]);
            assert_eq!(list.ok().text(), "busybox");
            let format = "{{.Type}} {{.TotalCount}} {{.Size}}";
            let usage = home
                .gourd(&["system", "df", "--format", format])
                .ok()
                .text();
            assert!(usage.starts_with("Images 1 "), "{usage}");
            assert!(usage.ends_with("Remains 0 0B"), "{usage}");
            let stray = stray(&home.root());
            assert!(stray.is_empty(), "left behind: {stray:#?}");
            home.gourd(&["rm", "it"]).ok();
            home.gourd(&prune).ok();
            assert_nothing_kept(home);
            home.assert_nothing_left();
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

/// The image is one that a container runs of: its rootfs image stays for as long as that one.
#[test]
fn rmi_killed_while_a_container_runs() {
    let alive = |home: &Home| {
        let out = home.gourd(&["exec", "it", "cat", "/etc/passwd"]).ok();
        assert!(out.text().contains("root:"), "{out:?}");
    };
    let prune = ["image", "prune", "-a", "-f"];
    Scenario {
        name: "rmi -f beside a container",
        prepare: &|home| {
            let run = ["run", "-d", "--name", "it", "busybox", "sleep", "1000"];
            home.gourd(&run).ok();
            // Its supervisor keeps the state once more when the command has gone: no point of this scenario.
            let last = Point {
                name: "renamed.state.json".to_owned(),
                program: "gourd-vm".to_owned(),
                count: 4,
            };
            let kept = || trace(home).iter().any(|(point, _)| *point == last);
            eventually("the supervisor has kept its state", kept);
        },
        act: &["rmi", "-f", "busybox", "debian"],
        settle: &|_| {},
        check: &|home, _| {
            alive(home);
            home.gourd(&prune).ok();
            alive(home);
            assert_eq!(names(&home.root().join("rootfs")).len(), 1);
            home.gourd(&["rm", "-f", "it"]).ok();
            home.gourd(&prune).ok();
            assert_nothing_kept(home);
            home.assert_nothing_left();
        },
        from: "gc.marked",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}
