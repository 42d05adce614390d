//! FUSE's wire format (`linux/fuse.h`, protocol 7.38; little-endian as on every guest that there is). Pure.
//!
//! [`Op::parse`] is total: any bytes give an operation or an errno. Names are checked here, so that nobody further in meets
//! one that is empty, is `.` or `..`, or holds a `/`.

use std::ffi::CStr;

use rustix::io::Errno;

/// Bytes of `struct fuse_in_header`.
pub const IN_HEADER: usize = 40;
/// Bytes of `struct fuse_out_header`.
pub const OUT_HEADER: usize = 16;
/// Bytes of `struct fuse_write_in`.
pub const WRITE_IN: usize = 40;
/// The protocol's version.
pub const VERSION: (u32, u32) = (7, 38);
/// Bytes of the longest name.
const NAME_MAX: usize = 255;

/// The node that a guest starts from.
pub const ROOT_ID: u64 = 1;

/// Features (`FUSE_*` of `struct fuse_init_in`).
pub mod feature {
    /// Several reads of a file at a time.
    pub const ASYNC_READ: u32 = 1 << 0;
    /// `O_TRUNC` comes with the open.
    pub const ATOMIC_O_TRUNC: u32 = 1 << 3;
    /// Writes of more than a page.
    pub const BIG_WRITES: u32 = 1 << 5;
    /// The guest drops its pages of a file whose size or time has changed.
    pub const AUTO_INVAL_DATA: u32 = 1 << 12;
    /// Several look-ups in a directory at a time.
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    /// `max_pages` counts.
    pub const MAX_PAGES: u32 = 1 << 22;
    /// The server clears setuid, setgid and capabilities of what is written.
    pub const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
}

/// Bits of `fuse_setattr_in.valid`.
pub mod valid {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `FUSE_WRITE_CACHE`: pages of the guest's cache, which nobody's handle wrote.
pub const WRITE_CACHE: u32 = 1 << 0;
/// `FUSE_WRITE_KILL_SUIDGID`.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_OPEN_KILL_SUIDGID`.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `FOPEN_KEEP_CACHE`.
pub const KEEP_CACHE: u32 = 1 << 1;

/// `struct fuse_in_header`, without who asks: the host asks as its own user, whoever the guest says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InHeader {
    /// Bytes of the whole request.
    pub len: u32,
    /// What is asked.
    pub opcode: u32,
    /// Repeated in the answer.
    pub unique: u64,
    /// About what.
    pub nodeid: u64,
}

impl InHeader {
    /// Reads a header.
    pub fn parse(bytes: &[u8; IN_HEADER]) -> InHeader {
        let mut reader = Reader(bytes);
        InHeader {
            len: reader.u32().unwrap_or(0),
            opcode: reader.u32().unwrap_or(0),
            unique: reader.u64().unwrap_or(0),
            nodeid: reader.u64().unwrap_or(0),
        }
    }
}

/// `FUSE_WRITE`'s number: its data do not go through [`Op::parse`].
pub const WRITE: u32 = 16;

/// What follows the header of a `FUSE_WRITE`, before the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteIn {
    pub fh: u64,
    pub offset: u64,
    pub size: u32,
    pub flags: u32,
}

impl WriteIn {
    /// Reads it.
    pub fn parse(bytes: &[u8; WRITE_IN]) -> WriteIn {
        let mut reader = Reader(bytes);
        WriteIn {
            fh: reader.u64().unwrap_or(0),
            offset: reader.u64().unwrap_or(0),
            size: reader.u32().unwrap_or(0),
            flags: reader.u32().unwrap_or(0),
        }
    }
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// `struct fuse_setattr_in`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAttr {
    pub valid: u32,
    pub fh: u64,
    pub size: u64,
    pub atime: Time,
    pub mtime: Time,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// `struct fuse_copy_file_range_in`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyFileRange {
    pub fh_in: u64,
    pub offset_in: u64,
    pub fh_out: u64,
    pub offset_out: u64,
    pub len: u64,
    pub flags: u64,
}

/// What a guest asks, but for writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    Lookup {
        name: &'a CStr,
    },
    Forget {
        lookups: u64,
    },
    BatchForget {
        list: &'a [u8],
    },
    GetAttr {
        fh: Option<u64>,
    },
    SetAttr(SetAttr),
    ReadLink,
    SymLink {
        name: &'a CStr,
        target: &'a CStr,
    },
    MkNod {
        name: &'a CStr,
        mode: u32,
    },
    MkDir {
        name: &'a CStr,
        mode: u32,
    },
    Unlink {
        name: &'a CStr,
    },
    RmDir {
        name: &'a CStr,
    },
    Rename {
        name: &'a CStr,
        to: u64,
        to_name: &'a CStr,
        flags: u32,
    },
    Link {
        from: u64,
        name: &'a CStr,
    },
    Open {
        flags: u32,
        open_flags: u32,
    },
    Read {
        fh: u64,
        offset: u64,
        size: u32,
    },
    StatFs,
    Release {
        fh: u64,
    },
    FSync {
        fh: u64,
        data_only: bool,
    },
    SetXattr {
        name: &'a CStr,
        value: &'a [u8],
        flags: u32,
    },
    GetXattr {
        name: &'a CStr,
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a CStr,
    },
    Flush {
        fh: u64,
    },
    Init {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
    },
    OpenDir,
    ReadDir {
        fh: u64,
        offset: u64,
        size: u32,
    },
    ReleaseDir {
        fh: u64,
    },
    FSyncDir {
        fh: u64,
        data_only: bool,
    },
    Create {
        name: &'a CStr,
        flags: u32,
        mode: u32,
        open_flags: u32,
    },
    Destroy,
    FAllocate {
        fh: u64,
        offset: u64,
        len: u64,
        mode: u32,
    },
    LSeek {
        fh: u64,
        offset: u64,
        whence: u32,
    },
    CopyFileRange(CopyFileRange),
    /// Nothing that is offered here.
    Unknown,
}

impl<'a> Op<'a> {
    /// Reads what follows the header.
    ///
    /// # Errors
    /// `EINVAL`: too short, or a name that is none; `ENAMETOOLONG`.
    pub fn parse(opcode: u32, bytes: &'a [u8]) -> Result<Op<'a>, Errno> {
        Self::read(opcode, &mut Reader(bytes))
    }

    fn read(opcode: u32, r: &mut Reader<'a>) -> Result<Op<'a>, Errno> {
        Ok(match opcode {
            1 => Op::Lookup { name: r.name()? },
            2 => Op::Forget { lookups: r.u64()? },
            3 => {
                const GETATTR_FH: u32 = 1;
                let flags = r.u32()?;
                r.u32()?;
                let fh = r.u64()?;
                let fh = (flags & GETATTR_FH != 0).then_some(fh);
                Op::GetAttr { fh }
            }
            4 => Op::SetAttr(r.setattr()?),
            5 => Op::ReadLink,
            6 => Op::SymLink {
                name: r.name()?,
                target: r.text()?,
            },
            8 => {
                let mode = r.u32()?;
                r.skip(12)?;
                let name = r.name()?;
                Op::MkNod { name, mode }
            }
            9 => {
                let mode = r.u32()?;
                r.skip(4)?;
                let name = r.name()?;
                Op::MkDir { name, mode }
            }
            10 => Op::Unlink { name: r.name()? },
            11 => Op::RmDir { name: r.name()? },
            12 | 45 => {
                let to = r.u64()?;
                let flags = if opcode == 45 { r.u32()? } else { 0 };
                r.skip(if opcode == 45 { 4 } else { 0 })?;
                let (name, to_name) = (r.name()?, r.name()?);
                Op::Rename {
                    name,
                    to,
                    to_name,
                    flags,
                }
            }
            13 => Op::Link {
                from: r.u64()?,
                name: r.name()?,
            },
            14 => Op::Open {
                flags: r.u32()?,
                open_flags: r.u32()?,
            },
            15 => Op::Read {
                fh: r.u64()?,
                offset: r.u64()?,
                size: r.u32()?,
            },
            17 => Op::StatFs,
            18 => Op::Release { fh: r.u64()? },
            20 | 30 => {
                let (fh, data_only) = (r.u64()?, r.u32()? & 1 != 0);
                match opcode {
                    20 => Op::FSync { fh, data_only },
                    _ => Op::FSyncDir { fh, data_only },
                }
            }
            21..=24 => Self::read_xattr(opcode, r)?,
            25 => Op::Flush { fh: r.u64()? },
            26 => Op::Init {
                major: r.u32()?,
                minor: r.u32()?,
                max_readahead: r.u32()?,
                flags: r.u32()?,
            },
            27 => Op::OpenDir,
            28 => Op::ReadDir {
                fh: r.u64()?,
                offset: r.u64()?,
                size: r.u32()?,
            },
            29 => Op::ReleaseDir { fh: r.u64()? },
            35 => {
                let (flags, mode) = (r.u32()?, r.u32()?);
                r.skip(4)?;
                let open_flags = r.u32()?;
                let name = r.name()?;
                Op::Create {
                    name,
                    flags,
                    mode,
                    open_flags,
                }
            }
            38 => Op::Destroy,
            42 => {
                let count = r.u32()? as usize;
                r.skip(4)?;
                let len = count.checked_mul(16).ok_or(Errno::INVAL)?;
                let list = r.take(len)?;
                Op::BatchForget { list }
            }
            43 => Op::FAllocate {
                fh: r.u64()?,
                offset: r.u64()?,
                len: r.u64()?,
                mode: r.u32()?,
            },
            46 => Op::LSeek {
                fh: r.u64()?,
                offset: r.u64()?,
                whence: r.u32()?,
            },
            47 => {
                let (fh_in, offset_in) = (r.u64()?, r.u64()?);
                r.skip(8)?;
                Op::CopyFileRange(CopyFileRange {
                    fh_in,
                    offset_in,
                    fh_out: r.u64()?,
                    offset_out: r.u64()?,
                    len: r.u64()?,
                    flags: r.u64()?,
                })
            }
            _ => Op::Unknown,
        })
    }

    fn read_xattr(opcode: u32, r: &mut Reader<'a>) -> Result<Op<'a>, Errno> {
        if opcode == 24 {
            return Ok(Op::RemoveXattr { name: r.text()? });
        }
        let (size, flags) = (r.u32()?, r.u32()?);
        Ok(match opcode {
            21 => Op::SetXattr {
                name: r.text()?,
                value: r.take(size as usize)?,
                flags,
            },
            22 => Op::GetXattr {
                name: r.text()?,
                size,
            },
            _ => Op::ListXattr { size },
        })
    }
}

/// The pairs of a `FUSE_BATCH_FORGET`: node, and how many look-ups of it are forgotten.
pub fn forgotten(list: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    list.chunks_exact(16).map(|pair| {
        let mut reader = Reader(pair);
        (reader.u64().unwrap_or(0), reader.u64().unwrap_or(0))
    })
}

/// Takes words off the front of some bytes. What is too short is `EINVAL`.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(front)
    }

    fn skip(&mut self, len: usize) -> Result<(), Errno> {
        self.take(len).map(drop)
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        let bytes = self.take(4)?;
        bytes
            .try_into()
            .map(u32::from_le_bytes)
            .map_err(|_| Errno::INVAL)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        let bytes = self.take(8)?;
        bytes
            .try_into()
            .map(u64::from_le_bytes)
            .map_err(|_| Errno::INVAL)
    }

    /// Bytes up to a NUL.
    fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.skip(text.count_bytes() + 1)?;
        Ok(text)
    }

    /// One component of a path.
    fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text()?;
        let bytes = name.to_bytes();
        match bytes {
            b"" | b"." | b".." => Err(Errno::INVAL),
            _ if bytes.contains(&b'/') => Err(Errno::INVAL),
            _ if bytes.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }

    fn setattr(&mut self) -> Result<SetAttr, Errno> {
        let valid = self.u32()?;
        self.skip(4)?;
        let (fh, size) = (self.u64()?, self.u64()?);
        self.skip(8)?;
        let (atime, mtime) = (self.u64()?, self.u64()?);
        self.skip(8)?;
        let (atime_ns, mtime_ns) = (self.u32()?, self.u32()?);
        self.skip(4)?;
        let mode = self.u32()?;
        self.skip(4)?;
        let (uid, gid) = (self.u32()?, self.u32()?);
        let time = |seconds: u64, nanoseconds| Time {
            seconds: seconds.cast_signed(),
            nanoseconds,
        };
        Ok(SetAttr {
            valid,
            fh,
            size,
            atime: time(atime, atime_ns),
            mtime: time(mtime, mtime_ns),
            mode,
            uid,
            gid,
        })
    }
}

/// An answer's bytes.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u16(&mut self, word: u16) -> &mut Self {
        self.0.extend(word.to_le_bytes());
        self
    }

    pub fn u32(&mut self, word: u32) -> &mut Self {
        self.0.extend(word.to_le_bytes());
        self
    }

    pub fn u64(&mut self, word: u64) -> &mut Self {
        self.0.extend(word.to_le_bytes());
        self
    }

    /// `struct fuse_dirent`, padded. Its length is [`dirent_len`].
    pub fn dirent(&mut self, ino: u64, next: u64, kind: u8, name: &[u8]) {
        self.u64(ino).u64(next).u32(name.len() as u32);
        self.u32(kind.into()).0.extend(name);
        let padded = self.0.len().next_multiple_of(8);
        self.0.resize(padded, 0);
    }
}

/// Bytes of a directory's entry.
pub fn dirent_len(name: &[u8]) -> usize {
    (24 + name.len()).next_multiple_of(8)
}
