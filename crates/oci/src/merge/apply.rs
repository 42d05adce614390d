//! Applies one entry of a layer.

use super::Merger;
use super::arena::{AUFS_PREFIX, Attributes, Missing, Trail, shown};
use super::error::{MergeError, MergeProblem};
use super::index::Indexed;
use super::tree::{Kind, NodeId};
use crate::tar::{Entry, EntryKind};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Overlayfs in the guest would take these for its own notes about the rootfs image.
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";

impl<D: Clone> Merger<D> {
    pub(super) fn apply_entry(&mut self, indexed: Indexed<D>) -> Result<(), MergeError> {
        let layer = self.layer;
        let Indexed { mut entry, data } = indexed;
        let path = std::mem::take(&mut entry.path);
        let offset = entry.offset;
        self.apply(entry, &path, data)
            .map_err(|problem| MergeError::Entry {
                layer,
                entry: shown(&path),
                offset,
                problem,
            })
    }

    fn apply(&mut self, entry: Entry, path: &[u8], data: Option<D>) -> Result<(), MergeProblem> {
        let components = clean(path).ok_or(MergeProblem::NameEscapes)?;
        let Some((name, parents)) = components.split_last() else {
            return self.apply_root(entry);
        };
        if is_whiteout(&components) {
            return self.apply_whiteout(parents, name);
        }
        let layer = self.layer;
        let parent = self.make_parent(parents)?;
        let (kind, attributes) = split(entry);
        let kind = match kind {
            EntryKind::Directory => {
                return self.arena.put_directory(&parent, name, attributes, layer);
            }
            EntryKind::HardLink(target) => {
                let node = self.hard_link_target(&target)?;
                return self.arena.link(&parent, name, node, layer);
            }
            EntryKind::File { len, .. } => match data {
                Some(data) => Kind::File { data, len },
                // What is stored and what is applied is decided by the same name.
                None => unreachable!("the content of a file is in the sink"),
            },
            EntryKind::Symlink(target) => Kind::Symlink(target),
            EntryKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            EntryKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
            EntryKind::Fifo => Kind::Fifo,
        };
        self.arena.put_leaf(&parent, name, attributes, kind, layer)
    }

    fn apply_root(&mut self, entry: Entry) -> Result<(), MergeProblem> {
        if !matches!(entry.kind, EntryKind::Directory) {
            return Err(MergeProblem::RootNotDirectory);
        }
        let (_, attributes) = split(entry);
        self.arena.set_attributes(NodeId(0), attributes, self.layer)
    }

    fn apply_whiteout(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<(), MergeProblem> {
        let hidden = &name[WHITEOUT_PREFIX.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(MergeProblem::BadWhiteout(shown(name)));
        }
        let Some(parent) = self.arena.resolve(parents, Missing::Nothing)? else {
            return Ok(());
        };
        if name == OPAQUE_MARKER {
            self.arena.hide_lower(parent.directory(), self.layer);
        } else {
            self.arena.white_out(parent.directory(), hidden, self.layer);
        }
        Ok(())
    }

    fn make_parent(&mut self, parents: &[&[u8]]) -> Result<Trail, MergeProblem> {
        let trail = self.arena.resolve(parents, Missing::Make(self.layer))?;
        trail.ok_or(MergeProblem::TooDeep)
    }

    /// The node that a hard link names. Its directory may be reached through symbolic links; it
    /// may be one itself.
    fn hard_link_target(&mut self, target: &[u8]) -> Result<NodeId, MergeProblem> {
        let components = clean(target).ok_or_else(|| MergeProblem::TargetEscapes(shown(target)))?;
        let Some((name, parents)) = components.split_last() else {
            return Err(MergeProblem::TargetIsDirectory(shown(target)));
        };
        let directory = self.arena.resolve(parents, Missing::Nothing)?;
        let entry = directory.and_then(|trail| self.arena.lookup(trail.directory(), name));
        let node = entry
            .ok_or_else(|| MergeProblem::TargetMissing(shown(target)))?
            .node;
        if self.arena.is_directory(node) {
            return Err(MergeProblem::TargetIsDirectory(shown(target)));
        }
        Ok(node)
    }
}

/// A name's components without `.` and `..`; `None` if it leaves the root.
pub(super) fn clean(path: &[u8]) -> Option<Vec<&[u8]>> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|c| *c == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop()?;
            }
            name => components.push(name),
        }
    }
    Some(components)
}

/// Whether a name hides others. AUFS kept notes of its own under names that begin so.
pub(super) fn is_whiteout(components: &[&[u8]]) -> bool {
    let (Some(first), Some(name)) = (components.first(), components.last()) else {
        return false;
    };
    let aufs = first.starts_with(AUFS_PREFIX) && *first != OPAQUE_MARKER;
    name.starts_with(WHITEOUT_PREFIX) && !aufs
}

/// What an entry is, and what it says besides.
fn split(entry: Entry) -> (EntryKind, Attributes) {
    let mut xattrs = entry.xattrs;
    xattrs.retain(|(name, _)| !name.starts_with(OVERLAY_XATTRS));
    let attributes = Attributes {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs,
    };
    (entry.kind, attributes)
}
