//! Merges layers into one tree, the lowest layer first. A layer is applied while it is read
//! ([`Merger::apply_layer`]), or read before its turn, beside others ([`LayerIndex`]).
//!
//! The rules are the OCI image specification's ("Image Layer Filesystem Changeset"); where it is
//! silent, Docker's:
//!
//! - A whiteout (`.wh.name`) or opaque marker (`.wh..wh..opq`) hides what *lower* layers have,
//!   wherever in the archive it stands.
//! - An entry replaces what has its name, except that a directory over a directory keeps the
//!   content and takes the new attributes. A hard link is a second name of a node, so replacing
//!   one name leaves the other as it was.
//! - `link/file`, where `link` is a symbolic link to a directory, is a file in that directory. Links
//!   are resolved inside the root, as after `chroot`. The last component is never followed.
//! - `..` is removed from entry names as text; a name that would leave the root is refused. Absolute
//!   names are relative to the root.
//! - Directories that no entry names are made: 0755, owned by root, dated 1970. So are those that hold
//!   something of a layer which hides what lower layers had of them.
//!
//! What is kept in memory is bounded by a budget; file contents go to a [`FileSink`] at once.

mod apply;
mod arena;
mod error;
mod index;
mod tree;

use std::io::{self, Read};

pub use error::{MergeError, MergeProblem};
pub use index::LayerIndex;
pub use tree::{Kind, MergedTree, Node, NodeId, Timestamp, Walk};

use crate::tar::DataExtent;
use arena::Arena;

/// The budget for names, attributes and nodes unless [`Merger::with_budget`] says otherwise: 1 GiB,
/// some three million files.
pub const METADATA_BUDGET: u64 = 1 << 30;

/// Takes the contents of files while layers are read.
pub trait FileSink {
    /// Where a content went. Clones name the same content.
    type Data: Clone;

    /// Takes a content of `len` bytes, which may be 0.
    ///
    /// `reader` yields exactly `len` bytes and then end of file, or an error, which the sink
    /// passes on. What was put may turn out not to be in the final tree, when a later entry or
    /// layer replaces it.
    fn put(&mut self, reader: &mut dyn Read, len: u64) -> io::Result<Self::Data>;

    /// Takes a content with holes: `len` bytes, all zero but for the `extents`, which are in
    /// order, apart, and inside `len`. `reader` yields the bytes of the extents one after the other.
    ///
    /// By default the holes are filled and [`FileSink::put`] is called. A sink that can keep
    /// holes should: a hostile archive claims terabytes in a few bytes.
    fn put_sparse(
        &mut self,
        reader: &mut dyn Read,
        len: u64,
        extents: &[DataExtent],
    ) -> io::Result<Self::Data> {
        self.put(&mut crate::tar::Filled::new(reader, len, extents), len)
    }
}

/// Merges layers; see the module. `D` says where a sink put a content.
#[derive(Debug)]
pub struct Merger<D> {
    arena: Arena<D>,
    /// The layer being applied, from 1; 0 has the root directory only.
    layer: u32,
}

impl<D: Clone> Default for Merger<D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D: Clone> Merger<D> {
    /// Starts with an empty root directory: 0755, owned by root, dated 1970.
    pub fn new() -> Self {
        Self::with_budget(METADATA_BUDGET)
    }

    /// As [`Merger::new`], with a limit in bytes for what is kept in memory.
    pub fn with_budget(budget: u64) -> Self {
        Self {
            arena: Arena::new(budget),
            layer: 0,
        }
    }

    /// Applies the next layer while it is read: an uncompressed tar archive.
    ///
    /// `tar` is read to its end, past the archive's end marker, so that a hashing reader around
    /// it has seen everything. After an error the merger is good for nothing but being dropped.
    ///
    /// # Errors
    /// See [`MergeError`]; each names the layer, counted from 1.
    pub fn apply_layer<S: FileSink<Data = D>>(
        &mut self,
        tar: &mut impl Read,
        sink: &mut S,
    ) -> Result<(), MergeError> {
        self.layer += 1;
        index::read_entries(self.layer, tar, sink, |entry| self.apply_entry(entry))?;
        self.arena.drop_aufs_metadata();
        Ok(())
    }

    /// Applies the next layer, which was read before. The tree is the same as after
    /// [`Merger::apply_layer`].
    ///
    /// # Errors
    /// See [`MergeError`]. After an error the merger is good for nothing but being dropped.
    pub fn apply_index(&mut self, index: LayerIndex<D>) -> Result<(), MergeError> {
        self.layer += 1;
        for entry in index.entries {
            self.apply_entry(entry)?;
        }
        self.arena.drop_aufs_metadata();
        Ok(())
    }

    /// The merged tree.
    pub fn finish(self) -> MergedTree<D> {
        self.arena.into_tree()
    }
}
