//! Images that mean harm: an error that says what is wrong, or a file system as good as any; nothing left behind.

use std::fs;

use oci::{Descriptor, Digest, MediaType};
use store::content::Ingest;
use store::rootfs::{self, Layer, Options};
use store::{Root, content};
use testkit::image::{Entry, ImageBuilder, Layer as Tar};

use crate::oracle::{Sample, causes, mounted};

fn options() -> Options {
    Options::default()
}

/// A blob that no builder of images makes.
fn raw(root: &Root, blob: &[u8], diff_id: Digest) -> Layer {
    let descriptor = Descriptor::of(MediaType::OciLayerZstd, blob);
    let mut ingest = Ingest::begin(root, Some(&descriptor)).unwrap();
    ingest.write(blob).unwrap();
    ingest.finish().unwrap();
    Layer {
        blob: descriptor,
        diff_id,
    }
}

#[track_caller]
fn check_error(root: &Root, layers: &[Layer], options: &Options, expect: &str) {
    let error = rootfs::build_with(root, layers, options).unwrap_err();
    let error = causes(&error);
    assert!(error.contains(expect), "{error}");
    let left: Vec<_> = fs::read_dir(root.rootfs()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A Zstandard frame (RFC 8878) of raw bytes and then of `blocks` times 128 KiB of zeros, four bytes each.
fn zeros(first: &[u8], blocks: usize) -> Vec<u8> {
    let header = |last: bool, kind: u32, size: usize| {
        let header = u32::from(last) | kind << 1 | (size as u32) << 3;
        header.to_le_bytes()[..3].to_vec()
    };
    // Magic number, a frame header without a content size, a window of 128 KiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    frame.extend(header(false, 0, first.len()));
    frame.extend(first);
    for block in 1..=blocks {
        frame.extend(header(block == blocks, 1, 128 << 10));
        frame.push(0);
    }
    frame
}

/// 10 GB of zeros in 320 KB: as much as is allowed is unpacked, and not a byte more.
#[test]
fn ten_gigabytes_of_zeros_meet_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let blocks = 81_920;
    let size = blocks as u64 * (128 << 10);
    let mut header = Tar::new().entry(Entry::file("zeros", "")).finish()[..512].to_vec();
    header[124..128].copy_from_slice(&[0x80, 0, 0, 0]);
    header[128..136].copy_from_slice(&size.to_be_bytes());
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let blob = zeros(&header, blocks);
    assert!(blob.len() < 350_000);
    let layer = raw(&root, &blob, Digest::of(b"whatever"));
    let allowed = rootfs::max_unpacked(std::slice::from_ref(&layer));
    assert!(allowed < size, "{allowed} bytes, and nobody asked for them");
    let few = Options {
        max_unpacked: Some(24 << 20),
        ..options()
    };
    let expect = format!(
        "unpacks to more than the 24 MiB allowed ({} bytes packed)",
        blob.len()
    );
    check_error(&root, &[layer], &few, &expect);
}

/// What an image may unpack to by itself follows from what it came in: a small one may be dense, a large one honest.
#[test]
fn the_limit_follows_from_the_bytes_that_came() {
    let layer = |size: u64| Layer {
        blob: Descriptor::new(MediaType::OciLayerZstd, Digest::of(b""), size),
        diff_id: Digest::of(b""),
    };
    let check = |sizes: &[u64], expect: u64| {
        let layers: Vec<_> = sizes.iter().map(|size| layer(*size)).collect();
        assert_eq!(rootfs::max_unpacked(&layers), expect, "{sizes:?}");
    };
    check(&[], 1 << 30);
    check(&[10 << 10], 1 << 30);
    check(&[100 << 20, 20 << 20], 100 * (120 << 20));
    check(&[8 << 30, 1 << 30], 256 << 30);
    check(&[u64::MAX, u64::MAX], 256 << 30);
}

/// The limit is of all layers together, whoever of them comes first.
#[test]
fn many_small_layers_meet_the_same_limit() {
    let layer = |byte: u8| Tar::new().file("f", vec![byte; 100 << 10]);
    let image = (0..6).fold(ImageBuilder::new(), |image, byte| image.layer(layer(byte)));
    let sample = Sample::new(&image);
    let limited = |max_unpacked| Options {
        max_unpacked: Some(max_unpacked),
        ..options()
    };
    // Each archive has a header and an end besides.
    let all = 6 * ((100 << 10) + 1536);
    check_error(
        &sample.root,
        &sample.layers,
        &limited(all - 1),
        "MiB allowed",
    );
    rootfs::build_with(&sample.root, &sample.layers, &limited(all)).unwrap();
}

#[test]
fn many_empty_files_are_files_and_too_many_meet_a_limit() {
    let mut layer = Tar::new();
    for dir in 0..5 {
        layer = layer.dir(&format!("{dir}"));
        for file in 0..1000 {
            layer = layer.file(&format!("{dir}/{file}"), "");
        }
    }
    let sample = Sample::new(&ImageBuilder::new().layer(layer));
    let few = Options {
        max_metadata: 1 << 20,
        ..options()
    };
    let expect = "too many files: more than 1048576 bytes of metadata";
    check_error(&sample.root, &sample.layers, &few, expect);
    let mounted = mounted(&sample.build().unwrap());
    for dir in 0..5 {
        let dir = mounted.path().join(dir.to_string());
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1000);
    }
}

/// The error is that of the lowest bad layer, whichever of them is met first.
#[test]
fn the_lowest_bad_layer_is_told() {
    let good = |byte: u8, size: usize| Tar::new().file("f", vec![byte; size]).finish();
    let mut image = ImageBuilder::new().layer_tar(good(1, 100 << 10));
    image = image
        .layer_tar(good(2, 300 << 10))
        .layer_tar(b"no tar".repeat(1000));
    for byte in 3..9 {
        image = image.layer_tar(good(byte, 10));
    }
    let sample = Sample::new(&image);
    let mut layers = sample.layers.clone();
    // Of the others two are missing, and one is something else than it says.
    fs::remove_file(content::path(&sample.root, &layers[3].blob.digest)).unwrap();
    fs::remove_file(content::path(&sample.root, &layers[8].blob.digest)).unwrap();
    layers[5].diff_id = Digest::of(b"something else");
    let lowest = layers[2].blob.digest.to_string();
    for threads in [1, 2, 4, 9] {
        let options = Options {
            threads,
            ..options()
        };
        check_error(&sample.root, &layers, &options, &lowest);
    }
    // Without it, it is the next one that is told; then the one after that.
    layers.remove(2);
    let missing = layers[2].blob.digest;
    check_error(
        &sample.root,
        &layers,
        &options(),
        &format!("{missing} is missing"),
    );
    layers.remove(2);
    check_error(&sample.root, &layers, &options(), "unpacks to the diff ID");
}

/// A merge that fails is told before a layer above it that cannot be read.
#[test]
fn what_cannot_be_merged_is_told_in_its_turn() {
    let image = ImageBuilder::new()
        .layer(Tar::new().file("f", ""))
        .layer(Tar::new().hard_link("h", "nothing"))
        .layer_tar(b"no tar".repeat(100_000));
    let sample = Sample::new(&image);
    let expect = "the hard link's target \"nothing\" does not exist";
    check_error(&sample.root, &sample.layers, &options(), expect);
}

/// Of a frame that asks for more memory than a decoder should give.
#[test]
fn a_window_of_gigabytes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let mut frame = zeros(&[0; 512], 1);
    // 2 GiB.
    frame[5] = 21 << 3;
    let layer = raw(&root, &frame, Digest::of(b"whatever"));
    check_error(&root, &[layer], &options(), "cannot be decompressed");
}

/// One name in an error is one line, whatever is in it.
#[test]
fn names_in_errors_are_escaped() {
    let sample = Sample::new(&ImageBuilder::new().layer(Tar::new().hard_link("a\nb\x1b[31m", "x")));
    let error = causes(&sample.build().unwrap_err());
    assert!(error.contains("a\\nb\\u{1b}[31m"), "{error}");
}

/// 64 KiB is the most that Linux allows.
#[test]
fn large_attributes() {
    let largest = vec![b'v'; 64 << 10];
    let layer = Tar::new()
        .entry(Entry::file("f", "x").xattr("user.large", &largest))
        .entry(
            Entry::file("g", "x")
                .xattr("user.a", vec![b'a'; 5000])
                .xattr("user.b", vec![b'b'; 5000])
                .xattr("user.small", "s"),
        )
        .entry(Entry::dir("d").xattr("trusted.large", &largest));
    let sample = Sample::new(&ImageBuilder::new().layer(layer));
    let image = sample.build().unwrap();
    let mounted = mounted(&image);
    let value = |file: &str, name: &str| {
        let mut value = vec![0; 70_000];
        let path = mounted.path().join(file);
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(len);
        value
    };
    assert!(value("f", "user.large") == largest);
    assert!(value("d", "trusted.large") == largest);
    assert!(value("g", "user.a") == vec![b'a'; 5000]);
    assert!(value("g", "user.b") == vec![b'b'; 5000]);
    assert!(value("g", "user.small") == b"s");
}

/// What skopeo makes with `zstd:chunked`: many frames, and skippable ones that tell of them.
#[test]
fn zstd_chunked_as_skopeo_makes_it() {
    let layer = Tar::new()
        .dir("d")
        .file("d/small", "small")
        .file("d/large", "0123456789".repeat(100_000));
    let image = ImageBuilder::new().layer(layer);
    let plain = Sample::new(&image);
    let path = |name: &str| plain.dir.path().join(name).display().to_string();
    let (from, to) = (
        format!("oci:{}:x", path("layout")),
        format!("oci:{}:x", path("chunked")),
    );
    let args = [
        "copy",
        "-q",
        "--dest-compress-format",
        "zstd:chunked",
        &from,
        &to,
    ];
    testkit::mount::run("skopeo", &args.map(std::ffi::OsStr::new));
    // The largest blob is the layer.
    let blobs = plain.dir.path().join("chunked/blobs/sha256");
    let mut blobs: Vec<Vec<u8>> = fs::read_dir(blobs)
        .unwrap()
        .map(|blob| fs::read(blob.unwrap().path()).unwrap())
        .collect();
    blobs.retain(|blob| blob.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    let [blob] = &blobs[..] else {
        panic!("{} layers", blobs.len());
    };
    let skippable = blob
        .windows(4)
        .any(|magic| magic == [0x50, 0x2a, 0x4d, 0x18]);
    assert!(skippable, "it is chunked");
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let layer = raw(&root, blob, plain.layers[0].diff_id);
    let chunked = rootfs::build(&root, &[layer]).unwrap();
    assert!(fs::read(chunked).unwrap() == fs::read(plain.build().unwrap()).unwrap());
}
