//! A read-only reader that trusts nothing.
//!
//! Whatever the bytes are, it returns an error or an answer, in time and memory bounded by the
//! length of the source: every count is checked against the superblock, the superblock against the
//! source, and every walk moves forward only. A journal is not replayed;
//! [`Superblock::needs_recovery`] tells.
//!
//! It reads what this crate writes, and what `mke2fs` makes by default with any block size. Block
//! maps without extents, inline data and encryption are refused by name.

mod contents;
mod directory;
mod error;
mod extents;
mod source;

pub use crate::extent::Extent;
pub use crate::inode::Inode;
pub use crate::superblock::Superblock;
pub use contents::Contents;
pub use directory::{DirEntry, FileType};
pub use error::{Error, Result};
pub use source::Source;

use crate::crc::crc32c;
use crate::group;
use crate::inode::{
    self, EXT4_EA_INODE_FL, EXT4_EXTENTS_FL, EXT4_INLINE_DATA_FL, S_IFBLK, S_IFCHR, S_IFDIR,
    S_IFLNK, S_IFMT, S_IFREG,
};
use crate::layout::has_super;
use crate::superblock::{
    self, EXT4_FEATURE_INCOMPAT_META_BG, EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER, INCOMPAT_READABLE,
    SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE,
};
use crate::xattr::{self, Value, XATTR_SIZE_MAX};

/// The number of the root directory's inode.
pub const ROOT: u32 = crate::layout::EXT4_ROOT_INO;

/// Reads one file system.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    superblock: Superblock,
    verify: bool,
}

impl<S: Source> Reader<S> {
    /// Opens a file system and checks every checksum on the way.
    ///
    /// # Errors
    /// When it is not ext4, not one that this reader knows, or cut off.
    pub fn open(source: S) -> Result<Self> {
        Self::open_with(source, true)
    }

    /// Opens a file system; without `verify` checksums are passed over.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(source: S, verify: bool) -> Result<Self> {
        let mut raw = [0; SUPERBLOCK_SIZE];
        read_exact(&source, &mut raw, SUPERBLOCK_OFFSET)?;
        let superblock =
            Superblock::parse(&raw).map_err(|(field, value)| Error::Superblock { field, value })?;
        let features = superblock.incompat & !INCOMPAT_READABLE;
        if features != 0 {
            return Err(Error::Features { features });
        }
        let verify = verify && superblock.has_checksums();
        if verify {
            let (stored, computed) = superblock::checksum(&raw);
            check("superblock", 0, stored, computed)?;
        }
        let expected = superblock.blocks * u64::from(superblock.block_size);
        let actual = size(&source)?;
        if actual < expected {
            return Err(Error::Truncated { expected, actual });
        }
        Ok(Reader {
            source,
            superblock,
            verify,
        })
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Reads an inode, in use or not.
    ///
    /// # Errors
    /// When there is no such number, or its place or checksum is wrong.
    pub fn inode(&self, ino: u32) -> Result<Inode> {
        let sb = &self.superblock;
        if ino == 0 || ino > sb.inodes {
            return Err(Error::NoInode { ino });
        }
        let group = (ino - 1) / sb.inodes_per_group;
        let index = u64::from((ino - 1) % sb.inodes_per_group);
        let table = self.inode_table(group)?;
        let at = index * u64::from(sb.inode_size);
        let block = table.saturating_add(at / u64::from(sb.block_size));
        if table == 0 || block >= sb.blocks {
            return Err(Error::Block {
                what: "the table",
                ino,
                block,
            });
        }
        let mut raw = vec![0; usize::from(sb.inode_size)];
        let offset = block * u64::from(sb.block_size) + at % u64::from(sb.block_size);
        read_exact(&self.source, &mut raw, offset)?;
        if self.verify && raw.iter().any(|byte| *byte != 0) {
            let (stored, computed) = inode::checksum(&raw, ino, sb.seed);
            check("inode", ino.into(), stored, computed)?;
        }
        Ok(Inode::parse(&raw, ino, sb.seed, sb.block_size.into()))
    }

    fn inode_table(&self, group: u32) -> Result<u64> {
        let sb = &self.superblock;
        let per_block = sb.block_size / u32::from(sb.desc_size);
        let meta_group = group / per_block;
        // the superblock's own block, at 0 or 1, is the one before the descriptors
        let block =
            if sb.incompat & EXT4_FEATURE_INCOMPAT_META_BG == 0 || meta_group < sb.first_meta_bg {
                u64::from(sb.first_data_block) + 1 + u64::from(meta_group)
            } else {
                let first = u64::from(meta_group) * u64::from(per_block);
                let sparse = sb.ro_compat & EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER != 0;
                u64::from(sb.first_data_block)
                    + first * u64::from(sb.blocks_per_group)
                    + u64::from(!sparse || has_super(first))
            };
        if block >= sb.blocks {
            return Err(Error::Block {
                what: "the group descriptor",
                ino: 0,
                block,
            });
        }
        let mut raw = vec![0; usize::from(sb.desc_size)];
        let at = u64::from(group % per_block) * u64::from(sb.desc_size);
        let offset = block * u64::from(sb.block_size) + at;
        read_exact(&self.source, &mut raw, offset)?;
        if self.verify {
            let (stored, computed) = group::checksum(&raw, group, sb.seed);
            check("group", group.into(), stored.into(), computed.into())?;
        }
        Ok(group::parse_inode_table(&raw))
    }

    /// The contents of a regular file, a directory or a long symbolic link.
    ///
    /// # Errors
    /// As [`extents`](Self::extents).
    pub fn contents(&self, inode: &Inode) -> Result<Contents<'_, S>> {
        let extents = self.extents(inode)?;
        Ok(Contents::new(self, inode, extents))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// When the inode is something else, or its length and place do not agree.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.mode & S_IFMT != S_IFLNK {
            return Err(Error::WrongType {
                ino: inode.ino,
                wanted: "symbolic link",
            });
        }
        let fast = inode.flags & (EXT4_EXTENTS_FL | EXT4_INLINE_DATA_FL) == 0;
        let limit = if fast { 59 } else { self.superblock.block_size };
        if inode.size > u64::from(limit) {
            return Err(Error::Inode {
                ino: inode.ino,
                what: "the length of a symbolic link",
            });
        }
        let len = inode.size as usize;
        if fast {
            return Ok(inode.i_block[..len].to_vec());
        }
        let mut target = vec![0; len];
        self.contents(inode)?.read_at(&mut target, 0)?;
        Ok(target)
    }

    /// Major and minor number of a device.
    ///
    /// # Errors
    /// When the inode is something else.
    pub fn device(&self, inode: &Inode) -> Result<(u32, u32)> {
        match inode.mode & S_IFMT {
            S_IFCHR | S_IFBLK => Ok(inode::decode_device(&inode.i_block)),
            _ => Err(Error::WrongType {
                ino: inode.ino,
                wanted: "device",
            }),
        }
    }

    /// Extended attributes: full names and the values that `getxattr` would give.
    ///
    /// # Errors
    /// When they are malformed.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let damaged = || Error::Inode {
            ino: inode.ino,
            what: "extended attributes",
        };
        let mut pairs = xattr::parse_in_inode(&inode.tail).ok_or_else(damaged)?;
        if inode.file_acl != 0 {
            let block = self.block(inode.file_acl, "extended attributes", inode.ino)?;
            if self.verify {
                let (stored, computed) =
                    xattr::block_checksum(&block, inode.file_acl, self.superblock.seed);
                check("attribute block", inode.file_acl, stored, computed)?;
            }
            pairs.extend(xattr::parse_block(&block).ok_or_else(damaged)?);
        }
        let value = |(name, value): (Vec<u8>, Value)| {
            let value = match value {
                Value::Here(value) => value,
                Value::Own(ino, len) => self
                    .xattr_value(ino, len)
                    .and_then(|v| v.ok_or_else(damaged))?,
            };
            let value = xattr::from_disk(&name, value).ok_or_else(damaged)?;
            Ok((name, value))
        };
        pairs.into_iter().map(value).collect()
    }

    /// The value of an extended attribute that has an inode of its own; none when that inode is no such one.
    fn xattr_value(&self, ino: u32, len: u32) -> Result<Option<Vec<u8>>> {
        let inode = self.inode(ino)?;
        let is_value = inode.flags & EXT4_EA_INODE_FL != 0 && inode.is_file();
        if !is_value || inode.size != u64::from(len) || len as usize > XATTR_SIZE_MAX {
            return Ok(None);
        }
        let mut value = vec![0; len as usize];
        let contents = Contents::new(self, &inode, self.extents_of(&inode)?);
        if contents.read_at(&mut value, 0)? != value.len() {
            return Ok(None);
        }
        if self.verify {
            let stored = inode.atime.secs as u32;
            let computed = crc32c(self.superblock.seed, &value);
            check(
                "value of an extended attribute",
                ino.into(),
                stored,
                computed,
            )?;
        }
        Ok(Some(value))
    }

    /// Follows a path of names from the root; symbolic links are not followed. None when a name
    /// is not there.
    ///
    /// # Errors
    /// When something on the way cannot be read.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Inode>> {
        let mut inode = self.inode(ROOT)?;
        for name in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            if inode.mode & S_IFMT != S_IFDIR {
                return Ok(None);
            }
            let entries = self.read_dir(&inode)?;
            let Some(entry) = entries.iter().find(|entry| entry.name == name) else {
                return Ok(None);
            };
            inode = self.inode(entry.ino)?;
        }
        Ok(Some(inode))
    }

    fn block(&self, block: u64, what: &'static str, ino: u32) -> Result<Vec<u8>> {
        if block == 0 || block >= self.superblock.blocks {
            return Err(Error::Block { what, ino, block });
        }
        let size = self.superblock.block_size;
        let mut raw = vec![0; size as usize];
        read_exact(&self.source, &mut raw, block * u64::from(size))?;
        Ok(raw)
    }
}

impl Inode {
    /// What the inode is; none when its mode names no type.
    pub fn file_type(&self) -> Option<FileType> {
        FileType::from_mode(self.mode)
    }

    /// Whether the inode is a regular file.
    pub fn is_file(&self) -> bool {
        self.mode & S_IFMT == S_IFREG
    }

    /// Whether the inode is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }
}

fn check(what: &'static str, number: u64, stored: u32, computed: u32) -> Result<()> {
    if stored == computed {
        return Ok(());
    }
    Err(Error::Checksum {
        what,
        number,
        stored,
        computed,
    })
}

/// The source's length in bytes.
pub(crate) fn size(source: &(impl Source + ?Sized)) -> Result<u64> {
    source.size().map_err(|source| Error::Read {
        offset: 0,
        len: 0,
        source,
    })
}

pub(crate) fn read_exact(
    source: &(impl Source + ?Sized),
    buf: &mut [u8],
    offset: u64,
) -> Result<()> {
    let len = buf.len();
    source.read_at(buf, offset).map_err(|source| Error::Read {
        offset,
        len,
        source,
    })
}
