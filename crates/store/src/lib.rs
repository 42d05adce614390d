//! Every file under `$GOURD_ROOT`: what it is called, what stands in it, who may write it, when it may go.
//!
//! Synchronous; callers on an async runtime use a blocking thread. Nothing here runs on its own. What is read back is
//! not trusted to be well formed (a disk may lie, a newer gourd may have written it), but it is trusted to be the
//! user's own: the tree is 0700.
//!
//! ```text
//! content/   immutable blobs by digest            → [`content`]
//! images/    records by configuration digest      → [`images`]
//! refs/      references to images                 → [`refs`]
//! rootfs/    layers merged into one ext4 file     → [`rootfs`]
//! containers/                                     → [`container`], [`logs`]
//! networks/                                       → [`network`]
//! volumes/                                        → [`volume`]
//! kernels/   kernels and their initramfs          → [`kernels`]
//! events/    what happened                        → [`events`]
//! run/       sockets                              → [`Root::socket`]
//! ```
//!
//! Writing: temporary file, fsync, rename, fsync of the directory ([`mod@file`]). Locks and leases: [`lock`].

mod clock;
pub mod container;
pub mod content;
mod cpio;
pub mod events;
pub mod fault;
pub mod file;
pub mod gc;
pub mod images;
pub mod json;
pub mod kernels;
pub mod locate;
pub mod lock;
pub mod logs;
pub mod network;
pub mod refs;
mod root;
pub mod rootfs;
#[allow(unsafe_code)]
mod sys;
pub mod volume;

/// Disk images and file systems, for those who use them through this crate.
pub use {disk, ext4};

pub use clock::{TimeRange, now_ns};
pub use root::{ARCH, Error as RootError, Root};
