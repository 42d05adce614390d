//! Images from a real registry and from archives, and what becomes of them on disk.

use testkit::registry::Registry;

use crate::harness::{Home, cache, names, tool};

/// The cached Debian image as an OCI layout with the tag `it`. (skopeo can read the archive itself, but as root only.)
fn debian_layout(home: &Home) -> String {
    let unpacked = home.path("unpacked");
    std::fs::create_dir(&unpacked).expect("a folder");
    let archive = cache().join("images/debian.tar");
    tool(
        "tar",
        &[&"--no-same-owner", &"-C", &unpacked, &"-xf", &archive],
    )
    .ok();
    let layout = format!("{}:it", home.path("layout").display());
    copy(
        &format!("oci:{}", unpacked.display()),
        &format!("oci:{layout}"),
    );
    layout
}

/// skopeo, in the clear: the registry is on loopback.
fn copy(source: &str, target: &str) {
    let flags: [&dyn AsRef<std::ffi::OsStr>; 6] = [
        &"--insecure-policy",
        &"copy",
        &"-q",
        &"--dest-tls-verify=false",
        &source,
        &target,
    ];
    tool("skopeo", &flags).ok();
}

/// Debian's registry with the cached Debian image in it, pushed by skopeo.
fn registry_with_debian(home: &Home) -> (Registry, String) {
    let registry = Registry::start().expect("docker-registry starts");
    let reference = format!("{}/debian:e2e", registry.addr);
    copy(
        &format!("oci:{}", debian_layout(home)),
        &format!("docker://{reference}"),
    );
    (registry, reference)
}

#[test]
fn a_debian_root_is_pulled_from_a_real_registry_and_runs() {
    let home = Home::new();
    // Only the kernels are wanted of the template.
    home.gourd(&["rmi", "-f", "debian", "busybox"]).ok();
    let (_registry, reference) = registry_with_debian(&home);
    // `run` pulls what is missing.
    let out = home
        .gourd(&["run", "--rm", &reference, "cat", "/etc/os-release"])
        .ok();
    assert!(out.text().contains("ID=debian"), "{}", out.text());
    let path = home
        .gourd(&["image", "inspect", "-f", "{{.RootfsImage}}", &reference])
        .ok()
        .text();
    tool("e2fsck", &[&"-fn", &path]).ok();
    // The same files with the same owners, modes, sizes and links as in the archive's layer, by dpkg's own books.
    let verify = home
        .gourd(&["run", "--rm", &reference, "dpkg", "--verify"])
        .ok();
    assert!(!verify.text().contains("missing"), "{}", verify.text());
    let suid = home
        .gourd(&[
            "run",
            "--rm",
            &reference,
            "stat",
            "-c",
            "%a %u:%g",
            "/usr/bin/su",
            "/tmp",
        ])
        .ok();
    assert_eq!(suid.text(), "4755 0:0\n1777 0:0");
    home.gourd(&["pull", &reference]).ok();
    home.gourd(&["rmi", &reference]).ok();
    assert_eq!(
        names(&home.root().join("content/blobs/sha256")),
        Vec::<String>::new()
    );
    home.assert_nothing_left();
}

#[test]
fn the_tree_in_the_guest_is_the_tree_in_the_archive() {
    let home = Home::new();
    // The oracle is umoci: it unpacks the same archive by its own code.
    let image = debian_layout(&home);
    let bundle = home.path("bundle");
    tool(
        "umoci",
        &[&"unpack", &"--rootless", &"--image", &image, &bundle],
    )
    .ok();
    let list = "cd \"$1\" && find . -xdev \\( -path ./proc -o -path ./sys -o -path ./dev -o -path ./etc/hosts -o -path ./etc/hostname -o -path ./etc/resolv.conf -o -path './lost+found' \\) -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";
    let expect = tool("sh", &[&"-c", &list, &"sh", &bundle.join("rootfs")])
        .ok()
        .text();
    let found = home
        .gourd(&["run", "--rm", "debian", "sh", "-c", list, "sh", "/"])
        .ok()
        .text();
    assert!(
        expect.lines().count() > 1000,
        "{} files",
        expect.lines().count()
    );
    for (expect, found) in expect.lines().zip(found.lines()) {
        assert_eq!(expect, found);
    }
    assert_eq!(expect.lines().count(), found.lines().count());
}

#[test]
fn images_are_listed_inspected_and_removed() {
    let home = Home::new();
    let table = home.gourd(&["images"]).ok().text();
    assert!(table.starts_with("REPOSITORY"), "{table}");
    assert!(
        table.contains("busybox") && table.contains("debian"),
        "{table}"
    );
    let id = home
        .gourd(&["image", "inspect", "-f", "{{.Id}}", "busybox"])
        .ok()
        .text();
    assert!(id.starts_with("sha256:"), "{id}");
    home.gourd(&["create", "--name", "user", "busybox", "true"])
        .ok();
    home.gourd(&["rmi", "busybox"]).exits(125).says(&["user"]);
    home.gourd(&["rm", "user"]).ok();
    home.gourd(&["rmi", "busybox"]).ok();
    home.gourd(&["image", "inspect", "busybox"])
        .exits(125)
        .says(&["busybox"]);
}
