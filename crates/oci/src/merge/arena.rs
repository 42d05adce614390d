//! The tree while layers are applied: nodes, and for each name the layer it comes from.

use std::collections::BTreeMap;
use std::collections::btree_map;

use super::error::MergeProblem;
use super::tree::{Kind, MergedTree, Node, NodeId, Timestamp};

/// As deep as directories may nest: what fits into a path of `PATH_MAX` bytes.
const MAX_DEPTH: usize = 2048;
/// As many symbolic links as Linux follows for one path.
const MAX_SYMLINKS: u32 = 40;
/// `NAME_MAX`.
const MAX_NAME: usize = 255;
/// What a node costs beside its names and attributes, roughly.
const NODE_COST: usize = 256;
/// Names that AUFS kept for itself at the root of a layer.
pub(super) const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) node: NodeId,
    /// The last layer that had something at this name or below it.
    layer: u32,
}

#[derive(Debug)]
struct WorkNode<D> {
    attributes: Attributes,
    /// The layer that the attributes of a directory come from.
    layer: u32,
    kind: WorkKind<D>,
}

#[derive(Debug)]
enum WorkKind<D> {
    Directory(BTreeMap<Vec<u8>, Entry>),
    /// Anything but a directory.
    Leaf(Kind<D>),
}

/// What an entry says about a node besides its kind.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Of a directory that no entry names.
    fn implied() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }

    fn cost(&self) -> usize {
        self.xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len() + 64)
            .sum()
    }
}

/// A directory, and how it is reached from the root: each step with its name in the one before.
#[derive(Debug)]
pub(super) struct Trail(Vec<(Vec<u8>, NodeId)>);

impl Trail {
    pub(super) fn directory(&self) -> NodeId {
        self.0.last().map_or(NodeId(0), |(_, node)| *node)
    }
}

/// What to do about directories that are missing on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make them, in this layer.
    Make(u32),
    /// Then there is nothing to find.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Arena<D> {
    nodes: Vec<WorkNode<D>>,
    budget: u64,
    spent: u64,
}

impl<D> Arena<D> {
    pub(super) fn new(budget: u64) -> Self {
        let root = WorkNode {
            attributes: Attributes::implied(),
            layer: 0,
            kind: WorkKind::Directory(BTreeMap::new()),
        };
        Self {
            nodes: vec![root],
            budget,
            spent: 0,
        }
    }

    fn charge(&mut self, cost: usize) -> Result<(), MergeProblem> {
        self.spent = self.spent.saturating_add(cost as u64);
        if self.spent > self.budget {
            return Err(MergeProblem::Budget(self.budget));
        }
        Ok(())
    }

    fn add(
        &mut self,
        attributes: Attributes,
        kind: WorkKind<D>,
        layer: u32,
    ) -> Result<NodeId, MergeProblem> {
        let target = match &kind {
            WorkKind::Leaf(Kind::Symlink(target)) => target.len(),
            _ => 0,
        };
        self.charge(NODE_COST + target + attributes.cost())?;
        let id = u32::try_from(self.nodes.len()).map_err(|_| MergeProblem::Budget(self.budget))?;
        self.nodes.push(WorkNode {
            attributes,
            layer,
            kind,
        });
        Ok(NodeId(id))
    }

    fn entries(&self, directory: NodeId) -> Option<&BTreeMap<Vec<u8>, Entry>> {
        match &self.nodes[directory.index()].kind {
            WorkKind::Directory(entries) => Some(entries),
            WorkKind::Leaf(_) => None,
        }
    }

    fn entries_mut(&mut self, directory: NodeId) -> Option<&mut BTreeMap<Vec<u8>, Entry>> {
        match &mut self.nodes[directory.index()].kind {
            WorkKind::Directory(entries) => Some(entries),
            WorkKind::Leaf(_) => None,
        }
    }

    pub(super) fn is_directory(&self, id: NodeId) -> bool {
        self.entries(id).is_some()
    }

    pub(super) fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<Entry> {
        self.entries(directory)?.get(name).copied()
    }

    /// Walks `components` from the root, through symbolic links, never out of the root. `None` if
    /// a directory is missing and is not to be made.
    pub(super) fn resolve(
        &mut self,
        components: &[&[u8]],
        missing: Missing,
    ) -> Result<Option<Trail>, MergeProblem> {
        let mut pending: Vec<Vec<u8>> = components.iter().rev().map(|c| c.to_vec()).collect();
        let mut trail: Vec<(Vec<u8>, NodeId)> = Vec::with_capacity(pending.len());
        let mut links = 0;
        while let Some(name) = pending.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    trail.pop();
                    continue;
                }
                _ => {}
            }
            let directory = trail.last().map_or(NodeId(0), |(_, node)| *node);
            let found = self.lookup(directory, &name);
            let next = match found.map(|e| (e, &self.nodes[e.node.index()].kind)) {
                Some((entry, WorkKind::Directory(_))) => entry.node,
                Some((_, WorkKind::Leaf(Kind::Symlink(target)))) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(MergeProblem::SymlinkLoop);
                    }
                    if target.first() == Some(&b'/') {
                        trail.clear();
                    }
                    pending.extend(target.split(|c| *c == b'/').rev().map(<[u8]>::to_vec));
                    continue;
                }
                found => {
                    let Missing::Make(layer) = missing else {
                        return Ok(None);
                    };
                    // A lower layer's file gives way, as it would under overlayfs.
                    if found.is_some_and(|(entry, _)| entry.layer == layer) {
                        return Err(MergeProblem::NotADirectory(shown(&name)));
                    }
                    self.make_directory(directory, &name, Attributes::implied(), layer)?
                }
            };
            trail.push((name, next));
            if trail.len() >= MAX_DEPTH {
                return Err(MergeProblem::TooDeep);
            }
        }
        Ok(Some(Trail(trail)))
    }

    /// Puts a new, empty directory in place of whatever has the name.
    fn make_directory(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        layer: u32,
    ) -> Result<NodeId, MergeProblem> {
        let node = self.add(attributes, WorkKind::Directory(BTreeMap::new()), layer)?;
        self.insert(parent, name, node, layer)?;
        Ok(node)
    }

    fn insert(
        &mut self,
        directory: NodeId,
        name: &[u8],
        node: NodeId,
        layer: u32,
    ) -> Result<(), MergeProblem> {
        if name.len() > MAX_NAME {
            return Err(MergeProblem::NameTooLong(shown(name)));
        }
        self.charge(name.len() + 64)?;
        let entry = Entry { node, layer };
        match self.entries_mut(directory) {
            Some(entries) => entries.insert(name.to_vec(), entry),
            None => return Err(MergeProblem::NotADirectory(shown(name))),
        };
        Ok(())
    }

    /// A directory entry: new, or new attributes for the one that is there.
    pub(super) fn put_directory(
        &mut self,
        parent: &Trail,
        name: &[u8],
        attributes: Attributes,
        layer: u32,
    ) -> Result<(), MergeProblem> {
        let present = self.lookup(parent.directory(), name);
        match present.filter(|entry| self.is_directory(entry.node)) {
            Some(entry) => {
                self.set_attributes(entry.node, attributes, layer)?;
                self.insert(parent.directory(), name, entry.node, layer)?;
            }
            None => {
                self.make_directory(parent.directory(), name, attributes, layer)?;
            }
        }
        self.touch(parent, layer);
        Ok(())
    }

    pub(super) fn set_attributes(
        &mut self,
        id: NodeId,
        attributes: Attributes,
        layer: u32,
    ) -> Result<(), MergeProblem> {
        self.charge(attributes.cost())?;
        let node = &mut self.nodes[id.index()];
        (node.attributes, node.layer) = (attributes, layer);
        Ok(())
    }

    /// An entry that is not a directory, in place of whatever has the name.
    pub(super) fn put_leaf(
        &mut self,
        parent: &Trail,
        name: &[u8],
        attributes: Attributes,
        kind: Kind<D>,
        layer: u32,
    ) -> Result<(), MergeProblem> {
        let node = self.add(attributes, WorkKind::Leaf(kind), layer)?;
        self.link(parent, name, node, layer)
    }

    /// Another name for a node.
    pub(super) fn link(
        &mut self,
        parent: &Trail,
        name: &[u8],
        node: NodeId,
        layer: u32,
    ) -> Result<(), MergeProblem> {
        self.insert(parent.directory(), name, node, layer)?;
        self.touch(parent, layer);
        Ok(())
    }

    /// Notes that the layer has something below each directory on the way.
    fn touch(&mut self, trail: &Trail, layer: u32) {
        let mut directory = NodeId(0);
        for (name, node) in &trail.0 {
            if let Some(entry) = self
                .entries_mut(directory)
                .and_then(|entries| entries.get_mut(name))
            {
                entry.layer = layer;
            }
            directory = *node;
        }
    }

    /// Removes a name as far as it comes from layers below `layer`.
    pub(super) fn white_out(&mut self, directory: NodeId, name: &[u8], layer: u32) {
        let Some(entry) = self.lookup(directory, name) else {
            return;
        };
        if entry.layer == layer {
            self.forget_lower(entry.node, layer);
            self.hide_lower(entry.node, layer);
        } else if let Some(entries) = self.entries_mut(directory) {
            entries.remove(name);
        }
    }

    /// Removes everything in `directory` that comes from layers below `layer`.
    pub(super) fn hide_lower(&mut self, directory: NodeId, layer: u32) {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            let Some(entries) = self.entries_mut(directory) else {
                continue;
            };
            entries.retain(|_, entry| entry.layer == layer);
            let below = entries.values().map(|entry| entry.node).collect::<Vec<_>>();
            for node in below {
                self.forget_lower(node, layer);
                pending.push(node);
            }
        }
    }

    /// A directory that is hidden and that the layer has something in: what lower layers said of it is hidden too.
    fn forget_lower(&mut self, id: NodeId, layer: u32) {
        let node = &mut self.nodes[id.index()];
        if node.layer != layer && matches!(node.kind, WorkKind::Directory(_)) {
            (node.attributes, node.layer) = (Attributes::implied(), layer);
        }
    }

    /// Removes what AUFS kept at the root of a layer; only hard links in that layer need it.
    pub(super) fn drop_aufs_metadata(&mut self) {
        if let Some(entries) = self.entries_mut(NodeId(0)) {
            entries.retain(|name, _| !name.starts_with(AUFS_PREFIX));
        }
    }

    /// What is reachable, renumbered in walking order.
    pub(super) fn into_tree(self) -> MergedTree<D> {
        let mut old: Vec<Option<WorkNode<D>>> = self.nodes.into_iter().map(Some).collect();
        let mut new_id: Vec<Option<NodeId>> = vec![None; old.len()];
        let mut nodes: Vec<Node<D>> = Vec::new();
        let mut open: Vec<(usize, btree_map::IntoIter<Vec<u8>, Entry>)> = Vec::new();
        let mut visit = |id: NodeId, nodes: &mut Vec<Node<D>>, open: &mut Vec<_>| {
            if let Some(id) = new_id[id.index()] {
                return id;
            }
            let place = NodeId(nodes.len() as u32);
            new_id[id.index()] = Some(place);
            if let Some(WorkNode {
                attributes, kind, ..
            }) = old[id.index()].take()
            {
                let kind = match kind {
                    WorkKind::Leaf(kind) => kind,
                    WorkKind::Directory(entries) => {
                        open.push((nodes.len(), entries.into_iter()));
                        Kind::Directory(BTreeMap::new())
                    }
                };
                nodes.push(Node {
                    mode: attributes.mode,
                    uid: attributes.uid,
                    gid: attributes.gid,
                    mtime: attributes.mtime,
                    xattrs: attributes.xattrs,
                    kind,
                });
            }
            place
        };
        visit(NodeId(0), &mut nodes, &mut open);
        while let Some((directory, entries)) = open.last_mut() {
            let directory = *directory;
            let Some((name, entry)) = entries.next() else {
                open.pop();
                continue;
            };
            let id = visit(entry.node, &mut nodes, &mut open);
            if let Kind::Directory(entries) = &mut nodes[directory].kind {
                entries.insert(name, id);
            }
        }
        MergedTree { nodes }
    }
}

/// A name for people.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
