//! What is in directories.
//!
//! Listings with attributes (`FUSE_READDIRPLUS`) are not offered: a guest may believe what it is told of a file for a
//! millisecond, and uses a listing later than that.

use std::mem::MaybeUninit;

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use super::abi::{ROOT_ID, Writer, dirent_len};
use super::inodes::Inodes;
use super::open::Handle;
use super::server::{Answer, Outcome, Server};

/// The longest answer.
const MOST: usize = 128 * 1024;

impl Server {
    /// Entries from an offset on, as many as `room` bytes hold.
    pub(super) fn read_dir(&mut self, fh: u64, offset: u64, room: usize) -> Outcome {
        let room = room.min(MOST);
        let (fd, at) = match self.handles.get_mut(&fh) {
            Some(Handle::Root) => return Ok(Answer::Bytes(self.list_folders(offset, room))),
            Some(Handle::Directory(fd, at)) => (fd, at),
            _ => return Err(Errno::BADF),
        };
        if *at != offset {
            rustix::fs::seek(&*fd, SeekFrom::Start(offset))?;
        }
        // Where the descriptor stands is known again when this one has ended well.
        *at = u64::MAX;
        // About as much as finds room: what is left of it is read again.
        let mut buffer = vec![MaybeUninit::uninit(); room.clamp(1024, 32 * 1024)];
        let mut entries = RawDir::new(&*fd, &mut buffer);
        let mut to = Writer::default();
        let mut next = offset;
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(_) if !to.0.is_empty() => return Ok(Answer::Bytes(to.0)),
                Err(errno) => return Err(errno),
            };
            let name = entry.file_name().to_bytes();
            if to.0.len() + dirent_len(name) > room {
                return Ok(Answer::Bytes(to.0));
            }
            next = entry.next_entry_cookie();
            to.dirent(entry.ino(), next, kind(entry.file_type()), name);
        }
        *at = next;
        Ok(Answer::Bytes(to.0))
    }

    fn list_folders(&self, offset: u64, room: usize) -> Vec<u8> {
        let mut to = Writer::default();
        let own = [c".", c".."].map(|name| (ROOT_ID, name));
        let folders = self.folders.iter().enumerate();
        let folders =
            folders.map(|(index, folder)| (Inodes::folder_id(index), folder.name.as_c_str()));
        let all = own.into_iter().chain(folders).zip(1u64..);
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for ((id, name), next) in all.skip(skipped) {
            if to.0.len() + dirent_len(name.to_bytes()) > room {
                break;
            }
            to.dirent(id, next, 0, name.to_bytes());
        }
        to.0
    }
}

/// `DT_*`.
fn kind(of: FileType) -> u8 {
    (of.as_raw_mode() >> 12) as u8
}
