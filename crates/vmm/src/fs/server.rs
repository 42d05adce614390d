//! From a chain's bytes to an operation, and from its outcome to an answer.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::Folder;
use super::abi::{self, InHeader, Op, ROOT_ID, Writer, feature};
use super::attr::Owners;
use super::inodes::Inodes;
use super::open::Handle;
use crate::virtio::Counters;
use crate::virtio::buffers::{Buffers, Piece, copy_in, length, split, take_front};

/// The longest request but for a write's data: an attribute of 64 KiB, and its name.
const LONGEST: usize = 72 * 1024;

/// The most that one read or write moves, in bytes and in pages.
const MAX_WRITE: u32 = 1 << 20;
const MAX_PAGES: u16 = (MAX_WRITE / 4096) as u16;

/// What this server can do, if the guest wants it.
const FEATURES: u32 = feature::ASYNC_READ
    | feature::ATOMIC_O_TRUNC
    | feature::BIG_WRITES
    | feature::AUTO_INVAL_DATA
    | feature::PARALLEL_DIROPS
    | feature::MAX_PAGES
    | feature::HANDLE_KILLPRIV_V2;

/// What an operation has to say.
pub enum Answer {
    /// Nothing at all.
    Silence,
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes, which are in the guest's memory already.
    Filled(usize),
}

/// The outcome of an operation.
pub type Outcome = Result<Answer, Errno>;

impl Answer {
    /// It is done.
    pub fn done() -> Outcome {
        Ok(Answer::Bytes(Vec::new()))
    }
}

/// A shared folder's name and rights.
pub struct Shared {
    pub name: CString,
    pub read_only: bool,
}

/// A FUSE server.
pub struct Server {
    pub(super) folders: Vec<Shared>,
    pub(super) inodes: Inodes,
    pub(super) handles: HashMap<u64, Handle>,
    pub(super) next_handle: u64,
    pub(super) most_handles: usize,
    pub(super) owners: Owners,
    /// A close must be answered: the host's file system may have something to say then.
    pub(super) flushes: bool,
    /// `/proc/self/fd`: the way from a descriptor that only names a file to one that reads it.
    proc: OwnedFd,
    ready: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("inodes", &self.inodes.counts())
            .field("handles", &self.handles.len())
            .finish()
    }
}

impl Server {
    /// A server of these folders that holds so many descriptors at most.
    ///
    /// # Errors
    /// A folder that can't be looked at; no `/proc`.
    pub fn new(folders: Vec<Folder>, descriptors: usize) -> Result<Server, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc/self/fd", flags, Mode::empty())?;
        let mut flushes = false;
        let (mut shared, mut fds) = (Vec::new(), Vec::new());
        for Folder {
            name,
            fd,
            read_only,
        } in folders
        {
            flushes |= names_a_network(rustix::fs::fstatfs(&fd)?.f_type as u64);
            shared.push(Shared { name, read_only });
            fds.push(fd);
        }
        Ok(Server {
            folders: shared,
            inodes: Inodes::new(fds, descriptors / 2)?,
            handles: HashMap::new(),
            next_handle: 1,
            most_handles: descriptors / 4,
            owners: Owners::of_this_process()?,
            flushes,
            proc,
            ready: false,
        })
    }

    /// Forgets the guest: another one starts.
    pub fn reset(&mut self) {
        self.ready = false;
        self.handles.clear();
        self.inodes.clear();
        self.owners.guest = (0, 0);
    }

    /// Does what a chain asks; says how many bytes of it were written.
    pub fn serve(&mut self, mut buffers: Buffers<'_>, counters: &mut Counters) -> u32 {
        let total = length(&buffers.readable);
        let Some(header) = take_front(&mut buffers.readable) else {
            counters.violations += 1;
            return 0;
        };
        let header = InHeader::parse(&header);
        if header.len as usize != total {
            counters.violations += 1;
            return refuse(&buffers.writable, header.unique, Errno::INVAL);
        }
        let (room, body) = split(buffers.writable, abi::OUT_HEADER);
        let outcome = self.answer(header, buffers.readable, &body, counters);
        let (payload, filled) = match &outcome {
            Ok(Answer::Silence) => return 0,
            Ok(Answer::Bytes(bytes)) => (&bytes[..], bytes.len()),
            Ok(Answer::Filled(count)) => (&[][..], *count),
            Err(errno) => return refuse(&room, header.unique, *errno),
        };
        if length(&room) < abi::OUT_HEADER || length(&body) < filled {
            counters.violations += 1;
            return refuse(&room, header.unique, Errno::INVAL);
        }
        copy_in(&body, payload);
        put_header(&room, header.unique, 0, filled);
        (abi::OUT_HEADER + filled) as u32
    }

    fn answer(
        &mut self,
        header: InHeader,
        mut readable: Vec<Piece<'_>>,
        body: &[Piece<'_>],
        counters: &mut Counters,
    ) -> Outcome {
        if header.opcode == abi::WRITE && self.ready {
            let Some(head) = take_front(&mut readable) else {
                counters.violations += 1;
                return Err(Errno::INVAL);
            };
            return self.write(abi::WriteIn::parse(&head), &readable);
        }
        let len = length(&readable);
        if len > LONGEST {
            counters.violations += 1;
            return Err(Errno::TOOBIG);
        }
        let mut bytes = vec![0; len];
        let mut at = 0;
        for piece in &readable {
            at += piece.copy_to(&mut bytes[at..]);
        }
        let op = match Op::parse(header.opcode, &bytes) {
            Ok(op) => op,
            Err(errno) => {
                counters.violations += 1;
                return Err(errno);
            }
        };
        match op {
            Op::Init {
                major,
                minor,
                max_readahead,
                flags,
            } => self.init(major, minor, max_readahead, flags),
            // Nobody waits for an answer.
            Op::Forget { .. } | Op::BatchForget { .. } if !self.ready => Ok(Answer::Silence),
            _ if !self.ready => {
                counters.violations += 1;
                Err(Errno::IO)
            }
            _ => self.perform(header.nodeid, op, body),
        }
    }

    fn init(&mut self, major: u32, minor: u32, max_readahead: u32, flags: u32) -> Outcome {
        let (our_major, our_minor) = abi::VERSION;
        let mut to = Writer::default();
        to.u32(our_major).u32(our_minor);
        if major > our_major {
            // It asks again with this version.
            to.0.resize(64, 0);
            return Ok(Answer::Bytes(to.0));
        }
        // What is older knows shorter answers: nobody has it.
        if major < our_major || minor < 31 {
            return Err(Errno::PROTO);
        }
        self.reset();
        self.ready = true;
        to.u32(max_readahead).u32(flags & FEATURES);
        // Requests under way, in the background and before the guest slows down.
        to.u16(64).u16(48);
        to.u32(MAX_WRITE).u32(1).u16(MAX_PAGES).u16(0);
        to.0.resize(64, 0);
        Ok(Answer::Bytes(to.0))
    }

    fn perform(&mut self, id: u64, op: Op<'_>, body: &[Piece<'_>]) -> Outcome {
        match op {
            Op::Lookup { name } => self.look_up(id, name),
            Op::Forget { lookups } => {
                self.inodes.forget(id, lookups);
                Ok(Answer::Silence)
            }
            Op::BatchForget { list } => {
                for (id, lookups) in abi::forgotten(list) {
                    self.inodes.forget(id, lookups);
                }
                Ok(Answer::Silence)
            }
            Op::GetAttr { fh } => self.get_attr(id, fh),
            Op::SetAttr(set) => self.set_attr(id, set),
            Op::ReadLink => self.read_link(id),
            Op::SymLink { name, target } => self.make_symlink(id, name, target),
            Op::MkNod { name, mode } => self.make_node(id, name, mode),
            Op::MkDir { name, mode } => self.make_dir(id, name, mode),
            Op::Unlink { name } => self.unlink(id, name, false),
            Op::RmDir { name } => self.unlink(id, name, true),
            Op::Rename {
                name,
                to,
                to_name,
                flags,
            } => self.rename((id, name), (to, to_name), flags),
            Op::Link { from, name } => self.link(from, id, name),
            Op::Open { flags, open_flags } => self.open(id, flags, open_flags),
            Op::Create {
                name,
                flags,
                mode,
                open_flags,
            } => self.create(id, name, (flags, open_flags), mode),
            Op::Read { fh, offset, size } => self.read(fh, offset, size, body),
            Op::StatFs => self.stat_fs(id),
            Op::Release { fh } | Op::ReleaseDir { fh } => self.release(fh),
            Op::FSync { fh, data_only } | Op::FSyncDir { fh, data_only } => {
                self.sync(fh, data_only)
            }
            Op::SetXattr { name, value, flags } => self.set_xattr(id, name, value, flags),
            Op::GetXattr { name, size } => self.get_xattr(id, name, size),
            Op::ListXattr { size } => self.list_xattrs(id, size),
            Op::RemoveXattr { name } => self.remove_xattr(id, name),
            Op::Flush { fh } => self.flush(fh),
            Op::OpenDir => self.open_dir(id),
            Op::ReadDir { fh, offset, size } => {
                self.read_dir(fh, offset, (size as usize).min(length(body)))
            }
            Op::Destroy => {
                self.reset();
                Answer::done()
            }
            Op::FAllocate {
                fh,
                offset,
                len,
                mode,
            } => self.allocate(fh, offset, len, mode),
            Op::LSeek { fh, offset, whence } => self.seek(fh, offset, whence),
            Op::CopyFileRange(copy) => self.copy_range(copy),
            Op::Init { .. } | Op::Unknown => Err(Errno::NOSYS),
        }
    }

    /// Opens what a descriptor names, for more than naming it.
    pub(super) fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let number = DecInt::from_fd(fd);
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        rustix::fs::openat(&self.proc, number.as_c_str(), flags, Mode::empty())
    }

    /// Where [`Server::reopen`] finds what a descriptor names.
    pub(super) fn place(&self, fd: impl AsFd) -> (BorrowedFd<'_>, DecInt) {
        (self.proc.as_fd(), DecInt::from_fd(fd))
    }

    /// # Errors
    /// `EROFS`: nothing may change what this number stands for. `ESTALE`.
    pub(super) fn writable(&self, id: u64) -> Result<usize, Errno> {
        if id == ROOT_ID {
            return Err(Errno::ROFS);
        }
        let folder = self.inodes.get(id)?.folder();
        match self.folders.get(folder) {
            Some(Shared {
                read_only: false, ..
            }) => Ok(folder),
            _ => Err(Errno::ROFS),
        }
    }

    /// What confinement must leave reachable: each folder, and whether it may be changed.
    pub fn reach(&mut self) -> Result<Vec<(OwnedFd, bool)>, Errno> {
        let mut reach = Vec::new();
        for folder in 0..self.folders.len() {
            let fd = self.inodes.fd(Inodes::folder_id(folder))?;
            let fd = rustix::io::fcntl_dupfd_cloexec(&*fd, 3)?;
            reach.push((fd, !self.folders[folder].read_only));
        }
        Ok(reach)
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let (known, open) = self.inodes.counts();
        (known, open, self.handles.len())
    }
}

/// File systems whose close may fail: what was written goes over a network then (`linux/magic.h`; 9p, CIFS, FUSE, NFS,
/// SMB2).
fn names_a_network(magic: u64) -> bool {
    [0x0102_1997, 0xff53_4d42, 0x6573_5546, 0x6969, 0xfe53_4d42].contains(&(magic & 0xffff_ffff))
}

fn put_header(room: &[Piece<'_>], unique: u64, errno: i32, payload: usize) {
    let mut to = Writer::default();
    to.u32((abi::OUT_HEADER + payload) as u32);
    to.u32((-errno).cast_unsigned()).u64(unique);
    copy_in(room, &to.0);
}

/// An answer that is an error. None where there is no room for one.
fn refuse(room: &[Piece<'_>], unique: u64, errno: Errno) -> u32 {
    if length(room) < abi::OUT_HEADER {
        return 0;
    }
    put_header(room, unique, errno.raw_os_error(), 0);
    abi::OUT_HEADER as u32
}
