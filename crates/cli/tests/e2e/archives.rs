//! save, load, import, tag, history, prune, df: images that leave and come back, and what they occupy.

use std::path::Path;

use crate::harness::{Home, cache, finish, tool};

/// The template's images are known by their names alone.
fn id(home: &Home, image: &str) -> String {
    home.gourd(&["image", "inspect", "-f", "{{.Id}}", image])
        .ok()
        .text()
}

fn skopeo(args: &[&str]) -> String {
    let args: Vec<&dyn AsRef<std::ffi::OsStr>> =
        args.iter().map(|arg| arg as &dyn AsRef<_>).collect();
    tool("skopeo", &args).ok().text()
}

#[test]
fn what_is_saved_is_loaded_elsewhere_and_runs() {
    let (from, to) = (Home::new(), Home::new());
    to.gourd(&["rmi", "-f", "debian", "busybox"]).ok();
    from.gourd(&["tag", "busybox", "localhost:5000/team/box:1.2"])
        .ok();
    let path = from.path("saved.tar").display().to_string();
    from.gourd(&[
        "save",
        "-q",
        "-o",
        &path,
        "busybox",
        "localhost:5000/team/box:1.2",
        "debian",
    ])
    .ok();
    // Oracle: skopeo finds each by name in either layout.
    for source in [
        format!("docker-archive:{path}:busybox:latest"),
        format!("docker-archive:{path}:localhost:5000/team/box:1.2"),
        format!("oci-archive:{path}:1.2"),
    ] {
        let config = skopeo(&["--insecure-policy", "inspect", "--config", "--raw", &source]);
        assert!(config.contains("diff_ids"), "{source}: {config}");
    }
    let loaded = to.gourd(&["load", "-i", &path]).ok().text();
    let expect = "Loaded image: busybox:latest\nLoaded image: localhost:5000/team/box:1.2\nLoaded image: debian:latest";
    assert_eq!(loaded, expect);
    for image in ["busybox", "localhost:5000/team/box:1.2", "debian"] {
        assert_eq!(id(&to, image), id(&from, image), "{image}");
    }
    let out = to.gourd(&["run", "--rm", "localhost:5000/team/box:1.2", "echo", "here"]);
    assert_eq!(out.ok().text(), "here");
    // Through pipes, one into the other.
    let out = from.gourd(&["save", "busybox"]).ok();
    to.gourd(&["rmi", "-f", &id(&to, "busybox")]).ok();
    to.gourd_with(&["load", "-q"], &out.stdout).ok();
    assert_eq!(id(&to, "busybox"), id(&from, "busybox"));
    // Nothing is left of one that fails.
    from.gourd(&["save", "-o", &path, "nope"])
        .exits(125)
        .says(&["no such image: nope"]);
    from.gourd(&["save", "-o", "/nowhere/x.tar", "busybox"])
        .exits(125)
        .says(&["cannot write /nowhere/x.tar"]);
    let left: Vec<_> = crate::harness::names(Path::new(&path).parent().expect("a folder"));
    assert_eq!(left, ["root", "saved.tar"]);
}

#[test]
fn a_root_of_files_becomes_an_image_that_runs() {
    let home = Home::new();
    let root = home.path("files");
    std::fs::create_dir_all(root.join("bin")).expect("a folder");
    std::fs::copy("/bin/busybox", root.join("bin/sh")).expect("busybox is installed");
    let archive = home.path("files.tar.xz");
    tool("tar", &[&"-C", &root, &"-cJf", &archive, &"."]).ok();
    let name = archive.display().to_string();
    let made = home
        .gourd(&[
            "import",
            "-q",
            "-m",
            "by hand",
            "-c",
            "ENV WHO=you",
            "-c",
            "CMD [\"sh\", \"-c\", \"echo hello $WHO\"]",
            &name,
            "made:1",
        ])
        .ok()
        .text();
    assert_eq!(made, id(&home, "made:1"));
    assert_eq!(
        home.gourd(&["run", "--rm", "made:1"]).ok().text(),
        "hello you"
    );
    let history = home.gourd(&[
        "history",
        "--format",
        "{{.Comment}}|{{.CreatedBy}}|{{.Tags}}",
        "made:1",
    ]);
    assert_eq!(history.ok().text(), "by hand||[made:1]");
    home.gourd(&["import", "-c", "RUN x", &name])
        .exits(125)
        .says(&["RUN is no instruction", "hint:"]);
    let garbage = home.gourd_with(&["import", "-", "junk"], b"this is no archive");
    garbage.exits(125).says(&["cannot"]);
    home.gourd(&["image", "inspect", "junk"]).exits(125);
}

#[test]
fn images_are_named_listed_and_pruned() {
    let home = Home::new();
    home.gourd(&["tag", "busybox", "box:1"]).ok();
    let list = |args: &[&str]| {
        let mut line = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        line.extend(args);
        let mut names: Vec<String> = home
            .gourd(&line)
            .ok()
            .text()
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    };
    assert_eq!(list(&["box"]), ["box:1"]);
    assert_eq!(
        list(&["--filter", "reference=b*"]),
        ["box:1", "busybox:latest"]
    );
    assert_eq!(list(&["--filter", "dangling=true"]), [""; 0]);
    home.gourd(&["create", "--name", "user", "debian", "true"])
        .ok();
    // Asked, and not answered.
    let asked = home.gourd(&["image", "prune", "-a"]).ok();
    assert!(asked.stderr.contains("[y/N]"), "{}", asked.stderr);
    assert_eq!(list(&[]).len(), 3);
    let out = home
        .gourd_with(&["image", "prune", "-a"], b"y\n")
        .ok()
        .text();
    assert!(
        out.contains("untagged: box:1") && out.contains("Total reclaimed space: "),
        "{out}"
    );
    assert!(!out.ends_with(": 0B"), "{out}");
    assert_eq!(list(&[]), ["debian:latest"]);
    home.gourd(&["run", "--rm", "--pull", "never", "debian", "true"])
        .ok();
    let out = home.gourd(&["system", "prune", "-af"]).ok().text();
    assert!(
        out.contains("Deleted Containers:") && out.contains("untagged: debian:latest"),
        "{out}"
    );
    let usage = home
        .gourd(&[
            "system",
            "df",
            "--format",
            "{{.Type}} {{.TotalCount}} {{.Size}}",
        ])
        .ok()
        .text();
    assert!(
        usage.starts_with("Images 0 0B\nContainers 0 0B\n") && usage.ends_with("Remains 0 0B"),
        "{usage}"
    );
    home.assert_nothing_left();
}

/// A reader that leaves is no failure of the archive's.
#[test]
fn a_reader_that_leaves_ends_a_save() {
    let home = Home::new();
    let mut child = home.start(&["save", "debian"]);
    drop(child.stdout.take());
    child.stdout = Some(tempfile_stdout());
    let out = finish(child, &[]);
    assert_eq!((out.code, out.stderr.as_str()), (141, ""));
}

/// Something to read that is at its end.
fn tempfile_stdout() -> std::process::ChildStdout {
    let child = std::process::Command::new("true")
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut child = child.expect("true starts");
    let stdout = child.stdout.take().expect("piped");
    child.wait().expect("it ends");
    stdout
}

#[test]
fn a_layout_in_a_folder_is_loaded() {
    let home = Home::empty();
    let folder = home.path("layout");
    std::fs::create_dir(&folder).expect("a folder");
    tool(
        "tar",
        &[
            &"--no-same-owner",
            &"-C",
            &folder,
            &"-xf",
            &cache().join("images/busybox.tar"),
        ],
    )
    .ok();
    let out = home
        .gourd(&["load", "-q", "-i", &folder.display().to_string()])
        .ok();
    assert!(out.text().starts_with("Loaded image"), "{}", out.text());
    home.gourd(&["load", "-i", "/proc/self"])
        .exits(125)
        .says(&["the archive has no images"]);
}
