//! commit: a container's changes become a layer on top of its image's.

use crate::harness::{Home, assert_ext4_clean, tool};

fn field(home: &Home, image: &str, template: &str) -> String {
    home.gourd(&["image", "inspect", "-f", template, image])
        .ok()
        .text()
}

/// What the busybox image has, changed in every way that a layer can say.
const CHANGE: &str = "echo new > /new; mkdir -p /dir/sub; echo deep > /dir/sub/file; rm /etc/group; \
                      echo changed >> /etc/passwd; rm -r /var; mkdir /var; echo inside > /var/inside; \
                      ln /new /hard; ln -s new /soft; mknod /fifo p; chmod 4711 /new; chown 7:8 /dir; \
                      dd if=/dev/zero of=/zeros bs=1M count=2 2>/dev/null; sync; echo done";

/// What the same container says of itself, from inside.
const LOOK: &str = "cat /new /dir/sub/file /etc/passwd; ls /etc/group 2>&1; ls -a /var; cat /var/inside /hard /soft; \
                    stat -c '%n %F %a %u:%g %h' /new /dir /fifo /soft; sha256sum /zeros";

#[test]
fn a_container_that_ended_becomes_an_image() {
    let home = Home::new();
    home.gourd(&[
        "run", "--name", "box", "-e", "A=1", "-l", "k=v", "-w", "/tmp", "busybox", "sh", "-c",
        CHANGE,
    ])
    .ok();
    let made = home
        .gourd(&[
            "commit",
            "-q",
            "-a",
            "Ann",
            "-m",
            "first",
            "-c",
            "CMD [\"sh\", \"-c\", \"cat /new\"]",
            "-c",
            "ENV B=2",
            "box",
            "made:1",
        ])
        .ok()
        .text();
    assert_eq!(made, field(&home, "made:1", "{{.Id}}"));
    assert_eq!(
        home.inspect("box", "{{.State.Status}}"),
        "exited",
        "the VM that read it left no trace"
    );
    assert_eq!(home.gourd(&["run", "--rm", "made:1"]).ok().text(), "new");
    // The image's files are those that the container sees.
    let inside = |image: &str| {
        home.gourd(&["run", "--rm", image, "sh", "-c", LOOK])
            .ok()
            .text()
    };
    let look = inside("made:1");
    for line in [
        "deep",
        "changed",
        "inside",
        "/new regular file 4711 0:0 2",
        "/dir directory 755 7:8 3",
        "/fifo fifo",
        "/soft symbolic link",
    ] {
        assert!(look.contains(line), "{line:?} is not in:\n{look}");
    }
    assert!(look.contains("/etc/group: No such file"), "{look}");
    let environment = field(&home, "made:1", "{{json .Config.Env}}");
    assert!(
        environment.contains("A=1") && environment.contains("B=2"),
        "{environment}"
    );
    assert_eq!(
        field(
            &home,
            "made:1",
            "{{.Config.Labels.k}} {{.Config.WorkingDir}} {{.Author}}"
        ),
        "v /tmp Ann"
    );
    // The base's layers are below, and are not kept twice.
    let layers = |image: &str| field(&home, image, "{{json .RootFS.Layers}}");
    let (base, top) = (layers("busybox"), layers("made:1"));
    assert!(top.starts_with(base.trim_end_matches(']')), "{base} {top}");
    assert_eq!(
        home.gourd(&["history", "--format", "{{.Comment}}", "made:1"])
            .ok()
            .text()
            .lines()
            .next(),
        Some("first")
    );
    assert_ext4_clean(std::path::Path::new(&field(
        &home,
        "made:1",
        "{{.RootfsImage}}",
    )));
    // Oracle: umoci unpacks the same archive by its own code.
    let path = home.path("made.tar").display().to_string();
    home.gourd(&["save", "-q", "-o", &path, "made:1"]).ok();
    let (layout, bundle) = (
        home.path("layout").display().to_string(),
        home.path("bundle"),
    );
    let target = format!("oci:{layout}:1");
    tool(
        "skopeo",
        &[
            &"--insecure-policy",
            &"copy",
            &"-q",
            &format!("oci-archive:{path}:1"),
            &target,
        ],
    )
    .ok();
    tool(
        "umoci",
        &[
            &"unpack",
            &"--rootless",
            &"--image",
            &format!("{layout}:1"),
            &bundle,
        ],
    )
    .ok();
    let unpacked = bundle.join("rootfs");
    assert_eq!(
        std::fs::read_to_string(unpacked.join("var/inside")).expect("var/inside"),
        "inside\n"
    );
    assert!(!unpacked.join("etc/group").exists());
    assert_eq!(crate::harness::names(&unpacked.join("var")), ["inside"]);
    // A container of it, changed and committed once more.
    home.gourd(&[
        "run",
        "--name",
        "next",
        "made:1",
        "sh",
        "-c",
        "rm /new; echo more > /more",
    ])
    .ok();
    home.gourd(&["commit", "-q", "next", "made:2"]).ok();
    home.gourd(&["rm", "box", "next"]).ok();
    let out = home.gourd(&[
        "run",
        "--rm",
        "made:2",
        "sh",
        "-c",
        "cat /more /hard; ls /new",
    ]);
    assert_eq!(out.text(), "more\nnew");
    home.gourd(&["rmi", "made:1", "made:2"]).ok();
    assert_eq!(
        home.gourd(&["run", "--rm", "busybox", "ls", "/etc/group"])
            .ok()
            .text(),
        "/etc/group"
    );
    home.assert_nothing_left();
}

#[test]
fn a_running_container_is_held_still_and_goes_on() {
    let home = Home::new();
    let script =
        "i=0; while :; do i=$((i + 1)); echo $i > /t; mv /t /a; echo $i > /t; mv /t /b; done";
    let id = home
        .gourd(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script])
        .ok()
        .text();
    let now = || home.gourd(&["exec", &id, "cat", "/b"]).text();
    crate::harness::eventually("it counts", || !now().is_empty());
    for (pause, name) in [("--pause=true", "still"), ("--pause=false", "moving")] {
        home.gourd(&["commit", "-q", pause, "box", name]).ok();
        let out = home
            .gourd(&["run", "--rm", name, "cat", "/a", "/b"])
            .ok()
            .text();
        let numbers: Vec<u64> = out.lines().filter_map(|line| line.parse().ok()).collect();
        assert_eq!(numbers.len(), 2, "{name}: {out:?}");
        if name == "still" {
            assert!(numbers[0] - numbers[1] <= 1, "{numbers:?}");
        }
    }
    let before = now();
    crate::harness::eventually("it goes on", || !["", &before].contains(&now().as_str()));
    assert_eq!(home.inspect("box", "{{.State.Status}}"), "running");
    home.gourd(&["rm", "-f", "box"]).ok();
}

#[test]
fn one_that_never_ran_and_what_is_wrong() {
    let home = Home::new();
    home.gourd(&["create", "--name", "box", "busybox", "echo", "made"])
        .ok();
    let made = home.gourd(&["commit", "-q", "box"]).ok().text();
    assert_eq!(home.gourd(&["run", "--rm", &made]).ok().text(), "made");
    // Without a name it stays until somebody prunes.
    home.gourd(&["rmi", "debian"]).ok();
    assert_eq!(field(&home, &made, "{{.RepoTags}}"), "[]");
    let pruned = home.gourd(&["image", "prune", "-f"]).ok().text();
    assert!(pruned.contains(&made), "{pruned}");
    home.gourd(&["commit", "box", "UPPER"])
        .exits(125)
        .says(&["\"UPPER\" is no image reference"]);
    home.gourd(&["commit", "-c", "FROM x", "box"])
        .exits(125)
        .says(&["FROM is no instruction"]);
    home.gourd(&["commit", "nope"])
        .exits(125)
        .says(&["no such container: nope"]);
    home.gourd(&["rm", "box"]).ok();
    home.assert_nothing_left();
}
