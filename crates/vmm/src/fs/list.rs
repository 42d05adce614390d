//! What is in directories.

use std::mem::MaybeUninit;

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use super::abi::{self, ROOT_ID, Writer, dirent_len};
use super::inodes::Inodes;
use super::names::find;
use super::open::Handle;
use super::server::{Answer, Outcome, Server};

/// The longest answer.
const MOST: usize = 128 * 1024;

impl Server {
    /// Entries from an offset on, as many as `room` bytes hold; with `plus`, each is looked up as well.
    pub(super) fn read_dir(
        &mut self,
        id: u64,
        fh: u64,
        offset: u64,
        room: usize,
        plus: bool,
    ) -> Outcome {
        let room = room.min(MOST);
        let fd = match self.handles.get_mut(&fh) {
            Some(Handle::Root) => return Ok(Answer::Bytes(self.list_folders(offset, room, plus))),
            Some(Handle::Directory(fd, at)) => {
                if *at != offset {
                    rustix::fs::seek(&*fd, SeekFrom::Start(offset))?;
                }
                // The position counts for nothing until this one has ended well.
                *at = u64::MAX;
                rustix::io::fcntl_dupfd_cloexec(&*fd, 3)?
            }
            _ => return Err(Errno::BADF),
        };
        let parent = match self.inodes.get(id)? {
            inode if inode.kind != FileType::Directory => return Err(Errno::NOTDIR),
            _ => self.inodes.fd(id)?,
        };
        // About as much as finds room: what is left of it is read again.
        let mut buffer = vec![MaybeUninit::uninit(); room.clamp(1024, 32 * 1024)];
        let mut entries = RawDir::new(&fd, &mut buffer);
        let mut to = Writer::default();
        let mut next = offset;
        let mut consumed = true;
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(_) if !to.0.is_empty() => {
                    consumed = false;
                    break;
                }
                Err(errno) => return Err(errno),
            };
            let name = entry.file_name();
            let bytes = name.to_bytes();
            let entry_out = if plus { abi::ENTRY_OUT } else { 0 };
            if to.0.len() + entry_out + dirent_len(bytes) > room {
                consumed = false;
                break;
            }
            if plus {
                let before = to.0.len();
                let itself = bytes == b"." || bytes == b"..";
                // One that is gone, or can't be looked at, is in the list without more.
                if !itself && let Ok((fd, stat)) = find(&parent, name) {
                    let _ = self.put_found(&mut to, id, name, (fd, &stat));
                }
                to.0.resize(before + abi::ENTRY_OUT, 0);
            }
            next = entry.next_entry_cookie();
            to.dirent(entry.ino(), next, kind(entry.file_type()), bytes);
        }
        if consumed && let Some(Handle::Directory(_, at)) = self.handles.get_mut(&fh) {
            *at = next;
        }
        Ok(Answer::Bytes(to.0))
    }

    fn list_folders(&mut self, offset: u64, room: usize, plus: bool) -> Vec<u8> {
        let mut to = Writer::default();
        let own = [c".", c".."].map(|name| (ROOT_ID, name));
        let folders = self.folders.iter().enumerate();
        let folders =
            folders.map(|(index, folder)| (Inodes::folder_id(index), folder.name.as_c_str()));
        let all = own.into_iter().chain(folders).zip(1u64..);
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for ((id, name), next) in all.skip(skipped) {
            let entry_out = if plus { abi::ENTRY_OUT } else { 0 };
            if to.0.len() + entry_out + dirent_len(name.to_bytes()) > room {
                break;
            }
            to.0.resize(to.0.len() + entry_out, 0);
            to.dirent(id, next, 0, name.to_bytes());
        }
        to.0
    }
}

/// `DT_*`.
fn kind(of: FileType) -> u8 {
    (of.as_raw_mode() >> 12) as u8
}
