//! Applies one entry of a layer.

use std::io::Read;

use super::arena::{AUFS_PREFIX, Attributes, Missing, Trail, shown};
use super::error::{MergeError, MergeProblem};
use super::tree::{Kind, NodeId};
use super::{FileSink, Merger};
use crate::tar::{Archive, Entry, EntryKind};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Overlayfs in the guest would take these for its own notes about the rootfs image.
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";

impl<S: FileSink> Merger<S> {
    pub(super) fn apply_entry<R: Read>(
        &mut self,
        entry: Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), MergeError> {
        let layer = self.layer;
        let path = entry.path.clone();
        let offset = entry.offset;
        let at_entry = |problem| MergeError::Entry {
            layer,
            entry: shown(&path),
            offset,
            problem,
        };
        let components = clean(&path)
            .ok_or(MergeProblem::NameEscapes)
            .map_err(at_entry)?;
        let Some((name, parents)) = components.split_last() else {
            return self.apply_root(entry).map_err(at_entry);
        };
        let aufs = components[0].starts_with(AUFS_PREFIX) && components[0] != OPAQUE_MARKER;
        if name.starts_with(WHITEOUT_PREFIX) && !aufs {
            return self.apply_whiteout(parents, name).map_err(at_entry);
        }
        let EntryKind::File { len, extents } = &entry.kind else {
            return self.apply_other(entry, parents, name).map_err(at_entry);
        };
        let len = *len;
        let parent = self.make_parent(parents).map_err(at_entry)?;
        let mut reader = archive.data();
        let stored = match extents {
            None => self.sink.put(&mut reader, len),
            Some(extents) => self.sink.put_sparse(&mut reader, len, extents),
        };
        let data = stored.map_err(|source| match archive.take_failure() {
            Some(source) => MergeError::Tar { layer, source },
            None => MergeError::Sink {
                layer,
                entry: shown(&path),
                source,
            },
        })?;
        let kind = Kind::File { data, len };
        self.arena
            .put_leaf(&parent, name, attributes(&entry), kind, layer)
            .map_err(at_entry)
    }

    fn apply_root(&mut self, entry: Entry) -> Result<(), MergeProblem> {
        if !matches!(entry.kind, EntryKind::Directory) {
            return Err(MergeProblem::RootNotDirectory);
        }
        self.arena.set_attributes(NodeId(0), attributes(&entry))
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

    /// Anything but a regular file.
    fn apply_other(
        &mut self,
        entry: Entry,
        parents: &[&[u8]],
        name: &[u8],
    ) -> Result<(), MergeProblem> {
        let layer = self.layer;
        let attributes = attributes(&entry);
        let parent = self.make_parent(parents)?;
        let kind = match entry.kind {
            EntryKind::Directory => {
                return self.arena.put_directory(&parent, name, attributes, layer);
            }
            EntryKind::HardLink(target) => {
                let node = self.hard_link_target(&target)?;
                return self.arena.link(&parent, name, node, layer);
            }
            EntryKind::Symlink(target) => Kind::Symlink(target),
            EntryKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            EntryKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
            EntryKind::Fifo | EntryKind::File { .. } => Kind::Fifo,
        };
        self.arena.put_leaf(&parent, name, attributes, kind, layer)
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
fn clean(path: &[u8]) -> Option<Vec<&[u8]>> {
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

fn attributes(entry: &Entry) -> Attributes {
    let mut xattrs = entry.xattrs.clone();
    xattrs.retain(|(name, _)| !name.starts_with(OVERLAY_XATTRS));
    Attributes {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs,
    }
}
