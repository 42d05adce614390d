//! The rules of merging. The archives come from a tar writer of the test kit's own.

mod support;

use oci::{Kind, Timestamp};
use support::{chain, merge, names};
use testkit::image::{Entry, Layer};

#[track_caller]
fn check<const N: usize>(layers: [Layer; N], expect: &[&str]) {
    let layers: Vec<_> = layers.into_iter().map(Layer::finish).collect();
    match merge(&layers) {
        Ok(tree) => assert_eq!(names(&tree), expect),
        Err(e) => panic!("{}", chain(&e)),
    }
}

#[track_caller]
fn check_error<const N: usize>(layers: [Layer; N], expect: &str) {
    let layers: Vec<_> = layers.into_iter().map(Layer::finish).collect();
    let error = merge(&layers).unwrap_err();
    assert_eq!(chain(&error), expect);
}

fn new() -> Layer {
    Layer::new()
}

#[test]
fn a_whiteout_hides_lower_layers_only() {
    let low = || {
        new()
            .dir("d")
            .file("d/a", "1")
            .file("d/b", "1")
            .file("c", "1")
    };
    check(
        [low(), new().whiteout("d/a").whiteout("c")],
        &["d/", "d/b \"1\""],
    );
    check([low(), new().whiteout("d")], &["c \"1\""]);
    // Before or after what the same layer puts in its place.
    let after = ["c \"1\"", "d/", "d/n \"2\""];
    check(
        [low(), new().whiteout("d").dir("d").file("d/n", "2")],
        &after,
    );
    check(
        [low(), new().dir("d").file("d/n", "2").whiteout("d")],
        &after,
    );
    check([low(), new().file("d/n", "2").whiteout("d")], &after);
    check(
        [low(), new().file("c", "2").whiteout("c").whiteout("d")],
        &["c \"2\""],
    );
    // Nothing to hide, and nowhere to hide it.
    check(
        [new(), new().whiteout("x").whiteout("y/z").opaque("w")],
        &[],
    );
    // What was hidden comes back.
    check(
        [
            low(),
            new().whiteout("d").whiteout("c"),
            new().file("c", "3"),
        ],
        &["c \"3\""],
    );
}

#[test]
fn an_opaque_marker_may_follow_its_siblings() {
    let low = || {
        new()
            .dir("d")
            .file("d/a", "1")
            .dir("d/s")
            .file("d/s/x", "1")
            .file("d/s/y", "1")
    };
    let expect = ["d/", "d/n \"2\""];
    check(
        [low(), new().dir("d").opaque("d").file("d/n", "2")],
        &expect,
    );
    check(
        [low(), new().dir("d").file("d/n", "2").opaque("d")],
        &expect,
    );
    // A subdirectory of this layer stays, without what lower layers have in it.
    let expect = ["d/", "d/s/", "d/s/y \"2\""];
    check(
        [
            low(),
            new().dir("d").dir("d/s").file("d/s/y", "2").opaque("d"),
        ],
        &expect,
    );
    check([low(), new().file("d/s/y", "2").opaque("d")], &expect);
    check([low(), new().entry(Entry::file(".wh..wh..opq", ""))], &[]);
}

#[test]
fn hard_links_keep_what_they_linked() {
    let low = || {
        new()
            .file("a", "1")
            .hard_link("b", "a")
            .hard_link("c", "/./b")
    };
    check([low()], &["a \"1\"", "b = a", "c = a"]);
    // The target is replaced later in the same archive, or in a later layer.
    check([low().file("a", "2")], &["a \"2\"", "b \"1\"", "c = b"]);
    check(
        [low(), new().file("a", "2")],
        &["a \"2\"", "b \"1\"", "c = b"],
    );
    check([low(), new().whiteout("a")], &["b \"1\"", "c = b"]);
    // A link to a lower layer's file.
    check(
        [
            low(),
            new()
                .hard_link("d", "c")
                .whiteout("a")
                .whiteout("b")
                .whiteout("c"),
        ],
        &["d \"1\""],
    );
    // To a symbolic link itself, through a symbolic link to a directory, and to itself.
    check(
        [new()
            .dir("r")
            .symlink("s", "r")
            .symlink("r/l", "x")
            .hard_link("m", "s/l")
            .hard_link("m", "m")],
        &["m -> x", "r/", "r/l = m", "s -> r"],
    );
    check_error(
        [new().hard_link("b", "nope")],
        "layer 1: entry \"b\" at offset 0 cannot be applied: the hard link's target \"nope\" does not exist",
    );
    check_error(
        [new().dir("d"), new().hard_link("b", "d")],
        "layer 2: entry \"b\" at offset 0 cannot be applied: the hard link's target \"d\" is a directory",
    );
}

#[test]
fn symbolic_links_to_directories_are_followed_inside_the_root() {
    let low = || {
        new()
            .dir("usr")
            .dir("usr/lib")
            .symlink("lib", "usr/lib")
            .file("usr/lib/a", "1")
    };
    let link = "lib -> usr/lib";
    check(
        [low(), new().file("lib/b", "2").whiteout("lib/a")],
        &[link, "usr/", "usr/lib/", "usr/lib/b \"2\""],
    );
    check([low(), new().opaque("lib")], &[link, "usr/", "usr/lib/"]);
    // The last component is not followed: it is replaced.
    check(
        [low(), new().file("lib", "2")],
        &["lib \"2\"", "usr/", "usr/lib/", "usr/lib/a \"1\""],
    );
    check(
        [low(), new().dir("lib")],
        &["lib/", "usr/", "usr/lib/", "usr/lib/a \"1\""],
    );
    // Out of the root is the root; a missing target is made.
    check(
        [new()
            .dir("d")
            .symlink("d/up", "../../../..")
            .file("d/up/x", "1")],
        &["d/", "d/up -> ../../../..", "x \"1\""],
    );
    check(
        [new().symlink("abs", "/e/f").file("abs/x", "1")],
        &["abs -> /e/f", "e/", "e/f/", "e/f/x \"1\""],
    );
    check_error(
        [new().symlink("a", "b").symlink("b", "a").file("a/x", "")],
        "layer 1: entry \"a/x\" at offset 1024 cannot be applied: too many symbolic links",
    );
}

#[test]
fn names_cannot_leave_the_root() {
    check(
        [new().file("/etc/a", "1").file("./etc/../b", "2")],
        &["b \"2\"", "etc/", "etc/a \"1\""],
    );
    for bad in ["../x", "a/../../x", "/../x", ".."] {
        check_error(
            [new().file(bad, "")],
            &format!(
                "layer 1: entry {bad:?} at offset 0 cannot be applied: the name leaves the root directory"
            ),
        );
    }
    check_error(
        [new().hard_link("a", "../../etc/shadow")],
        "layer 1: entry \"a\" at offset 0 cannot be applied: the hard link's target \"../../etc/shadow\" leaves the root directory",
    );
    for bad in [".wh.", ".wh..", ".wh..."] {
        check_error(
            [new().file(&format!("d/{bad}"), "")],
            &format!(
                "layer 1: entry \"d/{bad}\" at offset 0 cannot be applied: {bad:?} is not a valid whiteout"
            ),
        );
    }
}

#[test]
fn entries_replace_what_has_their_name() {
    // File over directory, directory over file, directory over directory, twice in one archive.
    check(
        [new().dir("a").file("a/x", "1"), new().file("a", "2")],
        &["a \"2\""],
    );
    check(
        [new().file("a", "1"), new().dir("a").file("a/x", "2")],
        &["a/", "a/x \"2\""],
    );
    check(
        [new().file("a", "1"), new().file("a/x", "2")],
        &["a/", "a/x \"2\""],
    );
    check(
        [new().dir("a").file("a/x", "1"), new().dir("a")],
        &["a/", "a/x \"1\""],
    );
    check(
        [new().file("a", "1").file("a", "2").file("a", "3")],
        &["a \"3\""],
    );
    check([new().file("a", "1"), new().symlink("a", "b")], &["a -> b"]);
    check_error(
        [new().file("a", "1").file("a/x", "2")],
        "layer 1: entry \"a/x\" at offset 1024 cannot be applied: \"a\" is not a directory",
    );
}

#[test]
fn every_kind_of_file_and_every_attribute() {
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = new()
        .entry(Entry::dir("./").mode(0o1751).owner(5, 6).mtime(7))
        .entry(Entry::char_device("null", 1, 3).mode(0o666))
        .entry(Entry::block_device("sda", 8, 0))
        .entry(Entry::fifo("fifo").mode(0o600))
        .entry(
            Entry::file("ping", "x")
                .mode(0o104_755)
                .owner(3_000_000, 4_000_000_000)
                .pax("mtime", "1700000000.123456789")
                .xattr("user.z", "")
                .xattr("security.capability", capability)
                .xattr("trusted.overlay.opaque", "y"),
        )
        .entry(Entry::file(b"caf\xe9\xff", "latin"))
        .entry(
            Entry::file("pax", "")
                .pax("uid", "2097153")
                .pax("gid", "4294967295")
                .pax("path", "n\u{20ac}w"),
        )
        .finish();
    let tree = merge(&[layer]).unwrap();
    assert_eq!(
        names(&tree),
        [
            "caf\\xe9\\xff \"latin\"",
            "fifo fifo",
            "null c 1:3",
            "n\\xe2\\x82\\xacw \"\"",
            "ping \"x\"",
            "sda b 8:0",
        ]
    );
    let root = tree.node(tree.root());
    assert_eq!(
        (root.mode, root.uid, root.gid, root.mtime.secs),
        (0o1751, 5, 6, 7)
    );
    let ping = tree.node(tree.get("ping").unwrap());
    assert_eq!(
        (ping.mode, ping.uid, ping.gid),
        (0o4755, 3_000_000, 4_000_000_000)
    );
    let mtime = Timestamp {
        secs: 1_700_000_000,
        nanos: 123_456_789,
    };
    assert_eq!(ping.mtime, mtime);
    let xattr = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    assert_eq!(
        ping.xattrs,
        [
            xattr("security.capability", capability),
            xattr("user.z", b"")
        ]
    );
    let pax = tree.node(tree.get("n\u{20ac}w").unwrap());
    assert_eq!((pax.uid, pax.gid), (2_097_153, u32::MAX));
}

#[test]
fn a_directory_takes_the_later_attributes_and_implied_ones_have_defaults() {
    let low = new()
        .entry(Entry::dir("d").mode(0o700).xattr("user.a", "1"))
        .file("i/f", "");
    let high = new().entry(Entry::dir("d").mode(0o1777).owner(1, 2).mtime(3));
    let tree = merge(&[low.finish(), high.finish()]).unwrap();
    let d = tree.node(tree.get("d").unwrap());
    assert_eq!(
        (d.mode, d.uid, d.gid, d.mtime.secs, d.xattrs.len()),
        (0o1777, 1, 2, 3, 0)
    );
    let i = tree.node(tree.get("i").unwrap());
    assert_eq!(
        (i.mode, i.uid, i.gid, i.mtime),
        (0o755, 0, 0, Timestamp::default())
    );
}

#[test]
fn aufs_notes_are_for_hard_links_only() {
    let layer = new()
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/12.34", "x")
        .hard_link("a", ".wh..wh.plnk/12.34")
        .hard_link("b", ".wh..wh.plnk/12.34")
        .file(".wh..wh.aufs", "");
    check([layer], &["a \"x\"", "b = a"]);
}

#[test]
fn damage_is_reported_with_entry_and_offset() {
    let tar = new().file("a", "1").file("dir/b", [7; 1000]).finish();
    let error = |tar: &[u8]| chain(&merge(&[tar.to_vec()]).unwrap_err());
    assert_eq!(
        error(&tar[..1024 + 512 + 100]),
        "layer 1 cannot be read: bad tar archive at offset 1636 in entry \"dir/b\": truncated: 900 bytes of the content are missing"
    );
    assert_eq!(
        error(&tar[..1124]),
        "layer 1 cannot be read: bad tar archive at offset 1124: truncated: 412 bytes of the header are missing"
    );
    let mut damaged = tar.clone();
    damaged[1030] ^= 1;
    assert_eq!(
        error(&damaged),
        "layer 1 cannot be read: bad tar archive at offset 1024: the header's checksum is wrong"
    );
    let unknown = new().entry(Entry::new(b'Q', "q")).finish();
    assert_eq!(
        error(&unknown),
        "layer 1 cannot be read: bad tar archive at offset 0 in entry \"q\": the entry has the unsupported type 'Q'"
    );
    // The end of the stream between entries is the end of the archive, as for other readers.
    assert_eq!(names(&merge(&[tar[..1024].to_vec()]).unwrap()), ["a \"1\""]);
    assert_eq!(names(&merge(&[Vec::new()]).unwrap()), Vec::<String>::new());
}

#[test]
fn memory_is_bounded() {
    let mut layer = new();
    for i in 0..1000 {
        layer = layer.file(&format!("f{i}"), "");
    }
    let tar = layer.finish();
    let mut merger = oci::Merger::with_budget(100_000);
    let error = merger
        .apply_layer(&mut tar.as_slice(), &mut support::Memory)
        .unwrap_err();
    assert!(
        chain(&error).contains("more than 100000 bytes of metadata"),
        "{error}"
    );
    let name = "n".repeat(256);
    check_error(
        [new().file(&name, "")],
        &format!(
            "layer 1: entry {name:?} at offset 1024 cannot be applied: the name {name:?} has more than 255 bytes"
        ),
    );
    // Symbolic links make paths that are deeper than any name is long.
    let down = "d/".repeat(1500);
    let deep = new()
        .dir(&down)
        .symlink("s", &down)
        .dir(&format!("s/{down}"));
    let offset_is_named = chain(&merge(&[deep.finish()]).unwrap_err());
    assert!(
        offset_is_named.ends_with("too many directories inside one another"),
        "{offset_is_named}"
    );
}

#[test]
fn the_reader_is_read_to_its_end() {
    let mut tar = new().file("a", "1").finish();
    tar.extend_from_slice(&[0; 10_000]);
    let mut reader = tar.as_slice();
    oci::Merger::new()
        .apply_layer(&mut reader, &mut support::Memory)
        .unwrap();
    assert!(reader.is_empty());
}

#[test]
fn node_numbers_follow_the_walk() {
    let tar = new()
        .file("z", "")
        .dir("b")
        .file("b/c", "")
        .file("a", "")
        .finish();
    let tree = merge(&[tar]).unwrap();
    let numbers: Vec<_> = tree.walk().map(|(_, id)| id.index()).collect();
    assert_eq!(tree.nodes().len(), 5);
    assert!(numbers.iter().all(|n| *n > 0 && *n < 5));
    let Kind::Directory(entries) = &tree.node(tree.root()).kind else {
        panic!("the root is a directory");
    };
    assert_eq!(entries.len(), 3);
}
