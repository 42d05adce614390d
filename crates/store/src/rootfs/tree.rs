//! From what `oci` merges to what `ext4` writes.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;

use ext4::{Data, Disk, NodeId, Tree, Writer};
use oci::{DataExtent, FileSink, MergedTree};

/// Puts contents straight onto the disk to be.
pub(super) struct Sink<D: Disk> {
    writer: Writer<D>,
}

impl<D: Disk> Sink<D> {
    pub(super) fn new(writer: Writer<D>) -> Self {
        Self { writer }
    }

    pub(super) fn into_writer(self) -> Writer<D> {
        self.writer
    }
}

impl<D: Disk> FileSink for Sink<D> {
    type Data = Data;

    fn put(&mut self, reader: &mut dyn Read, len: u64) -> io::Result<Data> {
        self.writer
            .write_data(reader, len)
            .map_err(io::Error::other)
    }

    fn put_sparse(
        &mut self,
        reader: &mut dyn Read,
        len: u64,
        extents: &[DataExtent],
    ) -> io::Result<Data> {
        let ranges: Vec<Range<u64>> = extents
            .iter()
            .map(|extent| extent.offset..extent.offset + extent.len)
            .collect();
        self.writer
            .write_sparse(reader, len, &ranges)
            .map_err(io::Error::other)
    }
}

/// The same tree in the other crate's words. Extended attributes that no Linux file system has are left out.
pub(super) fn convert(merged: MergedTree<Data>) -> Tree {
    let mut directories = Vec::new();
    let mut ids: Vec<NodeId> = Vec::new();
    let mut tree: Option<Tree> = None;
    for (index, node) in merged.into_nodes().into_iter().enumerate() {
        let kind = match node.kind {
            oci::Kind::Directory(entries) => {
                directories.push((index, entries));
                ext4::Kind::Directory(BTreeMap::new())
            }
            oci::Kind::File { data, .. } => ext4::Kind::File(data),
            oci::Kind::Symlink(target) => ext4::Kind::Symlink(target),
            oci::Kind::CharDevice { major, minor } => ext4::Kind::CharDevice { major, minor },
            oci::Kind::BlockDevice { major, minor } => ext4::Kind::BlockDevice { major, minor },
            oci::Kind::Fifo => ext4::Kind::Fifo,
        };
        let mut xattrs = node.xattrs;
        xattrs.retain(|(name, _)| ext4::supports_xattr(name));
        let node = ext4::Node {
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            mtime: ext4::Timestamp {
                secs: node.mtime.secs,
                nanos: node.mtime.nanos,
            },
            xattrs,
            kind,
        };
        ids.push(match &mut tree {
            Some(tree) => tree.add(node),
            // The first node is the root.
            None => tree.insert(Tree::new(node)).root(),
        });
    }
    let mut tree = tree.unwrap_or_else(|| unreachable!("a merged tree has a root"));
    for (index, entries) in directories {
        let entries = entries
            .into_iter()
            .map(|(name, child)| (name, ids[child.index()]))
            .collect();
        tree[ids[index]].kind = ext4::Kind::Directory(entries);
    }
    tree
}
