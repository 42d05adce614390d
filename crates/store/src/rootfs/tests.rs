use std::io::{Cursor, Write};
use std::process::Command;

use oci::MediaType;

use super::*;
use crate::content::Ingest;

fn setup() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(&dir.path().join("root")).unwrap();
    (dir, root)
}

/// A tar of files, by the `tar` crate, which the merger does not use.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn keep(root: &Root, tar: &[u8], packed: &[u8]) -> Layer {
    let blob = Descriptor::of(MediaType::OciLayer, packed);
    let mut ingest = Ingest::begin(root, Some(&blob)).unwrap();
    ingest.write(packed).unwrap();
    ingest.finish().unwrap();
    Layer {
        blob,
        diff_id: Digest::of(tar),
    }
}

/// Oracles: e2fsck and debugfs.
fn cat(image: &Path, file: &str) -> String {
    let check = Command::new("e2fsck").arg("-fn").arg(image).output();
    let check = check.expect("this test needs e2fsck (Debian: e2fsprogs)");
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
    let output = Command::new("debugfs")
        .args(["-R", &format!("cat {file}")])
        .arg(image)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn layers_of_every_packing_become_one_file_system() {
    let (_dir, root) = setup();
    let tars = [
        tar(&[("etc/a", "lowest"), ("etc/b", "lowest")]),
        tar(&[("etc/b", "middle"), ("big", &"x".repeat(1 << 20))]),
        tar(&[("etc/.wh.a", ""), ("top", "yes")]),
    ];
    let layers = [
        keep(&root, &tars[0], &gzip(&tars[0])),
        keep(
            &root,
            &tars[1],
            &zstd::encode_all(Cursor::new(&tars[1]), 1).unwrap(),
        ),
        keep(&root, &tars[2], &tars[2]),
    ];
    let path = build(&root, &layers).unwrap();
    assert!(path.starts_with(root.rootfs()));
    assert_eq!(cat(&path, "/etc/b"), "middle");
    assert_eq!(cat(&path, "/etc/a"), "");
    assert_eq!(cat(&path, "/top"), "yes");
    assert_eq!(cat(&path, "/big").len(), 1 << 20);
    // The same again, elsewhere, is the same bytes.
    let (_other, elsewhere) = setup();
    for (tar, layer) in tars.iter().zip(&layers) {
        let packed = crate::content::path(&root, &layer.blob.digest);
        keep(&elsewhere, tar, &std::fs::read(packed).unwrap());
    }
    let again = build(&elsewhere, &layers).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), std::fs::read(again).unwrap());
}

#[test]
fn bad_layers_are_named_and_leave_nothing() {
    let (_dir, root) = setup();
    let good = tar(&[("a", &"a".repeat(100_000))]);
    let packed = gzip(&good);
    let check = |layer: Layer, expect: &str| {
        let error = build(&root, std::slice::from_ref(&layer)).unwrap_err();
        let mut text = error.to_string();
        assert!(text.contains(&layer.blob.digest.to_string()), "{text}");
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        assert!(text.contains(expect), "{text}");
        assert_eq!(
            std::fs::read_dir(root.rootfs()).unwrap().count(),
            0,
            "{text}"
        );
    };
    check(keep(&root, b"other", &packed), "unpacks to the diff ID");
    check(
        keep(&root, &good, &packed[..packed.len() / 2]),
        "cannot be decompressed",
    );
    check(keep(&root, &good, &good[..70_000]), "cannot be merged");
    check(keep(&root, b"no tar", b"no tar"), "cannot be merged");
    let missing = Layer {
        blob: Descriptor::of(MediaType::OciLayer, b"missing"),
        diff_id: Digest::of(b"missing"),
    };
    check(missing, "is missing");
}

#[test]
fn without_layers_it_is_empty() {
    let (_dir, root) = setup();
    let path = build(&root, &[]).unwrap();
    assert_eq!(cat(&path, "/nothing"), "");
    assert!(lease(&root, &key(&[])).is_ok());
    assert!(matches!(lease(&root, "absent"), Err(lock::Error::Gone(_))));
}

#[test]
fn two_that_build_the_same_get_the_same() {
    let (_dir, root) = setup();
    let bytes = tar(&[("a", &"a".repeat(3 << 20))]);
    let layer = keep(&root, &bytes, &gzip(&bytes));
    let paths: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| build(&root, std::slice::from_ref(&layer)).unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(paths.iter().all(|path| *path == paths[0]));
    assert_eq!(cat(&paths[0], "/a").len(), 3 << 20);
    let left = std::fs::read_dir(paths[0].parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(left, 2, "the file system and the lock");
}

/// A few bytes that claim to be terabytes. Oracles: GNU tar makes it, debugfs reads it.
#[test]
fn a_sparse_file_of_terabytes_is_made_at_once() {
    let (dir, root) = setup();
    let file = std::fs::File::create(dir.path().join("huge")).unwrap();
    file.set_len(8 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 4 << 40).unwrap();
    let archive = Command::new("tar")
        .args(["--format=posix", "--sparse", "-cf", "-", "-C"])
        .arg(dir.path())
        .arg("huge")
        .output()
        .expect("this test needs GNU tar");
    assert!(archive.status.success());
    assert!(archive.stdout.len() < 100_000);
    let layer = keep(&root, &archive.stdout, &gzip(&archive.stdout));
    let begun = std::time::Instant::now();
    let image = build(&root, &[layer]).unwrap();
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    let stat = Command::new("debugfs")
        .args(["-R", "stat huge"])
        .arg(&image)
        .output()
        .expect("this test needs debugfs (Debian: e2fsprogs)");
    let stat = String::from_utf8_lossy(&stat.stdout).into_owned();
    assert!(stat.contains("Size: 8796093022208"), "{stat}");
}

/// In any order; oracle: the same layers when all were there.
#[test]
fn layers_may_come_while_it_is_made() {
    let (_dir, root) = setup();
    let tars: Vec<Vec<u8>> = (0..5)
        .map(|number| tar(&[("same", &format!("{number}").repeat(70_000))]))
        .collect();
    let layers: Vec<Layer> = tars
        .iter()
        .map(|tar| keep(&root, tar, &gzip(tar)))
        .collect();
    let expect = std::fs::read(build(&root, &layers).unwrap()).unwrap();
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]] {
        std::fs::remove_dir_all(root.rootfs()).unwrap();
        let arrivals = Arrivals::default();
        let path = std::thread::scope(|scope| {
            let made = scope.spawn(|| build_as_they_come(&root, &layers, &arrivals));
            for number in order {
                arrivals.arrived(layers[number].blob.digest);
            }
            made.join().unwrap().unwrap()
        });
        assert!(std::fs::read(path).unwrap() == expect, "{order:?}");
    }
    // One that doesn't come: nothing is left.
    std::fs::remove_dir_all(root.rootfs()).unwrap();
    let arrivals = Arrivals::default();
    arrivals.arrived(layers[0].blob.digest);
    let error = std::thread::scope(|scope| {
        let made = scope.spawn(|| build_as_they_come(&root, &layers, &arrivals));
        arrivals.give_up();
        made.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, Error::NotComing(digest) if digest == layers[1].blob.digest));
    assert_eq!(std::fs::read_dir(root.rootfs()).unwrap().count(), 0);
}

/// Whoever waits for an upper layer hears that a lower one is bad.
#[test]
fn nobody_waits_for_what_is_of_no_use() {
    let (_dir, root) = setup();
    let good = tar(&[("a", "a")]);
    let (bad, late) = (
        keep(&root, b"other", &gzip(&good)),
        keep(&root, &good, &good),
    );
    let arrivals = Arrivals::default();
    arrivals.arrived(bad.blob.digest);
    let error = build_as_they_come(&root, &[bad, late], &arrivals).unwrap_err();
    assert!(matches!(error, Error::DiffId { .. }), "{error}");
}
