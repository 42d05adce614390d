//! The transfer helper: a process with one thread that reads or writes a container's files, for `cp`, `export`, `diff`
//! and `commit`.
//!
//! ```text
//! agent                                   gourd-transfer (root of the VM, in none of the container's groups)
//!   |  length, Order         ------------>  |
//!   |                                       |  the container's root: its first process's mounts, or the agent's
//!   |            stdin, stdout: the stream  |  <=== bytes ===> the host
//!   |  <------------  Outcome, end of file  |
//! ```
//!
//! It is a process of its own because it changes its root, so that no link of the container leads out of it, and because
//! a file may make it wait. It belongs to no control group of the container: what is paused can be copied from.

mod archive;
mod changes;
mod compare;
mod entry;
mod layer;
mod listing;
mod pack;
mod paths;
mod pax;
mod pipe;
mod remove;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod xattrs;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use prost::Message;
use proto::agent::read_request::What;
use proto::agent::{Failure, PathStat, ReadRequest, StatPathRequest, WriteRequest};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::process::{Resource, Rlimit};
use rustix::thread::ThreadNameSpaceType;

use crate::failure::{Failed, Step};
use crate::sys;
use archive::Archive;
use changes::Roots;
use layer::{Layer, List};
use pack::Packer;
use paths::{Root, Wanted};
use pipe::{Input, Output};
pub(crate) use tree::{clear, copy_tree};

/// What e2fsck keeps on a disk; no image has it.
const LOST_FOUND: &[u8] = b"lost+found";

/// What a transfer helper is told.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Order {
    /// The container's root in the VM's mount namespace.
    #[prost(string, tag = "1")]
    pub(crate) rootfs: String,
    /// The image's root, and the overlay's upper directory; empty for a root without an image.
    #[prost(string, tag = "2")]
    pub(crate) image: String,
    #[prost(string, tag = "3")]
    pub(crate) upper: String,
    /// An inherited pidfd of the container's first process; 0 when it does not run.
    #[prost(int32, tag = "4")]
    pub(crate) join: i32,
    /// One of these.
    #[prost(message, optional, tag = "5")]
    pub(crate) stat: Option<StatPathRequest>,
    #[prost(message, optional, tag = "6")]
    pub(crate) read: Option<ReadRequest>,
    #[prost(message, optional, tag = "7")]
    pub(crate) write: Option<WriteRequest>,
}

/// What came of it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Outcome {
    #[prost(message, optional, tag = "1")]
    pub(crate) failure: Option<Failure>,
    /// Of the stream.
    #[prost(uint64, tag = "2")]
    pub(crate) bytes: u64,
    #[prost(message, optional, tag = "3")]
    pub(crate) stat: Option<PathStat>,
}

/// The role. The one argument is the number of the inherited socket.
pub(crate) fn main() -> u8 {
    let control = std::env::args()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))
        .and_then(sys::inherited);
    let mut control = match control {
        Ok(fd) => UnixStream::from(fd),
        Err(error) => {
            eprintln!("gourd-transfer: no socket to the agent: {error}");
            return crate::FAILURE;
        }
    };
    let outcome = receive(&mut control)
        .step("read", "an order")
        .and_then(|order| run(&order));
    let outcome = outcome.unwrap_or_else(|failed| Outcome {
        failure: Some(failed.into()),
        ..Outcome::default()
    });
    let message = outcome.encode_to_vec();
    // When this fails the agent is dead, and with it the VM.
    match control.write_all(&message) {
        Ok(()) => crate::SUCCESS,
        Err(_) => crate::FAILURE,
    }
}

fn receive(control: &mut UnixStream) -> std::io::Result<Order> {
    let mut length = [0; 4];
    control.read_exact(&mut length)?;
    let mut message = Vec::new();
    let length = u64::from(u32::from_le_bytes(length));
    control.take(length).read_to_end(&mut message)?;
    Order::decode(message.as_slice()).map_err(std::io::Error::other)
}

fn run(order: &Order) -> Result<Outcome, Failed> {
    // Trees may be deep, and each level of one keeps directories open.
    let limit = Some(1 << 20);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    rustix::process::setrlimit(Resource::Nofile, limit).step("set limit", "RLIMIT_NOFILE")?;
    rustix::process::umask(Mode::empty());
    crate::helper::let_oom_killer_choose(0)?;

    let mut outcome = Outcome::default();
    if let Some(request) = &order.stat {
        outcome.stat = Some(enter(order)?.stat(&request.path)?);
    } else if let Some(request) = &order.read {
        let output = Output::new(duplicate(rustix::stdio::stdout())?);
        outcome.bytes = read(order, request, output)?;
        // The agent hears of the end when the host can as well.
        rustix::net::shutdown(rustix::stdio::stdout(), rustix::net::Shutdown::Write)
            .or_else(|errno| {
                if errno == Errno::NOTCONN {
                    Ok(())
                } else {
                    Err(errno)
                }
            })
            .step("end", "the stream")?;
    } else if let Some(request) = &order.write {
        let input = Input::new(duplicate(rustix::stdio::stdin())?);
        outcome.bytes = write(order, request, input)?;
    }
    Ok(outcome)
}

fn duplicate(fd: std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd, Failed> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).step("duplicate", "the stream")
}

/// Makes the container's root this process's own.
fn enter(order: &Order) -> Result<Root, Failed> {
    let descriptors = paths::descriptors()?;
    if order.join == 0 {
        rustix::process::chroot(order.rootfs.as_str()).step("change root", &order.rootfs)?;
    } else {
        let first = sys::inherited(order.join).step("open", "the container's first process")?;
        rustix::thread::move_into_thread_name_spaces(first.as_fd(), ThreadNameSpaceType::MOUNT)
            .step("join", "the container's mounts")?;
    }
    rustix::process::chdir("/").step("change directory", "/")?;
    Ok(Root::new(directory("/")?, descriptors))
}

fn directory(path: &str) -> Result<OwnedFd, Failed> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).step("open", path)
}

fn read(order: &Order, request: &ReadRequest, output: Output) -> Result<u64, Failed> {
    match request.what() {
        What::Path => {
            let root = enter(order)?;
            let wanted = Wanted::parse(&request.path);
            let (parent, name) = root.parent(&wanted, request.follow)?;
            let mut packer = Packer::new(output);
            match packer.tree(parent.as_fd(), &name, &wanted.name) {
                Err(failed) if failed.is(Errno::NOENT) => {
                    return Err(paths::missing(&wanted.path, Errno::NOENT));
                }
                result => result?,
            }
            packer.finish()
        }
        What::Root => {
            let mut packer = Packer::new(output);
            packer.leave_out(LOST_FOUND);
            packer.below(without_mounts(&order.rootfs)?, b"")?;
            packer.finish()
        }
        What::Layer => {
            let mut layer = Layer(Packer::new(output));
            changes::walk(roots(order)?, &mut layer)?;
            layer.0.finish()
        }
        What::Changes => {
            let mut list = List(output);
            changes::walk(roots(order)?, &mut list)?;
            list.0.finish()
        }
    }
}

fn write(order: &Order, request: &WriteRequest, input: Input) -> Result<u64, Failed> {
    let root = enter(order)?;
    let target = root.directory(&request.path)?;
    let options = unpack::Options {
        keep_type: request.no_overwrite_dir_non_dir,
        keep_owner: request.keep_owner,
        keep_lists: false,
    };
    let mut archive = Archive::new(input);
    unpack::unpack(root.as_fd(), &target, &mut archive, options)?;
    archive.finish()
}

/// A view of the file system at `path` alone, without what is mounted in it.
fn without_mounts(path: &str) -> Result<OwnedFd, Failed> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags).step("clone the mount at", path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&tree, ".", flags, Mode::empty()).step("open", path)
}

fn roots(order: &Order) -> Result<Roots, Failed> {
    if order.image.is_empty() {
        let why = "its root is a private copy of the image (--rootfs clone), which does not tell what changed";
        return Err(Failed::invalid(
            "compare",
            "the container with its image",
            why,
        ));
    }
    Ok(Roots {
        upper: directory(&order.upper)?,
        lower: directory(&order.image)?,
        merged: without_mounts(&order.rootfs)?,
    })
}
