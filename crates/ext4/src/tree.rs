//! The tree that a [`Writer`](crate::Writer) puts on disk: an arena of nodes.
//!
//! A node is an inode to be: a hard link is a second name for the same [`NodeId`]. Nodes that no
//! directory names (any more) are left out.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::extent::Extent;

/// A moment: seconds since 1970, and nanoseconds (below 10⁹) after that second.
///
/// ext4 holds 1901-12-13 to 2446-05-10, but e2fsck takes what lies after 2310-04-04 for a mistake
/// of old kernels and mends it. What lies outside of 1901 to 2310 is moved to the nearer of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// The rest, always counted forwards.
    pub nanos: u32,
}

impl Timestamp {
    /// The earliest second that is written.
    pub const MIN_SECS: i64 = i32::MIN as i64;
    /// The latest second that is written.
    pub const MAX_SECS: i64 = (2 << 32) + i32::MAX as i64;

    pub(crate) fn clamped(self) -> Self {
        if self.secs < Self::MIN_SECS {
            Timestamp {
                secs: Self::MIN_SECS,
                nanos: 0,
            }
        } else {
            Timestamp {
                secs: self.secs.min(Self::MAX_SECS),
                nanos: self.nanos.min(999_999_999),
            }
        }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp {
                secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanos: after.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                let borrow = i64::from(before.subsec_nanos() > 0);
                Timestamp {
                    secs: -i64::try_from(before.as_secs()).unwrap_or(i64::MAX) - borrow,
                    nanos: (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000,
                }
            }
        }
    }
}

/// The contents of one file, already on the disk; cheap to clone.
///
/// It belongs to one node, and to the writer that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    pub(crate) len: u64,
    pub(crate) extents: Arc<[Extent]>,
}

impl Data {
    /// The contents of an empty file.
    pub fn empty() -> Self {
        Data::default()
    }

    /// The file's length in bytes, holes included.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes of the disk it takes: whole blocks, without holes.
    pub fn allocated(&self) -> u64 {
        let blocks: u64 = self.extents.iter().map(|e| u64::from(e.len)).sum();
        blocks * crate::layout::BLOCK
    }
}

/// Names a node of one [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

/// A file, directory, link or special file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Permission bits with setuid, setgid and sticky; bits beyond 0o7777 are ignored.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the contents. Access and change time become the same.
    pub mtime: Timestamp,
    /// Extended attributes by full name, such as `security.capability`, with the values that
    /// `getxattr` gives.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What it is.
    pub kind: Kind,
}

/// What a [`Node`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory: names without `.` and `..`, any bytes but `/` and zero.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// A regular file.
    File(Data),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Up to 4095.
        major: u32,
        /// Up to 1048575.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Up to 4095.
        major: u32,
        /// Up to 1048575.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
}

/// All nodes, and which of them is the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Node>,
    root: NodeId,
}

impl Tree {
    /// A tree of one node, which should be a directory.
    pub fn new(root: Node) -> Self {
        Tree {
            nodes: vec![root],
            root: NodeId(0),
        }
    }

    /// The root's name.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// Adds a node that has no name yet.
    ///
    /// # Panics
    /// When 2³² nodes are there already.
    pub fn add(&mut self, node: Node) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes"));
        self.nodes.push(node);
        id
    }

    /// Gives `child` a name in `parent`. Returns the node that had the name before.
    ///
    /// # Errors
    /// Gives `child` back when `parent` is not a directory.
    pub fn link(
        &mut self,
        parent: NodeId,
        name: impl Into<Vec<u8>>,
        child: NodeId,
    ) -> Result<Option<NodeId>, NodeId> {
        match &mut self[parent].kind {
            Kind::Directory(entries) => Ok(entries.insert(name.into(), child)),
            _ => Err(child),
        }
    }

    /// The node of that name in a directory.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self[parent].kind {
            Kind::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    /// The node, unless it is of another tree.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.0 as usize)
    }

    /// How many nodes were added, with or without a name.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: there is always a root.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// One of the node's paths, made printable; for messages, hence not fast.
    pub(crate) fn path_of(&self, wanted: NodeId) -> String {
        let mut parents: Vec<Option<(NodeId, &[u8])>> = vec![None; self.nodes.len()];
        let mut open = vec![self.root];
        while let Some(id) = open.pop() {
            let Some(Kind::Directory(entries)) = self.get(id).map(|node| &node.kind) else {
                continue;
            };
            for (name, child) in entries {
                let Some(parent) = parents.get_mut(child.0 as usize) else {
                    continue;
                };
                if *child != self.root && parent.is_none() {
                    *parent = Some((id, name));
                    open.push(*child);
                }
            }
        }
        let mut parts = Vec::new();
        let mut id = wanted;
        while let Some(Some((parent, name))) = parents.get(id.0 as usize) {
            parts.push(String::from_utf8_lossy(name).escape_debug().to_string());
            id = *parent;
        }
        parts.reverse();
        format!("/{}", parts.join("/"))
    }
}

/// # Panics
/// When the node is of another, larger tree.
impl Index<NodeId> for Tree {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }
}

/// # Panics
/// When the node is of another, larger tree.
impl IndexMut<NodeId> for Tree {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_before_1970_count_nanoseconds_forwards() {
        let half = UNIX_EPOCH - Duration::from_millis(1500);
        let expect = Timestamp {
            secs: -2,
            nanos: 500_000_000,
        };
        assert_eq!(Timestamp::from(half), expect);
        assert_eq!(Timestamp::from(UNIX_EPOCH), Timestamp::default());
    }

    #[test]
    fn paths_survive_cycles_and_dangling_nodes() {
        let directory = || Node {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
            kind: Kind::Directory(BTreeMap::new()),
        };
        let mut tree = Tree::new(directory());
        let a = tree.add(directory());
        let b = tree.add(directory());
        tree.link(tree.root(), "a", a).unwrap();
        tree.link(a, "b\n", b).unwrap();
        tree.link(b, "again", a).unwrap();
        tree.link(b, "root", tree.root()).unwrap();
        tree.link(b, "gone", NodeId(99)).unwrap();
        assert_eq!(tree.path_of(b), "/a/b\\n");
        assert_eq!(tree.path_of(tree.root()), "/");
    }
}
