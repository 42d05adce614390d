//! OCI images without I/O policy: references, digests, manifests, image configurations, and the
//! merging of an image's layers into one tree.
//!
//! Everything here is synchronous and pure: bytes come in through [`std::io::Read`] or slices, and
//! file contents leave through a [`FileSink`] that the caller owns. Nothing is trusted: references
//! come from people, documents and layers from registries. Bad input is an error that says which
//! part is wrong; it never panics, and what is kept in memory is bounded.
//!
//! Formats: the OCI image specification 1.1 and Docker's image manifest version 2, schema 2; for
//! layers POSIX.1-2001 `pax`, `ustar`, and the extensions of GNU tar and star.

mod change;
mod config;
mod digest;
mod manifest;
mod media_type;
mod merge;
mod platform;
mod reference;
pub mod tar;
mod verify;

pub use change::{ChangeError, change};
pub use config::{
    ConfigError, ContainerConfig, Healthcheck, History, ImageConfig, RootFs, chain_id, chain_ids,
};
pub use digest::{Digest, DigestError, Hasher};
pub use manifest::{
    Descriptor, Document, DocumentError, Index, MAX_DOCUMENT_SIZE, Manifest, parse_document,
};
pub use media_type::{Compression, MediaType};
pub use merge::{
    FileSink, Kind, LayerIndex, METADATA_BUDGET, MergeError, MergeProblem, MergedTree, Merger,
    Node, NodeId, Timestamp, Walk,
};
pub use platform::{NoMatchingPlatform, Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
pub use tar::{DataExtent, TarError, TarProblem};
pub use verify::{DigestCheck, Verifier, VerifyError};
