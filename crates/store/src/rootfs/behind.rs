//! Writing behind: what was written goes to the disk while the rest is still on its way, so that the sync at the end finds
//! little to do.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::sys;

/// Bytes after which the disk is asked for: those of one piece, so that the last of them are few.
const STEP: u64 = ext4::PIECE as u64;

/// A file that is being written.
pub(super) struct Behind<'a> {
    file: &'a File,
    since: u64,
    wake: SyncSender<()>,
}

impl<'a> Behind<'a> {
    /// The file, and what a thread of its own gives to [`write`].
    pub(super) fn new(file: &'a File) -> (Self, Receiver<()>) {
        let (wake, woken) = sync_channel(1);
        let behind = Self {
            file,
            since: 0,
            wake,
        };
        (behind, woken)
    }
}

/// Sends to the disk what is there whenever it is woken, until nobody writes any more.
///
/// It waits for nothing that the disk does: a sync here would make whoever writes wait for the host's journal, and those
/// flushes of the disk cost more than all that they leave to the last one.
pub(super) fn write(file: &File, woken: &Receiver<()>) {
    for () in woken {
        sys::start_writing(file);
    }
}

impl ext4::Disk for Behind<'_> {
    fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        ext4::Disk::write_at(&mut self.file, buf, offset)?;
        self.since += buf.len() as u64;
        if self.since >= STEP {
            self.since = 0;
            // One that waits already covers this one too.
            let _ = self.wake.try_send(());
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        ext4::Disk::set_len(&mut self.file, len)
    }

    fn clear(&mut self, offset: u64, len: u64) -> io::Result<()> {
        disk::clear(self.file, offset, len)
    }
}
