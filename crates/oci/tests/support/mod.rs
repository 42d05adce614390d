//! What the tests of merging share: a sink in memory, and a tree as text.

#![allow(dead_code)]

use std::error::Error;
use std::io::{self, Read};

use oci::{FileSink, Kind, MergeError, MergedTree, Merger};

/// Keeps contents in memory.
#[derive(Debug, Default)]
pub struct Memory;

impl FileSink for Memory {
    type Data = Vec<u8>;

    fn put(&mut self, reader: &mut dyn Read, len: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let n = reader.take(1 << 30).read_to_end(&mut content)?;
        assert_eq!(n as u64, len, "the reader yields what was announced");
        Ok(content)
    }
}

/// Merges layers, the lowest first.
pub fn merge(layers: &[Vec<u8>]) -> Result<MergedTree<Vec<u8>>, MergeError> {
    let mut merger = Merger::new();
    for layer in layers {
        merger.apply_layer(&mut layer.as_slice(), &mut Memory)?;
    }
    Ok(merger.finish())
}

/// An error with its causes.
pub fn chain(error: &dyn Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {}", chain(source)),
    }
}

/// A line for each name: `path kind`, what is in it, and the other names of the same node.
pub fn names(tree: &MergedTree<Vec<u8>>) -> Vec<String> {
    let mut first_names = std::collections::HashMap::new();
    tree.walk()
        .map(|(path, id)| {
            let path = path.escape_ascii().to_string();
            if let Some(first) = first_names.get(&id) {
                return format!("{path} = {first}");
            }
            first_names.insert(id, path.clone());
            match &tree.node(id).kind {
                Kind::Directory(_) => format!("{path}/"),
                Kind::File { data, .. } => format!("{path} {:?}", String::from_utf8_lossy(data)),
                Kind::Symlink(target) => format!("{path} -> {}", target.escape_ascii()),
                Kind::CharDevice { major, minor } => format!("{path} c {major}:{minor}"),
                Kind::BlockDevice { major, minor } => format!("{path} b {major}:{minor}"),
                Kind::Fifo => format!("{path} fifo"),
            }
        })
        .collect()
}
