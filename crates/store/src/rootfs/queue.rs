//! Contents of all layers on their way to one disk: those of a layer behind those of the layer below it.
//!
//! ```text
//!   the layer whose turn it is ─▶ straight to the disk
//!   those above it             ─▶ wait; to the disk when their turn comes, be they read to their end or not
//! ```
//!
//! So where a content lies depends on the layers alone, and no layer waits for another one to be read. The turn passes from a layer
//! to the next when the layer was read to its end; nothing passes it on from one that failed.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ext4::{Disk, Placed, Writer};

use super::waiting::{Piece, Room};

/// The one way to the disk.
pub(super) struct Queue<'w, D> {
    /// The layer whose turn it is, from 0. It changes only under the lock of `end`.
    turn: AtomicUsize,
    end: Mutex<End<'w, D>>,
    room: Room,
}

/// Where the queue ends.
struct End<'w, D> {
    writer: &'w mut Writer<D>,
    /// By layer: where its contents lie.
    placed: Vec<Placed>,
    /// By layer: what waits of one that was read to its end before its turn came.
    read: Vec<Option<VecDeque<Piece>>>,
    /// For what waits in the file.
    buffer: Vec<u8>,
}

impl<'w, D: Disk> Queue<'w, D> {
    pub(super) fn new(writer: &'w mut Writer<D>, layers: usize, room: Room) -> Self {
        let mut read = Vec::new();
        read.resize_with(layers, || None);
        Self {
            turn: AtomicUsize::new(0),
            end: Mutex::new(End {
                writer,
                placed: vec![Placed::default(); layers],
                read,
                buffer: Vec::new(),
            }),
            room,
        }
    }

    fn lock(&self) -> MutexGuard<'_, End<'w, D>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By layer: where the contents lie. All layers were read to their end.
    pub(super) fn into_placed(self) -> Vec<Placed> {
        let end = self.end.into_inner();
        end.unwrap_or_else(PoisonError::into_inner).placed
    }
}

impl<D: Disk> End<'_, D> {
    fn place(&mut self, layer: usize, bytes: &[u8]) -> io::Result<()> {
        let placed = self.writer.place(bytes, &mut self.placed[layer]);
        placed.map_err(io::Error::other)
    }

    fn drain(
        &mut self,
        layer: usize,
        waiting: &mut VecDeque<Piece>,
        room: &Room,
    ) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(piece) = waiting.pop_front() {
            room.take(piece, &mut buffer, |bytes| self.place(layer, bytes))?;
        }
        self.buffer = buffer;
        Ok(())
    }
}

/// One layer's contents, as [`ext4::Segment`] writes them.
pub(super) struct Lane<'q, 'w, D> {
    queue: &'q Queue<'w, D>,
    layer: usize,
    waiting: VecDeque<Piece>,
}

impl<'q, 'w, D: Disk> Lane<'q, 'w, D> {
    pub(super) fn new(queue: &'q Queue<'w, D>, layer: usize) -> Self {
        Self {
            queue,
            layer,
            waiting: VecDeque::new(),
        }
    }

    /// The layer was read to its end.
    pub(super) fn end(mut self) -> io::Result<()> {
        let (queue, room) = (self.queue, &self.queue.room);
        let mut end = queue.lock();
        if queue.turn.load(Ordering::Acquire) != self.layer {
            end.read[self.layer] = Some(self.waiting);
            return Ok(());
        }
        end.drain(self.layer, &mut self.waiting, room)?;
        let mut next = self.layer + 1;
        queue.turn.store(next, Ordering::Release);
        while let Some(mut waiting) = end.read.get_mut(next).and_then(Option::take) {
            end.drain(next, &mut waiting, room)?;
            next += 1;
            queue.turn.store(next, Ordering::Release);
        }
        Ok(())
    }
}

impl<D: Disk> Write for Lane<'_, '_, D> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let queue = self.queue;
        if queue.turn.load(Ordering::Acquire) == self.layer {
            let mut end = queue.lock();
            end.drain(self.layer, &mut self.waiting, &queue.room)?;
            end.place(self.layer, piece)?;
        } else {
            self.waiting.push_back(queue.room.keep(piece)?);
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ext4::{PIECE, WriterOptions};

    /// The disk is the same, whichever order the layers come in.
    #[test]
    fn the_order_of_events_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let piece = |layer: usize, number: usize| {
            let len = if number == 2 { 4096 } else { PIECE };
            vec![(layer * 3 + number) as u8 + 1; len]
        };
        // Layers in the order in which their pieces come; each has three.
        let check = |order: &[usize]| {
            let mut disk = Vec::new();
            let mut writer = Writer::new(&mut disk, WriterOptions::default()).unwrap();
            let room = Room::new(2 * PIECE as u64, &dir.path().join("waiting"));
            let queue = Queue::new(&mut writer, 4, room);
            let mut lanes: Vec<_> = (0..4)
                .map(|layer| Some((Lane::new(&queue, layer), 0)))
                .collect();
            for layer in order {
                let (lane, number) = lanes[*layer].as_mut().unwrap();
                lane.write_all(&piece(*layer, *number)).unwrap();
                *number += 1;
                if *number == 3 {
                    let (lane, _) = lanes[*layer].take().unwrap();
                    lane.end().unwrap();
                }
            }
            assert_eq!(queue.turn.load(Ordering::Acquire), 4);
            drop(lanes);
            assert_eq!(queue.into_placed().len(), 4);
            disk
        };
        let expect = check(&[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        let bytes: Vec<u8> = (0..4)
            .flat_map(|layer| (0..3).flat_map(move |number| piece(layer, number)))
            .collect();
        // Behind the superblock and the first descriptors.
        assert!(expect[2 * 4096..] == bytes[..]);
        for order in [
            [3, 3, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0],
            [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3],
            [1, 1, 1, 0, 0, 3, 3, 0, 2, 2, 2, 3],
            [2, 0, 2, 0, 1, 2, 0, 1, 3, 1, 3, 3],
        ] {
            assert!(check(&order) == expect, "{order:?}");
        }
    }
}
