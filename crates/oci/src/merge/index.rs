//! A layer that was read before its turn: its entries, and where their contents are.

use std::io::Read;

use super::FileSink;
use super::apply::{clean, is_whiteout};
use super::arena::shown;
use super::error::{MergeError, MergeProblem};
use crate::tar::{Archive, Entry, EntryKind};

/// What an entry costs beside its name, link target and attributes, roughly.
const ENTRY_COST: usize = 256;

/// An entry without its content, which is in the sink.
#[derive(Debug, Clone)]
pub(super) struct Indexed<D> {
    pub(super) entry: Entry,
    /// The content of a file, but for whiteouts and names that will be refused.
    pub(super) data: Option<D>,
}

/// A whole layer. [`Merger::apply_index`](super::Merger::apply_index) applies it when all layers
/// below it are applied; reading it needs none of them, so that layers can be read side by side.
#[derive(Debug)]
pub struct LayerIndex<D> {
    pub(super) entries: Vec<Indexed<D>>,
}

impl<D: Clone> LayerIndex<D> {
    /// Reads a layer: an uncompressed tar archive, to its end, past its end marker. Contents go to
    /// `sink`, those too that a later entry replaces.
    ///
    /// `layer` is its number, from 1, for errors. `budget` limits the memory that the index may take,
    /// in bytes.
    ///
    /// # Errors
    /// See [`MergeError`].
    pub fn read<S: FileSink<Data = D>>(
        layer: u32,
        tar: &mut impl Read,
        sink: &mut S,
        budget: u64,
    ) -> Result<Self, MergeError> {
        let mut entries = Vec::new();
        let mut spent = 0_u64;
        read_entries(layer, tar, sink, |indexed| {
            let entry = &indexed.entry;
            let offset = entry.offset;
            spent = spent.saturating_add(cost(entry) as u64);
            if spent > budget {
                return Err(MergeError::Entry {
                    layer,
                    entry: shown(&entry.path),
                    offset,
                    problem: MergeProblem::Budget(budget),
                });
            }
            entries.push(indexed);
            Ok(())
        })?;
        Ok(Self { entries })
    }
}

fn cost(entry: &Entry) -> usize {
    let more = match &entry.kind {
        EntryKind::HardLink(target) | EntryKind::Symlink(target) => target.len(),
        _ => 0,
    };
    let xattrs = entry.xattrs.iter();
    let xattrs: usize = xattrs.map(|(k, v)| k.len() + v.len() + 64).sum();
    ENTRY_COST + entry.path.len() + more + xattrs
}

/// Gives `take` each entry of an archive when its content is stored; reads the archive to its end.
pub(super) fn read_entries<S: FileSink>(
    layer: u32,
    tar: &mut impl Read,
    sink: &mut S,
    mut take: impl FnMut(Indexed<S::Data>) -> Result<(), MergeError>,
) -> Result<(), MergeError> {
    let mut archive = Archive::new(tar);
    let tar_error = |source| MergeError::Tar { layer, source };
    while let Some(mut entry) = archive.next_entry().map_err(tar_error)? {
        let data = store(layer, &mut entry, &mut archive, sink)?;
        take(Indexed { entry, data })?;
    }
    archive.drain().map_err(tar_error)
}

/// Puts an entry's content into the sink.
fn store<R: Read, S: FileSink>(
    layer: u32,
    entry: &mut Entry,
    archive: &mut Archive<R>,
    sink: &mut S,
) -> Result<Option<S::Data>, MergeError> {
    let EntryKind::File { len, extents } = &mut entry.kind else {
        return Ok(None);
    };
    // It will not be applied.
    if !stores_content(&entry.path) {
        return Ok(None);
    }
    let mut reader = archive.data();
    let stored = match extents.take() {
        None => sink.put(&mut reader, *len),
        Some(extents) => sink.put_sparse(&mut reader, *len, &extents),
    };
    let stored = stored.map_err(|source| match archive.take_failure() {
        Some(source) => MergeError::Tar { layer, source },
        None => MergeError::Sink {
            layer,
            entry: shown(&entry.path),
            source,
        },
    });
    stored.map(Some)
}

/// Whether the entry will be applied as a file, should it be one.
fn stores_content(path: &[u8]) -> bool {
    clean(path).is_some_and(|components| !components.is_empty() && !is_whiteout(&components))
}
