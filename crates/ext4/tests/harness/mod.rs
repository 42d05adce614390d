//! An image, ways to damage it, and all that may be done with the result. Shared by `tests/hostile.rs` and the fuzz target.

// Each of those who share this uses a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::OnceLock;

use ext4::check::check;
use ext4::read::{Contents, Error, Inode, ROOT, Reader, Source};
use ext4::{
    Data, FormatOptions, Journal, Kind, Node, Timestamp, Tree, Writer, WriterOptions, format,
};

fn node(kind: Kind) -> Node {
    Node {
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime: Timestamp::default(),
        xattrs: vec![(b"user.small".to_vec(), b"value".to_vec())],
        kind,
    }
}

/// A small image with one of everything that the reader parses.
pub fn image() -> Vec<u8> {
    let mut disk = Vec::new();
    let mut writer = Writer::new(&mut disk, WriterOptions::default()).unwrap();
    let mut tree = Tree::new(node(Kind::Directory(BTreeMap::new())));
    let root = tree.root();
    let mut sparse = vec![0u8; 12 * 4096];
    for block in sparse.chunks_mut(8192) {
        block[0] = 1;
    }
    let data = writer
        .write_data(&mut &sparse[..], sparse.len() as u64)
        .unwrap();
    let sparse = tree.add(node(Kind::File(data)));
    tree.link(root, "sparse", sparse).unwrap();
    let link = tree.add(node(Kind::Symlink(vec![b'x'; 100])));
    tree.link(root, "link", link).unwrap();
    let mut big = node(Kind::Fifo);
    big.xattrs.push((b"user.big".to_vec(), vec![7; 500]));
    let big = tree.add(big);
    tree.link(root, "attributes", big).unwrap();
    let indexed = tree.add(node(Kind::Directory(BTreeMap::new())));
    tree.link(root, "indexed", indexed).unwrap();
    let file = tree.add(node(Kind::File(Data::empty())));
    for i in 0..40 {
        tree.link(indexed, format!("{i:0200}"), file).unwrap();
    }
    writer.finish(&tree).unwrap();
    disk
}

/// Reads all that can be reached, and counts what could be read.
pub fn read_all<S: Source>(source: S, verify: bool) -> Result<usize, Error> {
    let reader = Reader::open_with(source, verify)?;
    let mut seen = HashSet::new();
    let mut open = vec![ROOT];
    let mut count = 0;
    while let Some(ino) = open.pop() {
        if !seen.insert(ino) {
            continue;
        }
        let Ok(inode) = reader.inode(ino) else {
            continue;
        };
        count += 1;
        touch(&reader, &inode);
        if let Ok(entries) = reader.read_dir(&inode) {
            open.extend(entries.iter().map(|entry| entry.ino));
        }
    }
    let _ = reader.lookup(b"/indexed/none");
    Ok(count)
}

fn touch<S: Source>(reader: &Reader<S>, inode: &Inode) {
    let _ = reader.xattrs(inode);
    let _ = reader.read_link(inode);
    let _ = reader.device(inode);
    let mut buffer = vec![0; 65_536];
    let contents: Result<Contents<'_, S>, Error> = reader.contents(inode);
    if let Ok(contents) = contents {
        for offset in [
            0,
            contents.len() / 2,
            contents.len().saturating_sub(100),
            u64::MAX,
        ] {
            let _ = contents.read_at(&mut buffer, offset);
        }
    }
}

/// An empty disk with a journal, in which some metadata has a place of its own.
fn empty() -> Vec<u8> {
    let mut disk = Vec::new();
    let options = FormatOptions {
        size: 8 << 20,
        journal: Journal::Bytes(4 << 20),
        ..FormatOptions::default()
    };
    format(&mut disk, &options).unwrap();
    disk
}

/// An image with bytes changed, which is not copied for it.
struct Damaged<'a> {
    image: &'a [u8],
    edits: Vec<(usize, &'a [u8])>,
}

impl Source for Damaged<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.image.read_at(buf, offset)?;
        let (start, end) = (offset as usize, offset as usize + buf.len());
        for &(at, bytes) in &self.edits {
            let (from, to) = (at.max(start), (at + bytes.len()).min(end));
            if from < to {
                buf[from - start..to - start].copy_from_slice(&bytes[from - at..to - at]);
            }
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.image.len() as u64)
    }
}

/// A fuzz target. The first byte chooses an image; then come edits: a byte that says how many bytes and in which 4 KiB a
/// little-endian number of two bytes counts, and they. Or what follows is the image itself, from its superblock on.
pub fn damaged(bytes: &[u8]) {
    static IMAGES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    let images = IMAGES.get_or_init(|| [image(), empty()]);
    let Some((&kind, mut rest)) = bytes.split_first() else {
        return;
    };
    if kind & 3 == 3 {
        let mut image = vec![0; 1024];
        image.extend_from_slice(rest);
        if let Some(magic) = image.get_mut(1024 + 0x38..1024 + 0x3a) {
            magic.copy_from_slice(&[0x53, 0xef]);
        }
        return examine(&image);
    }
    let image = &images[usize::from(kind & 1)];
    let mut edits = Vec::new();
    while let [head, place @ ..] = rest
        && let [low, high, more @ ..] = place
    {
        // Metadata is at both ends.
        let at = usize::from(u16::from_le_bytes([*low, *high])) + usize::from(head >> 4) * 65_536;
        let len = (usize::from(head & 15) + 1).min(more.len());
        let (bytes, behind) = more.split_at(len);
        let at = at % image.len();
        edits.push((at, &bytes[..len.min(image.len() - at)]));
        rest = behind;
    }
    examine(&Damaged { image, edits });
}

fn examine<S: Source>(source: &S) {
    let _ = read_all(source, false);
    let _ = read_all(source, true);
    if let Ok(report) = check(source) {
        assert!(report.errors >= report.findings.len() as u64);
        for finding in &report.findings {
            assert!(!finding.to_string().is_empty());
        }
    }
}
