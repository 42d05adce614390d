//! What may be done with foreign bytes, and what must hold whatever they are. Shared by `tests/corpus.rs` and the fuzz targets.

// Each of those who share this uses a part of it.
#![allow(dead_code)]

use std::io::{self, Read};

use oci::{
    DataExtent, FileSink, ImageConfig, MergeError, Merger, Platform, Reference, parse_document,
};

/// Counts bytes, leaves holes alone, and gives up on what is absurdly long.
#[derive(Debug, Default)]
struct Counter(u64);

impl FileSink for Counter {
    type Data = ();

    fn put(&mut self, reader: &mut dyn Read, _len: u64) -> io::Result<()> {
        self.0 += io::copy(reader, &mut io::sink())?;
        Ok(())
    }

    fn put_sparse(
        &mut self,
        reader: &mut dyn Read,
        len: u64,
        extents: &[DataExtent],
    ) -> io::Result<()> {
        let end = extents.last().map_or(0, |e| e.offset + e.len);
        assert!(end <= len);
        self.put(reader, len)
    }
}

/// Merges one layer.
pub fn merge(tar: &[u8]) -> Result<(), MergeError> {
    let mut sink = Counter::default();
    let mut merger = Merger::with_budget(4 << 20);
    merger.apply_layer(&mut &*tar, &mut sink)?;
    let tree = merger.finish();
    assert!(sink.0 <= tar.len() as u64);
    assert!(tree.nodes().len() <= 1 + tar.len());
    assert!(tree.walk().count() < 1_000_000);
    Ok(())
}

/// Layers of blocks of 512 bytes, the first byte says how many; merged with what a layer index says of each. A fuzz target.
pub fn layers(bytes: &[u8]) {
    let Some((count, tar)) = bytes.split_first() else {
        return;
    };
    let _ = merge(tar);
    let count = usize::from(count % 4) + 1;
    let blocks = tar.len() / 512 / count * 512;
    if count == 1 || blocks == 0 {
        return;
    }
    let mut merger = Merger::with_budget(4 << 20);
    for layer in tar.chunks(blocks) {
        let mut sink = Counter::default();
        if merger.apply_layer(&mut &layer[..], &mut sink).is_err() {
            return;
        }
    }
    let tree = merger.finish();
    assert!(tree.nodes().len() <= 1 + tar.len());
    assert!(tree.walk().count() < 1_000_000);
}

/// A manifest, index or configuration, and a reference; what is taken is the same when it is written and read again.
/// A fuzz target.
pub fn documents(bytes: &[u8]) {
    let _ = parse_document(None, bytes);
    let _ = ImageConfig::parse(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = text.parse::<Platform>();
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
        assert_eq!(reference.familiar().parse(), Ok(reference));
    }
}
