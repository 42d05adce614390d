//! What known tools get wrong.

use std::fs;
use std::process::Command;

use testkit::image::{Entry, ImageBuilder, Layer, Packing};

use crate::oracle::{
    Sample, assert_same_as_umoci, assert_same_as_umoci_but, assert_tree, causes, entries,
};

/// Dated, so that nothing depends on when umoci ran.
fn at(entry: Entry) -> Entry {
    entry.mtime(1_000_000_000)
}

fn dir(name: &str) -> Entry {
    at(Entry::dir(name))
}

fn file(name: &str, content: &str) -> Entry {
    at(Entry::file(name, content))
}

fn symlink(name: &str, target: &str) -> Entry {
    at(Entry::symlink(name, target))
}

fn hard_link(name: &str, target: &str) -> Entry {
    at(Entry::hard_link(name, target))
}

fn whiteout(name: &str) -> Entry {
    match name.rsplit_once('/') {
        Some((dir, name)) => file(&format!("{dir}/.wh.{name}"), ""),
        None => file(&format!(".wh.{name}"), ""),
    }
}

fn opaque(dir: &str) -> Entry {
    file(&format!("{dir}/.wh..wh..opq"), "")
}

/// Each layer begins with the root.
fn sample<const N: usize>(layers: [&[Entry]; N]) -> Sample {
    let mut image = ImageBuilder::new();
    for entries in layers {
        let layer = Layer::new().entry(dir("./"));
        let layer = entries.iter().cloned().fold(layer, Layer::entry);
        image = image.layer(layer);
    }
    Sample::new(&image)
}

#[track_caller]
fn check<const N: usize>(layers: [&[Entry]; N]) {
    assert_same_as_umoci(&sample(layers));
}

/// Where umoci is wrong about some entries: those are as the specification says.
#[track_caller]
fn check_but<const N: usize>(layers: [&[Entry]; N], but: &[(&str, &str)]) {
    assert_same_as_umoci_but(&sample(layers), but);
}

/// Where umoci is wrong altogether, or fails: the lines are what the specification says, besides the root.
#[track_caller]
fn check_spec<const N: usize>(layers: [&[Entry]; N], expect: &[(&str, &str)]) {
    let root = (".", "dir 755 0:0 1000000000.000000000 ");
    let expect: Vec<(String, String)> = [root]
        .iter()
        .chain(expect)
        .map(|(name, line)| ((*name).to_owned(), (*line).to_owned()))
        .collect();
    assert_tree(&sample(layers), &expect);
}

#[test]
fn pax_xattrs_and_file_capabilities() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    check([&[
        file("ping", "x")
            .mode(0o755)
            .xattr("security.capability", capability),
        file("many", "x")
            .xattr("user.text", "a=b\nc")
            .xattr("trusted.large", vec![b'v'; 3000]),
        dir("d").xattr("user.on-a-directory", "yes"),
    ]]);
}

/// umoci leaves it out.
#[test]
fn an_attribute_without_a_value() {
    let right = "file 1 2d711642b726 644 0:0 1000000000.000000000 user.empty=0:e3b0c44298fc";
    check_but([&[file("f", "x").xattr("user.empty", "")]], &[("f", right)]);
}

#[test]
fn attributes_of_a_directory_are_those_of_the_last_layer() {
    check([
        &[dir("d").mode(0o700).xattr("user.a", "1"), file("d/f", "")],
        &[dir("d").mode(0o1777).owner(1, 2).xattr("user.b", "2")],
    ]);
}

#[test]
fn access_control_lists() {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 5, 1234),
        (4, 5, u32::MAX),
        (16, 5, u32::MAX),
        (32, 4, u32::MAX),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    check([&[
        file("f", "x")
            .mode(0o754)
            .xattr("system.posix_acl_access", &list),
        dir("d").xattr("system.posix_acl_default", &list),
    ]]);
}

#[test]
fn fifos_and_devices() {
    check([
        &[
            at(Entry::fifo("fifo")).mode(0o600).owner(3, 4),
            at(Entry::char_device("null", 1, 3)).mode(0o666),
            at(Entry::char_device("wide", 511, 70_000)),
            at(Entry::block_device("sda", 8, 0)).mode(0o660),
        ],
        &[hard_link("another", "fifo"), file("null", "no more")],
    ]);
}

#[test]
fn a_hard_link_whose_target_is_replaced_by_a_later_entry() {
    check([&[
        file("a", "first"),
        hard_link("b", "a"),
        file("a", "second"),
        hard_link("c", "b"),
    ]]);
}

#[test]
fn a_hard_link_whose_target_is_replaced_by_a_later_layer() {
    check([
        &[file("a", "first"), hard_link("b", "a"), hard_link("c", "a")],
        &[file("a", "second"), whiteout("b")],
        &[hard_link("d", "c")],
    ]);
}

#[test]
fn hard_links_to_symbolic_links_and_through_them() {
    check([&[
        dir("d"),
        file("d/f", "x"),
        symlink("s", "d"),
        hard_link("s2", "s"),
        hard_link("f2", "s/f"),
    ]]);
}

#[test]
fn files_in_directories_that_are_symbolic_links() {
    check([
        &[
            dir("usr"),
            dir("usr/lib"),
            file("usr/lib/a", "1"),
            symlink("lib", "usr/lib"),
            symlink("absolute", "/usr/lib"),
        ],
        &[
            file("lib/b", "2"),
            file("absolute/c", "3"),
            whiteout("lib/a"),
        ],
    ]);
}

#[test]
fn links_that_lead_out_of_the_root_lead_to_it() {
    check([&[
        dir("d"),
        symlink("d/up", "../../../../.."),
        file("d/up/x", "1"),
        symlink("etc-of-the-host", "/../../../../tmp"),
        dir("tmp"),
        file("etc-of-the-host/y", "2"),
    ]]);
}

#[test]
fn an_opaque_marker_that_precedes_its_siblings() {
    check([
        &[dir("d"), file("d/old", "1"), dir("d/s"), file("d/s/x", "1")],
        &[dir("d"), opaque("d"), file("d/new", "2")],
    ]);
}

/// umoci hides the right files, and dates a directory anew.
#[test]
fn an_opaque_marker_that_follows_its_siblings() {
    let right = "dir 755 0:0 1000000000.000000000 ";
    check_but(
        [
            &[dir("d"), file("d/old", "1"), dir("d/s"), file("d/s/x", "1")],
            &[dir("d"), file("d/new", "2"), dir("d/s"), opaque("d")],
        ],
        &[("d/s", right)],
    );
}

/// umoci hides the right files, and dates a directory anew.
#[test]
fn whiteouts_hide_lower_layers_alone_wherever_they_stand() {
    let low = [
        dir("before"),
        file("before/x", "1"),
        dir("after"),
        file("after/x", "1"),
        file("gone", "1"),
        file("back", "1"),
    ];
    let middle = [
        whiteout("before"),
        dir("before"),
        file("before/y", "2"),
        dir("after"),
        file("after/y", "2"),
        whiteout("after"),
        whiteout("gone"),
        whiteout("back"),
        whiteout("never-there"),
    ];
    let right = "dir 755 0:0 1000000000.000000000 ";
    let high = [file("back", "3")];
    check_but([&low, &middle, &high], &[("after", right)]);
}

/// umoci keeps what lower layers say of the directory in the second case.
#[test]
fn a_directory_that_is_hidden_and_used_again_begins_anew() {
    let implied = "dir 755 0:0 0.000000000 ";
    let new = "file 3 11507a0e2f5e 644 0:0 1000000000.000000000 ";
    let low = [dir("d").mode(0o700).owner(5, 6), file("d/old", "1")];
    let expect = [("d", implied), ("d/new", new)];
    check_spec([&low, &[whiteout("d"), file("d/new", "new")]], &expect);
    check_spec([&low, &[file("d/new", "new"), whiteout("d")]], &expect);
}

#[test]
fn kinds_replace_one_another() {
    check([
        &[
            dir("dir-to-file"),
            file("dir-to-file/x", "1"),
            file("file-to-dir", "1"),
            symlink("link-to-dir", "nowhere"),
            dir("dir-to-link"),
            file("dir-to-link/x", "1"),
            at(Entry::fifo("fifo-to-file")),
        ],
        &[
            file("dir-to-file", "2"),
            dir("file-to-dir"),
            file("file-to-dir/y", "2"),
            dir("link-to-dir"),
            file("link-to-dir/z", "2"),
            symlink("dir-to-link", "file-to-dir"),
            file("fifo-to-file", "2"),
        ],
    ]);
}

/// umoci knows all forms but GNU tar's own.
#[test]
fn sparse_files_of_every_format() {
    let files = tempfile::tempdir().unwrap();
    let sparse = fs::File::create(files.path().join("sparse")).unwrap();
    sparse.set_len(40 << 16).unwrap();
    for at in 0..40 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", at << 16).unwrap();
    }
    let mut expect = Vec::new();
    for format in [
        &["--format=posix", "--sparse-version=0.0"][..],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
        &["--format=gnu"],
    ] {
        let tar = Command::new("tar")
            .args(format)
            .args(["-S", "--mtime=@1000000000", "-cf", "-", "-C"])
            .arg(files.path())
            .arg(".")
            .output()
            .expect("GNU tar is needed");
        assert!(tar.status.success() && tar.stdout.len() < 1 << 18);
        let sample = Sample::new(&ImageBuilder::new().layer_tar(tar.stdout));
        if format.len() == 2 {
            expect = entries(&sample.umoci());
        }
        assert_tree(&sample, &expect);
    }
}

#[test]
fn names_that_are_not_utf_8_or_have_newlines() {
    check([
        &[
            at(Entry::file(b"caf\xe9\xff", "latin")),
            at(Entry::file("a\nb", "newline")),
            at(Entry::file("tab\tbell\x07", "control")),
            at(Entry::symlink(b"l\xfe", b"\xfd")),
            file(&"n".repeat(255), "longest"),
            dir("x\ny"),
            at(Entry::file(b"x\ny/\x80", "1")),
        ],
        &[at(Entry::file(b".wh.caf\xe9\xff", ""))],
    ]);
}

#[test]
fn long_paths_and_long_targets() {
    let deep = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    check([&[
        dir(&"d".repeat(200)),
        dir(&deep),
        file(&format!("{deep}/f"), "x"),
        symlink("s59", &"t".repeat(59)),
        symlink("s60", &"t".repeat(60)),
        symlink("s4000", &"t/".repeat(2000)),
        hard_link("h", &format!("{deep}/f")),
    ]]);
}

#[test]
fn times_to_the_nanosecond_before_1970_and_after_2038() {
    check([&[
        file("n", "").pax("mtime", "1700000000.123456789"),
        file("before", "").pax("mtime", "-1.5"),
        file("after", "").pax("mtime", "5000000000.000000001"),
        dir("d").pax("mtime", "1700000000.987654321"),
        symlink("s", "n").pax("mtime", "1700000000.5"),
    ]]);
}

#[test]
fn modes_and_owners() {
    check([&[
        file("setuid", "").mode(0o4755).owner(1000, 1000),
        file("setgid", "").mode(0o2755),
        dir("sticky").mode(0o1777),
        dir("all").mode(0o7777),
        file("none", "").mode(0),
        file("far", "").owner(3_000_000, 2_000_000_000),
        file("pax", "")
            .pax("uid", "2097153")
            .pax("gid", "4000000000"),
    ]]);
}

#[test]
fn absolute_names_and_names_with_dots_in_them() {
    check([
        &[file("/absolute", "1"), dir("d"), file("./d/../dots", "2")],
        &[whiteout("/absolute"), file("d/./x", "3")],
    ]);
}

/// umoci takes these names for such inside of the root; Docker refuses them, and so do we.
#[test]
fn names_that_leave_the_root_are_refused() {
    for (bad, expect) in [
        (file("../x", ""), "\"../x\" at offset 512"),
        (file("a/../../x", ""), "the name leaves the root"),
        (hard_link("h", "../../etc/shadow"), "leaves the root"),
    ] {
        let error = causes(&sample([&[bad]]).build().unwrap_err());
        assert!(error.contains(expect), "{error}");
    }
}

/// The packings of the specification, one on the other; the same in each.
#[test]
fn every_packing() {
    let layers = [
        Layer::new()
            .entry(dir("./"))
            .entry(file("a", &"low".repeat(100_000))),
        Layer::new().entry(file("b", &"middle".repeat(100_000))),
        Layer::new().entry(file("a", "high")),
    ];
    let mut all = Vec::new();
    for turn in 0..3 {
        let packings = [Packing::Plain, Packing::Gzip, Packing::Zstd];
        let mut image = ImageBuilder::new();
        for (at, layer) in layers.iter().enumerate() {
            image = image
                .packing(packings[(at + turn) % 3])
                .layer(layer.clone());
        }
        let sample = Sample::new(&image);
        let image = sample.build().unwrap();
        all.push(fs::read(image).unwrap());
        if turn == 0 {
            let expect = entries(&sample.umoci());
            assert_tree(&sample, &expect);
        }
    }
    assert!(all[0] == all[1] && all[1] == all[2]);
}

/// A layer of a running system's files, in the form that GNU tar gives it.
#[test]
fn a_system_directory() {
    let tar = Command::new("tar")
        .args(["--format=posix", "--xattrs", "-cf", "-", "-C", "/"])
        .arg("etc")
        .output()
        .expect("GNU tar is needed");
    let root = Layer::new().entry(dir("./"));
    let image = ImageBuilder::new().layer(root).layer_tar(tar.stdout);
    assert_same_as_umoci(&Sample::new(&image));
}
