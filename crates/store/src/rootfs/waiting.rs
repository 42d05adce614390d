//! Where contents of upper layers wait until it is known which of them win: in memory as far as that goes, then in a
//! file without a name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ext4::PIECE;
use ext4::read::Source;

/// The room for the waiting contents of one image, shared by its layers.
#[derive(Debug)]
pub(super) struct Room {
    /// Bytes that may still be kept in memory.
    memory: AtomicU64,
    /// Made when memory is full. It has no name, so that nothing is left of it, whatever happens.
    file: Mutex<Option<File>>,
    path: PathBuf,
    /// Bytes of the file that are given out.
    given: AtomicU64,
}

impl Room {
    /// `path` is where the file has its name for a moment.
    pub(super) fn new(memory: u64, path: &Path) -> Self {
        Self {
            memory: AtomicU64::new(memory),
            file: Mutex::new(None),
            path: path.to_owned(),
            given: AtomicU64::new(0),
        }
    }

    /// The file, for one more user.
    fn file(&self) -> io::Result<File> {
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if let Some(file) = &*file {
            return file.try_clone();
        }
        // A crash may have left one, just before it lost its name.
        crate::file::remove(&self.path).map_err(|error| error.source)?;
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path)?;
        fs::remove_file(&self.path)?;
        file.insert(made).try_clone()
    }
}

/// One layer's contents, as [`ext4::Segment`] writes them.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    room: &'a Room,
    pieces: Vec<Piece>,
    /// Of all pieces, in bytes.
    len: u64,
    file: Option<File>,
}

#[derive(Debug)]
enum Piece {
    Memory(Box<[u8]>),
    /// At that offset of the file.
    File(u64),
}

impl<'a> Pieces<'a> {
    pub(super) fn new(room: &'a Room) -> Self {
        Self {
            room,
            pieces: Vec::new(),
            len: 0,
            file: None,
        }
    }

    fn file(&mut self) -> io::Result<&File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.room.file()?,
        };
        Ok(self.file.insert(file))
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let len = piece.len() as u64;
        let room = self.room;
        let fits = room
            .memory
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(len)
            });
        let piece = if fits.is_ok() {
            Piece::Memory(piece.into())
        } else {
            let at = room.given.fetch_add(len, Ordering::Relaxed);
            self.file()?.write_all_at(piece, at)?;
            Piece::File(at)
        };
        self.pieces.push(piece);
        self.len += len;
        Ok(len as usize)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Pieces<'_> {
    fn read_at(&self, mut buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.saturating_add(buffer.len() as u64) > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset as usize;
        while !buffer.is_empty() {
            let (number, within) = (at / PIECE, at % PIECE);
            let len = buffer.len().min(PIECE - within);
            let (now, later) = buffer.split_at_mut(len);
            let end: io::Error = io::ErrorKind::UnexpectedEof.into();
            match (self.pieces.get(number), &self.file) {
                (Some(Piece::Memory(bytes)), _) => {
                    now.copy_from_slice(bytes.get(within..within + len).ok_or(end)?);
                }
                (Some(Piece::File(start)), Some(file)) => {
                    file.read_exact_at(now, start + within as u64)?;
                }
                _ => return Err(end),
            }
            (buffer, at) = (later, at + len);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_given_back_from_memory_and_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("waiting");
        // As a crash leaves it.
        fs::write(&path, "left behind").unwrap();
        let piece = PIECE as u64;
        let room = Room::new(2 * piece, &path);
        let bytes: Vec<u8> = (0..5 * PIECE + 5000).map(|at| (at / 1000) as u8).collect();
        let mut layers = [Pieces::new(&room), Pieces::new(&room)];
        for (number, part) in bytes.chunks(PIECE).enumerate() {
            // Two layers in turns: one has the even pieces, the last is a short one.
            layers[number % 2].write_all(part).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        for (layer, pieces) in layers.iter().enumerate() {
            let own = bytes.chunks(PIECE).skip(layer).step_by(2);
            let expect: Vec<u8> = own.flatten().copied().collect();
            assert_eq!(pieces.size().unwrap(), expect.len() as u64);
            let in_file = |piece: &&Piece| matches!(piece, Piece::File(_));
            assert_eq!(pieces.pieces.iter().filter(in_file).count(), 2);
            for (at, len) in [(0, expect.len()), (PIECE - 10, 20), (PIECE, PIECE), (7, 0)] {
                let mut found = vec![0; len];
                pieces.read_at(&mut found, at as u64).unwrap();
                assert!(found == expect[at..at + len], "{layer} {at} {len}");
            }
            let beyond = pieces.read_at(&mut [0; 2], expect.len() as u64 - 1);
            assert!(beyond.is_err());
        }
    }
}
