//! The merged tree: what an image's root file system holds.

use std::collections::BTreeMap;

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00:00 UTC, rounded down.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

/// Names a node of one [`MergedTree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

impl NodeId {
    /// The node's place in [`MergedTree::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A file of any kind, without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<D> {
    /// Permission bits with set-user-ID, set-group-ID and sticky: 0 to 0o7777.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When the content changed last.
    pub mtime: Timestamp,
    /// Extended attributes with their namespace (`security.capability`), sorted by name, each
    /// name once. Values are raw bytes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What it is.
    pub kind: Kind<D>,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind<D> {
    /// A directory: names (1 to 255 bytes, no `/` or NUL, not `.` or `..`) and nodes. Two names
    /// with the same node, here or in different directories, are hard links; never of directories.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// A regular file.
    File {
        /// Where the sink put the content.
        data: D,
        /// The size in bytes, holes included.
        len: u64,
    },
    /// A symbolic link: 1 to 4095 bytes without NUL, otherwise as written.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// Every file that is visible after all layers, and nothing else.
///
/// Nodes are numbered in the order of [`MergedTree::walk`], so equal input gives equal numbers.
/// At most 2,048 levels deep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedTree<D> {
    pub(super) nodes: Vec<Node<D>>,
}

impl<D> MergedTree<D> {
    /// The root directory.
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// A node of this tree.
    ///
    /// # Panics
    /// If `id` comes from a larger tree.
    pub fn node(&self, id: NodeId) -> &Node<D> {
        &self.nodes[id.index()]
    }

    /// All nodes; [`NodeId::index`] is the place.
    pub fn nodes(&self) -> &[Node<D>] {
        &self.nodes
    }

    /// All nodes, given away.
    pub fn into_nodes(self) -> Vec<Node<D>> {
        self.nodes
    }

    /// The node at `path`, component by component from the root; symbolic links are not followed.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<NodeId> {
        path.as_ref()
            .split(|c| *c == b'/')
            .filter(|name| !name.is_empty())
            .try_fold(self.root(), |id, name| match &self.node(id).kind {
                Kind::Directory(entries) => entries.get(name).copied(),
                _ => None,
            })
    }

    /// Every name below the root with its path, a directory before what it holds, siblings in
    /// byte order. A node with several names comes once for each.
    pub fn walk(&self) -> Walk<'_, D> {
        let mut walk = Walk {
            tree: self,
            path: Vec::new(),
            open: Vec::new(),
        };
        walk.enter(self.root(), 0);
        walk
    }
}

/// See [`MergedTree::walk`].
#[derive(Debug)]
pub struct Walk<'a, D> {
    tree: &'a MergedTree<D>,
    path: Vec<u8>,
    open: Vec<(
        std::collections::btree_map::Iter<'a, Vec<u8>, NodeId>,
        usize,
    )>,
}

impl<D> Walk<'_, D> {
    fn enter(&mut self, id: NodeId, path_len: usize) {
        if let Kind::Directory(entries) = &self.tree.node(id).kind {
            self.open.push((entries.iter(), path_len));
        }
    }
}

impl<D> Iterator for Walk<'_, D> {
    /// Path without a leading slash, and node.
    type Item = (Vec<u8>, NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (entries, path_len) = self.open.last_mut()?;
            self.path.truncate(*path_len);
            let Some((name, id)) = entries.next() else {
                self.open.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            self.enter(*id, self.path.len());
            return Some((self.path.clone(), *id));
        }
    }
}
