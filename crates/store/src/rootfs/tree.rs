//! From what `oci` merges to what `ext4` writes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Range;

use ext4::read::Source;
use ext4::{Data, Disk, NodeId, Segment, Tree, Waiting, Writer};
use oci::{DataExtent, FileSink};

/// Where a content is.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// In its place.
    Placed(Data),
    /// With the others of that layer, which counts from 0.
    Waiting(usize, Waiting),
}

/// Puts contents straight onto the disk to be.
pub(super) struct InPlace<'a, D>(pub(super) &'a mut Writer<D>);

/// Keeps a layer's contents for later.
pub(super) struct Kept<W> {
    pub(super) layer: usize,
    pub(super) segment: Segment<W>,
}

fn ranges(extents: &[DataExtent]) -> Vec<Range<u64>> {
    let range = |extent: &DataExtent| extent.offset..extent.offset + extent.len;
    extents.iter().map(range).collect()
}

impl<D: Disk> FileSink for InPlace<'_, D> {
    type Data = Content;

    fn put(&mut self, reader: &mut dyn Read, len: u64) -> io::Result<Content> {
        let data = self.0.write_data(reader, len);
        data.map(Content::Placed).map_err(io::Error::other)
    }

    fn put_sparse(
        &mut self,
        reader: &mut dyn Read,
        len: u64,
        extents: &[DataExtent],
    ) -> io::Result<Content> {
        let data = self.0.write_sparse(reader, len, &ranges(extents));
        data.map(Content::Placed).map_err(io::Error::other)
    }
}

impl<W: Write> FileSink for Kept<W> {
    type Data = Content;

    fn put(&mut self, reader: &mut dyn Read, len: u64) -> io::Result<Content> {
        let waiting = self.segment.write_data(reader, len);
        let waiting = waiting.map_err(io::Error::other)?;
        Ok(Content::Waiting(self.layer, waiting))
    }

    fn put_sparse(
        &mut self,
        reader: &mut dyn Read,
        len: u64,
        extents: &[DataExtent],
    ) -> io::Result<Content> {
        let waiting = self.segment.write_sparse(reader, len, &ranges(extents));
        let waiting = waiting.map_err(io::Error::other)?;
        Ok(Content::Waiting(self.layer, waiting))
    }
}

/// Gives every content that waits its place: layer by layer, each in the order of its archive. `segments` has those of each
/// layer, and each goes when all that is wanted of it was taken.
pub(super) fn place<D: Disk, S: Source>(
    nodes: &mut [oci::Node<Content>],
    segments: &mut [Option<S>],
    writer: &mut Writer<D>,
) -> ext4::Result<()> {
    let mut winners: Vec<(usize, u64, usize)> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        if let oci::Kind::File {
            data: Content::Waiting(layer, waiting),
            ..
        } = &node.kind
        {
            winners.push((*layer, waiting.first_block().unwrap_or(0), index));
        }
    }
    winners.sort_unstable();
    for layer in winners.chunk_by(|(a, ..), (b, ..)| a == b) {
        let segment = layer
            .first()
            .and_then(|(layer, ..)| segments[*layer].take());
        for (.., index) in layer {
            if let oci::Kind::File { data, .. } = &mut nodes[*index].kind
                && let Content::Waiting(_, waiting) = data
                && let Some(segment) = &segment
            {
                *data = Content::Placed(writer.append(segment, waiting)?);
            }
        }
    }
    Ok(())
}

/// The same tree in the other crate's words. Extended attributes that no Linux file system has are left out.
pub(super) fn convert(merged: Vec<oci::Node<Content>>) -> Tree {
    let mut directories = Vec::new();
    let mut ids: Vec<NodeId> = Vec::new();
    let mut tree: Option<Tree> = None;
    for (index, node) in merged.into_iter().enumerate() {
        let kind = match node.kind {
            oci::Kind::Directory(entries) => {
                directories.push((index, entries));
                ext4::Kind::Directory(BTreeMap::new())
            }
            oci::Kind::File { data, .. } => ext4::Kind::File(match data {
                Content::Placed(data) => data,
                Content::Waiting(..) => unreachable!("every content that won has its place"),
            }),
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
