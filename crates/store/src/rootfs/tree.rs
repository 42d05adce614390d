//! From what `oci` merges to what `ext4` writes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Range;

use ext4::{NodeId, Placed, Segment, Tree, Waiting};
use oci::{DataExtent, FileSink};

/// A content: with the others of that layer, which counts from 0.
#[derive(Debug, Clone)]
pub(super) struct Content {
    layer: usize,
    contents: Waiting,
}

/// Takes a layer's contents.
pub(super) struct Contents<W> {
    pub(super) layer: usize,
    pub(super) segment: Segment<W>,
}

fn ranges(extents: &[DataExtent]) -> Vec<Range<u64>> {
    let range = |extent: &DataExtent| extent.offset..extent.offset + extent.len;
    extents.iter().map(range).collect()
}

impl<W: Write> FileSink for Contents<W> {
    type Data = Content;

    fn put(&mut self, reader: &mut dyn Read, len: u64) -> io::Result<Content> {
        let contents = self.segment.write_data(reader, len);
        Ok(Content {
            layer: self.layer,
            contents: contents.map_err(io::Error::other)?,
        })
    }

    fn put_sparse(
        &mut self,
        reader: &mut dyn Read,
        len: u64,
        extents: &[DataExtent],
    ) -> io::Result<Content> {
        let contents = self.segment.write_sparse(reader, len, &ranges(extents));
        Ok(Content {
            layer: self.layer,
            contents: contents.map_err(io::Error::other)?,
        })
    }
}

/// The same tree in the other crate's words; `placed` says by layer where contents lie. Extended attributes that no Linux
/// file system has are left out.
///
/// # Errors
/// A content has no place.
pub(super) fn convert(merged: Vec<oci::Node<Content>>, placed: &[Placed]) -> ext4::Result<Tree> {
    let mut directories = Vec::new();
    let mut ids: Vec<NodeId> = Vec::new();
    let mut tree: Option<Tree> = None;
    for (index, node) in merged.into_iter().enumerate() {
        let kind = match node.kind {
            oci::Kind::Directory(entries) => {
                directories.push((index, entries));
                ext4::Kind::Directory(BTreeMap::new())
            }
            oci::Kind::File { data, .. } => {
                ext4::Kind::File(placed[data.layer].data(&data.contents)?)
            }
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
    Ok(tree)
}
