//! Many layers, much content, and the same bytes whatever the threads do.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use store::Root;
use store::rootfs::{self, Options};
use testkit::image::{Entry, ImageBuilder, Layer, Packing};

use crate::oracle::{Sample, assert_same_as_umoci, assert_tree, entries, keep, mounted};

/// The most layers that Docker allows: each adds a file, replaces one, hides one, links one.
#[test]
fn images_of_1_to_127_layers() {
    let at = |entry: Entry| entry.mtime(1_000_000_000);
    let layer = |number: usize| {
        let mut layer = Layer::new()
            .entry(at(Entry::dir("./")))
            .entry(at(Entry::dir("d")))
            .entry(at(Entry::file(format!("d/{number}"), format!("{number}"))))
            .entry(at(Entry::file("last", format!("{number}"))));
        if number > 2 {
            let gone = format!("d/.wh.{}", number - 2);
            layer = layer.entry(at(Entry::file(gone, "")));
        }
        if number.is_multiple_of(10) {
            let target = format!("d/{}", number - 1);
            layer = layer.entry(at(Entry::hard_link(format!("link-{number}"), target)));
        }
        layer
    };
    for count in [1, 2, 127] {
        let image = (1..=count).fold(ImageBuilder::new(), |image, n| image.layer(layer(n)));
        assert_same_as_umoci(&Sample::new(&image));
    }
}

/// A whole distribution: the Debian root that the end-to-end tests run.
#[test]
fn the_debian_root() {
    let cache = std::env::var_os("GOURD_TEST_CACHE").expect(
        "GOURD_TEST_CACHE is the folder with images/debian.tar; ./dev test makes it and says where",
    );
    let archive = Path::new(&cache).join("images/debian.tar");
    let sample = Sample::from_archive(&archive);
    let expect = entries(&sample.umoci());
    assert!(expect.len() > 5000, "{} entries", expect.len());
    assert_tree(&sample, &expect);
}

/// Numbers that look random and are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    /// Nothing that compresses away altogether, and no zeros.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let line: Vec<u8> = (0..97).map(|_| self.next(255) as u8 + 1).collect();
        line.into_iter().cycle().take(len).collect()
    }
}

/// Layers of files with and without holes, which replace and hide one another. `largest` is the layer with the most
/// content.
fn stack(numbers: &mut Numbers, largest: u64) -> ImageBuilder {
    let mut image = ImageBuilder::new().packing(Packing::Plain);
    for number in 0..9 {
        let mut layer = Layer::new().dir("d");
        // More than the memory for what waits is given out in.
        let files = if number == largest { 100 } else { 12 };
        for _ in 0..files {
            let name = format!("d/{}", numbers.next(150));
            let mut content = numbers.bytes(200);
            content.resize(
                numbers.next(8) as usize * 4096 + numbers.next(4096) as usize,
                0,
            );
            content.extend(numbers.bytes(if number == largest { 14_000 } else { 300 }));
            layer = match numbers.next(8) {
                0 => layer.whiteout(&name),
                1 if number > 5 => layer.opaque("d"),
                _ => layer.file(&name, content),
            };
        }
        image = image.layer(layer);
    }
    image
}

/// The bytes depend on the layers alone: not on how many threads there are, nor on how much memory.
#[test]
fn the_same_layers_give_the_same_bytes_in_every_way() {
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    for largest in [0, 5] {
        let sample = Sample::new(&stack(&mut numbers, largest));
        let expect = entries(&sample.umoci());
        assert_tree(&sample, &expect);
        let bytes = fs::read(sample.build().unwrap()).unwrap();
        for threads in [1, 3, 9] {
            for memory in [0, 1 << 20] {
                let dir = tempfile::tempdir().unwrap();
                let root = Root::open(dir.path()).unwrap();
                keep(&root, &sample.image);
                let options = Options {
                    threads,
                    memory,
                    ..Options::default()
                };
                let image = rootfs::build_with(&root, &sample.layers, &options).unwrap();
                assert!(
                    fs::read(&image).unwrap() == bytes,
                    "the largest is {largest}, {threads} threads, {memory} bytes"
                );
                let left = fs::read_dir(image.parent().unwrap()).unwrap().count();
                assert_eq!(left, 2, "the file system and the lock");
            }
        }
    }
}

/// What upper layers hide of one another is not in the image at all.
#[test]
fn losers_of_upper_layers_take_no_space() {
    let mut numbers = Numbers(77);
    let mut image = ImageBuilder::new()
        .packing(Packing::Plain)
        .layer(Layer::new().file("base", numbers.bytes(300 << 10)));
    for _ in 0..5 {
        image = image.layer(Layer::new().file("again", numbers.bytes(200 << 10)));
    }
    let sample = Sample::new(&image);
    let image = sample.build().unwrap();
    let size = fs::metadata(&image).unwrap().blocks() * 512;
    // The lowest layer, one file of 200 KiB, and what ext4 needs for itself.
    assert!(size < 900 << 10, "{size}");
    let mounted = mounted(&image);
    let again = fs::metadata(mounted.path().join("again")).unwrap();
    assert_eq!(again.len(), 200 << 10);
}
