//! The one geometry that this crate writes, and which blocks of it are spoken for.
//!
//! Source: `Documentation/filesystems/ext4/blockgroup.rst` ("Meta Block Groups", "Flexible Block
//! Groups") and `super.rst`.
//!
//! With `meta_bg` and `sparse_super` the place of every superblock copy and group descriptor
//! follows from the group's number alone. That is what lets file data stream before the size of
//! the file system is known: the writer steps over those few blocks and puts all other metadata
//! wherever it likes, which `flex_bg` permits.

pub(crate) const BLOCK_SIZE: usize = 4096;
pub(crate) const BLOCK: u64 = BLOCK_SIZE as u64;
pub(crate) const BLOCKS_PER_GROUP: u64 = 8 * BLOCK;
pub(crate) const GROUP_BYTES: u64 = BLOCKS_PER_GROUP * BLOCK;
pub(crate) const DESC_SIZE: usize = 64;
pub(crate) const DESC_PER_BLOCK: u64 = BLOCK / DESC_SIZE as u64;
pub(crate) const INODE_SIZE: usize = 256;
pub(crate) const INODES_PER_BLOCK: u32 = (BLOCK_SIZE / INODE_SIZE) as u32;
/// An inode bitmap is one block.
pub(crate) const MAX_INODES_PER_GROUP: u32 = 8 * BLOCK_SIZE as u32;
/// Bitmaps and inode tables of so many groups lie together, so that those of an empty 512 GiB do.
pub(crate) const GROUPS_TOGETHER: u64 = 4096;
/// What the superblock says of flexible groups: each group is one of its own. `flex_bg` permits any place for metadata,
/// whatever this number is; the kernel takes it for how many groups' bitmaps to set up ahead of the first block that it gives
/// out (at most 32), which holds up the start of a container by 40 ms under translation.
pub(crate) const LOG_GROUPS_PER_FLEX: u8 = 0;

pub(crate) const EXT4_ROOT_INO: u32 = 2;
pub(crate) const EXT4_JOURNAL_INO: u32 = 8;
pub(crate) const EXT4_GOOD_OLD_FIRST_INO: u32 = 11;

pub(crate) type Block = [u8; BLOCK_SIZE];
pub(crate) const ZERO_BLOCK: Block = [0; BLOCK_SIZE];

/// Whether a group holds a copy of the superblock: 0, 1 and the powers of 3, 5 and 7.
pub(crate) fn has_super(group: u64) -> bool {
    let power_of = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    group <= 1 || (group % 2 == 1 && (power_of(3) || power_of(5) || power_of(7)))
}

/// Whether a group holds a copy of its meta group's descriptors: the first, second and last do.
pub(crate) fn has_descriptors(group: u64) -> bool {
    matches!(group % DESC_PER_BLOCK, 0 | 1) || group % DESC_PER_BLOCK == DESC_PER_BLOCK - 1
}

/// Where the descriptors of a meta group stand first.
pub(crate) fn first_descriptors(meta_group: u64) -> u64 {
    let group = meta_group * DESC_PER_BLOCK;
    group * BLOCKS_PER_GROUP + u64::from(has_super(group))
}

/// How many blocks at the start of a group are superblock and descriptors.
pub(crate) fn reserved(group: u64) -> u64 {
    u64::from(has_super(group)) + u64::from(has_descriptors(group))
}

/// Hands out blocks in ascending order, stepping over the reserved ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    next: u64,
}

impl Cursor {
    /// Starts at `block`, or behind it when it is reserved.
    pub(crate) fn new(block: u64) -> Self {
        let mut cursor = Cursor { next: block };
        cursor.step_over();
        cursor
    }

    fn step_over(&mut self) {
        let group = self.next / BLOCKS_PER_GROUP;
        let first = group * BLOCKS_PER_GROUP + reserved(group);
        self.next = self.next.max(first);
    }

    /// The next block to be handed out.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// How many of `want` blocks lie in one piece at [`next`](Self::next); at least 1 of 1.
    pub(crate) fn run(&self, want: u64) -> u64 {
        let mut group = self.next / BLOCKS_PER_GROUP + 1;
        loop {
            let run = group * BLOCKS_PER_GROUP - self.next;
            if run >= want {
                return want;
            }
            if reserved(group) > 0 {
                return run;
            }
            group += 1;
        }
    }

    /// Takes `count` blocks, no more than [`run`](Self::run) said.
    pub(crate) fn take(&mut self, count: u64) -> u64 {
        let start = self.next;
        self.next += count;
        self.step_over();
        start
    }

    /// Takes `count` blocks in one piece, leaving a gap when the next piece is too short.
    pub(crate) fn take_contiguous(&mut self, count: u64) -> u64 {
        loop {
            let run = self.run(count);
            if run == count {
                return self.take(count);
            }
            self.take(run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list in `Documentation/filesystems/ext4/blockgroup.rst`, continued.
    #[test]
    fn superblock_copies_are_sparse() {
        let copies: Vec<u64> = (0..400).filter(|group| has_super(*group)).collect();
        assert_eq!(copies, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
    }

    #[test]
    fn a_cursor_never_hands_out_a_reserved_block() {
        let mut cursor = Cursor::new(0);
        assert_eq!(cursor.next(), 2);
        assert_eq!(cursor.run(u64::MAX), BLOCKS_PER_GROUP - 2);
        cursor.take(BLOCKS_PER_GROUP - 2);
        assert_eq!(cursor.next(), BLOCKS_PER_GROUP + 2);
        // group 2 has nothing, group 3 a superblock
        assert_eq!(cursor.run(u64::MAX), 2 * BLOCKS_PER_GROUP - 2);
        assert_eq!(
            cursor.take_contiguous(2 * BLOCKS_PER_GROUP),
            9 * BLOCKS_PER_GROUP + 1
        );
    }
}
