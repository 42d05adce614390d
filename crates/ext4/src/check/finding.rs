//! What a report is made of.

use std::fmt;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The superblock.
    Superblock,
    /// A block group, by its number.
    Group(u64),
    /// An inode.
    Inode(u32),
    /// A block of a directory: its inode, the block's place in it.
    Directory(u32, u64),
    /// The journal.
    Journal,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock => f.write_str("superblock"),
            Self::Group(group) => write!(f, "group {group}"),
            Self::Inode(ino) => write!(f, "inode {ino}"),
            Self::Directory(ino, block) => write!(f, "directory {ino}, block {block}"),
            Self::Journal => f.write_str("journal"),
        }
    }
}
