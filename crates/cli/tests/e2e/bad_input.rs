//! Bad input, each with an error that names the thing and the remedy, and exit code 125.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use testkit::image::{ImageBuilder, Layer, write_layout};

use crate::harness::{Home, Out, tool};

/// The error names the thing, and a hint says what to do.
#[track_caller]
fn refused(out: Out, names: &[&str]) {
    let out = out.exits(125).says(names);
    assert!(out.stderr.contains("hint:"), "no remedy in: {}", out.stderr);
}

#[test]
fn references_and_images() {
    let home = Home::new();
    refused(
        home.gourd(&["run", "Not/Valid::x", "true"]),
        &["Not/Valid::x"],
    );
    refused(
        home.gourd(&["run", "--pull", "never", "nonesuch", "true"]),
        &["nonesuch"],
    );
    // Port 9 of loopback: nobody listens.
    refused(
        home.gourd(&["pull", "127.0.0.1:9/some/image"]),
        &["127.0.0.1:9"],
    );
    refused(home.gourd(&["rmi", "nonesuch"]), &["nonesuch"]);
    refused(
        home.gourd(&["load", "-i", "/nonesuch.tar"]),
        &["/nonesuch.tar"],
    );
}

/// An archive of a one-file image; `change` may spoil its layer's bytes.
fn archive(home: &Home, name: &str, image: &ImageBuilder, change: impl Fn(&mut Vec<u8>)) -> String {
    let mut image = image.build().expect("an image");
    let layer = image.layers[0].digest;
    change(image.blobs.get_mut(&layer).expect("the layer"));
    let (layout, archive) = (home.path(name), home.path(&format!("{name}.tar")));
    write_layout(&layout, &[(name, &image)]).expect("a layout");
    tool("tar", &[&"-C", &layout, &"-cf", &archive, &"."]).ok();
    archive.display().to_string()
}

#[test]
fn archives_that_lie() {
    let home = Home::new();
    let image = || ImageBuilder::new().layer(Layer::new().file("hello", b"hello"));
    let path = archive(&home, "digest", &image(), |layer| {
        let middle = layer.len() / 2;
        layer[middle] ^= 1;
    });
    refused(home.gourd(&["load", "-i", &path]), &["sha256:"]);
    let path = archive(&home, "short", &image(), |layer| {
        layer.truncate(layer.len() / 2)
    });
    refused(home.gourd(&["load", "-i", &path]), &["sha256:"]);
    let path = archive(&home, "foreign", &image().architecture("s390x"), |_| {});
    let loaded = home.gourd(&["load", "-i", &path]);
    let out = if loaded.code == 0 {
        home.gourd(&["run", "foreign", "/hello"])
    } else {
        loaded
    };
    refused(out, &["s390x", "amd64"]);
}

#[test]
fn qemu_missing() {
    let home = Home::new();
    let out = home
        .command(&["run", "--driver", "qemu", "--rm", "busybox", "true"])
        .env("PATH", "/nonesuch")
        .output()
        .expect("it runs");
    let out = Out {
        code: out.status.code().unwrap_or(-1),
        stdout: out.stdout,
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    };
    refused(out, &["qemu-system-x86_64"]);
    home.assert_nothing_left();
}

#[test]
fn kernels_missing_and_wrong() {
    let home = Home::new();
    refused(
        home.gourd(&["run", "--kernel", "nonesuch", "busybox", "true"]),
        &["nonesuch"],
    );
    refused(
        home.gourd(&["run", "--kernel", "/nonesuch", "busybox", "true"]),
        &["/nonesuch"],
    );
    refused(
        home.gourd(&["run", "--kernel", "/etc/passwd", "busybox", "true"]),
        &["/etc/passwd"],
    );
    fs::remove_dir_all(home.root().join("kernels")).expect("kernels go");
    refused(home.gourd(&["run", "busybox", "true"]), &["kernel"]);
}

#[test]
fn memory_and_processors() {
    let home = Home::new();
    refused(
        home.gourd(&["run", "-m", "4m", "busybox", "true"]),
        &["4194304", "6 MiB"],
    );
    refused(
        home.gourd(&["run", "-m", "lots", "busybox", "true"]),
        &["lots"],
    );
    refused(
        home.gourd(&["run", "--cpus", "0.001", "busybox", "true"]),
        &["0.001"],
    );
    refused(
        home.gourd(&["run", "--cpus", "100000", "busybox", "true"]),
        &["100000"],
    );
    refused(
        home.gourd(&["run", "--driver", "abacus", "busybox", "true"]),
        &["abacus", "qemu"],
    );
    assert_eq!(
        home.gourd(&["ps", "-aq"]).ok().text(),
        "",
        "nothing was made"
    );
    // What is not refused boots, and so does the VM that shows its files.
    let line = [
        "run", "--name", "tiny", "-m", "6m", "--cpus", "0", "busybox", "echo", "hello",
    ];
    assert_eq!(home.gourd(&line).ok().text(), "hello");
    let line = ["cp", "-q", "tiny:/etc/passwd", "-"];
    assert!(home.gourd(&line).ok().text().contains("root:"));
}

#[test]
fn a_root_that_cannot_be_written() {
    let home = Home::empty();
    fs::set_permissions(home.root(), fs::Permissions::from_mode(0o500)).expect("mode");
    refused(
        home.gourd(&["run", "busybox", "true"]),
        &[&home.root().display().to_string()],
    );
    fs::set_permissions(home.root(), fs::Permissions::from_mode(0o700)).expect("mode");
}

#[test]
fn a_state_file_that_is_corrupt_or_newer() {
    let home = Home::new();
    // The first start writes it.
    home.gourd(&["run", "--name", "it", "busybox", "true"]).ok();
    let id = home.inspect("it", "{{.Id}}");
    let state = home.container(&id).join("state.json");
    let good = fs::read(&state).expect("read");
    fs::write(&state, "{\"schema\": 1, \"sta").expect("written");
    refused(home.gourd(&["start", "it"]), &["state.json"]);
    fs::write(&state, "{\"schema\": 99, \"status\": \"created\"}").expect("written");
    refused(home.gourd(&["start", "it"]), &["state.json", "99"]);
    // One bad container does not hide the others.
    home.gourd(&["create", "--name", "other", "busybox", "true"])
        .ok();
    let table = home.gourd(&["ps", "-a"]);
    assert!(table.text().contains("other"), "{}", table.text());
    fs::write(&state, &good).expect("written");
    home.gourd(&["start", "-a", "it"]).ok();
    // And it can be got rid of.
    fs::write(&state, "{").expect("written");
    home.gourd(&["rm", "-f", "it"]).ok();
}
