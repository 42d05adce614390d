//! The journal's own superblock.
//!
//! Source: `Documentation/filesystems/ext4/journal.rst`, "Super Block".

use super::Place;
use super::state::Checker;
use crate::inode::{Inode, S_IFMT, S_IFREG};
use crate::layout::EXT4_JOURNAL_INO;
use crate::le::get32;
use crate::read::{self, Source};

const MAGIC: u32 = 0xc03b_3998;

impl<S: Source> Checker<'_, S> {
    pub(super) fn journal(&mut self) -> read::Result<()> {
        let sb = &self.geometry.superblock;
        if !sb.has_journal() {
            if sb.needs_recovery() {
                self.wrong(
                    Place::Superblock,
                    "a journal is to be replayed, but there is none",
                );
            }
            return Ok(());
        }
        let ino = get32(&self.geometry.raw, 0xe0); // s_journal_inum
        let device = get32(&self.geometry.raw, 0xe4);
        if ino == 0 && device != 0 {
            self.report
                .notes
                .push("its journal is on another device".to_owned());
            return Ok(());
        }
        if ino != EXT4_JOURNAL_INO {
            self.wrong(Place::Superblock, format!("s_journal_inum is {ino}"));
            return Ok(());
        }
        let (seed, unit) = (sb.seed, sb.block_size.into());
        let Some(raw) = self.raw_inode(ino)? else {
            return Ok(());
        };
        let inode = Inode::parse(&raw, ino, seed, unit);
        if inode.mode & S_IFMT != S_IFREG || inode.links == 0 {
            self.wrong(Place::Journal, "its inode is no file");
            return Ok(());
        }
        let mapped = self.map(&inode, false)?;
        let blocks = mapped.blocks();
        let first = mapped.extents.first().filter(|extent| extent.logical == 0);
        let Some(first) = first.map(|extent| extent.physical) else {
            self.wrong(Place::Journal, "it has no blocks");
            return Ok(());
        };
        let raw = self.block(first)?;
        self.journal_superblock(&raw, blocks);
        Ok(())
    }

    fn journal_superblock(&mut self, raw: &[u8], blocks: u64) {
        let field =
            |at: usize| u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let (magic, kind, size, length) = (field(0), field(4), field(12), field(16));
        if magic != MAGIC || !(3..=4).contains(&kind) {
            self.wrong(
                Place::Journal,
                format!("its superblock has magic {magic:#x} and type {kind}"),
            );
            return;
        }
        if size != self.geometry.superblock.block_size {
            self.wrong(Place::Journal, format!("s_blocksize is {size}"));
        }
        if u64::from(length) > blocks {
            self.wrong(
                Place::Journal,
                format!("s_maxlen is {length}, but it has {blocks} blocks"),
            );
        }
        let (first, start) = (field(20), field(28));
        if first == 0 || first >= length {
            self.wrong(Place::Journal, format!("s_first is {first}"));
        }
        if start != 0 && !self.geometry.superblock.needs_recovery() {
            self.wrong(
                Place::Journal,
                "it has something to replay, but the superblock says that it has not",
            );
        }
        if field(32) != 0 {
            self.report
                .notes
                .push("a kernel noted an error in the journal".to_owned());
        }
    }
}
