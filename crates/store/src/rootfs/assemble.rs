//! All layers of an image on their way into one file system.
//!
//! ```text
//!   the lowest layer ─▶ its contents into place ──────────────────────┐
//!   every other one  ─▶ an index, its contents into a segment ─┐      │
//!         (side by side)                                       ▼      ▼
//!                merged in layer order ─▶ winners into place, by layer ─▶ metadata
//! ```
//!
//! Where a content lies depends on the layers alone: not on how they were packed, nor on which of them came first.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use ext4::{Disk, Segment, Summary, Writer};
use oci::{LayerIndex, Merger};

use super::behind::{self, Behind};
use super::stream::{self, Watch};
use super::tree::{Content, InPlace, Kept};
use super::waiting::{Pieces, Room};
use super::{Error, Layer, Options, mount_points, tree};
use crate::{Root, file};

/// An image that is being made.
struct Assembly<'a> {
    root: &'a Root,
    layers: &'a [Layer],
    options: &'a Options,
    /// Where the file system is written.
    path: &'a Path,
    watch: Watch,
    room: Room,
    /// The next upper layer that nobody reads yet.
    next: AtomicUsize,
}

/// An upper layer that was read: its entries and its contents.
type Index<'a> = (LayerIndex<Content>, Pieces<'a>);

/// Writes the file system of `layers` to `file`, whose name is `path`.
pub(super) fn write(
    root: &Root,
    layers: &[Layer],
    options: &Options,
    ext4_options: ext4::WriterOptions,
    (file, path): (&File, &Path),
) -> Result<Summary, Error> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let assembly = Assembly {
        root,
        layers,
        options,
        path,
        watch: Watch::new(options.max_unpacked),
        room: Room::new(options.memory, &path.with_extension("waiting")),
        next: AtomicUsize::new(1),
    };
    std::thread::scope(|scope| {
        let (disk, woken) = Behind::new(file);
        let syncing = scope.spawn(move || behind::sync(file, &woken));
        let written = Writer::new(disk, ext4_options)
            .map_err(failed)
            .and_then(|mut writer| {
                let (mut nodes, mut segments) = assembly.merge(&mut writer)?;
                tree::place(&mut nodes, &mut segments, &mut writer).map_err(failed)?;
                let mut tree = tree::convert(nodes);
                mount_points::add(&mut tree);
                writer.finish(&tree).map_err(failed)
            });
        let synced = syncing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let summary = written.map_err(|error| at(error, path))?;
        synced.map_err(file::Error::at("sync", path))?;
        Ok(summary)
    })
}

/// What a sink refused was refused at `path`.
fn at(error: Error, path: &Path) -> Error {
    match error {
        Error::Merge {
            layer,
            source: oci::MergeError::Sink { entry, source, .. },
        } => Error::Store {
            layer,
            entry,
            path: path.to_owned(),
            source,
        },
        other => other,
    }
}

type Merged<'a> = (Vec<oci::Node<Content>>, Vec<Option<Pieces<'a>>>);

impl Assembly<'_> {
    /// Reads all layers and merges them: the nodes, and each layer's contents that wait.
    fn merge<D: Disk>(&self, writer: &mut Writer<D>) -> Result<Merged<'_>, Error> {
        let mut merger = Merger::with_budget(self.options.max_metadata);
        let mut segments: Vec<Option<Pieces<'_>>> = self.layers.iter().map(|_| None).collect();
        if self.layers.is_empty() {
            return Ok((merger.finish().into_nodes(), segments));
        }
        std::thread::scope(|scope| {
            let (results, uppers) = channel();
            let threads = self.options.threads.min(self.layers.len());
            for _ in 1..threads {
                let results = results.clone();
                scope.spawn(move || self.work(&results));
            }
            let mut sink = InPlace(writer);
            let lowest = self.read(0, |tar| merger.apply_layer(tar, &mut sink));
            let merged = lowest.and_then(|()| {
                // This thread's turn at reading is over: it waits from now on.
                scope.spawn(move || self.work(&results));
                self.apply(&mut merger, &uppers, &mut segments)
            });
            if merged.is_err() {
                self.watch.fail(0);
            }
            merged
        })?;
        Ok((merger.finish().into_nodes(), segments))
    }

    fn read<T>(
        &self,
        number: usize,
        read: impl FnOnce(&mut stream::Archive<'_>) -> Result<T, oci::MergeError>,
    ) -> Result<T, Error> {
        stream::read(self.root, &self.layers[number], number, &self.watch, read)
    }

    /// Reads layers that nobody else reads, one after the other.
    fn work<'a>(&'a self, results: &Sender<(usize, Result<Index<'a>, Error>)>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.layers.len() || self.watch.is_futile(number) {
                return;
            }
            let result = self.read_upper(number);
            if result.is_err() {
                self.watch.fail(number);
            }
            if results.send((number, result)).is_err() {
                return;
            }
        }
    }

    fn read_upper(&self, number: usize) -> Result<Index<'_>, Error> {
        let mut sink = Kept {
            layer: number,
            segment: Segment::new(Pieces::new(&self.room)),
        };
        let index = self.read(number, |tar| {
            LayerIndex::read(number as u32 + 1, tar, &mut sink, self.options.max_metadata)
        })?;
        let pieces = sink.segment.finish().map_err(|source| Error::Write {
            path: self.path.to_owned(),
            source,
        })?;
        Ok((index, pieces))
    }

    /// Applies the upper layers in their order, each when it comes. The first error in that order is the one that is told.
    fn apply<'a>(
        &self,
        merger: &mut Merger<Content>,
        uppers: &Receiver<(usize, Result<Index<'a>, Error>)>,
        segments: &mut [Option<Pieces<'a>>],
    ) -> Result<(), Error> {
        let mut early: Vec<Option<Result<Index<'a>, Error>>> = Vec::new();
        early.resize_with(self.layers.len(), || None);
        for number in 1..self.layers.len() {
            let result = loop {
                if let Some(result) = early[number].take() {
                    break result;
                }
                // Every layer up to the first that failed has a result.
                match uppers.recv() {
                    Ok((other, result)) => early[other] = Some(result),
                    Err(_) => unreachable!("a thread ended without a result"),
                }
            };
            let (index, pieces) = result?;
            segments[number] = Some(pieces);
            merger.apply_index(index).map_err(|source| Error::Merge {
                layer: self.layers[number].blob.digest,
                source,
            })?;
        }
        Ok(())
    }
}
