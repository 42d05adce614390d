//! For tests only: real registries, images made from lists of entries, oracles.

pub mod attack;
pub mod image;
pub mod mount;
pub mod puppet;
pub mod registry;
