//! Oracle: `umoci unpack --rootless`, compared file by file with the merged tree.
//!
//! As an ordinary user umoci can make neither owners nor devices; those are not compared.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use oci::{Kind, MergedTree};
use support::{chain, merge};
use testkit::image::{Entry, ImageBuilder, Layer};

/// Every name below `dir` with its kind, mode, time, and content; hard links by their first name.
fn unpacked(dir: &Path) -> Vec<String> {
    fn visit(root: &Path, dir: &Path, lines: &mut Vec<(Vec<u8>, fs::Metadata)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec();
            let is_dir = meta.is_dir();
            lines.push((name, meta));
            if is_dir {
                visit(root, &path, lines);
            }
        }
    }
    let mut files = Vec::new();
    visit(dir, dir, &mut files);
    // In the order of a walk: by components.
    files.sort_by(|(a, _), (b, _)| a.split(|c| *c == b'/').cmp(b.split(|c| *c == b'/')));
    let mut first_names = std::collections::HashMap::new();
    let mut lines = Vec::new();
    for (name, meta) in files {
        let path = dir.join(OsStr::from_bytes(&name));
        let name = name.escape_ascii().to_string();
        if !meta.is_dir() {
            let first = first_names
                .entry(meta.ino())
                .or_insert_with(|| name.clone());
            if *first != name {
                lines.push(format!("{name} = {first}"));
                continue;
            }
        }
        let what = match meta.mode() & 0o170_000 {
            0o040_000 => "dir".to_owned(),
            0o120_000 => format!(
                "-> {}",
                fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .escape_ascii()
            ),
            0o010_000 => "fifo".to_owned(),
            0o100_000 => format!("file {}", fs::read(&path).unwrap().escape_ascii()),
            other => format!("{other:o}"),
        };
        lines.push(line(
            &name,
            meta.mode(),
            (meta.mtime(), meta.mtime_nsec()),
            &what,
        ));
    }
    lines
}

fn line(name: &str, mode: u32, mtime: (i64, i64), what: &str) -> String {
    // The mode of a symbolic link means nothing.
    let mode = if what.starts_with("->") {
        0
    } else {
        mode & 0o7777
    };
    format!("{name} {mode:o} {}.{:09} {what}", mtime.0, mtime.1)
}

fn merged(tree: &MergedTree<Vec<u8>>) -> Vec<String> {
    let mut first_names = std::collections::HashMap::new();
    tree.walk()
        .map(|(name, id)| {
            let name = name.escape_ascii().to_string();
            let first = first_names.entry(id).or_insert_with(|| name.clone());
            if *first != name {
                return format!("{name} = {first}");
            }
            let node = tree.node(id);
            let what = match &node.kind {
                Kind::Directory(_) => "dir".to_owned(),
                Kind::File { data, .. } => format!("file {}", data.escape_ascii()),
                Kind::Symlink(target) => format!("-> {}", target.escape_ascii()),
                Kind::Fifo => "fifo".to_owned(),
                other => format!("{other:?}"),
            };
            let mtime = (node.mtime.secs, node.mtime.nanos.into());
            line(&name, node.mode.into(), mtime, &what)
        })
        .collect()
}

fn nasty_layers() -> Vec<Layer> {
    let at = |entry: Entry| entry.mtime(1_000_000_000);
    let dir = |name: &str| at(Entry::dir(name));
    let file = |name: &str, content: &str| at(Entry::file(name, content));
    let link = |name: &str, target: &str| at(Entry::symlink(name, target));
    let hard = |name: &str, target: &str| at(Entry::hard_link(name, target));
    let low = Layer::new()
        .entry(dir("./"))
        .entry(dir("usr"))
        .entry(dir("usr/lib"))
        .entry(file("usr/lib/a", "low a").mode(0o755))
        .entry(file("usr/lib/gone", "gone"))
        .entry(link("lib", "usr/lib"))
        .entry(file("one", "one"))
        .entry(hard("two", "one"))
        .entry(hard("three", "two"))
        .entry(dir("opaque"))
        .entry(file("opaque/low", "low"))
        .entry(dir("opaque/sub"))
        .entry(file("opaque/sub/low", "low"))
        .entry(dir("dir-to-file"))
        .entry(file("dir-to-file/x", "x"))
        .entry(file("file-to-dir", "x"))
        .entry(dir("whiteout"))
        .entry(file("whiteout/x", "x"))
        .entry(at(Entry::fifo("fifo")).mode(0o600))
        .entry(at(Entry::file(b"b\xe9\xff", "bytes")))
        .entry(file("setuid", "s").mode(0o4755))
        .entry(file("nano", "n").pax("mtime", "1234567890.987654321"))
        .entry(file(&"d".repeat(120), "a long name"))
        .entry(link("long", &"t".repeat(200)));
    let middle = Layer::new()
        .entry(file("lib/b", "through a link"))
        .entry(at(Entry::file("lib/.wh.gone", "")))
        .entry(file("one", "another one"))
        .entry(dir("opaque"))
        .entry(file("opaque/new", "new"))
        .entry(at(Entry::file("opaque/.wh..wh..opq", "")))
        .entry(file("dir-to-file", "now a file"))
        .entry(dir("file-to-dir"))
        .entry(file("file-to-dir/y", "y"))
        .entry(at(Entry::file(".wh.whiteout", "")))
        .entry(dir("usr").mode(0o711))
        .entry(file("/absolute", "a"))
        .entry(file("dup", "first"))
        .entry(file("dup", "second"));
    let high = Layer::new()
        .entry(hard("four", "three"))
        .entry(at(Entry::file(".wh.two", "")))
        .entry(dir("whiteout"))
        .entry(file("whiteout/back", "back"))
        .entry(link("file-to-dir", "usr"))
        .entry(dir("opaque").mode(0o700));
    vec![low, middle, high]
}

#[test]
fn nasty_layers_merge_as_umoci_unpacks_them() {
    let scratch = tempfile::tempdir().unwrap();
    let layers = nasty_layers();
    let mut builder = ImageBuilder::new();
    for layer in &layers {
        builder = builder.layer(layer.clone());
    }
    let layout = scratch.path().join("layout");
    builder.write_layout(&layout, "x").unwrap();
    let output = Command::new("umoci")
        .args(["unpack", "--rootless", "--image"])
        .arg(format!("{}:x", layout.display()))
        .arg(scratch.path().join("bundle"))
        .output()
        .expect("umoci is needed: install the package umoci");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let expect = unpacked(&scratch.path().join("bundle/rootfs"));
    let tars: Vec<_> = layers.into_iter().map(Layer::finish).collect();
    let tree = merge(&tars).unwrap_or_else(|e| panic!("{}", chain(&e)));
    let got = merged(&tree);
    for (expect, got) in expect.iter().zip(&got) {
        assert_eq!(got, expect);
    }
    assert_eq!(got.len(), expect.len());
}
