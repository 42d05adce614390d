//! The names in a directory.

use super::{Error, Extent, Reader, Result, Source, check, read_exact};
use crate::directory::{
    self, EXT4_FT_BLKDEV, EXT4_FT_CHRDEV, EXT4_FT_DIR, EXT4_FT_FIFO, EXT4_FT_REG_FILE,
    EXT4_FT_SOCK, EXT4_FT_SYMLINK,
};
use crate::inode::{
    EXT4_INDEX_FL, Inode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK,
};

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
}

impl FileType {
    pub(super) fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & S_IFMT {
            S_IFREG => FileType::File,
            S_IFDIR => FileType::Directory,
            S_IFLNK => FileType::Symlink,
            S_IFCHR => FileType::CharDevice,
            S_IFBLK => FileType::BlockDevice,
            S_IFIFO => FileType::Fifo,
            S_IFSOCK => FileType::Socket,
            _ => return None,
        })
    }

    fn from_entry(file_type: u8) -> Option<Self> {
        Some(match file_type {
            EXT4_FT_REG_FILE => FileType::File,
            EXT4_FT_DIR => FileType::Directory,
            EXT4_FT_SYMLINK => FileType::Symlink,
            EXT4_FT_CHRDEV => FileType::CharDevice,
            EXT4_FT_BLKDEV => FileType::BlockDevice,
            EXT4_FT_FIFO => FileType::Fifo,
            EXT4_FT_SOCK => FileType::Socket,
            _ => return None,
        })
    }
}

/// Whether two extents share a block of the disk.
fn overlap(extents: &[Extent]) -> bool {
    let mut runs: Vec<(u64, u64)> = extents
        .iter()
        .map(|extent| (extent.physical, extent.physical + u64::from(extent.len)))
        .collect();
    runs.sort_unstable();
    runs.windows(2).any(|pair| pair[0].1 > pair[1].0)
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Any bytes; a damaged directory may have names that no system call would make.
    pub name: Vec<u8>,
    /// The inode that it stands for.
    pub ino: u32,
    /// The type that the directory notes beside the name; none when it notes none.
    pub file_type: Option<FileType>,
}

impl<S: Source> Reader<S> {
    /// All entries of a directory in the order of the disk, `.` and `..` included.
    ///
    /// # Errors
    /// When the inode is not a directory, or has holes or entries that make no sense.
    pub fn read_dir(&self, inode: &Inode) -> Result<Vec<DirEntry>> {
        if !inode.is_dir() {
            return Err(Error::WrongType {
                ino: inode.ino,
                wanted: "directory",
            });
        }
        let damaged = |what| Error::Inode {
            ino: inode.ino,
            what,
        };
        let block_size = u64::from(self.superblock.block_size);
        let extents = self.extents(inode)?;
        let mapped: u64 = extents.iter().map(|extent| u64::from(extent.len)).sum();
        let blocks = inode.size / block_size;
        // one block shown many times would be a directory larger than what is really there
        if overlap(&extents) {
            return Err(damaged("a directory that has a block twice"));
        }
        if !inode.size.is_multiple_of(block_size) || blocks > mapped {
            return Err(damaged("the length of a directory"));
        }
        let mut entries = Vec::new();
        let mut block = vec![0; block_size as usize];
        let mut logical = 0;
        for extent in extents {
            for i in 0..u64::from(extent.len) {
                if logical == blocks {
                    return Ok(entries);
                }
                if u64::from(extent.logical) + i != logical || extent.unwritten {
                    return Err(damaged("a hole in a directory"));
                }
                let physical = extent.physical + i;
                read_exact(&self.source, &mut block, physical * block_size)?;
                self.take_entries(inode, logical, physical, &block, &mut entries)?;
                logical += 1;
            }
        }
        Ok(entries)
    }

    fn take_entries(
        &self,
        inode: &Inode,
        logical: u64,
        physical: u64,
        block: &[u8],
        entries: &mut Vec<DirEntry>,
    ) -> Result<()> {
        if self.verify {
            let indexed = inode.flags & EXT4_INDEX_FL != 0;
            let (stored, computed) =
                directory::block_checksum(block, logical == 0, indexed, inode.seed)
                    .unwrap_or((0, 1));
            check("directory block", physical, stored, computed)?;
        }
        let parsed = directory::parse_block(block).ok_or(Error::Inode {
            ino: inode.ino,
            what: "a directory entry",
        })?;
        entries.extend(parsed.into_iter().map(|entry| DirEntry {
            name: entry.name.to_vec(),
            ino: entry.ino,
            file_type: FileType::from_entry(entry.file_type),
        }));
        Ok(())
    }
}
