//! Which inode number each node gets, and whether the tree is one that ext4 can hold.
//!
//! Numbers ascend directory by directory, so that a directory's entries have neighbouring inodes.

use crate::error::{Error, Result};
use crate::inode::EXT4_LINK_MAX;
use crate::layout::{EXT4_GOOD_OLD_FIRST_INO, EXT4_ROOT_INO};
use crate::tree::{Kind, NodeId, Tree};

/// A node in the order of inode numbers; the root comes first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) id: NodeId,
    pub(crate) ino: u32,
    /// The inode of the directory with its first name.
    pub(crate) parent: u32,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) order: Vec<Planned>,
    /// Whether a `lost+found` must be added, which then is inode 11.
    pub(crate) add_lost_found: bool,
    /// By node; zero for a node without a name.
    inos: Vec<u32>,
    /// Link counts by node.
    links: Vec<u32>,
}

pub(crate) const LOST_FOUND: &[u8] = b"lost+found";

impl Plan {
    pub(crate) fn new(tree: &Tree) -> Result<Self> {
        let root = tree.root();
        let Kind::Directory(_) = tree[root].kind else {
            return Err(Error::RootNotDirectory);
        };
        let add_lost_found = tree.lookup(root, LOST_FOUND).is_none();
        let mut plan = Plan {
            order: vec![Planned {
                id: root,
                ino: EXT4_ROOT_INO,
                parent: EXT4_ROOT_INO,
            }],
            add_lost_found,
            inos: vec![0; tree.len()],
            links: vec![0; tree.len()],
        };
        plan.inos[root.0 as usize] = EXT4_ROOT_INO;
        plan.links[root.0 as usize] = 2 + u32::from(add_lost_found);
        plan.number(tree)?;
        plan.check_links(tree)?;
        Ok(plan)
    }

    pub(crate) fn ino(&self, id: NodeId) -> u32 {
        self.inos[id.0 as usize]
    }

    /// The first inode number behind all nodes.
    pub(crate) fn end(&self) -> u32 {
        let first = EXT4_GOOD_OLD_FIRST_INO + u32::from(self.add_lost_found);
        // The root has a number of its own.
        first + self.order.len() as u32 - 1
    }

    /// The link count as an inode tells it: 1 stands for "more than can be counted".
    pub(crate) fn links(&self, id: NodeId) -> u16 {
        match self.links[id.0 as usize] {
            links if links >= EXT4_LINK_MAX => 1,
            links => links as u16,
        }
    }

    fn number(&mut self, tree: &Tree) -> Result<()> {
        let mut next = EXT4_GOOD_OLD_FIRST_INO + u32::from(self.add_lost_found);
        let mut open = vec![(tree.root(), EXT4_ROOT_INO)];
        let mut below = Vec::new();
        while let Some((directory, parent)) = open.pop() {
            let Kind::Directory(entries) = &tree[directory].kind else {
                continue;
            };
            for (name, child) in entries {
                check_name(tree, directory, name)?;
                let node = tree.get(*child).ok_or_else(|| Error::DanglingNode {
                    path: entry_path(tree, directory, name),
                })?;
                let at = child.0 as usize;
                let first = self.inos[at] == 0;
                if first {
                    self.inos[at] = next;
                    self.order.push(Planned {
                        id: *child,
                        ino: next,
                        parent,
                    });
                    next = next
                        .checked_add(1)
                        .ok_or(Error::TooManyInodes { count: tree.len() })?;
                }
                if let Kind::Directory(_) = node.kind {
                    if !first {
                        return Err(Error::DirectoryLinkedTwice {
                            path: entry_path(tree, directory, name),
                        });
                    }
                    self.links[at] += 2;
                    self.links[directory.0 as usize] += 1;
                    below.push((*child, self.inos[at]));
                } else {
                    self.links[at] += 1;
                }
            }
            open.extend(below.drain(..).rev());
        }
        Ok(())
    }

    fn check_links(&self, tree: &Tree) -> Result<()> {
        for planned in &self.order {
            let links = self.links[planned.id.0 as usize];
            let directory = matches!(tree[planned.id].kind, Kind::Directory(_));
            if links > EXT4_LINK_MAX && !directory {
                return Err(Error::TooManyLinks {
                    path: tree.path_of(planned.id),
                    links,
                });
            }
        }
        Ok(())
    }
}

fn check_name(tree: &Tree, directory: NodeId, name: &[u8]) -> Result<()> {
    let valid = (1..=255).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if valid {
        return Ok(());
    }
    Err(Error::Name {
        path: tree.path_of(directory),
        name: String::from_utf8_lossy(name).into_owned(),
    })
}

fn entry_path(tree: &Tree, directory: NodeId, name: &[u8]) -> String {
    let parent = tree.path_of(directory);
    let name = String::from_utf8_lossy(name);
    format!("{}/{}", parent.trim_end_matches('/'), name.escape_debug())
}
