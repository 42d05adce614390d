//! Every inode in use: its fields, its blocks, its extended attributes.

use super::Place;
use super::blocks::Mapped;
use super::state::{Checker, Group, Node};
use crate::group::EXT4_BG_INODE_UNINIT;
use crate::inode::{
    self, EXT4_EA_INODE_FL, EXT4_ENCRYPT_FL, EXT4_EXTENTS_FL, EXT4_HUGE_FILE_FL, EXT4_INDEX_FL,
    EXT4_INLINE_DATA_FL, Inode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG,
    S_IFSOCK,
};
use crate::layout::{EXT4_JOURNAL_INO, EXT4_ROOT_INO};
use crate::le::{get16, get32};
use crate::read::{self, Source};

const BAD_INO: u32 = 1;
const BOOT_LOADER_INO: u32 = 5;
const RESIZE_INO: u32 = 7;
const MIN_EXTRA: u16 = 4;
/// What is read of an inode table at a time, in bytes.
const PIECE: u64 = 1 << 18;
const COMPAT_DIR_INDEX: u32 = 0x20;

impl<S: Source> Checker<'_, S> {
    /// The chain of inodes that were deleted while open: each one's `i_dtime` is the next.
    pub(super) fn orphans(&mut self) -> read::Result<()> {
        let mut next = get32(&self.geometry.raw, 0xe8);
        while next != 0 {
            let exists =
                next >= self.geometry.first_ino() && next <= self.geometry.superblock.inodes;
            if !exists || !self.orphans.insert(next) {
                self.wrong(
                    Place::Superblock,
                    format!("the list of orphans (s_last_orphan) leads to inode {next}"),
                );
                break;
            }
            let Some(raw) = self.raw_inode(next)? else {
                break;
            };
            next = get32(&raw, 0x14);
        }
        if !self.orphans.is_empty() {
            let note = format!(
                "{} files that were deleted while open wait to be freed",
                self.orphans.len()
            );
            self.report.notes.push(note);
        }
        Ok(())
    }

    /// Reads the used part of every inode table.
    pub(super) fn inodes(&mut self) -> read::Result<()> {
        let per_group = self.geometry.superblock.inodes_per_group;
        for number in 0..self.groups.len() {
            let group = self.groups[number];
            let counted = group.flags & EXT4_BG_INODE_UNINIT == 0 && group.usable;
            if counted {
                let first = number as u32 * per_group + 1;
                self.table(first, per_group - group.itable_unused, &group)?;
            }
        }
        Ok(())
    }

    fn table(&mut self, first: u32, count: u32, group: &Group) -> read::Result<()> {
        let size = u64::from(self.geometry.superblock.inode_size);
        let start = group.inode_table * self.geometry.block_size();
        let (mut at, end) = (0, u64::from(count) * size);
        let mut buffer = Vec::new();
        while at < end {
            buffer.resize(PIECE.min(end - at) as usize, 0);
            read::read_exact(self.source, &mut buffer, start + at)?;
            for (raw, ino) in buffer
                .chunks_exact(size as usize)
                .zip(first + (at / size) as u32..)
            {
                if raw.iter().any(|byte| *byte != 0) {
                    self.raw(raw, ino)?;
                }
            }
            at += buffer.len() as u64;
        }
        Ok(())
    }

    fn raw(&mut self, raw: &[u8], ino: u32) -> read::Result<()> {
        let place = Place::Inode(ino);
        let sb = &self.geometry.superblock;
        let inode = Inode::parse(raw, ino, sb.seed, sb.block_size.into());
        if sb.has_checksums() {
            let (stored, computed) = inode::checksum(raw, ino, sb.seed);
            if stored != computed {
                self.wrong(
                    place,
                    format!("its checksum is {stored:#x}, should be {computed:#x}"),
                );
            }
        }
        let deleted = get32(raw, 0x14);
        let reserved = ino < self.geometry.first_ino() && ino != EXT4_ROOT_INO;
        let orphan = self.orphans.contains(&ino);
        if inode.links == 0 && !orphan {
            if reserved {
                // Blocks that are bad, or nothing.
                return self.reserved(&inode);
            }
            if inode.mode != 0 && deleted == 0 {
                self.wrong(place, "it has no links, and no time of deletion");
            }
            return Ok(());
        }
        if deleted != 0 && !orphan {
            self.wrong(
                place,
                format!("it is in use, and has a time of deletion ({deleted})"),
            );
        }
        self.extra(raw, place);
        let format = inode.mode & S_IFMT;
        self.nodes.insert(
            ino,
            Node {
                format,
                links: inode.links,
                ..Node::default()
            },
        );
        if reserved && !matches!(ino, EXT4_JOURNAL_INO | 3 | 4) {
            return self.reserved(&inode);
        }
        self.in_use(&inode, raw)
    }

    fn extra(&mut self, raw: &[u8], place: Place) {
        if raw.len() <= 128 {
            return;
        }
        let extra = get16(raw, 0x80);
        let fits = extra == 0 || (extra >= MIN_EXTRA && usize::from(extra) <= raw.len() - 128);
        if !fits || !extra.is_multiple_of(4) {
            self.wrong(place, format!("i_extra_isize is {extra}"));
        }
    }

    /// Bad blocks, the inode that keeps blocks for more descriptors, the boot loader's, and those of what was never built.
    fn reserved(&mut self, inode: &Inode) -> read::Result<()> {
        let place = Place::Inode(inode.ino);
        let format = inode.mode & S_IFMT;
        match inode.ino {
            BAD_INO => {
                let inline = inode.flags & EXT4_INLINE_DATA_FL != 0;
                let fields = [inode.mode.into(), inode.uid, inode.gid, inode.links.into()];
                if inline || inode.file_acl != 0 || fields.iter().any(|field| *field != 0) {
                    self.wrong(place, "the list of bad blocks is no such list");
                    return Ok(());
                }
                if inode.i_block.iter().any(|byte| *byte != 0) {
                    let mapped = self.map(inode, true)?;
                    self.allocated(inode, &mapped, 0);
                }
            }
            RESIZE_INO if self.geometry.has_resize_inode() => {
                if format != S_IFREG || inode.links == 0 {
                    self.wrong(place, "what keeps blocks for descriptors is no file");
                    return Ok(());
                }
                return self.resize_inode(inode);
            }
            BOOT_LOADER_INO if format == S_IFREG => {
                let mapped = self.map(inode, true)?;
                self.allocated(inode, &mapped, 0);
            }
            _ if inode.mode != 0 => {
                self.wrong(
                    place,
                    format!("a reserved inode has the mode {:#o}", inode.mode),
                );
            }
            // Without a type its blocks mean nothing.
            _ => {}
        }
        Ok(())
    }

    /// The block map's second level alone: pointers to blocks kept for descriptors, which hold pointers to their copies.
    fn resize_inode(&mut self, inode: &Inode) -> read::Result<()> {
        let place = Place::Inode(inode.ino);
        let top = u64::from(get32(&inode.i_block, 13 * 4));
        let single = (0..15).filter(|number| *number != 13);
        let others = single.map(|number| get32(&inode.i_block, number * 4));
        if others.into_iter().any(|block| block != 0) || !self.inside(top, 1) {
            self.wrong(
                place,
                "its block map is not that of blocks kept for descriptors",
            );
            return Ok(());
        }
        self.claim(place, top, 1);
        let mut blocks = 1;
        let raw = self.block(top)?;
        let mut visited = std::collections::HashSet::new();
        for pointer in raw.chunks_exact(4).map(|bytes| u64::from(get32(bytes, 0))) {
            if pointer == 0 {
                continue;
            }
            // Claimed by their place.
            if !self.inside(pointer, 1) || !self.used.has(pointer) || !visited.insert(pointer) {
                self.wrong(place, format!("its block map has block {pointer}"));
                continue;
            }
            blocks += 1;
            let copies = self.block(pointer)?;
            for copy in copies
                .chunks_exact(4)
                .map(|bytes| u64::from(get32(bytes, 0)))
            {
                if copy == 0 {
                    continue;
                }
                blocks += 1;
                if !self.inside(copy, 1) || !self.used.has(copy) {
                    self.wrong(place, format!("its block map has block {copy}"));
                }
            }
        }
        self.count(inode, blocks);
        Ok(())
    }

    fn in_use(&mut self, inode: &Inode, raw: &[u8]) -> read::Result<()> {
        let place = Place::Inode(inode.ino);
        if get32(raw, 0x70) != 0 {
            self.wrong(place, format!("i_faddr is {}", get32(raw, 0x70)));
        }
        if inode.flags & EXT4_EA_INODE_FL != 0 && self.geometry.has_ea_inodes() {
            self.xattr_inodes.entry(inode.ino).or_default();
        }
        if inode.flags & EXT4_INLINE_DATA_FL != 0 {
            self.wrong(
                place,
                "it holds its contents itself, a feature that the file system has not",
            );
        }
        if inode.flags & EXT4_ENCRYPT_FL != 0 {
            self.wrong(
                place,
                "it is encrypted, a feature that the file system has not",
            );
        }
        if inode.flags & EXT4_EXTENTS_FL != 0 && !self.geometry.has_extents() {
            self.wrong(
                place,
                "it has an extent tree, a feature that the file system has not",
            );
        }
        let format = inode.mode & S_IFMT;
        let indexed = inode.flags & EXT4_INDEX_FL != 0;
        let may_be = format == S_IFDIR && self.geometry.superblock.compat & COMPAT_DIR_INDEX != 0;
        if indexed && !may_be {
            self.wrong(place, "it is marked as an indexed directory");
        }
        let xattr_blocks = self.xattrs(inode, raw)?;
        match format {
            S_IFREG | S_IFDIR => {
                if format == S_IFDIR {
                    self.directories.push(inode.ino);
                }
                let mapped = self.map(inode, true)?;
                self.size(inode, &mapped, format == S_IFDIR);
                self.allocated(inode, &mapped, xattr_blocks);
            }
            S_IFLNK => self.symlink(inode, xattr_blocks)?,
            S_IFCHR | S_IFBLK | S_IFIFO | S_IFSOCK => {
                if inode.size != 0 {
                    self.wrong(
                        place,
                        format!("a device, pipe or socket of {} bytes", inode.size),
                    );
                }
                let blocks = inode.i_block[16..].iter().any(|byte| *byte != 0);
                if blocks || inode.flags & EXT4_EXTENTS_FL != 0 {
                    self.wrong(place, "a device, pipe or socket that has blocks");
                }
                self.count(inode, xattr_blocks);
            }
            _ => {
                self.wrong(
                    place,
                    format!("its mode is {:#o}, which is no type", inode.mode),
                );
            }
        }
        Ok(())
    }

    /// A length that does not go with the blocks.
    fn size(&mut self, inode: &Inode, mapped: &Mapped, directory: bool) {
        let place = Place::Inode(inode.ino);
        let block_size = self.geometry.block_size();
        let blocks = inode.size.div_ceil(block_size);
        let pointers = block_size / 4;
        let most = match inode.flags & EXT4_EXTENTS_FL {
            0 => 12 + pointers + pointers.pow(2) + pointers.pow(3),
            _ => 1 << 32,
        };
        if blocks > most {
            self.wrong(
                place,
                format!("it has {} bytes, more than can be", inode.size),
            );
        }
        if directory {
            let holes = mapped.blocks() != mapped.end(true);
            if inode.size == 0
                || !inode.size.is_multiple_of(block_size)
                || blocks != mapped.end(true)
            {
                self.wrong(
                    place,
                    format!(
                        "a directory of {} bytes has {} blocks",
                        inode.size,
                        mapped.end(true)
                    ),
                );
            } else if holes || mapped.extents.iter().any(|extent| extent.unwritten) {
                self.wrong(place, "a directory with a hole");
            }
        } else if blocks < mapped.end(false) {
            self.wrong(
                place,
                format!(
                    "a file of {} bytes has {} blocks",
                    inode.size,
                    mapped.end(false)
                ),
            );
        }
    }

    fn symlink(&mut self, inode: &Inode, xattr_blocks: u64) -> read::Result<()> {
        let place = Place::Inode(inode.ino);
        let data = inode
            .allocated
            .saturating_sub(xattr_blocks * self.geometry.block_size());
        if inode.flags & EXT4_EXTENTS_FL == 0 && data == 0 {
            let target = inode.i_block.iter().position(|byte| *byte == 0);
            let len = target.unwrap_or(inode.i_block.len()) as u64;
            if len != inode.size || len == 0 {
                self.wrong(
                    place,
                    format!("a symbolic link of {} bytes has {len}", inode.size),
                );
            }
            self.count(inode, xattr_blocks);
            return Ok(());
        }
        let mapped = self.map(inode, true)?;
        self.allocated(inode, &mapped, xattr_blocks);
        let fits = inode.size > 0 && inode.size < self.geometry.block_size();
        match mapped.extents.first() {
            Some(extent) if mapped.blocks() == 1 && extent.logical == 0 && fits => {
                let raw = self.block(extent.physical)?;
                let len = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len()) as u64;
                if len != inode.size {
                    self.wrong(
                        place,
                        format!("a symbolic link of {} bytes has {len}", inode.size),
                    );
                }
            }
            _ => self.wrong(
                place,
                format!(
                    "a symbolic link of {} bytes has {} blocks",
                    inode.size,
                    mapped.blocks()
                ),
            ),
        }
        Ok(())
    }

    fn allocated(&mut self, inode: &Inode, mapped: &Mapped, xattr_blocks: u64) {
        self.count(inode, mapped.blocks() + mapped.nodes + xattr_blocks);
    }

    /// `i_blocks`.
    fn count(&mut self, inode: &Inode, blocks: u64) {
        let expected = blocks * self.geometry.block_size();
        // The values of attributes in inodes of their own count as well, in a way of their own.
        if inode.allocated != expected && inode.flags & EXT4_EA_INODE_FL == 0 {
            let unit = match inode.flags & EXT4_HUGE_FILE_FL {
                0 => 512,
                _ => self.geometry.block_size(),
            };
            self.wrong(
                Place::Inode(inode.ino),
                format!(
                    "i_blocks is {}, should be {}",
                    inode.allocated / unit,
                    expected / unit
                ),
            );
        }
    }
}
