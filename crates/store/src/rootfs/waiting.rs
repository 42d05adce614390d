//! Contents of upper layers that wait for their turn: in memory as far as that goes, then in a file without a name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ext4::PIECE;

/// The room for the waiting contents of one image, shared by its layers.
///
/// It has places of [`PIECE`] bytes; those that were given back are used again, so that neither memory nor the file is
/// larger than what ever waited at once.
#[derive(Debug)]
pub(super) struct Room {
    places: Mutex<Places>,
    path: PathBuf,
}

#[derive(Debug)]
struct Places {
    /// Pieces that may still be made in memory.
    memory: u64,
    /// Memory that nothing waits in.
    free: Vec<Box<[u8]>>,
    /// Made when memory is full. It has no name, so that nothing is left of it, whatever happens.
    file: Option<File>,
    /// Where nothing waits in the file, in bytes.
    holes: Vec<u64>,
    /// The file's length in bytes.
    end: u64,
}

/// Bytes that wait, at most [`PIECE`].
#[derive(Debug)]
pub(super) struct Piece {
    place: Place,
    len: usize,
}

#[derive(Debug)]
enum Place {
    Memory(Box<[u8]>),
    /// At that offset of the file.
    File(u64),
}

impl Room {
    /// Room for `memory` bytes in memory. `path` is where the file has its name for a moment.
    pub(super) fn new(memory: u64, path: &Path) -> Self {
        Self {
            places: Mutex::new(Places {
                memory: memory / PIECE as u64,
                free: Vec::new(),
                file: None,
                holes: Vec::new(),
                end: 0,
            }),
            path: path.to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps at most [`PIECE`] bytes.
    ///
    /// # Errors
    /// The file cannot be made, or written.
    pub(super) fn keep(&self, bytes: &[u8]) -> io::Result<Piece> {
        let len = bytes.len();
        let mut places = self.lock();
        let buffer = match places.free.pop() {
            Some(buffer) => Some(buffer),
            None if places.memory > 0 => {
                places.memory -= 1;
                Some(vec![0; PIECE].into_boxed_slice())
            }
            None => None,
        };
        if let Some(mut buffer) = buffer {
            drop(places);
            buffer[..len].copy_from_slice(bytes);
            let place = Place::Memory(buffer);
            return Ok(Piece { place, len });
        }
        let at = places.holes.pop().unwrap_or(places.end);
        places.end = places.end.max(at + PIECE as u64);
        let file = self.file(&mut places)?;
        drop(places);
        file.write_all_at(bytes, at)?;
        let place = Place::File(at);
        Ok(Piece { place, len })
    }

    /// Gives the bytes to `take`, and their place back.
    ///
    /// # Errors
    /// The file cannot be read; what `take` says.
    pub(super) fn take<E: From<io::Error>>(
        &self,
        piece: Piece,
        buffer: &mut Vec<u8>,
        take: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match piece.place {
            Place::Memory(bytes) => {
                let taken = take(&bytes[..piece.len]);
                self.lock().free.push(bytes);
                taken
            }
            Place::File(at) => {
                let file = self.file(&mut self.lock())?;
                buffer.resize(PIECE, 0);
                file.read_exact_at(&mut buffer[..piece.len], at)?;
                self.lock().holes.push(at);
                take(&buffer[..piece.len])
            }
        }
    }

    /// The file, for one more user.
    fn file(&self, places: &mut Places) -> io::Result<File> {
        if let Some(file) = &places.file {
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
        places.file.insert(made).try_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_given_back_from_memory_and_from_the_file_and_its_place_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("waiting");
        // As a crash leaves it.
        fs::write(&path, "left behind").unwrap();
        let room = Room::new(2 * PIECE as u64 + 5, &path);
        let bytes: Vec<u8> = (0..5 * PIECE + 5000).map(|at| (at / 1000) as u8).collect();
        let mut buffer = Vec::new();
        for _ in 0..3 {
            let mut pieces = Vec::new();
            for part in bytes.chunks(PIECE) {
                pieces.push(room.keep(part).unwrap());
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
            let in_file = |piece: &&Piece| matches!(piece.place, Place::File(_));
            assert_eq!(pieces.iter().filter(in_file).count(), 4);
            let mut found: Vec<u8> = Vec::new();
            for piece in pieces {
                let taken: io::Result<()> = room.take(piece, &mut buffer, |bytes| {
                    found.extend(bytes);
                    Ok(())
                });
                taken.unwrap();
            }
            assert!(found == bytes);
            let places = room.lock();
            assert_eq!(places.end, 4 * PIECE as u64);
            assert_eq!((places.memory, places.free.len()), (0, 2));
        }
    }
}
