//! The fault matrix of what comes from files and goes to them: loaded, imported, saved, tagged.

use super::collection::{assert_busybox_whole, assert_nothing_kept};
use super::matrix::{Monitors, Scenario};
use super::stray;
use crate::harness::{Home, assert_ext4_clean, cache, names, tool};

const PRUNE: [&str; 4] = ["image", "prune", "-a", "-f"];

fn exists(home: &Home, reference: &str) -> bool {
    home.gourd(&["image", "inspect", reference]).code == 0
}

fn no_images(home: &Home) {
    home.gourd(&["rmi", "-f", "busybox", "debian"]).ok();
    assert_nothing_kept(home);
}

/// Nothing hidden stays once somebody has collected, nor anything else.
fn clear(home: &Home) {
    home.gourd(&PRUNE).ok();
    let stray = stray(&home.root());
    assert!(stray.is_empty(), "left behind: {stray:#?}");
    assert_nothing_kept(home);
    home.assert_nothing_left();
}

#[test]
fn load_killed_anywhere() {
    let archive = cache().join("images/busybox.tar");
    let load = ["load", "-q", "-i", archive.to_str().expect("text")];
    Scenario {
        name: "load",
        prepare: &no_images,
        act: &load,
        settle: &|_| {},
        check: &|home, out| {
            assert!(out.text().is_empty() || exists(home, "busybox"));
            if exists(home, "busybox") {
                assert_busybox_whole(home);
            }
            home.gourd(&load).ok();
            assert_busybox_whole(home);
            clear(home);
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

#[test]
fn import_killed_anywhere() {
    let folder = Home::empty();
    std::fs::write(folder.path("greeting"), "hello").expect("a file");
    let tar = folder.path("tree.tar");
    tool("tar", &[&"-cf", &tar, &"-C", &folder.path(""), &"greeting"]).ok();
    let import = ["import", tar.to_str().expect("text"), "made:1"];
    let rootfs = ["image", "inspect", "-f", "{{.RootfsImage}}", "made:1"];
    Scenario {
        name: "import",
        prepare: &no_images,
        act: &import,
        settle: &|_| {},
        check: &|home, out| {
            assert!(out.text().is_empty() || exists(home, "made:1"));
            if exists(home, "made:1") {
                assert_ext4_clean(home.gourd(&rootfs).ok().text().as_ref());
            }
            home.gourd(&import).ok();
            let image = home.gourd(&rootfs).ok().text();
            assert_ext4_clean(image.as_ref());
            // Oracle: debugfs.
            let greeting = tool("debugfs", &[&"-R", &"cat /greeting", &image]);
            assert_eq!(greeting.ok().text(), "hello");
            clear(home);
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

#[test]
fn save_killed_anywhere() {
    let folder = Home::empty();
    let archive = folder.path("saved.tar");
    let save = ["save", "-o", archive.to_str().expect("text"), "busybox"];
    // Oracle: skopeo, which reads every blob and its digest.
    let assert_whole = || {
        let from = format!("oci-archive:{}", archive.display());
        let to = format!("dir:{}", folder.path("copy").display());
        tool("skopeo", &[&"copy", &"-q", &from, &to]).ok();
        std::fs::remove_dir_all(folder.path("copy")).expect("it is removed");
    };
    Scenario {
        name: "save",
        prepare: &|_| {
            if archive.exists() {
                std::fs::remove_file(&archive).expect("the last one goes");
            }
        },
        act: &save,
        settle: &|_| {},
        check: &|home, out| {
            assert!(archive.exists() || out.code != 0, "{out:?}");
            if archive.exists() {
                assert_whole();
            }
            home.gourd(&save).ok();
            assert_whole();
            // `root` is the other home's.
            assert_eq!(names(&folder.path("")), ["root", "saved.tar"]);
            let stray = stray(&home.root());
            assert!(stray.is_empty(), "left behind: {stray:#?}");
            home.assert_nothing_left();
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}

#[test]
fn tag_killed_anywhere() {
    let tag = ["tag", "busybox", "second:1"];
    let id = |home: &Home, reference: &str| {
        let inspect = ["image", "inspect", "-f", "{{.Id}}", reference];
        home.gourd(&inspect).ok().text()
    };
    Scenario {
        name: "tag",
        prepare: &|_| {},
        act: &tag,
        settle: &|_| {},
        check: &|home, _| {
            if exists(home, "second:1") {
                assert_eq!(id(home, "second:1"), id(home, "busybox"));
            }
            home.gourd(&tag).ok();
            assert_eq!(id(home, "second:1"), id(home, "busybox"));
            home.gourd(&["rmi", "second:1"]).ok();
            assert_busybox_whole(home);
            home.gourd(&["image", "prune", "-f"]).ok();
            let stray = stray(&home.root());
            assert!(stray.is_empty(), "left behind: {stray:#?}");
        },
        from: "",
        until: "",
        monitors: Monitors::None,
    }
    .run();
}
