//! Shared folders: a thread for each file system device.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll;

use super::bus::{End, Ended};
use super::{Builder, MonitorError, Taken, kick_fd, system};
use crate::confine::{self, ConfineError, Level};
use crate::fs::{Folder, Server, raise_descriptor_limit};
use crate::machine::Machine;
use crate::virtio::fs::Fs;
use crate::virtio::mmio::{Registers, Slot};
use crate::vsock::Memory;

/// A file system device and what its thread needs.
pub(super) struct Sharing {
    slot: Arc<Slot<Fs>>,
    epoll: OwnedFd,
    reach: Vec<(OwnedFd, bool)>,
}

/// Makes the description's devices.
pub(super) fn build(
    machine: &Machine,
    taken: &mut Taken,
    builder: &mut Builder<'_>,
) -> Result<Vec<Sharing>, MonitorError> {
    if machine.shares.is_empty() {
        return Ok(Vec::new());
    }
    let descriptors = raise_descriptor_limit(true) / machine.shares.len();
    let mut shares = Vec::new();
    for share in &machine.shares {
        let mut folders = Vec::new();
        for folder in &share.folders {
            let name = CString::new(folder.name.as_str());
            folders.push(Folder {
                name: name.map_err(|error| MonitorError::Wrong(error.to_string()))?,
                fd: taken.file(folder.fd)?.into(),
                read_only: folder.read_only,
            });
        }
        let mut server = Server::new(folders, descriptors).map_err(system("shared folders"))?;
        let reach = server.reach().map_err(system("shared folders"))?;
        let slot = builder.slot(Fs::new(server, &share.tag))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll instance"))?;
        // Never read: each write to an eventfd is an edge of its own.
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        for kick in slot.kicks() {
            epoll::add(&epoll, kick_fd(kick), epoll::EventData::new_u64(0), edge)
                .map_err(system("epoll instance"))?;
        }
        shares.push(Sharing { slot, epoll, reach });
    }
    Ok(shares)
}

impl Sharing {
    /// Confines the calling thread to what is shared.
    pub(super) fn confine(&self) -> Result<Level, ConfineError> {
        confine::this_sharing_thread(&self.reach)
    }

    /// The thread's work.
    pub(super) fn serve(self, mem: &Memory, end: &End) {
        let Sharing { slot, epoll, reach } = self;
        drop(reach);
        let mut buffer = [const { MaybeUninit::uninit() }; 2];
        loop {
            match epoll::wait(&epoll, &mut buffer[..], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    let what = format!("wait for a guest's requests for files: {error}");
                    return end.come(Ended::Broken(what));
                }
            }
            while slot.serve(mem) {}
        }
    }
}
