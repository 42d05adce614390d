//! Whether everything in use can be reached, and by as many names as it says.

use std::collections::HashSet;

use super::Place;
use super::state::{Checker, Node};
use crate::inode::{EXT4_LINK_MAX, S_IFDIR};
use crate::layout::EXT4_ROOT_INO;
use crate::read::Source;

impl<S: Source> Checker<'_, S> {
    pub(super) fn links(&mut self) {
        let root = self.nodes.get(&EXT4_ROOT_INO).copied();
        if root.is_none_or(|root| root.format != S_IFDIR) {
            self.wrong(Place::Inode(EXT4_ROOT_INO), "there is no root directory");
        }
        self.reachable();
        let mut inos: Vec<u32> = self.nodes.keys().copied().collect();
        inos.sort_unstable();
        // What a directory's children add to its links.
        for ino in &inos {
            let Some(node) = self.nodes.get(ino).copied() else {
                continue;
            };
            let above = if *ino == EXT4_ROOT_INO {
                EXT4_ROOT_INO
            } else {
                node.parent
            };
            if node.format == S_IFDIR
                && let Some(parent) = self.nodes.get_mut(&above)
            {
                parent.seen += 1;
            }
        }
        for ino in inos {
            if let Some(node) = self.nodes.get(&ino).copied() {
                self.node(ino, node);
            }
        }
        self.shared_attributes();
    }

    fn node(&mut self, ino: u32, node: Node) {
        let place = Place::Inode(ino);
        let special = (ino < self.geometry.first_ino() && ino != EXT4_ROOT_INO)
            || self.geometry.hidden_inodes().contains(&ino)
            || self.orphans.contains(&ino);
        if special {
            return;
        }
        if let Some(references) = self.xattr_inodes.get(&ino) {
            if *references == 0 {
                self.wrong(
                    place,
                    "it holds the value of an extended attribute that no file has",
                );
            }
            return;
        }
        if node.format == S_IFDIR {
            let parent = if ino == EXT4_ROOT_INO {
                EXT4_ROOT_INO
            } else {
                node.parent
            };
            if parent == 0 {
                self.wrong(place, "a directory without a name");
                return;
            }
            if node.dot_dot != parent {
                self.wrong(
                    place,
                    format!("its `..` is inode {}, should be {parent}", node.dot_dot),
                );
            }
        } else if node.seen == 0 {
            self.wrong(place, "it is in use, but has no name");
            return;
        }
        let expected = match node.seen {
            // Beyond what fits a directory says 1: not counted.
            seen if node.format == S_IFDIR && seen > EXT4_LINK_MAX => 1,
            seen => seen,
        };
        if u32::from(node.links) != expected {
            self.wrong(
                place,
                format!("its link count is {}, should be {expected}", node.links),
            );
        }
    }

    /// Directories that only name each other.
    fn reachable(&mut self) {
        let mut reached = HashSet::from([EXT4_ROOT_INO]);
        for ino in self.directories.clone() {
            let mut way = HashSet::new();
            let mut at = ino;
            while !reached.contains(&at) && way.insert(at) {
                at = self.nodes.get(&at).map_or(0, |node| node.parent);
                if at == 0 {
                    break;
                }
            }
            if at == 0 || reached.contains(&at) {
                // What hangs below a directory without a name is found with it.
                reached.extend(way);
            } else {
                self.wrong(Place::Inode(at), "a directory that is below itself");
                reached.extend(way);
            }
        }
    }

    fn shared_attributes(&mut self) {
        let mut blocks: Vec<_> = self
            .xattr_blocks
            .iter()
            .map(|(at, block)| (*at, *block))
            .collect();
        blocks.sort_unstable_by_key(|(at, _)| *at);
        for (at, block) in blocks {
            if block.references != block.seen {
                self.wrong(
                    Place::Superblock,
                    format!(
                        "block {at} of extended attributes counts {} files, should be {}",
                        block.references, block.seen
                    ),
                );
            }
        }
    }
}
