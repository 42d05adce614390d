//! All layers of an image on their way into one file system.
//!
//! ```text
//!   the lowest layer ─▶ into the tree ─────┐   its contents ─┐
//!   every other one  ─▶ an index ──────────┤   its contents ─┤ into place, by layer (`queue`)
//!         (side by side)                   ▼                 ▼
//!                  merged in layer order, as they come ─▶ metadata; what lost is cleared
//! ```
//!
//! Where a content lies depends on the layers alone: not on how they were packed, nor on which of them came first.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use ext4::{Disk, Placed, Segment, Summary, Writer};
use oci::{LayerIndex, Merger};

use super::arrivals::Arrivals;
use super::behind::{self, Behind};
use super::queue::{Lane, Queue};
use super::stream::{self, Watch};
use super::tree::{Content, Contents};
use super::waiting::Room;
use super::{Error, Layer, Options, mount_points, tree};
use crate::{Root, file};

/// An image that is being made.
struct Assembly<'a> {
    root: &'a Root,
    layers: &'a [Layer],
    options: &'a Options,
    /// None when all layers are here.
    arrivals: Option<&'a Arrivals>,
    /// Where the file system is written.
    path: &'a Path,
    watch: Watch,
    /// The next upper layer that nobody reads yet.
    next: AtomicUsize,
}

/// An upper layer that was read.
type Index = LayerIndex<Content>;

/// Writes the file system of `layers` to `file`, whose name is `path`.
pub(super) fn write(
    root: &Root,
    layers: &[Layer],
    (options, arrivals): (&Options, Option<&Arrivals>),
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
        arrivals,
        path,
        watch: Watch::new(
            options
                .max_unpacked
                .unwrap_or_else(|| super::max_unpacked(layers)),
            super::packed(layers),
            options.threads,
            options.threads.min(layers.len()),
        ),
        next: AtomicUsize::new(1),
    };
    std::thread::scope(|scope| {
        let (disk, woken) = Behind::new(file);
        scope.spawn(move || behind::write(file, &woken));
        let written = Writer::new(disk, ext4_options)
            .map_err(failed)
            .and_then(|mut writer| {
                let (nodes, placed) = assembly.merge(&mut writer)?;
                let mut tree = tree::convert(nodes, &placed).map_err(failed)?;
                mount_points::add(&mut tree);
                writer.finish(&tree).map_err(failed)
            });
        written.map_err(|error| at(error, path))
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

/// The nodes, and by layer where contents lie.
type Merged = (Vec<oci::Node<Content>>, Vec<Placed>);

impl Assembly<'_> {
    /// Reads all layers and merges them; their contents go to the disk.
    fn merge<D: Disk + Send>(&self, writer: &mut Writer<D>) -> Result<Merged, Error> {
        let mut merger = Merger::with_budget(self.options.max_metadata);
        let room = Room::new(self.options.memory, &self.path.with_extension("waiting"));
        let queue = Queue::new(writer, self.layers.len(), room);
        if self.layers.is_empty() {
            return Ok((merger.finish().into_nodes(), Vec::new()));
        }
        std::thread::scope(|scope| {
            let (results, uppers) = channel();
            let threads = self.options.threads.min(self.layers.len());
            let queue = &queue;
            for _ in 1..threads {
                let results = results.clone();
                scope.spawn(move || self.work(queue, &results));
            }
            let lowest = self.read(0, queue, |tar, sink| merger.apply_layer(tar, sink));
            let merged = lowest.and_then(|()| {
                // This thread's turn at reading is over: it waits from now on.
                scope.spawn(move || self.work(queue, &results));
                self.apply(&mut merger, &uppers)
            });
            if merged.is_err() {
                self.fail(0);
            }
            merged
        })?;
        Ok((merger.finish().into_nodes(), queue.into_placed()))
    }

    /// Those that read the layers above end, also those that wait for one.
    fn fail(&self, number: usize) {
        self.watch.fail(number);
        if let Some(arrivals) = self.arrivals {
            arrivals.wake();
        }
    }

    /// Reads a layer as soon as it is here; its contents go to the queue.
    fn read<'q, 'w, D: Disk, T>(
        &self,
        number: usize,
        queue: &'q Queue<'w, D>,
        read: impl FnOnce(
            &mut stream::Archive<'_>,
            &mut Contents<Lane<'q, 'w, D>>,
        ) -> Result<T, oci::MergeError>,
    ) -> Result<T, Error> {
        let mut sink = Contents {
            layer: number,
            segment: Segment::new(Lane::new(queue, number)),
        };
        let layer = &self.layers[number];
        let digest = layer.blob.digest;
        if let Some(arrivals) = self.arrivals
            && !arrivals.wait(&digest, || !self.watch.is_futile(number))
        {
            return Err(Error::NotComing(digest));
        }
        let value = stream::read(self.root, layer, number, &self.watch, |tar| {
            read(tar, &mut sink)
        })?;
        let failed = |source| Error::Write {
            path: self.path.to_owned(),
            source,
        };
        let lane = sink.segment.finish().map_err(failed)?;
        lane.end().map_err(file::Error::at("write", self.path))?;
        Ok(value)
    }

    /// Reads layers that nobody else reads, one after the other.
    fn work<D: Disk>(&self, queue: &Queue<'_, D>, results: &Sender<(usize, Result<Index, Error>)>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.layers.len() || self.watch.is_futile(number) {
                return;
            }
            let result = self.read(number, queue, |tar, sink| {
                LayerIndex::read(number as u32 + 1, tar, sink, self.options.max_metadata)
            });
            if result.is_err() {
                self.fail(number);
            }
            if results.send((number, result)).is_err() {
                return;
            }
        }
    }

    /// Applies the upper layers in their order, each when it comes. The first error in that order is the one that is told.
    fn apply(
        &self,
        merger: &mut Merger<Content>,
        uppers: &Receiver<(usize, Result<Index, Error>)>,
    ) -> Result<(), Error> {
        let mut early: Vec<Option<Result<Index, Error>>> = Vec::new();
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
            merger.apply_index(result?).map_err(|source| Error::Merge {
                layer: self.layers[number].blob.digest,
                source,
            })?;
        }
        Ok(())
    }
}
