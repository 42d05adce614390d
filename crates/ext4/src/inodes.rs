//! From nodes to inodes: directories, links, attributes and extent trees find their blocks behind
//! the contents, and the inodes gather in memory until the end.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::block_map::BlockMap;
use crate::directory::{self, Entry, Place};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::extent::{self, Extent, ExtentList};
use crate::inode::{
    self, EXT4_EA_INODE_FL, EXT4_EXTENTS_FL, EXT4_INDEX_FL, RawInode, S_IFBLK, S_IFCHR, S_IFDIR,
    S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK,
};
use crate::layout::{
    BLOCK, BLOCK_SIZE, EXT4_GOOD_OLD_FIRST_INO, EXT4_ROOT_INO, INODE_SIZE, ZERO_BLOCK,
};
use crate::plan::{LOST_FOUND, Plan, Planned};
use crate::sink::Sink;
use crate::superblock::{checksum_seed, hash_seed};
use crate::tree::{Data, Kind, Node, NodeId, Timestamp, Tree};
use crate::xattr::{self, Numbering, Refusal};

/// The inodes in the making, and the blocks that they need beside file contents.
pub(crate) struct Inodes<'a, D> {
    pub(crate) sink: Sink<D>,
    tree: &'a Tree,
    plan: &'a Plan,
    /// The blocks where contents may lie.
    data: Range<u64>,
    seed: u32,
    hash_seed: [u32; 4],
    created: Timestamp,
    pub(crate) used: BlockMap,
    /// All inodes from number 1 on, encoded.
    pub(crate) table: Vec<u8>,
    /// The numbers of those that are directories.
    pub(crate) directories: Vec<u32>,
    /// How many hold the value of an extended attribute. They come behind all others.
    pub(crate) values: u32,
}

impl<'a, D: Disk> Inodes<'a, D> {
    /// `data` are the blocks of the sink where contents may lie.
    pub(crate) fn new(
        sink: Sink<D>,
        tree: &'a Tree,
        plan: &'a Plan,
        data: Range<u64>,
        uuid: &[u8; 16],
        created: Timestamp,
    ) -> Self {
        let reserved = (EXT4_GOOD_OLD_FIRST_INO - 1) as usize;
        let mut table = Vec::with_capacity((reserved + plan.order.len() + 1) * INODE_SIZE);
        table.resize(reserved * INODE_SIZE, 0);
        Inodes {
            sink,
            tree,
            plan,
            data,
            seed: checksum_seed(uuid),
            hash_seed: hash_seed(uuid),
            created,
            used: BlockMap::default(),
            table,
            directories: Vec::new(),
            values: 0,
        }
    }

    /// Encodes every inode of the plan and writes the blocks that they need.
    pub(crate) fn add_all(&mut self) -> Result<()> {
        for planned in &self.plan.order {
            let raw = self.inode(planned)?;
            self.put(planned.ino, &raw);
            if planned.ino == EXT4_ROOT_INO && self.plan.add_lost_found {
                self.add_lost_found()?;
            }
        }
        Ok(())
    }

    /// Puts an inode into the table: the root into its place, any other at the end.
    fn put(&mut self, ino: u32, raw: &RawInode) {
        let at = (ino - 1) as usize * INODE_SIZE;
        let seed = inode::inode_seed(self.seed, ino, 0);
        if self.table.len() < at + INODE_SIZE {
            self.table.resize(at + INODE_SIZE, 0);
        }
        self.table[at..at + INODE_SIZE].copy_from_slice(&raw.encode(seed));
        if raw.mode & inode::S_IFMT == S_IFDIR {
            self.directories.push(ino);
        }
    }

    fn add_lost_found(&mut self) -> Result<()> {
        let ino = EXT4_GOOD_OLD_FIRST_INO;
        let mut raw = RawInode::new(S_IFDIR | 0o700, self.created, self.created);
        raw.links = 2;
        self.directory(&mut raw, &[], ino, EXT4_ROOT_INO)?;
        self.put(ino, &raw);
        Ok(())
    }

    fn inode(&mut self, planned: &Planned) -> Result<RawInode> {
        let node = &self.tree[planned.id];
        let mode = type_bits(&node.kind) | (node.mode & 0o7777);
        let mut raw = RawInode::new(mode, node.mtime, self.created);
        raw.uid = node.uid;
        raw.gid = node.gid;
        raw.links = self.plan.links(planned.id);
        match &node.kind {
            Kind::Directory(entries) => {
                let entries = self.entries(planned.ino, entries);
                let whole = self.directory(&mut raw, &entries, planned.ino, planned.parent)?;
                if !whole {
                    return Err(Error::DirectoryTooLarge {
                        path: self.tree.path_of(planned.id),
                        entries: entries.len(),
                    });
                }
            }
            Kind::File(data) => self.contents(&mut raw, data, planned)?,
            Kind::Symlink(target) => self.symlink(&mut raw, target, planned)?,
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                raw.i_block =
                    inode::encode_device(*major, *minor).ok_or_else(|| Error::DeviceNumber {
                        path: self.tree.path_of(planned.id),
                        major: *major,
                        minor: *minor,
                    })?;
            }
            Kind::Fifo | Kind::Socket => {}
        }
        self.xattrs(&mut raw, node, planned.id)?;
        Ok(raw)
    }

    fn entries(&self, ino: u32, names: &'a BTreeMap<Vec<u8>, NodeId>) -> Vec<Entry<'a>> {
        let lost_found = (ino == EXT4_ROOT_INO && self.plan.add_lost_found).then_some(Entry {
            name: LOST_FOUND,
            ino: EXT4_GOOD_OLD_FIRST_INO,
            file_type: directory::EXT4_FT_DIR,
        });
        let named = names.iter().map(|(name, id)| Entry {
            name,
            ino: self.plan.ino(*id),
            file_type: file_type(&self.tree[*id].kind),
        });
        lost_found.into_iter().chain(named).collect()
    }

    /// False when the directory has too many entries.
    fn directory(
        &mut self,
        raw: &mut RawInode,
        entries: &[Entry<'_>],
        ino: u32,
        parent: u32,
    ) -> Result<bool> {
        let place = Place {
            ino,
            parent,
            inode_seed: inode::inode_seed(self.seed, ino, 0),
            hash_seed: self.hash_seed,
        };
        let Some(encoded) = directory::encode(entries, &place) else {
            return Ok(false);
        };
        let mut extents = ExtentList::default();
        for (logical, block) in (0..).zip(&encoded.blocks) {
            extents.push(logical, self.sink.append(block)?, 1);
        }
        raw.size = encoded.blocks.len() as u64 * BLOCK;
        if encoded.indexed {
            raw.flags |= EXT4_INDEX_FL;
        }
        let shared = self.map(raw, &extents.into_vec(), ino)?;
        debug_assert!(!shared, "new blocks have one owner");
        Ok(true)
    }

    fn contents(&mut self, raw: &mut RawInode, data: &Data, planned: &Planned) -> Result<()> {
        let known = |e: &Extent| {
            let end = e.physical + u64::from(e.len);
            self.data.contains(&e.physical) && end <= self.data.end
        };
        if !data.extents.iter().all(known) {
            return Err(Error::ForeignData {
                path: self.tree.path_of(planned.id),
            });
        }
        raw.size = data.len;
        if self.map(raw, &data.extents, planned.ino)? {
            return Err(Error::SharedData {
                path: self.tree.path_of(planned.id),
            });
        }
        Ok(())
    }

    /// Short targets lie in the inode, with at least one zero byte behind them.
    fn symlink(&mut self, raw: &mut RawInode, target: &[u8], planned: &Planned) -> Result<()> {
        if !(1..BLOCK_SIZE).contains(&target.len()) || target.contains(&0) {
            return Err(Error::SymlinkTarget {
                path: self.tree.path_of(planned.id),
                len: target.len(),
            });
        }
        raw.size = target.len() as u64;
        if target.len() < raw.i_block.len() {
            raw.i_block[..target.len()].copy_from_slice(target);
            return Ok(());
        }
        let mut block = ZERO_BLOCK;
        block[..target.len()].copy_from_slice(target);
        let mut extents = ExtentList::default();
        extents.push(0, self.sink.append(&block)?, 1);
        self.map(raw, &extents.into_vec(), planned.ino)?;
        Ok(())
    }

    /// Gives the inode an extent tree and counts its blocks. True when some block has an owner
    /// already.
    fn map(&mut self, raw: &mut RawInode, extents: &[Extent], ino: u32) -> Result<bool> {
        let (sink, used) = (&mut self.sink, &mut self.used);
        let mut shared = false;
        for extent in extents {
            shared |= !used.mark(extent.physical, extent.len.into());
            raw.blocks += u64::from(extent.len);
        }
        let seed = inode::inode_seed(self.seed, ino, 0);
        let root = extent::build_tree(extents, seed, |block| {
            let at = sink.append(block)?;
            shared |= !used.mark(at, 1);
            Ok(at)
        })?;
        raw.i_block = root.i_block;
        raw.blocks += root.nodes;
        raw.flags |= EXT4_EXTENTS_FL;
        Ok(shared)
    }

    fn xattrs(&mut self, raw: &mut RawInode, node: &Node, id: NodeId) -> Result<()> {
        let numbering = Numbering {
            next_ino: self.plan.end() + self.values,
            fs_seed: self.seed,
            needs_block: matches!(node.kind, Kind::Symlink(_)),
        };
        let encoded = xattr::encode(&node.xattrs, numbering)
            .map_err(|refusal| self.xattr_error(refusal, node, id))?;
        raw.xattrs = encoded.in_inode;
        if let Some(mut block) = encoded.block {
            let at = self.sink.cursor().next();
            xattr::seal(&mut block, at, self.seed);
            let at = self.sink.append(&block)?;
            let fresh = self.used.mark(at, 1);
            debug_assert!(fresh, "a new block has no owner yet");
            raw.file_acl = at;
            raw.blocks += 1;
        }
        for (value, sum) in encoded.values {
            self.value(&value, sum, raw)?;
            // They count for their owner, and for the inode that has them.
            raw.blocks += (value.len() as u64).div_ceil(BLOCK);
        }
        Ok(())
    }

    /// Gives a value of an extended attribute of `owner` an inode of its own. There are no holes in it.
    fn value(&mut self, value: &[u8], sum: u32, owner: &RawInode) -> Result<()> {
        let ino = self.plan.end() + self.values;
        let mut raw = RawInode::new(S_IFREG | 0o600, self.created, self.created);
        (raw.uid, raw.gid) = (owner.uid, owner.gid);
        raw.flags = EXT4_EA_INODE_FL;
        raw.value_sum = Some(sum);
        raw.size = value.len() as u64;
        let mut extents = ExtentList::default();
        for (logical, part) in (0..).zip(value.chunks(BLOCK_SIZE)) {
            let mut block = ZERO_BLOCK;
            block[..part.len()].copy_from_slice(part);
            extents.push(logical, self.sink.append(&block)?, 1);
        }
        let shared = self.map(&mut raw, &extents.into_vec(), ino)?;
        debug_assert!(!shared, "new blocks have one owner");
        self.put(ino, &raw);
        self.values += 1;
        Ok(())
    }

    fn xattr_error(&self, refusal: Refusal, node: &Node, id: NodeId) -> Error {
        let path = self.tree.path_of(id);
        let name = |at: usize| String::from_utf8_lossy(&node.xattrs[at].0).into_owned();
        match refusal {
            Refusal::Name(at) => Error::XattrName {
                path,
                name: name(at),
            },
            Refusal::Duplicate(at) => Error::XattrDuplicate {
                path,
                name: name(at),
            },
            Refusal::Acl(at) => Error::XattrAcl {
                path,
                name: name(at),
            },
            Refusal::Space(at) => Error::XattrSpace {
                path,
                name: name(at),
                len: node.xattrs[at].1.len(),
            },
        }
    }
}

fn type_bits(kind: &Kind) -> u16 {
    match kind {
        Kind::Directory(_) => S_IFDIR,
        Kind::File(_) => S_IFREG,
        Kind::Symlink(_) => S_IFLNK,
        Kind::CharDevice { .. } => S_IFCHR,
        Kind::BlockDevice { .. } => S_IFBLK,
        Kind::Fifo => S_IFIFO,
        Kind::Socket => S_IFSOCK,
    }
}

fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::Directory(_) => directory::EXT4_FT_DIR,
        Kind::File(_) => directory::EXT4_FT_REG_FILE,
        Kind::Symlink(_) => directory::EXT4_FT_SYMLINK,
        Kind::CharDevice { .. } => directory::EXT4_FT_CHRDEV,
        Kind::BlockDevice { .. } => directory::EXT4_FT_BLKDEV,
        Kind::Fifo => directory::EXT4_FT_FIFO,
        Kind::Socket => directory::EXT4_FT_SOCK,
    }
}
