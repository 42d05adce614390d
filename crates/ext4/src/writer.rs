//! A tree becomes a file system, file contents first.
//!
//! ```text
//! | superblock, descriptors | file contents ... | directories, links, xattrs, extent nodes |
//! | block bitmaps | inode bitmaps | inode tables |
//! ```
//!
//! Only the few blocks at the start of some groups that [`layout`](crate::layout) reserves
//! interrupt that order. Nothing is written twice, and what is zero is not written.

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::block_map::BlockMap;
use crate::directory::{self, Entry, Place};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::extent::{self, Extent, ExtentList};
use crate::group;
use crate::inode::{
    self, EXT4_EXTENTS_FL, EXT4_INDEX_FL, RawInode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK,
    S_IFREG, S_IFSOCK,
};
use crate::layout::{
    BLOCK, BLOCK_SIZE, EXT4_GOOD_OLD_FIRST_INO, EXT4_ROOT_INO, INODE_SIZE, ZERO_BLOCK,
};
use crate::plan::{LOST_FOUND, Plan, Planned};
use crate::sink::Sink;
use crate::superblock::{NewSuperblock, checksum_seed, hash_seed};
use crate::tables::Tables;
use crate::tree::{Data, Kind, Node, NodeId, Timestamp, Tree};
use crate::xattr::{self, Refusal};

/// What a [`Writer`] cannot know from the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterOptions {
    /// Up to 16 bytes.
    pub label: String,
    /// Identifies the file system; also the seed of directory hashes and checksums.
    pub uuid: [u8; 16],
    /// When the file system and all of its inodes were made.
    pub created: Timestamp,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Length of the disk in bytes.
    pub size: u64,
    /// Blocks of 4 KiB, used or free.
    pub blocks: u64,
    /// Blocks in use.
    pub used_blocks: u64,
    /// Inodes in use, without the ten that every file system reserves.
    pub inodes: u32,
    /// Directories among them.
    pub directories: u32,
}

/// Writes one file system onto one disk: contents first, then the tree.
#[derive(Debug)]
pub struct Writer<D> {
    sink: Sink<D>,
    options: WriterOptions,
    label: [u8; 16],
    first_block: u64,
}

impl<D: Disk> Writer<D> {
    /// Empties the disk and starts.
    ///
    /// # Errors
    /// When the label is too long or the disk refuses.
    pub fn new(disk: D, options: WriterOptions) -> Result<Self> {
        let label = encode_label(&options.label)?;
        let sink = Sink::new(disk)?;
        let first_block = sink.cursor().next();
        Ok(Writer {
            sink,
            options,
            label,
            first_block,
        })
    }

    /// Streams `len` bytes of one file's contents to the disk, behind those of the call before.
    /// Blocks of zeros become holes.
    ///
    /// # Errors
    /// When the reader fails or ends early, or the disk refuses. After a failure of the reader
    /// the writer still works, and what was written is free space.
    pub fn write_data(&mut self, reader: &mut (impl Read + ?Sized), len: u64) -> Result<Data> {
        if len.div_ceil(BLOCK) > u64::from(u32::MAX) {
            return Err(Error::FileTooLarge { len });
        }
        let mut extents = ExtentList::default();
        let mut logical = 0;
        let mut left = len;
        while left > 0 {
            let (physical, space) = self.sink.space(left.div_ceil(BLOCK))?;
            let wanted = left.min(space.len() as u64) as usize;
            let padded = wanted.next_multiple_of(BLOCK_SIZE);
            reader
                .read_exact(&mut space[..wanted])
                .map_err(|source| match source.kind() {
                    io::ErrorKind::UnexpectedEof => Error::ShortFile { len },
                    _ => Error::Read { len, source },
                })?;
            space[wanted..padded].fill(0);
            let kept = squeeze(&mut space[..padded], logical, physical, &mut extents);
            self.sink.commit(kept);
            logical += (padded / BLOCK_SIZE) as u32;
            left -= wanted as u64;
        }
        Ok(Data {
            len,
            extents: extents.into_vec().into(),
        })
    }

    /// Writes everything but the contents, and the superblock last.
    ///
    /// A `lost+found` is added unless the root has one. [`Data`] that no reachable node holds
    /// becomes free space.
    ///
    /// # Errors
    /// When the tree holds something that ext4 cannot, or the disk refuses. The disk is then not
    /// a file system.
    pub fn finish(self, tree: &Tree) -> Result<Summary> {
        let plan = Plan::new(tree)?;
        let data_end = self.sink.cursor().next();
        let mut inodes = Inodes {
            sink: self.sink,
            tree,
            plan: &plan,
            data: self.first_block..data_end,
            seed: checksum_seed(&self.options.uuid),
            hash_seed: hash_seed(&self.options.uuid),
            created: self.options.created,
            used: BlockMap::default(),
            table: vec![0; (EXT4_GOOD_OLD_FIRST_INO - 1) as usize * INODE_SIZE],
            directories: Vec::new(),
        };
        inodes.table.reserve((plan.order.len() + 1) * INODE_SIZE);
        inodes.add_all()?;
        let Inodes {
            mut sink,
            mut used,
            table,
            directories,
            seed,
            ..
        } = inodes;

        let count = (table.len() / INODE_SIZE) as u32;
        let tables = Tables::plan(sink.cursor(), count, &mut used);
        let descriptors = tables.write(&mut sink, &used, &table, &directories, seed)?;
        let free_blocks = descriptors.iter().map(|d| u64::from(d.free_blocks)).sum();
        let superblock = NewSuperblock {
            inodes_per_group: tables.inodes_per_group,
            groups: tables.groups,
            blocks: tables.blocks,
            free_blocks,
            free_inodes: descriptors.iter().map(|d| d.free_inodes).sum(),
            overhead: tables.overhead(),
            uuid: self.options.uuid,
            label: self.label,
            created: self.options.created,
            journal: None,
        };
        let size = tables.blocks * BLOCK;
        let mut disk = sink.finish(size)?;
        group::write_all(&mut disk, &superblock, &descriptors)?;
        Ok(Summary {
            size,
            blocks: tables.blocks,
            used_blocks: tables.blocks - free_blocks,
            inodes: count + 1 - (EXT4_GOOD_OLD_FIRST_INO - 1),
            directories: directories.len() as u32,
        })
    }
}

/// Moves the blocks that are not zero to the front of `space`, which lies at block `physical`,
/// notes them as extents, and returns how many there are.
fn squeeze(space: &mut [u8], logical: u32, physical: u64, extents: &mut ExtentList) -> u64 {
    let mut kept = 0;
    for i in 0..space.len() / BLOCK_SIZE {
        let from = i * BLOCK_SIZE;
        if space[from..from + BLOCK_SIZE] == ZERO_BLOCK {
            continue;
        }
        if kept != i {
            space.copy_within(from..from + BLOCK_SIZE, kept * BLOCK_SIZE);
        }
        extents.push(logical + i as u32, physical + kept as u64, 1);
        kept += 1;
    }
    kept as u64
}

/// A label as the superblock has it.
pub(crate) fn encode_label(label: &str) -> Result<[u8; 16]> {
    let mut encoded = [0; 16];
    let bytes = label.as_bytes();
    if bytes.len() > encoded.len() || bytes.contains(&0) {
        return Err(Error::Label {
            label: label.to_owned(),
        });
    }
    encoded[..bytes.len()].copy_from_slice(bytes);
    Ok(encoded)
}

/// The inodes in the making, and the blocks that they need beside file contents.
struct Inodes<'a, D> {
    sink: Sink<D>,
    tree: &'a Tree,
    plan: &'a Plan,
    /// The blocks where contents may lie.
    data: std::ops::Range<u64>,
    seed: u32,
    hash_seed: [u32; 4],
    created: Timestamp,
    used: BlockMap,
    /// All inodes from number 1 on, encoded.
    table: Vec<u8>,
    /// The numbers of those that are directories.
    directories: Vec<u32>,
}

impl<D: Disk> Inodes<'_, D> {
    fn add_all(&mut self) -> Result<()> {
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

    fn entries<'a>(&self, ino: u32, names: &'a BTreeMap<Vec<u8>, NodeId>) -> Vec<Entry<'a>> {
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
        let encoded =
            xattr::encode(&node.xattrs).map_err(|refusal| self.xattr_error(refusal, node, id))?;
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
