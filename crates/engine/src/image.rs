//! Images: pulling, pushing, loading, saving, naming, listing, removing.

mod archive;
mod commit;
mod download;
mod filter;
mod find;
mod history;
mod import;
mod keep;
mod layer;
mod lease;
mod list;
mod load;
mod make;
mod note;
mod pull;
mod push;
mod remove;
mod save;
mod tag;
mod unpack;

use std::collections::BTreeMap;

use serde::Serialize;

pub use archive::Error as ArchiveError;
pub use commit::CommitRequest;
pub use filter::ImageFilter;
pub(crate) use find::Resolved;
pub(crate) use find::find;
pub use history::HistoryStep;
pub use import::ImportRequest;
pub use push::{PushEvent, PushRequest, PushedImage};
pub(crate) use unpack::unpack;

/// What a pull or a load has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// The reference leads to this manifest.
    Resolved {
        /// In its full form, with host and tag.
        reference: String,
        /// `sha256:…` of the manifest or index that the registry named.
        digest: String,
    },
    /// A layer is here already.
    LayerExists {
        /// `sha256:…`
        digest: String,
    },
    /// Some of a layer came before, and it is gone on with.
    LayerResumes {
        /// `sha256:…`
        digest: String,
        /// Bytes that are here.
        done: u64,
        /// Bytes.
        total: u64,
    },
    /// So much of a layer has come.
    LayerProgress {
        /// `sha256:…`
        digest: String,
        /// Bytes.
        done: u64,
        /// Bytes.
        total: u64,
    },
    /// A layer has come whole, and is what its digest says.
    LayerDone {
        /// `sha256:…`
        digest: String,
    },
    /// So much of an archive that becomes a layer has come.
    Importing {
        /// Bytes, unpacked.
        done: u64,
    },
    /// The layers become a rootfs image.
    Merging {
        /// How many.
        layers: usize,
    },
    /// All is here.
    Done {
        /// `sha256:…`: the image's id.
        id: String,
        /// Nothing of it was new.
        unchanged: bool,
    },
}

/// A row of `images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageSummary {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// In familiar form: `debian:bookworm`, `localhost:5000/a:latest`; with a digest: `debian@sha256:…`.
    pub references: Vec<String>,
    /// The digest of the manifest or index that a reference stands for in its registry, by reference. A loaded image
    /// has none.
    pub digests: BTreeMap<String, String>,
    /// Nanoseconds since 1970; when it was built, if it says so.
    pub created_ns: Option<u64>,
    /// Bytes of its layers, as they are stored.
    pub size: u64,
    /// `linux/amd64`
    pub platform: String,
    /// Of its configuration.
    pub labels: BTreeMap<String, String>,
}

/// An image that was loaded from an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// As the archive names it, in familiar form.
    pub reference: Option<String>,
    /// `sha256:…`
    pub id: String,
}

/// What pruning images did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedImages {
    /// References, images and layers.
    pub removed: Vec<Removed>,
    /// What all that went occupied on the disk, rootfs images included.
    pub bytes: u64,
    /// Others bring in or read images: what belongs to none goes when they have ended.
    pub later: bool,
}

/// What removing an image did, in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removed {
    /// A reference.
    Untagged(String),
    /// An image, or a layer that no other image uses.
    Deleted(String),
}
