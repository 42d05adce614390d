//! Shared folders: a FUSE server over virtio (virtio 1.2, section 5.11) that passes folders of the host through.
//!
//! ```text
//!   guest                                          host
//!   virtiofs ── chain: request, room for answer ──▶ server ──▶ one name at a time, from descriptors that it was
//!            ◀───────────── answer, data ──────────            handed, as the user who runs gourd
//! ```
//!
//! A device shows a root that is nothing but a list: the shared folders (or single files), each under a name that the
//! configuration gives it. Data go straight between guest memory and the host's page cache; a write that was answered is
//! the host's. What is cached in the guest, and for how long, says [`attr`]; who owns what says `docs/design/0012`.
//!
//! The guest is not trusted in anything: [`abi`] is a total parser, [`inodes`] bounds what it may hold, and `EROFS` is
//! said here, whatever the guest thinks that it has mounted. One thread owns a [`Server`]; how requests get here is
//! none of its business.

mod abi;
mod attr;
mod data;
mod inodes;
mod list;
mod metadata;
mod names;
mod open;
mod server;
mod xattr;

#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[cfg(any(test, fuzzing))]
pub(crate) use abi::IN_HEADER;
pub use server::Server;

/// A folder, or one file, of the host.
#[derive(Debug)]
pub struct Folder {
    /// Its name in the device's root directory.
    pub name: CString,
    /// It, open in any way (`O_PATH` is enough).
    pub fd: OwnedFd,
    /// Nothing changes it by this way.
    pub read_only: bool,
}

/// Raises the process's limit of open descriptors and says how many are there for shared folders. Elsewhere a connection takes
/// one, two while it is made; with fewer, fewer connections: dials beyond are refused. `sharing`: each file that the guest
/// knows wants one as well, and what the process makes gets the modes that the guest says.
pub fn raise_descriptor_limit(sharing: bool) -> usize {
    const OTHERS: u64 = 1024;
    let limit = getrlimit(Resource::Nofile);
    let most = if sharing { 64 * 1024 } else { 4096 };
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(most);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        let _ = setrlimit(Resource::Nofile, raised);
    }
    if sharing {
        rustix::process::umask(rustix::fs::Mode::empty());
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(most);
    limit.saturating_sub(OTHERS).max(OTHERS / 4) as usize
}
