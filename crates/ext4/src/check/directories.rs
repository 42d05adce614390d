//! Directories: every entry of every block.

use std::collections::HashSet;

use super::state::Checker;
use super::{Place, htree};
use crate::directory::{
    self, EXT4_FT_BLKDEV, EXT4_FT_CHRDEV, EXT4_FT_DIR, EXT4_FT_FIFO, EXT4_FT_REG_FILE,
    EXT4_FT_SOCK, EXT4_FT_SYMLINK,
};
use crate::inode::{
    EXT4_INDEX_FL, Inode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK,
};
use crate::layout::EXT4_ROOT_INO;
use crate::le::{get16, get32};
use crate::read::{self, Source};

const INCOMPAT_FILETYPE: u32 = 2;
const COMPAT_DIR_INDEX: u32 = 0x20;

impl<S: Source> Checker<'_, S> {
    /// Reads every directory, counts what its names refer to.
    pub(super) fn directories(&mut self) -> read::Result<()> {
        // Their numbers ascend, but for those of reserved inodes that are none.
        for ino in self.directories.clone() {
            let Some(raw) = self.raw_inode(ino)? else {
                continue;
            };
            let sb = &self.geometry.superblock;
            let inode = Inode::parse(&raw, ino, sb.seed, sb.block_size.into());
            self.directory(&inode)?;
        }
        Ok(())
    }

    fn directory(&mut self, inode: &Inode) -> read::Result<()> {
        let mapped = self.map(inode, false)?;
        let indexed = inode.flags & EXT4_INDEX_FL != 0
            && self.geometry.superblock.compat & COMPAT_DIR_INDEX != 0;
        // A damaged directory may show one block many times: each is read once.
        let mut visited = HashSet::new();
        let mut index = indexed.then(|| htree::Index::new(&self.geometry));
        for extent in &mapped.extents {
            for number in 0..extent.len {
                let (logical, physical) =
                    (extent.logical + number, extent.physical + u64::from(number));
                if !visited.insert(physical) {
                    continue;
                }
                let block = self.block(physical)?;
                self.dir_block(inode, logical, &block, index.as_mut());
            }
        }
        if mapped
            .extents
            .first()
            .is_none_or(|extent| extent.logical != 0)
        {
            self.wrong(Place::Directory(inode.ino, 0), "it is not there");
        }
        if let Some(index) = index {
            for problem in index.finish(mapped.end(true)) {
                self.wrong(Place::Inode(inode.ino), format!("its index: {problem}"));
            }
        }
        Ok(())
    }

    fn dir_block(
        &mut self,
        inode: &Inode,
        logical: u32,
        block: &[u8],
        mut index: Option<&mut htree::Index>,
    ) {
        let place = Place::Directory(inode.ino, logical.into());
        if self.geometry.superblock.has_checksums() {
            match directory::block_checksum(block, logical == 0, index.is_some(), inode.seed) {
                None => self.wrong(place, "it has no checksum"),
                Some((stored, computed)) if stored != computed => self.wrong(
                    place,
                    format!("its checksum is {stored:#x}, should be {computed:#x}"),
                ),
                Some(_) => {}
            }
        }
        let node = match &mut index {
            Some(index) => index.take(logical, block),
            None => false,
        };
        if node {
            // What stands there as an entry only hides the index from kernels that know none.
            if logical > 0 {
                return;
            }
            self.dots(inode, place, block, true);
            return;
        }
        let start = match logical {
            0 => self.dots(inode, place, block, false),
            _ => 0,
        };
        let mut names = HashSet::new();
        let mut at = start;
        while at < block.len() {
            let Some((rec_len, name_len)) = record(block, at) else {
                self.wrong(place, format!("the entry at {at} makes no sense"));
                return;
            };
            let ino = get32(block, at);
            let name = &block[at + 8..at + 8 + name_len];
            if ino != 0 {
                if let Some(index) = &mut index {
                    index.name(logical, name);
                }
                if !names.insert(name) {
                    self.wrong(
                        place,
                        format!("the name {} is there twice", name.escape_ascii()),
                    );
                }
                self.entry(inode, place, ino, name, block[at + 7]);
            }
            at += rec_len;
        }
    }

    /// `.` and `..`; gives where the third entry begins. In an index's root the second spans the block.
    fn dots(&mut self, inode: &Inode, place: Place, block: &[u8], root: bool) -> usize {
        let mut at = 0;
        for (name, number) in [(&b"."[..], 1), (b"..", 2)] {
            let found = record(block, at).filter(|(_, len)| &block[at + 8..at + 8 + len] == name);
            let Some((rec_len, _)) = found else {
                self.wrong(
                    place,
                    format!("entry {number} is not {}", name.escape_ascii()),
                );
                return at;
            };
            let ino = get32(block, at);
            if number == 1 && ino != inode.ino {
                self.wrong(place, format!("`.` is inode {ino}"));
            }
            if number == 1 && rec_len != 12 {
                self.wrong(place, format!("`.` has {rec_len} bytes"));
            }
            self.file_type(place, S_IFDIR, block[at + 7], name);
            if number == 2
                && let Some(node) = self.nodes.get_mut(&inode.ino)
            {
                node.dot_dot = ino;
            }
            at += rec_len;
        }
        if root && at != block.len() {
            self.wrong(place, "`..` does not span the root of the index");
        }
        // Each directory links to itself and to the one above it.
        if let Some(node) = self.nodes.get_mut(&inode.ino) {
            node.seen += 1;
        }
        at
    }

    fn entry(&mut self, inode: &Inode, place: Place, ino: u32, name: &[u8], file_type: u8) {
        let shown = name.escape_ascii().to_string();
        if name.is_empty()
            || name.contains(&b'/')
            || name.contains(&0)
            || matches!(name, b"." | b"..")
        {
            self.wrong(place, format!("the name {shown:?} cannot be"));
        }
        let reserved = ino < self.geometry.first_ino() && ino != EXT4_ROOT_INO;
        if ino > self.geometry.superblock.inodes || reserved {
            self.wrong(place, format!("{shown} is inode {ino}, which cannot be"));
            return;
        }
        let Some(node) = self.nodes.get_mut(&ino) else {
            self.wrong(
                place,
                format!("{shown} is inode {ino}, which is not in use"),
            );
            return;
        };
        node.seen += 1;
        let format = node.format;
        if format == S_IFDIR {
            if node.parent != 0 || ino == EXT4_ROOT_INO {
                self.wrong(
                    place,
                    format!("{shown} is directory {ino}, which has another name"),
                );
            } else {
                node.parent = inode.ino;
            }
        }
        self.file_type(place, format, file_type, name);
    }

    fn file_type(&mut self, place: Place, format: u16, file_type: u8, name: &[u8]) {
        let expected = match format {
            _ if self.geometry.superblock.incompat & INCOMPAT_FILETYPE == 0 => 0,
            S_IFREG => EXT4_FT_REG_FILE,
            S_IFDIR => EXT4_FT_DIR,
            S_IFCHR => EXT4_FT_CHRDEV,
            S_IFBLK => EXT4_FT_BLKDEV,
            S_IFIFO => EXT4_FT_FIFO,
            S_IFSOCK => EXT4_FT_SOCK,
            S_IFLNK => EXT4_FT_SYMLINK,
            // What is wrong with its mode was said.
            _ => return,
        };
        // An entry need not say.
        if file_type != expected && file_type != 0 {
            let name = name.escape_ascii();
            self.wrong(
                place,
                format!("the type of {name} is {file_type}, should be {expected}"),
            );
        }
    }
}

/// The lengths of an entry and of its name.
fn record(block: &[u8], at: usize) -> Option<(usize, usize)> {
    let rest = block.get(at..).filter(|rest| rest.len() >= 8)?;
    // In blocks of 64 KiB the whole block does not fit 16 bits.
    let rec_len = match get16(rest, 4) {
        0 | u16::MAX if block.len() == 1 << 16 => rest.len(),
        len => usize::from(len),
    };
    let name_len = usize::from(rest[6]);
    // 12 bytes are the shortest, for a name of up to four.
    let fits = rec_len >= 12 && rec_len % 4 == 0 && rec_len <= rest.len();
    // The entry with a block's checksum has no inode, and no name.
    (fits && 8 + name_len <= rec_len).then_some((rec_len, name_len))
}
